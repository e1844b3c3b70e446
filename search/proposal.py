"""Proposal: what a searcher suggests to evaluate, before anything is known of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

UNIFORM, MUTATION, CROSSOVER = "uniform", "mutation", "crossover"
"""How proposals of our own searchers come about; those of Optuna's samplers have the sampler's name."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """An encoded architecture, or a row of genes that encodes none.

    Attributes:
        row: one value for each of `SearchSpace.genes`.
        origin: how it came about.
        constraints: by limit, by which share it is exceeded; at most 0 where it is kept.
        attrs: what a sampler of Optuna's has to find again beside the trial.
    """

    row: tuple[int, ...]
    origin: str
    constraints: dict[str, float] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)

    @property
    def is_feasible(self) -> bool:
        """Whether it may be evaluated."""
        return all(value <= 0 for value in self.constraints.values())

    def to_json(self) -> list[Any]:
        """As short a JSON value as will do, because databases limit their length."""
        return [list(self.row), self.origin, self.constraints, self.attrs]

    @classmethod
    def from_json(cls, value: list[Any]) -> Self:
        """The inverse of `to_json`."""
        row, origin, constraints, attrs = value
        return cls(row=tuple(row), origin=origin, constraints=constraints, attrs=attrs)
