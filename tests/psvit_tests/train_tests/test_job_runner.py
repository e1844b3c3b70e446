"""Running jobs: what is trained, scored and timed; that nothing is done twice, and interruptions change nothing."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from psvit.data import Batches, Inputs, accuracy, open_data
from psvit.errors import DivergedError
from psvit.executors.executor import LocalExecutor, Portable
from psvit.model import PSViT
from psvit.nn.seeding import seeded
from psvit.space.search_space import SearchSpace
from psvit.train import job_runner
from psvit.train.checkpoints import Checkpoints
from psvit.train.job_runner import JobRunner, images_of, inputs_for, run_jobs
from psvit.train.recipe import Recipe
from psvit.train.tasks import Classification
from psvit.train.training import train
from psvit.train.training_job import TrainingJob
from psvit.train.training_loader import training_loader

CPU = torch.device("cpu")
SPACE = SearchSpace.load("psvit-2d-digits")
RECIPE = Recipe.load("digits").override({"epochs": 2, "batch_size": 64, "warmup_epochs": 0, "ema_decay": None})


@pytest.fixture(scope="module")
def data():
    """Few of the digits."""
    digits = open_data("digits")
    return replace(digits, train=digits.train.take(np.arange(96)), val=digits.val.take(np.arange(50)))


@pytest.fixture
def runner(data, tmp_path):
    return JobRunner(data=Portable(lambda: data), device="cpu", folder=tmp_path / "trainings")


class Remembering(dict):
    """A result store in memory; counts what it is asked for."""

    def get(self, job):
        return super().get(job.digest)

    def put(self, job, result):
        known = self.get(job)
        self[job.digest] = replace(result, accuracies={**(known.accuracies if known else {}), **result.accuracies})


def job(index=1234, seed=3, recipe=RECIPE, **changes):
    return TrainingJob(arch=SPACE[index], recipe=recipe, seed=seed, **changes)


def test_a_network_is_trained_from_scratch_and_scored(runner, data, tmp_path):
    result = replace(runner, parts=("search", "val"))(job())
    with seeded(3):
        network = PSViT(SPACE[1234], drop_path_rate=RECIPE.drop_path_rate)
    inputs = Inputs.of(data, (8, 8))
    alone = train(
        Classification(network),
        training_loader(data.train, inputs, RECIPE),
        RECIPE,
        num_classes=10,
        seed=3,
        device=CPU,
        folder=tmp_path / "alone",
        description="",
    ).model.eval()
    for part in ("search", "val"):
        batches = Batches(getattr(data, part), inputs, 50, CPU)
        assert result.accuracies[part] == accuracy(alone, batches)
        with torch.no_grad():
            losses = [F.cross_entropy(alone(images), labels, reduction="sum") for images, labels in batches]
        assert result.losses[part] == pytest.approx(float(sum(losses)) / batches.num_images, rel=1e-5)


def test_a_training_begins_with_the_weights_that_it_is_given(runner, data):
    def initial(job):
        with seeded(99):
            return PSViT(job.arch)

    # With a learning rate of next to nothing a network scores what it begins with.
    still = RECIPE.override({"lr": 1e-12, "min_lr": 0.0})
    result = replace(runner, initial=initial)(job(recipe=still))
    batches = Batches(data.search, Inputs.of(data, (8, 8)), 32, CPU)
    assert result.accuracies["search"] == accuracy(initial(job()).eval(), batches)


def test_fewer_training_images_are_a_part_that_stays(data):
    few, more = (images_of(data, "train", number) for number in (20, 50))
    assert (len(few), len(more)) == (20, 50)
    assert set(few.rows) < set(more.rows) < set(data.train.rows)
    assert not set(few.rows) & set(data.search.rows)
    assert images_of(data, "train", 1000) is images_of(data, "train", None) is data.train
    assert set(images_of(data, "all_train", None).rows) == {
        *data.train.rows,
        *data.search.rows,
        *data.verdict.rows,
    }


@pytest.mark.parametrize(
    ("changes", "others"), [({"num_images": 50}, {}), ({"split": "all_train"}, {"parts": ("val",)})]
)
def test_what_a_job_says_is_what_is_trained_on(runner, data, monkeypatch, changes, others):
    seen = []

    def remember(images, *args):
        seen.append(images)
        return training_loader(images, *args)

    monkeypatch.setattr(job_runner, "training_loader", remember)
    replace(runner, **others)(job(recipe=RECIPE.override({"epochs": 1}), **changes))
    expected = images_of(data, changes.get("split", "train"), changes.get("num_images"))
    assert [list(one.rows) for one in seen] == [list(expected.rows)]


@pytest.mark.parametrize("changes", [{}, {"parts": ("val",), "watched": ("search",)}])
def test_a_network_is_not_scored_on_images_that_it_was_trained_on(runner, trained, changes):
    with pytest.raises(ValueError, match="all_train has seen all images but val"):
        replace(runner, **changes)(job(split="all_train"))
    assert trained == []


def test_a_watched_training_is_scored_and_timed_after_every_epoch(runner, data):
    result = replace(runner, watched=("search",), batch_size=40)(job())
    assert [row["epoch"] for row in result.log] == [1, 2]
    assert result.log[-1]["search_accuracy"] == result.accuracies["search"]
    assert result.log[-1]["search_loss"] == result.losses["search"]
    assert all(row["processor_seconds"] > 0 and row["seconds"] > 0 for row in result.log)
    # Looking changes nothing.
    assert runner(replace(job(), seed=3)).accuracies == result.accuracies


def test_seconds_are_those_of_training_alone(runner):
    result = runner(job())
    with (runner.place(job()) / "log.csv").open(newline="") as stream:
        rates = [float(row["images_per_second"]) for row in csv.DictReader(stream)]
    # Batches of 64 of the 96 images: a step an epoch.
    assert result.seconds == pytest.approx(sum(64 / rate for rate in rates))


@pytest.mark.parametrize("threads", [1, 2])
def test_no_more_processes_prepare_images_than_there_are_threads(data, threads):
    large = replace(job(), arch=SearchSpace.load("psvit-2d-nano").smallest)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert inputs_for(data, large, CPU).workers == min(threads, Inputs.of(data, (32, 32)).workers)
        assert inputs_for(data, large, CPU, 0).workers == 0
        assert inputs_for(data, large, torch.device("cuda")).workers == Inputs.of(data, (32, 32)).workers
    finally:
        torch.set_num_threads(before)


def test_where_the_run_is_not_seen_a_temporary_folder_serves(runner, tmp_path, monkeypatch):
    """A node of a cluster need not share a file system with the process that asked."""
    places = []

    def remember(*args, folder, **kwargs):
        places.append(folder)
        return train(*args, folder=folder, **kwargs)

    monkeypatch.setattr(job_runner, "train", remember)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    unseen = replace(runner, folder=tmp_path / "run/trainings")
    assert unseen(job()).accuracies == runner(job()).accuracies
    assert [place.parent == runner.folder for place in places] == [False, True]
    assert [place.exists() for place in places] == [False, True]
    assert not (tmp_path / "run").exists()


# --- lists of jobs


def test_what_is_known_is_not_run_again_and_equal_jobs_run_once(runner, trained):
    store, one, other = Remembering(), job(seed=1), job(seed=2)
    found = list(run_jobs([one, other, replace(one, label="again")], runner, LocalExecutor(), store))
    assert [job for job, _ in found] == [one, other]
    assert trained == [(SPACE[1234], 1), (SPACE[1234], 2)]
    assert [outcome.value.accuracies for _, outcome in found] == [store.get(job).accuracies for job in (one, other)]
    assert not list(runner.folder.iterdir()), "what they needed to go on is of no use any more"
    assert [job for job, _ in run_jobs([one, other, job(seed=3)], runner, LocalExecutor(), store)] == [job(seed=3)]
    assert len(trained) == 3


def test_results_are_there_when_the_next_job_is_asked_for(runner):
    store = Remembering()

    def jobs():
        yield job(seed=1)
        assert store.get(job(seed=1)) is not None
        yield job(seed=2)

    assert len(list(run_jobs(jobs(), runner, LocalExecutor(), store))) == 2


def test_kept_weights_are_scored_on_other_images_without_training_again(runner, data, trained, monkeypatch):
    store = Remembering()
    list(run_jobs([job()], runner, LocalExecutor(), store, keep=True))
    monkeypatch.setattr(Classification, "losses", lambda *args: pytest.fail("a step was made"))
    for_val = replace(runner, parts=("val",))
    ((_, outcome),) = run_jobs([job()], for_val, LocalExecutor(), store, keep=True)
    monkeypatch.undo()
    whole = replace(runner, folder=runner.folder / "else", parts=("search", "val"))(job())
    assert store.get(job()).accuracies == whole.accuracies
    assert outcome.value.seconds > 0
    runner.forget([job()])
    assert not runner.place(job()).exists()


def test_a_job_that_fails_is_told_left_out_and_tried_again(runner, monkeypatch):
    store, jobs = Remembering(), [job(7), job(8)]

    def diverge(task, *args, **kwargs):
        if task.model.arch == SPACE[7]:
            raise DivergedError("training diverged: the loss is nan")
        return train(task, *args, **kwargs)

    monkeypatch.setattr(job_runner, "train", diverge)
    failed, whole = (outcome for _, outcome in run_jobs(jobs, runner, LocalExecutor(), store))
    assert (failed.value, failed.failure) == (None, "training diverged: the loss is nan")
    assert whole.value is not None
    monkeypatch.setattr(job_runner, "train", train)
    assert [one for one, _ in run_jobs(jobs, runner, LocalExecutor(), store)] == [job(7)]


def test_an_interrupted_job_goes_on_from_its_last_checkpoint(runner, monkeypatch):
    monkeypatch.setattr(Checkpoints, "due", True)
    whole = runner(job(seed=5))
    runner.forget([job(seed=5)])
    steps, losses = [], Classification.losses

    def remember(self, images, targets, smoothing, step):
        steps.append(step)
        if len(steps) == 2:
            raise KeyboardInterrupt
        return losses(self, images, targets, smoothing, step)

    monkeypatch.setattr(Classification, "losses", remember)
    store = Remembering()
    with pytest.raises(KeyboardInterrupt):
        list(run_jobs([job(seed=5)], runner, LocalExecutor(), store))
    list(run_jobs([job(seed=5)], runner, LocalExecutor(), store))
    assert steps == [0, 1, 1]
    assert store.get(job(seed=5)).accuracies == whole.accuracies
