"""Time limits: a search is over in time also where the machine is slower than it seemed, and goes on later."""

from __future__ import annotations

from functools import partial

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

import psvit.search.estimate as estimating
import psvit.search.run as running
import psvit.search.selection.selection as selecting
from psvit import run_search
from psvit.executors.executor import attempt
from psvit.search.storage import open_storage
from psvit.search.time_limit import ALLOWED, TimeLimit, elapsed
from psvit.train import job_runner

EPOCH = 20.0
"""Seconds that an epoch of a network is planned with."""

SECONDS = 800.0


@pytest.fixture
def clock(monkeypatch, few_digits):
    """A clock that trainings alone move, by what it says an epoch takes; `seconds` is the time."""

    class Clock:
        seconds = 0.0
        an_epoch = EPOCH

        def __call__(self):
            return self.seconds

    clock, train = Clock(), job_runner.train
    reached = {}

    def timed(task, loader, recipe, *, folder, until, **kwargs):
        end = until or recipe.epochs
        clock.seconds += (end - reached.get(folder, 0)) * clock.an_epoch
        reached[folder] = end
        return train(task, loader, recipe, folder=folder, until=until, **kwargs)

    monkeypatch.setattr(job_runner, "train", timed)
    monkeypatch.setattr(running, "TimeLimit", partial(TimeLimit, clock=clock))
    images = len(running.plan_search(running._request(arguments(few_digits))).data.train)
    monkeypatch.setattr(estimating, "_measured", lambda *args: EPOCH / images)
    return clock


def arguments(data, **changes):
    import inspect

    bound = inspect.signature(run_search).bind(budget="0.2MFLOPs", data=data, **changes)
    bound.apply_defaults()
    return bound.arguments


@pytest.fixture
def search(few_digits, tmp_path):
    recipe = tmp_path / "brief.yaml"
    recipe.write_text("schema: psvit/recipe/1\nepochs: 12\nbatch_size: 128\nlr: 0.002\n")
    return partial(
        run_search,
        budget="0.2MFLOPs",
        data=few_digits,
        recipe=recipe,
        seconds=SECONDS,
        out=tmp_path / "run",
    )


@pytest.mark.parametrize("slower", [1.0, 2.5, *(pytest.param(one, marks=pytest.mark.slow) for one in (0.9, 1.5, 8.0))])
def test_a_search_is_over_in_time_and_the_same_call_does_what_is_missing(search, clock, slower):
    clock.an_epoch = slower * EPOCH
    first = search()
    assert clock.seconds <= 1.2 * SECONDS
    if slower <= 1.0:
        assert not first.left_out
        assert clock.seconds > 0.8 * slower * SECONDS
    else:
        assert first.left_out
        assert clock.seconds > 0.7 * SECONDS
    assert first.file.exists()
    calls = 0
    again = first
    while again.left_out:
        clock.seconds, calls = 0.0, calls + 1
        again = search()
        assert clock.seconds <= 1.2 * SECONDS
        assert len(again.trials) >= len(first.trials)
    assert calls <= 2 * slower
    assert len(again.trials) == again.wanted
    assert len(again.best.accuracies) == 3
    assert again.verdict is not None
    assert again.verdict.seeds == 3
    # Nothing is left, so nothing is trained.
    clock.seconds = 0.0
    assert search().file.read_bytes() == again.file.read_bytes()
    assert clock.seconds == 0.0


class Several:
    """An executor that works on several items at the same time, by a clock that work moves."""

    def __init__(self, clock, number):
        self.clock, self.number = clock, number

    def at_once(self):
        return self.number

    def run(self, work, items):
        began = self.clock.seconds
        free, done = [began] * self.number, []
        for item in list(items):  # as Ray's: all are asked for at the beginning
            self.clock.seconds = began
            outcome = attempt(work, item)
            free[0] += self.clock.seconds - began
            done.append((free[0], len(done), item, outcome))
            free.sort()
        for end, _, item, outcome in sorted(done):
            self.clock.seconds = end
            yield item, outcome


@pytest.mark.parametrize("slower", [1.0, 2.5, pytest.param(8.0, marks=pytest.mark.slow)])
def test_a_search_on_several_workers_is_over_in_time_too(search, clock, monkeypatch, slower):
    clock.an_epoch = slower * EPOCH
    for module in (selecting, estimating):
        monkeypatch.setattr(module, "executor_for", lambda *args: Several(clock, 3))
    seconds = SECONDS / 2
    first = search(seconds=seconds)
    assert 0.6 * seconds < clock.seconds <= 1.2 * seconds
    if slower == 1.0:
        assert not first.left_out
        assert clock.seconds > 0.8 * seconds
        assert first.wanted == len(first.trials)
    else:
        assert first.left_out


def test_a_machine_that_gets_slower_meanwhile_is_noticed(search, clock, monkeypatch):
    begin = TimeLimit.begin

    def slowing(limit, at_once):
        clock.an_epoch *= 1.5
        begin(limit, at_once)

    monkeypatch.setattr(TimeLimit, "begin", slowing)
    result = search()
    assert result.left_out
    assert clock.seconds <= 1.2 * SECONDS


def test_networks_for_comparison_that_had_no_time_are_told_and_come_later(search, clock):
    clock.an_epoch = 2 * EPOCH
    first = search(control=40)
    assert clock.seconds <= 1.2 * SECONDS
    assert any("networks for comparison" in line for line in first.left_out)
    again = first
    for _ in range(8):
        if not again.left_out:
            break
        clock.seconds = 0.0
        again = search(control=40)
        assert clock.seconds <= 1.2 * SECONDS
    assert not again.left_out
    control = optuna.load_study(study_name="psvit-control", storage=open_storage(again.folder / "study.journal"))
    assert len(control.trials) == 40
    assert again.verdict is not None


def test_without_a_number_everything_is_permitted():
    limit = TimeLimit()
    limit.begin()
    limit.begins("one", 1)
    limit.ended("one")
    assert limit.permits(1e12)
    assert not limit.is_up


def test_what_would_end_too_late_by_the_last_trainings_is_not_permitted():
    now = [0.0]
    limit = TimeLimit(100.0, clock=lambda: now[0])
    assert limit.permits(1e12)  # nothing is known
    limit.begin()
    limit.begins("one", 2)
    now[0] = 20.0
    limit.ended("one")
    assert limit.permits(ALLOWED * 100 / 10 - 2)
    assert limit.permits(*[(ALLOWED * 100 / 10 - 2) / 4] * 4)
    assert not limit.is_up
    assert not limit.permits(ALLOWED * 100 / 10 - 1)
    assert limit.is_up
    assert limit.left == 80.0


def test_what_has_begun_comes_first_and_workers_share_it():
    now = [0.0]
    limit = TimeLimit(100.0, clock=lambda: now[0])
    limit.begin(2)
    for name in "abc":
        limit.begins(name, 1)
    # An epoch takes 10 s: two trainings end together, and then the third.
    now[0] = 10.0
    limit.ended("a")
    limit.ended("b")
    now[0] = 20.0
    limit.ended("c")
    assert limit.permits(9)
    assert not limit.permits(9.1)
    assert limit.permits(9, 9)
    assert not limit.permits(9, 9, 0.1)
    limit.begins("d", 5)
    limit.begins("e", 5)
    assert limit.permits(4)
    assert not limit.permits(4.1)
    limit.ended("d", failed=True)
    assert limit.permits(9)


@given(st.lists(st.integers(1, 20), max_size=12), st.integers(1, 5))
def test_what_passes_until_all_have_ended(trainings, at_once):
    found = elapsed(trainings, at_once)
    # By looking at every moment.
    waiting, running, passed = list(trainings), [], 0
    while waiting or running:
        while waiting and len(running) < at_once:
            running.append(waiting.pop(0))
        passed += 1
        running = [left - 1 for left in running if left > 1]
    assert found == passed
