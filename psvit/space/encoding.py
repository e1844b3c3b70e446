"""Encoding: members of a space as rows of integers, the one place that knows which integer stands where.

A row begins with the position of the layout. Then each stage has one integer for each of `GENES`: positions among the
layout's choices there, and the number of the grouping among those of its depth. Stages that a layout lacks are zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from psvit.arch.architecture import Architecture
from psvit.space.dimensions import DIMENSIONS, ENTRY, Chosen, Dimension, chosen_by, places
from psvit.space.layout import Layout

Ints = NDArray[np.int64]

_FIRST = ("entry", "embed_dim", "depth", "mlp_ratio", "grouping")
"""The order of version 0.1, which studies rely on; other genes follow."""

GENES: tuple[str, ...] = tuple(
    sorted(
        (gene for dimension in DIMENSIONS for gene in dimension.genes),
        key=lambda gene: _FIRST.index(gene) if gene in _FIRST else len(_FIRST),
    )
)
"""What an encoded architecture says of each stage, in order."""

_PLACES = {d: [GENES.index(gene) for gene in d.genes] for d in DIMENSIONS}


class Encoding:
    """How the members of some layouts are encoded.

    Args:
        layouts: the layouts of a space.

    Attributes:
        genes: the name of each position, in order, with the number of values that it can take in any layout.
    """

    def __init__(self, layouts: Sequence[Layout]) -> None:
        self._layouts = layouts
        most: dict[tuple[int, str], int] = {}
        for layout in layouts:
            for dimension, place, choices in places(layout):
                for gene, bound in zip(dimension.genes, dimension.bounds(choices), strict=True):
                    most[place, gene] = max(bound, most.get((place, gene), 0))
        self.genes = {"layout": len(layouts)}
        for place in range(max(len(layout.stages) for layout in layouts)):
            for gene in GENES:
                self.genes[_name(place, gene, most[place, gene])] = most[place, gene]

    def encode(self, layout: int, arch: Architecture) -> Ints:
        """The row of a member of a layout, which is named by its position."""
        row = np.zeros(len(self.genes), dtype=np.int64)
        row[0] = layout
        chosen = chosen_by(arch)
        for dimension, place, choices in places(self._layouts[layout]):
            row[_columns(dimension, place)] = dimension.encode(choices, chosen[dimension, place])
        return row

    def decode(self, row: Sequence[int] | Ints) -> tuple[int, Chosen]:
        """The layout of a row, by its position, and what is chosen in it.

        Raises:
            IndexError: an integer is beyond the choices that its stage has.
        """
        layout = int(row[0])
        chosen = {
            (dimension, place): dimension.decode(choices, [int(row[at]) for at in _columns(dimension, place)])
            for dimension, place, choices in places(self._layouts[layout])
        }
        return layout, chosen

    def canonical(self, row: Sequence[int]) -> tuple[int, ...]:
        """A row with zeros for the stages that its layout lacks, because nothing depends on what stands there."""
        used = 1 + len(self._layouts[row[0]].stages) * len(GENES)
        return tuple(value if position < used else 0 for position, value in enumerate(row))

    def rows(self, n: int) -> Ints:
        """Room for `n` encoded members, (n, genes)."""
        return np.zeros((n, len(self.genes)), dtype=np.int64)


def by_layout(rows: Ints, num_layouts: int) -> Iterator[tuple[int, Ints]]:
    """For each layout, by its position, which rows (n, genes) are of it."""
    for layout in range(num_layouts):
        yield layout, np.flatnonzero(rows[:, 0] == layout)


def stage_genes(rows: Ints, place: int) -> dict[str, Ints]:
    """One stage of encoded members, by gene: from (genes, n) to views (n,)."""
    return {gene: rows[_column(place, index)] for index, gene in enumerate(GENES)}


def write_stages(rows: Ints, which: Ints, layout: int, stages: Sequence[Mapping[str, Ints]]) -> None:
    """Write members of one layout into rows.

    Args:
        rows: to be written to, (all, genes).
        which: the positions of these members, (n,).
        layout: by its position.
        stages: for each stage the genes by name, each (n,).
    """
    rows[which, 0] = layout
    for place, genes in enumerate(stages):
        for index, gene in enumerate(GENES):
            rows[which, _column(place, index)] = genes[gene]


def _column(place: int, index: int) -> int:
    return 1 + place * len(GENES) + index


def _columns(dimension: Dimension, place: int) -> list[int]:
    return [_column(place, index) for index in _PLACES[dimension]]


def _name(place: int, gene: str, bound: int) -> str:
    """The name of a gene in studies. With one stem, that of the first entry is `stage0.pool`, as in version 0.1."""
    if gene in ENTRY.genes:
        return "stem" if place == 0 and bound > 1 else f"stage{place}.pool"
    return f"stage{place}.{gene}"
