"""Sums over the parts of many networks at once, and their extremes over a whole space."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psvit import compositions
from psvit.search.latency.parts import Part, stage_tokens
from psvit.search_space import GENES_PER_STAGE, SearchSpace

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class PartSums:
    """Sums of some value over the parts of a space's encoded members.

    Args:
        space: the space.
        values: of every part.
    """

    def __init__(self, space: SearchSpace, values: Mapping[Part, float]) -> None:
        self._layouts = [
            [_Stage(space, values, layout, stage) for stage in range(len(choices.stages))]
            for layout, choices in enumerate(space.layouts)
        ]

    def of(self, rows: Ints) -> Floats:
        """Encoded architectures (n, genes) to their sums (n,)."""
        total = np.zeros(len(rows))
        slots = rows.shape[1] // len(GENES_PER_STAGE)
        for layout, stages in enumerate(self._layouts):
            mine = np.flatnonzero(rows[:, 0] == layout)
            genes = rows[mine, 1:].reshape(len(mine), slots, len(GENES_PER_STAGE))
            width_before: Ints | None = None
            for index, stage in enumerate(stages):
                pool, width, depth, mlp_ratio, grouping = genes[:, index].T
                counts = stage.counts[stage.begin[depth] + grouping]
                total[mine] += np.einsum("nl,nl->n", counts, stage.group[width, mlp_ratio]) + stage.after[width]
                total[mine] += stage.before[pool, width if width_before is None else width_before, width]
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
        before: of what stands before the stage, (operators, widths before, widths): the pooling, infinite where the
            width would shrink; or the stem, infinite off the diagonal.
        after: of what follows: the head after the last stage, otherwise nothing, (widths,).
    """

    def __init__(self, space: SearchSpace, values: Mapping[Part, float], layout: int, stage: int) -> None:
        stages = space.layouts[layout].stages
        choices = stages[stage]
        common: dict[str, Any] = {"stage": stage, "tokens": stage_tokens(space)[stage]}
        widths = choices.embed_dim

        def value(kind: str, width: int, **fields: Any) -> float:
            return values[Part.model_validate({"kind": kind, "embed_dim": width, **common, **fields})]

        self.counts, self.begin = _groupings(choices.depth, choices.max_group)
        self.group = np.array(
            [
                [
                    [
                        value("group", width, hidden_dim=round(width * ratio), length=1 + i)
                        for i in range(choices.max_group)
                    ]
                    for ratio in choices.mlp_ratio
                ]
                for width in widths
            ]
        )
        last = stage == len(stages) - 1
        self.after = np.array([value("head", width) if last else 0.0 for width in widths])
        if stage == 0:
            self.before = np.full((1, len(widths), len(widths)), np.inf)
            self.before[0].flat[:: len(widths) + 1] = [value("stem", width) for width in widths]
            return
        self.before = np.array(
            [
                [
                    [value("pooling", w, pool=pool, embed_dim_before=before) if before <= w else np.inf for w in widths]
                    for before in stages[stage - 1].embed_dim
                ]
                for pool in space.layouts[layout].pools[stage - 1]
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
