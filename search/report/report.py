"""Report: what is said of a search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from psvit.search.beside import Beside
from psvit.search.compression.table import Compression
from psvit.search.objectives import Objectives
from psvit.search.report.references import Reference
from psvit.search.request import ScoredBy
from psvit.search.selection.finalist import Finalist
from psvit.search.selection.verdict import Verdict
from psvit.search.trial import Trial
from psvit.space.search_space import SearchSpace

GOOD = 0.1
"""The share of the candidates scored on all images, the best of them, that counts as good where there is one objective.

Of those given up early racing tells only that they are not among its best few, so all of them together have no order.
"""

UNIFORM = "uniform"
"""The origin of trials that a searcher drew at random."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that a report shows.

    Attributes:
        title: what was searched for, for people.
        command: the shell line that repeats the run.
        next_command: the shell line that goes on from the winner; empty if there is none.
        next_seconds: how long that will take on this machine; `None` if it is not known.
        config: the resolved configuration, JSON-serialisable.
        space: the space that was searched.
        budget: the limits as given.
        searcher: its name.
        history: what was searched, in order, whatever became of it.
        control: further architectures, drawn uniformly and scored alike, for comparison.
        objectives: what was improved, in the order of `Trial.objectives`.
        scored_by: what scored the candidates.
        description: what the evaluator says of its scores: kind, meaning, images, fidelity.
        unit: of a score, such as `%`.
        finalists: what could be delivered, the winner first; with several objectives, the front. Empty where nothing
            was found.
        verdict: by how much the winner is ahead of its best rival; `None` if that was not found out.
        compression: what was delivered beside the network that the search began with; `None` if it began with none.
        beside: what else the winner is read beside.
        references: networks to compare with; those with a score get a point.
        hypervolume: with several objectives, after how many evaluations the front's hypervolume became what.
        versions: of what computed, by name.
        notes: what else a reader has to know, such as ties.
    """

    title: str
    command: str
    config: dict[str, Any]
    space: SearchSpace
    budget: tuple[str, ...]
    searcher: str
    history: Sequence[Trial]
    control: Sequence[Trial] = ()
    objectives: Objectives = field(default_factory=Objectives)
    scored_by: ScoredBy
    description: dict[str, Any]
    unit: str = ""
    next_command: str = ""
    next_seconds: float | None = None
    finalists: Sequence[Finalist] = ()
    verdict: Verdict | None = None
    compression: Compression | None = None
    beside: Beside = field(default_factory=Beside)
    references: Sequence[Reference] = ()
    hypervolume: Sequence[tuple[int, float]] = ()
    versions: dict[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def complete(self) -> list[Trial]:
        """The candidates that were scored on all images."""
        return [trial for trial in self.history if trial.is_complete]

    @property
    def has_one_objective(self) -> bool:
        """Whether there is one best."""
        return len(self.objectives.names) == 1

    @property
    def winner(self) -> Finalist | None:
        """The winner; `None` if there are several objectives or no finalists."""
        return self.finalists[0] if self.finalists and self.has_one_objective else None

    @property
    def last_compared(self) -> list[Finalist]:
        """The finalists that came to the last comparison, the winner first; empty if none were trained."""
        last = max((look.epoch for finalist in self.finalists for look in finalist.looks), default=0)
        return [one for one in self.finalists if not one.failure and one.looks and one.looks[-1].epoch == last]

    @property
    def drawn_finalists(self) -> list[Finalist]:
        """Those of `last_compared`, if scores are accuracies on the same images, so that one axis holds both."""
        return self.last_compared if self.scored_by in ("trained", "inherited") else []

    @property
    def front(self) -> list[Trial]:
        """With several objectives, the front of them; with one, that of score against MACs, cheapest first."""
        if not self.has_one_objective:
            return [finalist.trial for finalist in self.finalists]
        front: list[Trial] = []
        for trial in sorted(self.complete, key=lambda trial: (trial.cost.macs, -score_of(trial), trial.number)):
            if not front or score_of(trial) > score_of(front[-1]):
                front.append(trial)
        return front

    @property
    def good(self) -> list[Trial]:
        """The best tenth of the candidates that were scored on all images, at least one; or the front of several."""
        if not self.has_one_objective:
            return self.front
        ranked = sorted(self.complete, key=lambda trial: (-score_of(trial), trial.number))
        return ranked[: math.ceil(GOOD * len(ranked))]

    @property
    def uniform(self) -> list[Trial]:
        """All trials that were drawn uniformly, including the searcher's own, each architecture once.

        Architectures that were drawn twice are not drawn more often than others, so what is left is uniform as well.
        """
        own = [trial for trial in self.history if trial.origin == UNIFORM]
        drawn = {trial.arch: trial for trial in (*own, *self.control)}
        return list(drawn.values())

    @property
    def score_title(self) -> str:
        """What a score is, with its unit."""
        kind = str(self.description.get("kind", "score"))
        return f"{kind} ({self.unit})" if self.unit else kind


def score_of(trial: Trial) -> float:
    """The score of a trial that has one."""
    assert trial.score.value is not None
    return trial.score.value
