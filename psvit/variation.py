"""Variation: how evolution makes new members of a space from known ones, whatever they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from psvit.architecture import Architecture, Stage
from psvit.search_space import Layout, SearchSpace


def mutant(space: SearchSpace, arch: Architecture, rng: np.random.Generator, rate: float) -> Architecture:
    """One mutation in the same layout, whatever it costs."""

    def redraw(current: Any, choices: Sequence[Any]) -> Any:
        return choices[int(rng.integers(len(choices)))] if rng.random() < rate else current

    layout = space.layouts[space.check_member(arch)]
    stages = []
    for choices, stage in zip(layout.stages, arch.stages, strict=True):
        opens = _group_openings(stage.groups)
        depth = redraw(stage.depth, choices.depth)
        opens = opens[:depth] + [bool(rng.integers(2)) for _ in range(depth - len(opens))]
        opens = [opening != (rng.random() < rate) for opening in opens]
        embed_dim = redraw(stage.embed_dim, choices.embed_dim)
        mlp_ratio = redraw(stage.mlp_ratio, choices.mlp_ratio)
        stages.append((embed_dim, _groups(opens, choices.max_group), mlp_ratio))
    pools = [redraw(pool, operators) for pool, operators in zip(arch.pools, layout.pools, strict=True)]
    return space.build(_widened(layout, stages), pools)


def child(space: SearchSpace, one: Architecture, other: Architecture, rng: np.random.Generator) -> Architecture:
    """One crossover in the first parent's layout, whatever it costs."""
    layout = space.layouts[space.check_member(one)]
    stages = []
    pools = list(one.pools)
    for position, (choices, stage) in enumerate(zip(layout.stages, one.stages, strict=True)):
        donor = other.stages[position] if position < len(other.stages) else stage
        embed_dim, groups, mlp_ratio = stage.embed_dim, stage.groups, stage.mlp_ratio
        take = rng.random(4) < 0.5
        if take[0] and donor.embed_dim in choices.embed_dim:
            embed_dim = donor.embed_dim
        if take[1] and donor.depth in choices.depth and max(donor.groups) <= choices.max_group:
            groups = donor.groups
        if take[2] and donor.mlp_ratio in choices.mlp_ratio:
            mlp_ratio = donor.mlp_ratio
        if take[3] and 0 < position < len(other.stages) and other.pools[position - 1] in layout.pools[position - 1]:
            pools[position - 1] = other.pools[position - 1]
        stages.append((embed_dim, groups, mlp_ratio))
    return space.build(_widened(layout, stages), pools)


def _group_openings(groups: Sequence[int]) -> list[bool]:
    """For every layer whether it opens a group."""
    return [index == 0 for length in groups for index in range(length)]


def _groups(opens: Sequence[bool], max_group: int) -> tuple[int, ...]:
    """The groups of these openings; the first layer always opens one, and a full group is followed by another."""
    groups: list[int] = []
    for opening in opens:
        if not groups or opening or groups[-1] == max_group:
            groups.append(1)
        else:
            groups[-1] += 1
    return tuple(groups)


def _widened(layout: Layout, stages: Sequence[tuple[int, tuple[int, ...], float]]) -> list[Stage]:
    """Stages whose widths never shrink: one that would is widened to its smallest sufficient choice."""
    widened: list[Stage] = []
    for choices, (embed_dim, groups, mlp_ratio) in zip(layout.stages, stages, strict=True):
        if widened and embed_dim < widened[-1].embed_dim:
            embed_dim = next(width for width in choices.embed_dim if width >= widened[-1].embed_dim)
        widened.append(Stage(embed_dim=embed_dim, groups=groups, mlp_ratio=mlp_ratio))
    return widened
