"""The search loop: how many are evaluated, in which order, and what an interruption costs (nothing)."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage

import psvit.search.search as search_module
from psvit.errors import InputError
from psvit.search.candidates import Candidates
from psvit.search.history import History, Seen
from psvit.search.objectives import Objectives
from psvit.search.search import KEPT, draw_control, search
from psvit.search.searchers import SEARCHERS as EVERY
from psvit.search.searchers import make_searcher
from psvit.search.storage import open_storage
from psvit.search.study import CONTROL as SUFFIX
from psvit.search.study import STUDY_NAME, Study
from psvit.space.budget import Budget

BUDGET = Budget.parse("0.9..1.2MFLOPs")
TRIALS, BATCH, CONTROL = 29, 6, 9
"""Four whole batches and a part of a fifth; and a control in two batches."""

SEARCHERS = ["evolution", "random", "optuna-nsga2"]
"""Those that are stopped everywhere; what the others do differently is how they propose."""


class Interrupted(BaseException):
    """Stands for whatever stops a run, and is caught by nothing on the way."""


def small(name):
    """A searcher with small batches, so that evolution breeds after the second."""
    searcher = make_searcher(name)
    searcher.batch_size = BATCH
    if name == "evolution":
        searcher.first = 2 * BATCH
    if name.startswith("optuna"):
        searcher._attempts = 2 if name == "optuna-gp" else 4
    return searcher


@pytest.fixture(params=SEARCHERS)
def searcher(request):
    return small(request.param)


@dataclass
class Searched:
    """The study of a search and that of its control."""

    study: Study
    drawn: Study

    @property
    def history(self):
        return self.study.history

    @property
    def control(self):
        return self.drawn.history

    @property
    def evaluations(self):
        """How many it takes to make both: what is in both is evaluated once, if it was scored on all images."""
        known = {trial.arch for trial in self.history.complete}
        return len(self.history) + sum(trial.arch not in known for trial in self.control)


@pytest.fixture
def contents(contents):
    """Of both studies, that of the search first."""
    return lambda searched: contents(searched.study) + contents(searched.drawn)


@pytest.fixture
def run(digits_space, mixed_score):
    """Makes one session of a search: opens the studies, evaluates, and returns the studies."""

    def session(journal, searcher, trials=TRIALS, control=CONTROL, seed=0, stop_after=None, evaluator=None):
        storage = open_storage(journal)
        study, drawn = Study(digits_space, storage), Study(digits_space, storage, name=STUDY_NAME + SUFFIX)
        candidates, evaluator = Candidates(digits_space, BUDGET), evaluator or mixed_score()
        steps = search(candidates, searcher, evaluator, study, trials=trials, seed=seed)
        for _ in itertools.islice(steps, stop_after):
            pass
        if stop_after is None:
            draw_control(candidates, evaluator, drawn, study.history, trials=control, seed=seed, batch_size=BATCH)
        return Searched(study, drawn)

    return session


@pytest.fixture(scope="module")
def known():
    """Uninterrupted histories by searcher, made once."""
    return {}


@pytest.fixture
def whole(run, searcher, known, contents, tmp_path):
    """The contents of a search that nothing interrupts."""
    if searcher.name not in known:
        known[searcher.name] = contents(run(tmp_path / "whole", searcher))
    return known[searcher.name]


def test_as_many_are_evaluated_as_asked_for_each_once(run, searcher, mixed_score, digits_space, tmp_path):
    evaluator = mixed_score()
    study = run(tmp_path / "journal", searcher, evaluator=evaluator)
    assert len(study.history) == TRIALS
    assert len(study.control) == CONTROL
    assert [trial.arch for trial in study.history] == evaluator.evaluated[:TRIALS]
    assert len(set(evaluator.evaluated[:TRIALS])) == TRIALS
    assert len(evaluator.evaluated) == study.evaluations
    assert all(trial.score == mixed_score().score(trial.arch) for trial in [*study.history, *study.control])
    assert {trial.score.state for trial in study.history} == {"complete", "raced", "failed"}
    for trial in study.history:
        assert BUDGET.satisfied_by(trial.cost)
        assert digits_space.contains(trial.arch)
        assert trial.row == tuple(digits_space.encode(trial.arch).tolist())


def test_rejected_proposals_are_recorded_and_not_counted(run, mixed_score, tmp_path):
    evaluator = mixed_score()
    study = run(tmp_path / "journal", small("optuna-nsga2"), evaluator=evaluator)
    rejected = study.history.rejected
    assert len(rejected) > 10
    assert len(evaluator.evaluated) == study.evaluations
    assert all(max(one.proposal.constraints.values()) > 0 for one in rejected)
    numbers = [trial.number for trial in study.history] + [one.number for one in rejected]
    assert sorted(numbers) == list(range(len(numbers)))
    # They come back as they were, or a continued search would go another way.
    again = run(tmp_path / "journal", small("optuna-nsga2"), stop_after=0)
    assert again.history.rejected == rejected


def test_a_batch_is_recorded_before_it_is_handed_out(digits_space, searcher, score, tmp_path):
    study, seen = Study(digits_space, open_storage(tmp_path / "journal")), 0
    for new in search(Candidates(digits_space, BUDGET), searcher, score(), study, trials=14, seed=0):
        seen += len(new)
        stored = Study(digits_space, open_storage(tmp_path / "journal")).history.trials
        assert stored[seen - len(new) :] == new
    assert seen == 14


def test_the_evaluator_is_told_the_best_whole_scores(run, searcher, mixed_score, tmp_path):
    evaluator = mixed_score()
    study = run(tmp_path / "journal", searcher, evaluator=evaluator)
    batches = -(-TRIALS // BATCH)
    done = 0
    for population, best in zip(evaluator.populations[:batches], evaluator.best[:batches], strict=True):
        scores = [trial.score.value for trial in study.history.trials[:done] if trial.score.state == "complete"]
        assert best == sorted(scores, reverse=True)[:KEPT]
        done += len(population)
    # The scores of a random search are wanted, not its best one: none of the control is given up.
    assert evaluator.best[batches:] == [[], []]


def test_the_same_seed_gives_the_same_search_and_another_seed_another(run, searcher, contents, tmp_path):
    one, same, other = (
        contents(run(tmp_path / name, searcher, trials=20, seed=seed)) for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert one == same
    assert one != other


# --- interruptions


class Stopping:
    """Raises at one write to the storage, before or after it takes effect.

    Writes are those of which a search consists: what is asked for, what was scored, every trial.
    """

    def __init__(self, monkeypatch, at, before):
        self.at, self.before, self.writes = at, before, 0
        for name in ("create_new_trial", "set_study_user_attr", "set_study_system_attr", "create_new_study"):
            monkeypatch.setattr(JournalStorage, name, self._wrapped(getattr(JournalStorage, name)))

    def _wrapped(self, write):
        def stopping(*args, **kwargs):
            self.writes += 1
            if self.writes == self.at and self.before:
                raise Interrupted
            done = write(*args, **kwargs)
            if self.writes == self.at:
                raise Interrupted
            return done

        return stopping


@pytest.mark.parametrize(
    "searcher",
    [name if name == "evolution" else pytest.param(name, marks=pytest.mark.slow(seconds=30)) for name in SEARCHERS],
    indirect=True,
)
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_a_search_stopped_at_any_write_continues_as_if_it_had_not(
    run, searcher, whole, contents, mixed_score, tmp_path, monkeypatch, before
):
    """At every write of a whole search, one after another; every one is continued to its end and compared.

    After a write and before the next the same is stored, so every second write is enough for both together.
    """
    # Of the last searcher, most proposals lie outside the space, and each of them is a write: every fourth is enough.
    evaluator, stopped, step = mixed_score(), 0, 4 if searcher.name == "optuna-nsga2" else 2
    for at in itertools.count(1, step):
        with monkeypatch.context() as patch:
            stopping = Stopping(patch, at, before)
            try:
                run(tmp_path / f"{at}", searcher, evaluator=evaluator)
            except Interrupted:
                stopped += 1
            else:
                assert stopping.writes < at
                break
        first, evaluator = evaluator, mixed_score()
        study = run(tmp_path / f"{at}", searcher, evaluator=evaluator)
        assert contents(study) == whole
        # Only a batch whose scores were not written down yet may be evaluated twice.
        twice = len(first.evaluated) + len(evaluator.evaluated) - study.evaluations
        assert twice in ((0, len(first.populations[-1])) if first.populations else (0,))
        assert twice == 0 or first.populations[-1] == evaluator.populations[0]
        evaluator = mixed_score()
    # All scores, all trials, and two writes a batch beside them; and what makes the study.
    assert stopped * step >= len(whole) + 2 * (-(-TRIALS // BATCH) + 2)


def test_a_search_stopped_again_and_again_continues_as_if_it_had_not(
    run, searcher, whole, contents, tmp_path, monkeypatch
):
    for session in itertools.count(1):
        with monkeypatch.context() as patch:
            # More writes than a batch of the searcher with most has, so that it comes to an end.
            Stopping(patch, [5, 11, 40, 200][session % 4] + session, before=bool(session % 2))
            try:
                study = run(tmp_path / "stopped", searcher)
                break
            except Interrupted:
                continue
    assert session > 2
    assert contents(study) == whole


@pytest.mark.parametrize("number", range(7))
def test_an_evaluation_that_is_stopped_costs_only_its_batch(
    run, searcher, whole, contents, mixed_score, tmp_path, number
):
    class Failing(type(mixed_score())):
        def evaluate(self, archs, best=()):
            if len(self.populations) == number:
                raise Interrupted
            return super().evaluate(archs, best)

    stopped, rest = Failing(), mixed_score()
    with pytest.raises(Interrupted):
        run(tmp_path / "stopped", searcher, evaluator=stopped)
    study = run(tmp_path / "stopped", searcher, evaluator=rest)
    assert contents(study) == whole
    assert len(stopped.evaluated) + len(rest.evaluated) == study.evaluations


@pytest.mark.parametrize("stop_after", [0, 1, 2, 4])
def test_a_search_left_after_a_batch_continues_as_if_it_had_not_been(
    run, searcher, whole, contents, tmp_path, stop_after
):
    stopped = contents(run(tmp_path / "stopped", searcher, stop_after=stop_after))
    assert stopped == whole[: len(stopped)]
    assert contents(run(tmp_path / "stopped", searcher)) == whole


@pytest.mark.parametrize("name", [name for name in EVERY if name not in SEARCHERS])
def test_the_others_continue_as_if_they_had_not_been_stopped(run, contents, mixed_score, tmp_path, name):
    """In short, because some take seconds; but for longer than a sampler's random start, of ten rows."""

    def session(journal, **kwargs):
        searcher = small(name)
        searcher.batch_size = 2
        return contents(run(tmp_path / journal, searcher, trials=6, control=0, **kwargs))

    class Failing(type(mixed_score())):
        def evaluate(self, archs, best=()):
            if len(self.populations) == 1:
                raise Interrupted
            return super().evaluate(archs, best)

    whole = session("whole")
    first = session("stopped", stop_after=1)
    assert first == whole[: len(first)]
    with pytest.raises(Interrupted):
        session("stopped", evaluator=Failing())
    assert session("stopped") == whole


# --- longer searches


def test_more_trials_continue_a_finished_search(run, searcher, whole, contents, mixed_score, tmp_path):
    # At the end of a batch as if all had been asked for at once, except that the control came earlier.
    study = run(tmp_path / "journal", searcher, trials=2 * BATCH, control=0)
    assert len(study.history) == 2 * BATCH
    assert contents(run(tmp_path / "journal", searcher)) == whole
    # In the midst of one with another batch.
    first = run(tmp_path / "other", searcher, trials=2 * BATCH + 1).history.trials
    assert len(first) == 2 * BATCH + 1
    evaluator = mixed_score()
    study = run(tmp_path / "other", searcher, evaluator=evaluator)
    assert study.history.trials[: len(first)] == first
    assert len(study.history) == TRIALS
    assert len(evaluator.evaluated) == TRIALS - len(first)
    # A longer control goes on with the shorter one's draws.
    control = study.control.trials
    study = run(tmp_path / "other", searcher, control=2 * CONTROL)
    assert study.control.trials[:CONTROL] == control
    assert len(study.control) == 2 * CONTROL


@pytest.mark.parametrize("trials", [1, TRIALS - 1, TRIALS])
def test_a_finished_search_evaluates_nothing(run, searcher, mixed_score, contents, tmp_path, trials):
    before = contents(run(tmp_path / "journal", searcher))
    evaluator = mixed_score()
    assert contents(run(tmp_path / "journal", searcher, trials=trials, evaluator=evaluator)) == before
    assert evaluator.evaluated == []


def test_time_ends_a_search_between_batches(digits_space, searcher, score, tmp_path, monkeypatch):
    seconds = itertools.count()
    monkeypatch.setattr("psvit.search.search.time.monotonic", lambda: float(next(seconds)))
    study = Study(digits_space, open_storage(tmp_path / "journal"))
    for _ in search(Candidates(digits_space, BUDGET), searcher, score(), study, trials=TRIALS, seed=0, seconds=3.5):
        pass
    assert len(study.history) == 3 * BATCH


def test_a_search_ends_when_the_budget_leaves_nothing(tiny_space, searcher, score, tmp_path):
    study = Study(tiny_space, open_storage(tmp_path / "journal"))
    candidates = Candidates(tiny_space, Budget())
    for _ in search(candidates, searcher, score(), study, trials=10 * tiny_space.size, seed=0):
        pass
    assert sorted(tiny_space.index(trial.arch) for trial in study.history) == list(range(tiny_space.size))
    # And again, from the exhausted study.
    assert list(search(candidates, searcher, score(), study, trials=999, seed=0)) == []
    control = Study(tiny_space, open_storage(tmp_path / "journal"), name="control")
    evaluator = score()
    draw_control(candidates, evaluator, control, study.history, trials=999, seed=0)
    assert len(control.history) == tiny_space.size
    assert evaluator.evaluated == []


@pytest.mark.parametrize("text", ["230kFLOPs", "4..5MFLOPs", "10kparams"])
def test_an_impossible_budget_is_refused_with_the_reach(digits_space, text):
    reach = "30.35 kparams to 414.5 kparams" if "params" in text else "231.4 kFLOPs to 3.211 MFLOPs"
    with pytest.raises(InputError, match=f"the space reaches {reach}"):
        Candidates(digits_space, Budget.parse(text))


# --- the control


def test_the_control_is_drawn_as_if_nothing_had_been_searched(run, mixed_score, tmp_path):
    one, other = (run(tmp_path / name, small(name), trials=12, control=20, seed=5) for name in ("evolution", "random"))
    drawn = [trial.arch for trial in one.control]
    assert drawn == [trial.arch for trial in other.control]
    assert len(set(drawn)) == 20
    assert all(BUDGET.satisfied_by(trial.cost) for trial in one.control)
    assert all(trial.score == mixed_score().score(trial.arch) for trial in one.control)


def test_time_ends_a_control_between_batches(digits_space, score, tmp_path, monkeypatch):
    def drawn(journal, seconds):
        study, evaluator = Study(digits_space, open_storage(tmp_path / journal)), score()
        candidates = Candidates(digits_space, BUDGET)
        with monkeypatch.context() as patch:
            clock = itertools.count()
            patch.setattr("psvit.search.search.time.monotonic", lambda: float(next(clock)))
            draw_control(
                *(candidates, evaluator, study, History()), trials=12, seed=5, seconds=seconds, batch_size=3
            )  # fmt: skip
        return [trial.arch for trial in study.history]

    whole = drawn("whole", None)
    assert len(whole) == 12
    assert [drawn("stopped", seconds) for seconds in (0, 2.5, 1.5, None)] == [[], whole[:6], whole[:9], whole]


def test_what_the_search_scored_on_all_images_is_not_scored_again(digits_space, mixed_score, evaluated, tmp_path):
    """Raced and failed ones are, because their scores are not those of a random search."""
    candidates, evaluator = Candidates(digits_space, BUDGET), mixed_score()
    drawn = candidates.draw_unseen(12, Seen(History()), np.random.default_rng([5, crc32(b"control")]))
    searched = evaluated(candidates, drawn[:8], mixed_score())
    assert {trial.score.state for trial in searched} == {"complete", "raced", "failed"}
    control = Study(digits_space, open_storage(tmp_path / "journal"))
    draw_control(candidates, evaluator, control, searched, trials=12, seed=5)
    assert [trial.arch for trial in control.history] == drawn
    assert all(trial.score == mixed_score().score(trial.arch) for trial in control.history)
    known = {trial.arch for trial in searched.complete}
    assert evaluator.evaluated == [arch for arch in drawn if arch not in known]


def test_the_best_that_optuna_sees_is_the_best_that_was_searched(run, score, tmp_path):
    """Not one of the control, which is in a study of its own."""
    study = run(tmp_path / "journal", small("random"), trials=4, control=40, evaluator=score())
    best = max(trial.score.value for trial in study.history)
    assert max(trial.score.value for trial in study.control) > best
    storage = open_storage(tmp_path / "journal")
    assert optuna.get_all_study_names(storage) == ["psvit", "psvit-control"]
    seen = optuna.load_study(study_name="psvit", storage=storage)
    assert (len(seen.trials), seen.best_value) == (4, best)
    assert len(optuna.load_study(study_name="psvit-control", storage=storage).trials) == 40


# --- several objectives


def test_an_enumerated_search_of_two_objectives_finds_the_true_front(tiny_space, score, tmp_path):
    objectives = Objectives(names=("accuracy", "macs"))
    study = Study(tiny_space, open_storage(tmp_path / "journal"), objectives=objectives)
    candidates = Candidates(tiny_space, Budget())
    for _ in search(candidates, make_searcher("enumerate"), score(), study, trials=tiny_space.size, seed=0):
        pass
    points = {trial.arch: (score().value(trial.arch), -trial.cost.macs) for trial in study.history}
    assert len(points) == tiny_space.size
    assert {trial.arch: trial.objectives for trial in study.history} == points
    true = {
        arch
        for arch, point in points.items()
        if not any(
            other != point and all(a >= b for a, b in zip(other, point, strict=True)) for other in points.values()
        )
    }
    assert 3 < len(true) < tiny_space.size
    found = study.history.best(len(true))
    assert {trial.arch for trial in found} == true
    # The ends of the front are the least crowded.
    assert {found[0].arch, found[1].arch} == {
        max(true, key=lambda a: points[a][0]),
        max(true, key=lambda a: points[a][1]),
    }


@pytest.mark.parametrize("name", ["evolution", "optuna-nsga2", "optuna-tpe"])
def test_searches_of_two_objectives_continue_as_if_they_had_not_been_stopped(digits_space, mixed_score, tmp_path, name):
    objectives = Objectives(names=("accuracy", "params"))

    def run(journal, *trials):
        for number in trials:
            study = Study(digits_space, open_storage(journal), objectives=objectives)
            steps = search(Candidates(digits_space, BUDGET), small(name), mixed_score(), study, trials=number, seed=1)
            for _ in steps:
                pass
        return study

    whole, stopped = run(tmp_path / "whole", 18), run(tmp_path / "stopped", 6, 12, 18)
    assert whole.history.trials == stopped.history.trials
    assert whole.history.rejected == stopped.history.rejected
    assert whole.history.objectives.shape == (len(whole.history.complete), 2)
    assert np.array_equal(whole.history.objectives[:, 1], [-trial.cost.num_params for trial in whole.history.complete])


def test_signs_of_life_go_on_when_the_storage_has_failed_for_a_while(tiny_space, score, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(search_module, "LEASE", 0.04)
    study = Study(tiny_space, open_storage(tmp_path / "journal"))
    begun, given = [], threading.Event()

    def beat():
        begun.append(threading.current_thread())
        if len(begun) <= 3:
            raise ConnectionError("lost postgresql://me:hunter2@host/psvit\nwhich is bad")
        given.set()

    class Slow(score):
        def evaluate(self, archs, best=(), parts=1):
            assert given.wait(timeout=30)
            return super().evaluate(archs, best, parts)

    monkeypatch.setattr(study, "beat", beat)
    steps = search(Candidates(tiny_space, Budget()), make_searcher("random"), Slow(), study, trials=4, seed=0)
    assert len(next(steps)) == 4
    assert len(begun) > 3
    lines = [record.getMessage() for record in caplog.records if "sign of life" in record.getMessage()]
    assert len(lines) == 3
    assert all("lost postgresql://me:***@host/psvit which is bad" in line for line in lines)
    assert not [thread for thread in threading.enumerate() if "signs of life" in thread.name]
