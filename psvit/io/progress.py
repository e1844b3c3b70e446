"""Progress of what lasts: a bar with rate and remaining time on a terminal, nothing elsewhere."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Rate(ProgressColumn):
    """Units a second; a minute or an hour if there is less than one a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        seconds, unit = next(((s, unit) for s, unit in _UNITS if speed * s >= 1), _UNITS[-1])
        return Text(f"{speed * seconds:,.1f} {task.fields['unit']}/{unit}")


_UNITS = ((1, "s"), (60, "min"), (3600, "h"))


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
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    progress = Progress(
        *columns,
        console=console,
        disable=not console.is_terminal,
        get_time=clock,
        # By default rich forgets what is older than half a minute, which one step of ours may take; it is also bounded
        # to the last thousand steps, so that the rate follows what is quick.
        speed_estimate_period=math.inf,
    )
    # Before rich 14.3 a bar that is disabled ends with an empty line, if it was begun.
    with progress if console.is_terminal else contextlib.nullcontext():
        task = progress.add_task(description, total=total, completed=done, unit=unit, note="")
        progress.advance(task, 0)  # from here on the first step is timed

        def advance(units: int, note: str = "") -> None:
            progress.update(task, advance=units, note=note)

        yield advance
