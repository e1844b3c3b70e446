"""Choose the architectures that a training step trains, by seed and step alone.

Every process of a distributed run draws the same ones, and a run that is continued draws those it would have drawn.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from psvit.arch.architecture import Architecture
from psvit.arch.operators import until_operators_change
from psvit.space.budget import Budget, Limit
from psvit.space.dimensions import EMBED_DIM, Dimension, places
from psvit.space.feasible import FeasibleSet
from psvit.space.search_space import SearchSpace
from psvit.train.recipe import SupernetRecipe

BINS = 16
"""Parts of equal width that the reach of MACs is cut into; architectures are drawn uniformly within one."""


def architectures(space: SearchSpace, recipe: SupernetRecipe, seed: int, step: int) -> list[Architecture]:
    """The architectures that a step trains, in the order of training.

    Where the others learn the largest's outputs, or it shall keep what it knows, it comes first, whether or not it is
    drawn.
    """
    rng = np.random.default_rng([seed, step])
    if recipe.sampling == "sandwich":
        drawn = [draw_one(space, rng) for _ in range(recipe.sandwich_random)]
        return [space.largest, space.smallest, *drawn]
    arch = draw_over_macs(space, rng) if recipe.sampling == "macs" else draw_one(space, rng)
    if (recipe.target == "inplace" or recipe.sampling == "anchored") and arch != space.largest:
        return [space.largest, arch]
    return [arch]


def draw(space: SearchSpace, seed: int, step: int) -> Architecture:
    """One architecture, each choice drawn uniformly in turn: single path, one shot (arXiv 1904.00420).

    First the layout, then stage by stage what stands before the stage, its width (among those that do not shrink), its
    depth, a grouping of that depth, and its MLP ratio. Drawing uniformly from all architectures instead would nearly
    always give deep ones, because they have the most groupings, and shallow stages would hardly be trained.
    """
    return draw_one(space, np.random.default_rng([seed, step]))


def draw_one(space: SearchSpace, rng: np.random.Generator) -> Architecture:
    """See `draw`; takes a generator instead of a seed and a step."""
    number = int(rng.integers(len(space.layouts)))
    layout = space.layouts[number]
    chosen: dict[tuple[Dimension, int], Any] = {}
    floor = 0
    for dimension, place, choices in places(layout):
        if dimension is EMBED_DIM:
            choices = [width for width in choices if width >= floor]
        is_open = dimension.is_open(layout, place)
        chosen[dimension, place] = dimension.draw(choices, rng) if is_open else choices[0]
        floor = chosen.get((EMBED_DIM, place), floor)
    return space.build(number, chosen)


def draw_over_macs(space: SearchSpace, rng: np.random.Generator) -> Architecture:
    """One architecture whose MACs are uniform over what the space reaches.

    A bin is drawn among those that are not empty, then an architecture uniformly among those in it.
    """
    while True:
        # The first and the last bin hold the smallest and the largest.
        members = macs_bin(space, int(rng.integers(BINS)))
        if members.count:
            return members.sample(rng, 1)[0]


@until_operators_change
@lru_cache(maxsize=2 * BINS)
def macs_bin(space: SearchSpace, number: int) -> FeasibleSet:
    """The members of a space in one of `BINS` parts, of equal width, of its reach of MACs; kept once it was made."""
    least, most = space.reach("macs")
    ends = np.linspace(least, most + 1, BINS + 1).round().astype(np.int64)
    lower, upper = int(ends[number]), int(ends[number + 1]) - 1
    return FeasibleSet(space, Budget(limits=(Limit(metric="macs", lower=lower, upper=max(lower, upper)),)))
