"""The search loop: how many are evaluated, in which order, and what an interruption costs (nothing)."""

from __future__ import annotations

import itertools

import pytest

from psvit.budget import Budget
from psvit.errors import InputError
from psvit.search.candidates import Candidates
from psvit.search.search import search
from psvit.search.searchers.evolution import Evolution
from psvit.search.searchers.random import Random
from psvit.search.study import Study

BUDGET = Budget.parse("0.9..1.2MFLOPs")
TRIALS, BATCH = 45, 8
"""Five whole batches and a part of a sixth."""


class Interrupted(Exception):
    """Stands for whatever stops a run."""


@pytest.fixture(params=[Evolution, Random])
def searcher(request):
    return request.param(batch_size=BATCH)


@pytest.fixture
def run(digits_space, score):
    """Makes one session of a search: opens the study, evaluates, and returns the study."""

    def session(journal, searcher, trials=TRIALS, seed=0, stop_after=None, evaluator=None):
        study = Study(digits_space, journal)
        steps = search(
            Candidates(digits_space, BUDGET), searcher, evaluator or score(), study, trials=trials, seed=seed
        )
        for _ in itertools.islice(steps, stop_after):
            pass
        return study

    return session


@pytest.fixture(scope="module")
def known():
    """Uninterrupted histories by searcher, made once."""
    return {}


@pytest.fixture
def whole(run, searcher, known, tmp_path):
    """The history of a search that nothing interrupts."""
    if type(searcher) not in known:
        known[type(searcher)] = run(tmp_path / "whole", searcher).history
    return known[type(searcher)]


def test_as_many_are_evaluated_as_asked_for_each_once(run, searcher, score, digits_space, tmp_path):
    evaluator = score()
    study = run(tmp_path / "journal", searcher, evaluator=evaluator)
    assert len(study.history) == TRIALS
    assert [trial.arch for trial in study.history] == evaluator.evaluated
    assert len(set(evaluator.evaluated)) == TRIALS
    assert all(trial.score == score().evaluate(trial.arch) for trial in study.history)
    assert all(BUDGET.satisfied_by(trial.cost) and digits_space.contains(trial.arch) for trial in study.history)


def test_a_trial_is_recorded_before_it_is_handed_out(digits_space, searcher, score, tmp_path):
    study = Study(digits_space, tmp_path / "journal")
    for count, trial in enumerate(
        search(Candidates(digits_space, BUDGET), searcher, score(), study, trials=12, seed=0), start=1
    ):
        assert Study(digits_space, tmp_path / "journal").history[-1] == trial
        assert len(study.history) == count


def test_the_same_seed_gives_the_same_history_and_another_seed_another(run, searcher, tmp_path):
    one, same, other = (
        run(tmp_path / name, searcher, trials=20, seed=seed).history for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert one == same
    assert [trial.arch for trial in one] != [trial.arch for trial in other]


@pytest.mark.parametrize("stop_after", [0, 1, 5, 7, 8, 9, 15, 16, 20, 31, 39, 40, 41, 44])
def test_a_search_stopped_anywhere_continues_as_if_it_had_not(run, searcher, whole, tmp_path, stop_after):
    stopped = run(tmp_path / "stopped", searcher, stop_after=stop_after)
    assert stopped.history == whole[:stop_after]
    assert run(tmp_path / "stopped", searcher).history == whole


def test_a_search_stopped_again_and_again_continues_as_if_it_had_not(run, searcher, whole, tmp_path):
    for session in range(1, 16):
        assert run(tmp_path / "stopped", searcher, stop_after=3).history == whole[: 3 * session]


def test_an_evaluation_that_fails_costs_only_itself(run, searcher, whole, score, tmp_path):
    class Failing(type(score())):
        def evaluate(self, arch):
            if len(self.evaluated) == 21:
                raise Interrupted
            return super().evaluate(arch)

    with pytest.raises(Interrupted):
        run(tmp_path / "stopped", searcher, evaluator=Failing())
    rest = score()
    assert run(tmp_path / "stopped", searcher, evaluator=rest).history == whole
    assert rest.evaluated == [trial.arch for trial in whole[21:]]


@pytest.mark.parametrize("trials", [16, 19])
def test_more_trials_continue_a_finished_search_as_if_asked_for_at_once(run, searcher, whole, tmp_path, trials):
    first = run(tmp_path / "journal", searcher, trials=trials).history
    assert len(first) == trials
    assert whole[:trials] == first
    assert run(tmp_path / "journal", searcher).history == whole


@pytest.mark.parametrize("trials", [1, TRIALS - 1, TRIALS])
def test_a_finished_search_evaluates_nothing(run, searcher, score, tmp_path, trials):
    history = run(tmp_path / "journal", searcher).history
    evaluator = score()
    assert run(tmp_path / "journal", searcher, trials=trials, evaluator=evaluator).history == history
    assert evaluator.evaluated == []


def test_a_search_ends_when_the_budget_leaves_nothing(tiny_space, searcher, score, tmp_path):
    study = Study(tiny_space, tmp_path / "journal")
    steps = search(Candidates(tiny_space, Budget()), searcher, score(), study, trials=10 * tiny_space.size, seed=0)
    assert len(list(steps)) == tiny_space.size
    assert sorted(tiny_space.index(trial.arch) for trial in study.history) == list(range(tiny_space.size))
    # And again, from the exhausted study.
    assert list(search(Candidates(tiny_space, Budget()), searcher, score(), study, trials=999, seed=0)) == []


@pytest.mark.parametrize("text", ["230kFLOPs", "4..5MFLOPs", "10kparams"])
def test_an_impossible_budget_is_refused_with_the_reach_before_anything_is_evaluated(
    digits_space, searcher, score, tmp_path, text
):
    evaluator, study = score(), Study(digits_space, tmp_path / "journal")
    reach = "30.35 kparams to 414.5 kparams" if "params" in text else "231.4 kFLOPs to 3.211 MFLOPs"
    with pytest.raises(InputError, match=f"the space reaches {reach}"):
        next(search(Candidates(digits_space, Budget.parse(text)), searcher, evaluator, study, trials=8, seed=0))
    assert evaluator.evaluated == []
    assert study.history == []
