"""Executors: the same outcomes wherever work is done, and what stays at home when it travels."""

from __future__ import annotations

import pickle

import pytest
import torch

from psvit.errors import DivergedError, InputError
from psvit.executors.choose_executor import executor_for
from psvit.executors.executor import LocalExecutor, Outcome, Portable


def halved(number: int) -> float:
    """Half of an even number; others fail in several ways."""
    if number == 1:
        raise DivergedError("training diverged")
    if number == 3:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried\nto allocate")
    if number == 5:
        raise InputError("this one is refused")
    return number / 2


def test_what_fails_is_an_outcome_and_the_others_go_on():
    found = list(LocalExecutor().run(halved, [2, 1, 3, 4]))
    assert found == [
        (2, Outcome(value=1.0)),
        (1, Outcome(failure="training diverged")),
        (3, Outcome(failure="out of memory: CUDA out of memory. Tried")),
        (4, Outcome(value=2.0)),
    ]


def test_whatever_else_is_raised_is_raised_here():
    outcomes = LocalExecutor().run(halved, [2, 5, 4])
    assert next(outcomes) == (2, Outcome(value=1.0))
    with pytest.raises(InputError, match="this one is refused"):
        next(outcomes)


def test_an_item_is_asked_for_when_the_one_before_is_done():
    done = []

    def items():
        for number in (2, 4, 6):
            assert len(done) == number // 2 - 1
            yield number

    done += [outcome for _, outcome in LocalExecutor().run(lambda number: done.append(number), items())]
    assert done[:3] == [2, 4, 6]


def test_without_workers_this_process_works():
    assert isinstance(executor_for(None, torch.device("cpu")), LocalExecutor)


class Opened:
    """A value that cannot travel."""

    count = 0

    def __init__(self) -> None:
        Opened.count += 1

    def __reduce__(self):
        pytest.fail("travels")


def test_what_is_portable_is_made_anew_elsewhere_and_once_at_most():
    made = Portable(Opened, Opened())
    assert made.get() is made.get()
    assert Opened.count == 1
    there = pickle.loads(pickle.dumps(made))
    assert Opened.count == 1, "nothing is made before it is asked for"
    assert there.get() is there.get() is not made.get()
    assert Opened.count == 2
