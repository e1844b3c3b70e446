"""Which architectures a training step trains, as a function of seed and step alone.

Every process of a distributed run draws the same ones, and a run that is continued draws those it would have drawn.
"""

from __future__ import annotations

import numpy as np

from psvit import compositions
from psvit.architecture import Architecture, Pool, Stage
from psvit.search_space import SearchSpace


def draw(space: SearchSpace, seed: int, step: int) -> Architecture:
    """One architecture, each choice drawn uniformly in turn: single path, one shot (arXiv 1904.00420).

    Layout first, then for every stage pooling, width (among those that do not shrink), depth, grouping of that depth,
    MLP ratio. Drawing uniformly from all architectures instead would nearly always give deep ones, because they have
    the most groupings, and shallow stages would hardly be trained.
    """
    rng = np.random.default_rng([seed, step])
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
