"""The study: what is told stays, in order, and comes back equal."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

from psvit.architecture import Stage
from psvit.costs import cost
from psvit.search.study import Study
from psvit.search.trial import Trial, best
from psvit.search_space import SearchSpace

# No short decimal, negative, tiny and huge: a score has to come back as the same float.
SCORES = [0.1 + 0.2, -1 / 3, 1e-300, 7.0, 12345678.9, 97.22222222222223]


@pytest.fixture
def archs(tiny_space):
    return [tiny_space[int(number)] for number in np.random.default_rng(0).permutation(tiny_space.size)[: len(SCORES)]]


def told(study, archs):
    return [study.tell(arch, score) for arch, score in zip(archs, SCORES, strict=True)]


def test_a_told_trial_is_numbered_priced_and_remembered(tiny_space, archs, tmp_path):
    study = Study(tiny_space, tmp_path / "journal")
    assert study.history == []
    trials = told(study, archs)
    assert study.history == trials
    assert trials == [
        Trial(number=number, arch=arch, cost=cost(arch), score=score)
        for number, (arch, score) in enumerate(zip(archs, SCORES, strict=True))
    ]


def test_a_reopened_study_has_the_same_history_and_goes_on(tiny_space, archs, tmp_path):
    journal = tmp_path / "journal"
    history = told(Study(tiny_space, journal), archs)
    reopened = Study(tiny_space, journal)
    assert reopened.history == history
    added = reopened.tell(tiny_space.smallest, 5.5)
    assert added.number == len(SCORES)
    assert Study(tiny_space, journal).history == [*history, added]


@pytest.mark.parametrize("name", ["psvit-1d-base", "psvit-2d-base"])
def test_members_of_large_spaces_come_back(name, tmp_path):
    # Their groupings are numbered into the thousands, and layouts differ in their number of stages.
    space = SearchSpace.load(name)
    study = Study(space, tmp_path / "journal")
    drawn = [space[int(number)] for number in np.random.default_rng(0).integers(space.size, size=6)]
    for number, arch in enumerate([*drawn, space.smallest, space.largest]):
        study.tell(arch, float(number))
    assert Study(space, tmp_path / "journal").history == study.history


def test_the_journal_gets_one_record_a_trial_at_once(tiny_space, archs, tmp_path):
    journal = tmp_path / "journal"
    study = Study(tiny_space, journal)
    for arch, score in zip(archs, SCORES, strict=True):
        before = journal.read_bytes()
        study.tell(arch, score)
        added = journal.read_bytes().removeprefix(before)
        assert added.endswith(b"\n")
        assert added.count(b"\n") == 1
        assert json.loads(added)["value"] == score


@pytest.mark.parametrize("kept", [1, 40, -20])
def test_a_record_that_was_cut_off_costs_only_itself(tiny_space, archs, tmp_path, kept):
    """A process that dies, or a disk that is full, while a record is written leaves a part of it."""
    journal = tmp_path / "journal"
    told(Study(tiny_space, journal), archs)
    whole = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(whole[:-1]) + whole[-1][:kept])
    study = Study(tiny_space, journal)
    assert [trial.score for trial in study.history] == SCORES[:-1]
    study.tell(archs[-1], SCORES[-1])
    study.tell(tiny_space.smallest, 5.5)
    assert [trial.score for trial in Study(tiny_space, journal).history] == [*SCORES, 5.5]


def test_a_stranger_is_refused_and_leaves_no_record(tiny_space, archs, tmp_path):
    journal = tmp_path / "journal"
    study = Study(tiny_space, journal)
    told(study, archs)
    before = journal.read_bytes()
    stranger = tiny_space.build([Stage(embed_dim=8, groups=(1, 1), mlp_ratio=2.0)], [])
    with pytest.raises(ValueError, match="not a member of tiny"):
        study.tell(stranger, 1.0)
    assert journal.read_bytes() == before
    assert [trial.score for trial in study.history] == SCORES


def test_the_history_as_csv_says_everything(tiny_space, archs, tmp_path):
    study = Study(tiny_space, tmp_path / "journal")
    told(study, archs)
    rows = list(csv.DictReader(io.StringIO(study.to_csv())))
    assert [int(row["number"]) for row in rows] == list(range(len(SCORES)))
    assert [float(row["score"]) for row in rows] == SCORES
    for row, arch in zip(rows, archs, strict=True):
        assert int(row["macs"]) == cost(arch).macs
        assert int(row["num_params"]) == cost(arch).num_params
        assert tiny_space[int(row["index"])] == arch
        described = json.loads(row["arch"])
        assert described == {"stages": arch.to_dict()["stages"], "pools": list(arch.pools)}


def test_an_empty_history_as_csv_is_its_header(tiny_space, tmp_path):
    header = "number,score,macs,num_params,activation_bytes,index,arch"
    assert Study(tiny_space, tmp_path / "journal").to_csv().splitlines() == [header]


def test_the_best_have_the_highest_scores_and_of_equal_ones_the_earlier(tiny_space):
    scores = [3.0, 9.0, 1.0, 9.0, 4.0]
    history = [
        Trial(number=number, arch=tiny_space[number], cost=cost(tiny_space[number]), score=score)
        for number, score in enumerate(scores)
    ]
    assert [trial.number for trial in best(history, 3)] == [1, 3, 4]
    assert [trial.number for trial in best(history[::-1], 3)] == [1, 3, 4]
    assert [trial.number for trial in best(history)] == [1]
    assert len(best(history, 99)) == 5
