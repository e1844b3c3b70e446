"""Result stores: one contract for all of them, and what version 0.1 wrote is found."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import optuna
import pytest

from psvit.errors import InputError
from psvit.search.result_cache import ResultCache, StudyStore
from psvit.space.search_space import SearchSpace
from psvit.train.recipe import Recipe
from psvit.train.result_store import JournalStore
from psvit.train.training_job import TrainingJob, TrainingResult

JOB = TrainingJob(
    arch=SearchSpace.load("psvit-2d-digits")[5], recipe=Recipe(epochs=2, batch_size=32, lr=0.003), seed=3, label="one"
)
CONFIG = {"data": "digits"}


def by_digest(job):
    return {"training": job.digest, "seed": job.seed}


@pytest.fixture(params=["journal", "study"])
def reopened(request, tmp_path):
    """Opens a store, the same one at every call, as a process would that comes back."""
    storage = f"sqlite:///{tmp_path / 'study.db'}"

    def study():
        opened = optuna.create_study(study_name="one", storage=storage, load_if_exists=True)
        return StudyStore(ResultCache(opened))

    return {"study": study, "journal": lambda: JournalStore(tmp_path / "some.journal", CONFIG, by_digest)}[
        request.param
    ]


def test_what_is_put_is_found_by_whoever_opens_the_store(reopened):
    others = [replace(JOB, seed=4), replace(JOB, recipe=JOB.recipe.override({"lr": 0.5}))]
    store = reopened()
    assert store.get(JOB) is None
    store.put(JOB, TrainingResult(accuracies={"search": 12.5}, seconds=3.0))
    store.put(others[0], TrainingResult(accuracies={"search": 25.0}, seconds=4.0))
    for opened in (store, reopened()):
        assert opened.get(replace(JOB, label="another")).accuracies == {"search": 12.5}
        assert (opened.get(others[0]).accuracies, opened.get(others[0]).seconds) == ({"search": 25.0}, 4.0)
        assert opened.get(others[1]) is None


def test_a_journal_adds_what_is_known_of_other_images(tmp_path):
    store = JournalStore(tmp_path / "some.journal", CONFIG, by_digest)
    store.put(JOB, TrainingResult(accuracies={"search": 12.5}, seconds=3.0))
    store.put(JOB, TrainingResult(accuracies={"val": 10.0}, seconds=3.0))
    assert store.get(JOB) == TrainingResult(accuracies={"search": 12.5, "val": 10.0}, seconds=3.0)
    lines = [json.loads(line) for line in (tmp_path / "some.journal").read_text().splitlines()]
    assert lines[0] == CONFIG
    assert [(line["training"], line["part"]) for line in lines[1:]] == [(JOB.digest, "search"), (JOB.digest, "val")]


def test_a_study_adds_what_is_known_of_other_images():
    cache = ResultCache(optuna.create_study())
    store, right = StudyStore(cache), np.array([True, False, True, True])
    store.put(JOB, TrainingResult(accuracies={"search": 12.5}, seconds=3.0))
    found = TrainingResult(accuracies={"search": 50.0, "verdict": 75.0}, right={"verdict": right}, seconds=9.0)
    for _ in range(2):
        store.put(JOB, found)
        known = store.get(JOB)
        assert known.accuracies == {"search": 12.5, "verdict": 75.0}, "who was first is believed"
        assert known.right["verdict"].tolist() == right.tolist()
        assert known.seconds == 3.0


def test_a_journal_of_something_else_is_refused(tmp_path):
    JournalStore(tmp_path / "some.journal", CONFIG, by_digest)
    with pytest.raises(InputError, match="data: digits there, other here"):
        JournalStore(tmp_path / "some.journal", {"data": "other"}, by_digest)


def test_journals_of_version_0_1_go_on(tmp_path):
    path = tmp_path / "some.journal"
    fidelity = {"network": 5, "seed": 3, "accuracy": 12.5}
    versus = {"training": JOB.digest, "part": "val", "accuracy": 10.0, "seconds": 3.0, "lr": 0.003, "images": None}
    path.write_text("".join(json.dumps(line) + "\n" for line in (CONFIG, fidelity, versus)))
    known = JournalStore(path, CONFIG, lambda job: {"network": 5, "seed": job.seed})
    assert known.get(JOB) == TrainingResult(accuracies={"search": 12.5})
    del known
    known = JournalStore(path, CONFIG, lambda job: {"training": job.digest, "lr": job.recipe.lr, "images": None})
    assert known.get(JOB) == TrainingResult(accuracies={"val": 10.0}, seconds=3.0)
