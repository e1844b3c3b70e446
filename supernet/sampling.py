"""Which architectures a training step trains, as a function of seed and step alone.

Every process of a distributed run draws the same ones, and a run that is continued draws those it would have drawn.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from psvit import compositions
from psvit.architecture import Architecture, Pool, Stage
from psvit.budget import Budget, Limit
from psvit.feasible import FeasibleSet
from psvit.recipe import SupernetRecipe
from psvit.search_space import SearchSpace

BINS = 16
"""Parts of equal width that the reach of MACs is cut into; architectures are drawn uniformly within one."""


def architectures(space: SearchSpace, recipe: SupernetRecipe, seed: int, step: int) -> list[Architecture]:
    """The architectures that a step trains, in the order of training.

    Where the others learn the largest's outputs, it comes first, whether or not the rule draws it.
    """
    rng = np.random.default_rng([seed, step])
    if recipe.sampling == "sandwich":
        drawn = [draw_one(space, rng) for _ in range(recipe.sandwich_random)]
        return [space.largest, space.smallest, *drawn]
    arch = draw_over_macs(space, rng) if recipe.sampling == "macs" else draw_one(space, rng)
    if recipe.target == "inplace" and arch != space.largest:
        return [space.largest, arch]
    return [arch]


def draw(space: SearchSpace, seed: int, step: int) -> Architecture:
    """One architecture, each choice drawn uniformly in turn: single path, one shot (arXiv 1904.00420).

    Layout first, then for every stage pooling, width (among those that do not shrink), depth, grouping of that depth,
    MLP ratio. Drawing uniformly from all architectures instead would nearly always give deep ones, because they have
    the most groupings, and shallow stages would hardly be trained.
    """
    return draw_one(space, np.random.default_rng([seed, step]))


def draw_one(space: SearchSpace, rng: np.random.Generator) -> Architecture:
    """As `draw`, with a generator."""
    layout = space.layouts[rng.integers(len(space.layouts))]
    stages: list[Stage] = []
    pools: list[Pool] = []
    for position, choices in enumerate(layout.stages):
        if position:
            operators = layout.pools[position - 1]
            pools.append(operators[rng.integers(len(operators))])
        widths = [width for width in choices.embed_dim if not stages or width >= stages[-1].embed_dim]
        width = widths[rng.integers(len(widths))]
        depth = choices.depth[rng.integers(len(choices.depth))]
        grouping = int(rng.integers(compositions.size(depth, choices.max_group)))
        mlp_ratio = choices.mlp_ratio[rng.integers(len(choices.mlp_ratio))]
        groups = compositions.unrank_any(grouping, depth, choices.max_group)
        stages.append(Stage(embed_dim=width, groups=groups, mlp_ratio=mlp_ratio))
    return space.build(stages, pools)


def draw_over_macs(space: SearchSpace, rng: np.random.Generator) -> Architecture:
    """One architecture whose MACs are uniform over what the space reaches.

    A bin is drawn among those that are not empty, then an architecture uniformly among those in it.
    """
    while True:
        # The first and the last bin hold the smallest and the largest.
        members = macs_bin(space, int(rng.integers(BINS)))
        if members.count:
            return members.sample(rng, 1)[0]


@lru_cache(maxsize=2 * BINS)
def macs_bin(space: SearchSpace, number: int) -> FeasibleSet:
    """The members of a space in one of `BINS` parts, of equal width, of its reach of MACs; kept once it was made."""
    least, most = space.reach("macs")
    ends = np.linspace(least, most + 1, BINS + 1).round().astype(np.int64)
    lower, upper = int(ends[number]), int(ends[number + 1]) - 1
    return FeasibleSet(space, Budget(limits=(Limit(metric="macs", lower=lower, upper=max(lower, upper)),)))
