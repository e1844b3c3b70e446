"""Stages with deadlines: what is measured is kept at once, so a call that is repeated measures what is missing."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import torch

from psvit.io.journal import Journal

Measured = dict[str, Any]
"""What a measurement gave, JSON-serialisable."""


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        key: what is measured, in words; different in every cell of a stage.
        measure: does it. It is given the seconds that are left, which only long ones look at.
        is_kept: whether it is finished once it was done; otherwise a repeated call does it again.
    """

    key: str
    measure: Callable[[float], Measured]
    is_kept: bool = True


@dataclass(frozen=True)
class Stage:
    """A part of the benchmark.

    Attributes:
        name: a word.
        share: of the time that is left, which the stage may take at most.
        cells: makes its cells.
    """

    name: str
    share: float
    cells: Callable[[argparse.Namespace], Iterator[Cell]]


def run_stages(stages: Sequence[Stage], options: argparse.Namespace, journal: Journal) -> None:
    """Measure what the journal does not hold, one stage after the other.

    A measurement that fails is said and recorded, and tried again by the next call; the others go on.

    Args:
        stages: in their order; what one leaves of its time, those after it have.
        options: of the command line; `minutes` is the time of all, `cells` the most of a stage.
        journal: of what was measured.
    """
    end = time.monotonic() + 60 * options.minutes
    for stage in stages:
        now = time.monotonic()
        deadline = now + stage.share * (end - now)
        known = {one["key"] for one in journal.records if one["stage"] == stage.name and "error" not in one}
        done = 0
        for number, cell in enumerate(stage.cells(options)):
            if options.cells is not None and number >= options.cells:
                break
            if cell.key in known:
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                print(f"{stage.name}: no time left; the same line goes on", flush=True)
                break
            record = {"stage": stage.name, "key": cell.key, **_measured(cell, left)}
            done += 1
            if cell.is_kept or "error" in record:
                journal.add(record)
            print(f"{stage.name}: {cell.key}: {_told(record)}", flush=True)
        print(f"{stage.name}: {done} measured in {time.monotonic() - now:.0f} s", flush=True)


def finishes(target: Callable[..., object], arguments: tuple[Any, ...], seconds: float) -> bool:
    """Call a function in a process that is ended after so many seconds; whether it came to its end.

    It has to keep what it made, and to go on from there. Processes of its own have to end with it.
    """
    process = get_context("spawn").Process(target=target, args=arguments)
    process.start()
    process.join(seconds)
    if not process.is_alive():
        return process.exitcode == 0
    process.kill()
    process.join()
    return False


def _measured(cell: Cell, left: float) -> Measured:
    try:
        return cell.measure(left)
    except Exception as error:  # whatever a device may say of one of many
        return {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"}
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def shown(value: object) -> str:
    """A measured value for people; empty without one."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _told(record: Measured) -> str:
    return ", ".join(f"{name} {shown(value)}" for name, value in record.items() if name not in ("stage", "key"))
