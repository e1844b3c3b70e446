"""SearchResult: what a search found, as a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psvit.arch.costs import METRICS
from psvit.errors import InputError, LostWorkersError
from psvit.io.tables import Table, html_table
from psvit.report.page import HtmlFile
from psvit.search.compression.outcome import Compression
from psvit.search.selection.finalist import Finalist
from psvit.search.selection.verdict import Verdict
from psvit.search.winner import FRONT
from psvit.space.budget import format_cost


@dataclass(frozen=True, kw_only=True, repr=False)
class SearchResult:
    """The result of a search.

    Attributes:
        folder: the folder of the run.
        file: the winner's architecture file. If the winner inherits weights, they lie beside it.
        finalists: what could be delivered, the winner first; with several objectives, the Pareto front.
        verdict: by how much the winner is ahead of the best hand-made network, on images that nothing was chosen by.
            `None` if that was not found out.
        compression: what was delivered beside the network that the search began with, and beside what is to be had
            without a search; `None` if it began with none.
        front: the trials that no other trial beats in all objectives or, with one objective, in score and MACs.
        trials: every architecture that was evaluated, a row each.
        html: `report.html`, for a browser or a notebook; `None` if a rule took the network without any scores.
        objectives: the names of the objectives.
        kind: the name of the score.
        fidelity: how truly scores rank networks, as far as it was measured, or `not measured`.
        wanted: how many architectures were to be evaluated.
        passed_over: how many trials with better scores were measured beyond a limit on latency.
        data: the name of the images; `None` if there were none.
        next_command: the shell line that goes on from the winner.
        next_seconds: how long that line will take on this machine, as far as trainings of the winner in the search say;
            `None` if none was timed.
        stopped: what stopped the search before its end; `None` if nothing did. After a stop, this is the best so far.
        left_out: what there was no time for, in words; the same call does it.
    """

    folder: Path
    file: Path
    finalists: Sequence[Finalist]
    verdict: Verdict | None
    compression: Compression | None
    front: Sequence[Finalist]
    trials: Table
    html: HtmlFile | None
    objectives: tuple[str, ...]
    kind: str
    fidelity: Any
    wanted: int
    passed_over: int
    data: str | None
    next_command: str
    next_seconds: float | None
    stopped: KeyboardInterrupt | LostWorkersError | None
    left_out: tuple[str, ...] = ()

    @property
    def report(self) -> HtmlFile:
        """The report, for a browser or a notebook.

        Raises:
            InputError: there is none, because a rule took the network without any scores.
        """
        if self.html is None:
            raise InputError(f"{self.folder}: has no report, because nothing was compared there; search with data=...")
        return self.html

    @property
    def best(self) -> Finalist:
        """The winner: the first of the finalists."""
        return self.finalists[0]

    def __repr__(self) -> str:
        best = self.best
        stopped = f", stopped by {type(self.stopped).__name__}" if self.stopped else ""
        return (
            f"SearchResult({len(self.trials)} trials in {str(self.folder)!r}{stopped}; "
            f"best: {best.name}, {self.kind} {best.scored}, {format_cost('macs', best.cost.macs)}; "
            f"{len(self.front)} on the front)"
        )

    @property
    def front_folder(self) -> Path | None:
        """The folder of the front's architecture files; `None` with one objective."""
        return self.folder / FRONT if len(self.objectives) > 1 else None

    def _repr_html_(self) -> str:
        rows = [
            (
                one.name,
                one.scored,
                *(format_cost(metric, getattr(one.cost, metric)) for metric in METRICS),
                "" if one.accuracy is None else f"{one.accuracy:.2f} %",
            )
            for one in self.finalists
        ]
        header = ("", self.kind, "MACs", "parameters", "activation memory", "after the selection's training")
        return f"{self.best._repr_html_()}{html_table(rows, header)}"
