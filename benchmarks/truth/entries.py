"""Networks of the table with what is known about each: its truth, its curves, and scores that cost little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from psvit import Architecture, cost
from psvit.search.indicators import network_dss
from truth.rows import Row

RANDOM = "random"
"""What `origin` and `initial` are of networks that were drawn, and of trainings from scratch."""

DSS_SEED = 0


@dataclass(frozen=True)
class Entry:
    """A network and the rows of its trainings from scratch, the first seed's first.

    Attributes:
        rows: at least one.
    """

    rows: tuple[Row, ...]

    @property
    def first(self) -> Row:
        """The training whose curve counts where a search would have one."""
        return self.rows[0]

    @property
    def budget(self) -> int:
        """Multiply-accumulates that the network was drawn or fitted for."""
        return self.first.macs_budget

    @property
    def truth(self) -> float:
        """Mean top-1 in percent on the validation images, over seeds."""
        return float(np.mean([row.val_accuracy for row in self.rows]))

    @cached_property
    def arch(self) -> Architecture:
        """The network."""
        return self.first.network

    @cached_property
    def costs(self) -> dict[str, float]:
        """What costs are as scores."""
        return {name: float(value) for name, value in cost(self.arch).to_dict().items()}

    @cached_property
    def dss(self) -> float:
        """The training-free indicator at one random initialisation; 16 digits of it are computed, far fewer matter."""
        return network_dss(self.arch, DSS_SEED)


def entries(rows: Sequence[Row], recipe_digest: str) -> list[Entry]:
    """The networks that were trained from scratch by the table's recipe, in the order of their first rows."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        if row.recipe_digest == recipe_digest and row.initial == RANDOM:
            grouped.setdefault(row.arch_digest, []).append(row)
    return [Entry(tuple(sorted(group, key=lambda row: row.seed))) for group in grouped.values()]
