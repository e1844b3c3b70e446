"""Progress of what lasts: a bar with rate and remaining time on a terminal, nothing elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Rate(ProgressColumn):
    """Units a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.1f} {task.fields['unit']}/s" if speed else "")


@contextlib.contextmanager
def progress_bar(description: str, total: int, unit: str, done: int = 0) -> Iterator[Callable[[int, str], None]]:
    """Show progress on standard error while the block runs.

    Args:
        description: what is being done.
        total: how many units there are.
        unit: what they are, in the plural.
        done: how many were done before.

    Yields:
        A function of how many more units are done and what to say beside them.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=total, completed=done, unit=unit, note="")

        def advance(units: int, note: str = "") -> None:
            progress.update(task, advance=units, note=note)

        yield advance
