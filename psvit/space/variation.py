"""Variation: how evolution makes new members of a space from known ones, whatever they cost."""

from __future__ import annotations

from typing import Any

import numpy as np

from psvit.arch.architecture import Architecture
from psvit.space.dimensions import DIMENSIONS, EMBED_DIM, ENTRY, GROUPS, Dimension, chosen_by
from psvit.space.layout import Layout
from psvit.space.members import Members

# With equal seeds, equal networks are bred as in version 0.1. So mutation and crossover go through the dimensions in
# the orders that they had there; what has been added since comes after.
MUTATED = (GROUPS, *(dimension for dimension in DIMENSIONS if dimension not in (GROUPS, ENTRY)))
INHERITED = (*(dimension for dimension in DIMENSIONS if dimension is not ENTRY), ENTRY)


def mutant(space: Members, arch: Architecture, rng: np.random.Generator, rate: float) -> Architecture:
    """One mutation in the same layout, whatever it costs."""
    number = space.check_member(arch)
    layout = space.layouts[number]
    chosen = chosen_by(arch)
    stages = range(len(layout.stages))
    sites = [(dimension, place) for place in stages for dimension in MUTATED]
    sites += [(ENTRY, place) for place in stages if ENTRY.is_open(layout, place)]
    for dimension, place in sites:
        value = chosen[dimension, place]
        chosen[dimension, place] = dimension.mutate(dimension.choices(layout, place), value, rng, rate)
    _widen(layout, chosen)
    return space.build(number, chosen)


def child(space: Members, one: Architecture, other: Architecture, rng: np.random.Generator) -> Architecture:
    """One crossover in the first parent's layout, whatever it costs."""
    number = space.check_member(one)
    layout = space.layouts[number]
    chosen, donor = chosen_by(one), chosen_by(other)
    for place in range(len(layout.stages)):
        takes = rng.random(len(INHERITED)) < 0.5
        for dimension, take in zip(INHERITED, takes, strict=True):
            value = donor.get((dimension, place))
            if take and value is not None and value in dimension.choices(layout, place):
                chosen[dimension, place] = value
    _widen(layout, chosen)
    return space.build(number, chosen)


def _widen(layout: Layout, chosen: dict[tuple[Dimension, int], Any]) -> None:
    """Widen each stage that would be narrower than the one before to its smallest sufficient choice."""
    floor = 0
    for place, stage in enumerate(layout.stages):
        floor = min(width for width in stage.embed_dim if width >= max(floor, chosen[EMBED_DIM, place]))
        chosen[EMBED_DIM, place] = floor
