"""Progress of what lasts, with rate and time left: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from psvit.io.announcements import Silence


class _Rate(ProgressColumn):
    """Units a second; a minute or an hour if there is less than one a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(_rate(speed, f" {task.fields['unit']}"))


_UNITS = ((1, "s"), (60, "min"), (3600, "h"))

EVERY_S = 25.0
"""Seconds after which a line is said where there is no terminal, of each step that lasts so long; a run that takes less
says nothing."""


@contextlib.contextmanager
def progress_bar(
    description: str,
    total: int,
    unit: str,
    done: int = 0,
    *,
    console: Console | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Callable[[int, str], None]]:
    """Show progress while the block runs. What is written to standard error meanwhile appears above it.

    Rate and time left appear with the first units that are done, however long these take.

    Args:
        description: what is being done.
        total: how many units there are.
        unit: what they are, in the plural.
        done: how many were done before.
        console: where to; standard error by default.
        clock: the time in seconds.

    Yields:
        A function of how many more units are done and what to say beside them.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(console, description, total, unit, done, clock)
        return
    with _Bars.shown(console, clock) as (bars, is_first):
        task = bars.add_task(description, total=total, completed=done, unit=unit, note="")
        bars.advance(task, 0)  # from here on the first step is timed

        def advance(units: int, note: str = "") -> None:
            bars.update(task, advance=units, note=note)

        try:
            yield advance
        finally:
            # The longest stays to be read; of the steps within it there may be hundreds.
            if not is_first:
                bars.remove_task(task)


class _Bars:
    """The bars on the terminal. A bar that begins while another is shown gets a line below it.

    Attributes:
        current: what draws them; `None` while none is shown.
    """

    current: Progress | None = None

    @classmethod
    @contextlib.contextmanager
    def shown(cls, console: Console, clock: Callable[[], float]) -> Iterator[tuple[Progress, bool]]:
        """What draws the bars, and whether it was begun for this one."""
        if cls.current is not None:
            yield cls.current, False
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        cls.current = Progress(
            *columns,
            console=console,
            get_time=clock,
            # What goes into a file or a pipe does not pass the terminal.
            redirect_stdout=sys.stdout.isatty(),
            # By default rich forgets what is older than half a minute, which one step of ours may take; it is also
            # bounded to the last thousand steps, so that the rate follows what is quick.
            speed_estimate_period=math.inf,
        )
        try:
            with cls.current as bars:
                yield bars, True
        finally:
            cls.current = None


class _Lines:
    """Progress where there is no terminal.

    Args:
        console, description, total, unit, done, clock: as of `progress_bar`.
    """

    def __init__(
        self, console: Console, description: str, total: int, unit: str, done: int, clock: Callable[[], float]
    ) -> None:
        self._console, self._clock = console, clock
        self._description, self._total, self._unit = description, total, unit
        self._first = self._done = done
        self._began = self._said = clock()

    def __call__(self, units: int, note: str = "") -> None:
        """Count units that are done, and say something if the run has been silent for long, or if these have.

        What goes on within a unit may speak meanwhile, and would otherwise keep these from ever being told.
        """
        self._done += units
        now = self._clock()
        if now - min(Silence.since, self._said) < EVERY_S or self._done == self._first:
            return
        self._said = now
        Silence.begin(now)
        rate = (self._done - self._first) / (now - self._began)
        told = [
            f"{self._done:,} of {self._total:,} {self._unit}",
            _rate(rate),
            f"{in_time((self._total - self._done) / rate)} left",
            *([note] if note else []),
        ]
        self._console.file.write(f"{self._description}: {', '.join(told)}\n")
        self._console.file.flush()


def _rate(speed: float, unit: str = "") -> str:
    """A number of units a second, a minute or an hour."""
    seconds, per = next(((s, per) for s, per in _UNITS if speed * s >= 1), _UNITS[-1])
    return f"{speed * seconds:,.1f}{unit}/{per}"


def in_time(seconds: float) -> str:
    """A duration for people."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
