"""Proposal: an architecture that a searcher suggests to evaluate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

UNIFORM, STRATIFIED, PROMISING, MUTATION, CROSSOVER = "uniform", "stratified", "promising", "mutation", "crossover"
"""Origins of the proposals of our own searchers. The origin of an Optuna sampler's proposal is the sampler's name."""

REFERENCE = "reference"
"""The origin of hand-made networks. They are evaluated before a searcher is asked."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """An encoded architecture, or a row of genes that encodes none.

    Attributes:
        row: one value for each of `SearchSpace.genes`.
        origin: how it came about, such as `mutation`.
        constraints: by limit, the share by which it is exceeded; at most 0 if it is kept.
        attrs: attributes that a sampler of Optuna's stores with the trial.
    """

    row: tuple[int, ...]
    origin: str
    constraints: dict[str, float] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)

    @property
    def is_feasible(self) -> bool:
        """Whether it encodes an architecture within all limits, so that it may be evaluated."""
        return all(value <= 0 for value in self.constraints.values())

    def to_json(self) -> list[Any]:
        """The proposal as a JSON value. It is short, because databases limit the length of values."""
        return [list(self.row), self.origin, self.constraints, self.attrs]

    @classmethod
    def from_json(cls, value: list[Any]) -> Self:
        """The inverse of `to_json`."""
        row, origin, constraints, attrs = value
        return cls(row=tuple(row), origin=origin, constraints=constraints, attrs=attrs)
