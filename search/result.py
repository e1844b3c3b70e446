"""SearchResult: what a search found, as a value, and the file that keeps it.

The file is the last of a run that has come to its end. Who gives the same command again gets it read: no network is
needed for that, and nothing is gone through again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from psvit.arch.costs import METRICS
from psvit.data import Baseline
from psvit.errors import InputError, LostWorkersError
from psvit.io.bounded import read_text
from psvit.io.documents import path_of, write_atomic
from psvit.io.run_folder import CONFIG
from psvit.io.tables import Table, html_table
from psvit.report.page import HtmlFile
from psvit.search.compression.table import Compression
from psvit.search.selection.finalist import Finalist
from psvit.search.selection.verdict import Verdict
from psvit.space.budget import format_cost

BEST, FRONT, HISTORY, REPORT = "best.yaml", "pareto", "history.csv", "report.html"
"""What a run delivers."""

FILE = "result.json"
"""Where a run that has come to its end keeps its result."""


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
        baseline: logistic regression on the search images, on which networks are compared; `None` if images are not
            small, or there are none.
        milliseconds: how long the winner takes for a batch on this machine, by the batch's size; empty if that was not
            measured, or if latency is limited (`Finalist.latencies`) or a network is made of another (`compression`).
        front: the trials that no other trial beats in all objectives or, with one objective, in score and MACs.
        trials: every architecture that was evaluated, a row each.
        html: `report.html`, for a browser or a notebook; `None` if a rule took the network without any scores.
        objectives: the names of the objectives.
        kind: the name of the score.
        fidelity: how truly scores rank networks, as far as it was measured, or `not measured`.
        wanted: how many architectures were to be evaluated.
        passed_over: how many trials with better scores were measured beyond a limit on latency.
        data: the name of the images; `None` if there were none.
        next_command: what goes on from the winner: a shell line, or a call in Python where no command can open the
            images.
        next_seconds: how long that line will take on this machine, as far as trainings of the winner in the search say;
            `None` if none was timed.
        next_epochs: how many epochs it trains by default; `None` if the search trained nothing.
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
    baseline: Baseline | None = None
    milliseconds: Mapping[int, float] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    next_epochs: int | None = None

    @staticmethod
    def load(folder: str | Path) -> SearchResult:
        """What a search found that has come to its end.

        Args:
            folder: of its run.

        Raises:
            InputError: it has not come to its end, or a file of it is damaged.
        """
        folder = path_of(folder)
        if not (folder / CONFIG).exists():
            raise InputError(f"{folder}: is not the folder of a run; name that of a search")
        if not (folder / FILE).exists():
            raise InputError(
                f"{folder}: holds no finished search (there is no {FILE}); if it is one that was stopped, the same "
                "call goes on with it; one in a storage of its own, which others may go on with, is read by the same "
                "call"
            )
        return _read(folder)[0]

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


# --- the file


class _Kept(BaseModel):
    """The file. What other files of the run hold is not repeated."""

    model_config = ConfigDict(extra="forbid")

    kept_as: Literal["psvit/result/1"] = Field("psvit/result/1", alias="schema")
    asked: dict[str, Any]
    files: list[str]
    finalists: list[Finalist]
    verdict: Verdict | None
    compression: Compression | None
    baseline: Baseline | None
    milliseconds: dict[int, float]
    front: list[Finalist]
    objectives: tuple[str, ...]
    kind: str
    fidelity: Any
    wanted: int
    passed_over: int
    data: str | None
    next_command: str
    next_seconds: float | None
    next_epochs: int | None = None


_OF_RESULT = [name for name in _Kept.model_fields if name not in ("kept_as", "asked", "files")]


def keep(result: SearchResult, asked: Mapping[str, Any]) -> None:
    """Write a result into the folder of its run.

    Args:
        result: of a run that was neither stopped nor left anything out.
        asked: everything that the run was asked for, JSON-serialisable.
    """
    values = {name: getattr(result, name) for name in _OF_RESULT}
    for name in ("finalists", "front"):
        values[name] = [_moved(one, lambda file: file.relative_to(result.folder)) for one in values[name]]
    places = [*result.folder.glob(f"{result.file.stem}.*"), result.folder / HISTORY, result.folder / REPORT]
    places += result.folder.glob(f"{FRONT}/*")
    files = sorted(str(place.relative_to(result.folder)) for place in places if place.exists())
    kept = _Kept.model_construct(asked=dict(asked), files=files, **values)
    write_atomic(result.folder / FILE, kept.model_dump_json(by_alias=True, indent=1))


def forget(folder: Path) -> None:
    """Remove the file, because the run goes on."""
    (folder / FILE).unlink(missing_ok=True)


def found_before(folder: Path, asked: Mapping[str, Any]) -> SearchResult | None:
    """What a run has found that was asked for just this.

    Args:
        folder: of the run.
        asked: as of `keep`.

    Returns:
        The result; `None` if the run has not come to its end, was asked for something else, or lacks one of its files.
    """
    try:
        result, kept = _read(folder)
    except InputError:
        return None
    is_whole = all((folder / file).exists() for file in kept.files)
    return result if is_whole and kept.asked == json.loads(json.dumps(asked)) else None


def _read(folder: Path) -> tuple[SearchResult, _Kept]:
    """The result, and the file."""
    file, history = folder / FILE, folder / HISTORY
    compared = history.exists()
    try:
        kept = _Kept.model_validate_json(read_text(file))
        trials = Table.from_csv(history.read_text(encoding="utf-8")) if compared else Table([], ())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{history}: cannot be read: {error}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise InputError(f"{file}: {f'{place}: ' if place else ''}{problem['msg']}") from None
    values = {name: getattr(kept, name) for name in _OF_RESULT}
    for name in ("finalists", "front"):
        values[name] = [_moved(one, folder.joinpath) for one in values[name]]
    result = SearchResult(
        folder=folder,
        file=folder / BEST,
        trials=trials,
        html=HtmlFile(folder / REPORT) if compared else None,
        stopped=None,
        **values,
    )
    return result, kept


def _moved(finalist: Finalist, to: Any) -> Finalist:
    """A finalist whose file, if it has one, is said from elsewhere."""
    return replace(finalist, written=to(finalist.written)) if finalist.written else finalist
