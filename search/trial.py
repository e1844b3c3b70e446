"""Trial: one evaluated architecture."""

from __future__ import annotations

from dataclasses import dataclass

from psvit.architecture import Architecture
from psvit.costs import Cost


@dataclass(frozen=True, kw_only=True)
class Trial:
    """An architecture with its score; a history is a list of them in the order of their numbers.

    Attributes:
        number: how many trials came before.
        arch: the architecture.
        cost: its costs.
        score: what the evaluator gave it; more is better.
    """

    number: int
    arch: Architecture
    cost: Cost
    score: float


def best(history: list[Trial], n: int = 1) -> list[Trial]:
    """The `n` trials with the highest scores, best first; of equal scores the earlier one counts as better."""
    return sorted(history, key=lambda trial: (-trial.score, trial.number))[:n]
