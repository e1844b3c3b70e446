"""Sums over the parts of many networks at once, and their extremes over a whole space."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from psvit.search.latency.parts import Part, StageParts
from psvit.space import compositions
from psvit.space.encoding import by_layout, stage_genes
from psvit.space.layout import Layout
from psvit.space.members import Members

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class PartSums:
    """Sums of some value over the parts of a space's encoded members.

    Args:
        space: the space.
        values: of every part.
    """

    def __init__(self, space: Members, values: Mapping[Part, float]) -> None:
        self._layouts = [
            [_Stage(space, values, layout, stage) for stage in range(len(layout.stages))] for layout in space.layouts
        ]

    def of(self, rows: Ints) -> Floats:
        """Encoded architectures (n, genes) to their sums (n,)."""
        total = np.zeros(len(rows))
        for layout, mine in by_layout(rows, len(self._layouts)):
            of_layout = rows[mine].T
            width_before: Ints | None = None
            for place, stage in enumerate(self._layouts[layout]):
                genes = stage_genes(of_layout, place)
                width = genes["embed_dim"]
                counts = stage.counts[stage.begin[genes["depth"]] + genes["grouping"]]
                groups = np.einsum("nl,nl->n", counts, stage.group[width, genes["mlp_ratio"]])
                total[mine] += groups + stage.after[width]
                total[mine] += stage.before[genes["entry"], width if width_before is None else width_before, width]
                width_before = width
        return total

    def reach(self) -> tuple[float, float]:
        """The least and the greatest sum in the space, exact: what comes later depends on the width alone."""
        ends = []
        for stages in self._layouts:
            # By width at the end so far. Before the first stage stands a stem, which widens nothing.
            least = greatest = np.zeros(len(stages[0].after))
            for stage in stages:
                groups = np.einsum("gl,wrl->wgr", stage.counts, stage.group)
                longest = np.where(np.isfinite(stage.before), stage.before, -np.inf).max(axis=0)
                least = (least[:, None] + stage.before.min(axis=0)).min(axis=0) + groups.min(axis=(1, 2)) + stage.after
                greatest = (greatest[:, None] + longest).max(axis=0) + groups.max(axis=(1, 2)) + stage.after
            ends.append((least.min(), greatest.max()))
        return float(min(low for low, _ in ends)), float(max(high for _, high in ends))


class _Stage:
    """The values of a stage of a layout, by the genes of an encoded architecture.

    Attributes:
        counts: groups of each length from 1 on, for all groupings of all depths, (groupings, lengths).
        begin: place of a depth's first grouping in `counts`, (depths,).
        group: of one group, (widths, MLP ratios, lengths).
        before: of what stands before the stage, (entries, widths before, widths): the pooling, infinite where the
            width would shrink; or the stem, infinite off the diagonal.
        after: of what follows: the head after the last stage, otherwise nothing, (widths,).
    """

    def __init__(self, space: Members, values: Mapping[Part, float], layout: Layout, stage: int) -> None:
        choices = layout.stages[stage]
        parts = StageParts(space, layout, stage)
        widths = choices.embed_dim
        lengths = range(1, choices.max_group + 1)
        self.counts, self.begin = _groupings(choices.depth, choices.max_group)
        self.group = np.array(
            [
                [[values[parts.group(width, ratio, length)] for length in lengths] for ratio in choices.mlp_ratio]
                for width in widths
            ]
        )
        last = stage == len(layout.stages) - 1
        self.after = np.array([values[parts.head(width)] if last else 0.0 for width in widths])
        if stage == 0:
            self.before = np.full((len(layout.stem), len(widths), len(widths)), np.inf)
            for position, kind in enumerate(layout.stem):
                self.before[position].flat[:: len(widths) + 1] = [values[parts.stem(kind, width)] for width in widths]
            return
        self.before = np.array(
            [
                [
                    [values[parts.pooling(pool, before, width)] if before <= width else np.inf for width in widths]
                    for before in layout.stages[stage - 1].embed_dim
                ]
                for pool in layout.pools[stage - 1]
            ]
        )


@lru_cache
def _groupings(depths: tuple[int, ...], max_group: int) -> tuple[Ints, Ints]:
    """`counts` and `begin` of `_Stage`."""
    counts: list[Ints] = []
    begin = []
    for depth in depths:
        begin.append(len(counts))
        for number in range(compositions.size(depth, max_group)):
            groups = compositions.unrank_any(number, depth, max_group)
            counts.append(np.bincount(groups, minlength=max_group + 1)[1:])
    return np.array(counts), np.array(begin)
