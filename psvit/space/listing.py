"""How much has to be listed to price and to count a space, known from its choices before anything is listed.

Pricing lists what every stage may be (`psvit.space.pricing`). Counting within a budget lists what each half of a
network may be, and sorts the second halves (`psvit.space.feasible`). Both are a matter of moments for the spaces that
come with psvit, and would fill any memory for some that can be written down in a few lines.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from psvit.errors import InputError
from psvit.space import compositions
from psvit.space.dimensions import ENTRY
from psvit.space.layout import Layout, StageChoices
from psvit.space.members import Members

MOST_BYTES = 3 * 2**30
"""The most memory that listing may take. The largest space that comes with psvit takes half a gigabyte."""

_TABLE_BYTES, _NUMBERING_BYTES = 250, 24
"""Of a row of a stage's table, and of a grouping that is numbered, while the table is made."""

_HALF_BYTES, _LEVEL_BYTES = 110, 24
"""Of a half, while it is made and looked at; and of a second half at each level of the tree that sorts it."""


class Halves(NamedTuple):
    """How many first and second halves the networks of a layout have.

    Attributes:
        cut: the number of stages in the first half.
        first: how many first halves there are.
        second: how many second halves there are; 1 if there is only one stage.
    """

    cut: int
    first: int
    second: int


@lru_cache(maxsize=32)
def check_priceable(space: Members) -> None:
    """Make sure that the tables of a space's stages can be made.

    Raises:
        InputError: they would take too much memory; says what to make smaller.
    """
    total = 0
    for layout in space.layouts:
        for place, stage in enumerate(layout.stages):
            before = layout.stages[place - 1].embed_dim if place else (0,)
            pairs = sum(one <= other for one in before for other in stage.embed_dim)
            groupings = max(compositions.size(depth, stage.max_group) for depth in stage.depth)
            size = _TABLE_BYTES * pairs * _rows(layout, place) + _NUMBERING_BYTES * len(stage.depth) * groupings
            total += size
            if size > MOST_BYTES or total > MOST_BYTES:
                raise InputError(
                    f"space {space.name}: too many choices: {_described(stage, place)} would take {_gib(total)} of "
                    f"memory, at most {_gib(MOST_BYTES)} are permitted; name fewer embed_dim or mlp_ratio, a smaller "
                    "depth or a smaller max_group"
                )


@lru_cache(maxsize=32)
def check_countable(space: Members, sorts_params: bool) -> None:
    """Make sure that the members within a budget can be counted.

    Args:
        space: the space.
        sorts_params: whether the budget limits the number of parameters, which takes a larger tree.

    Raises:
        InputError: it would take too much memory; says what to make smaller.
    """
    check_priceable(space)
    sizes = []
    for number, layout in enumerate(space.layouts):
        halves = halves_of(layout)
        levels = max(1, (halves.second - 1).bit_length() + 1) if sorts_params else 1
        sizes.append(_HALF_BYTES * (halves.first + halves.second) + _LEVEL_BYTES * levels * halves.second)
        if sum(sizes) > MOST_BYTES:
            ends = _stages(1, halves.cut), _stages(halves.cut + 1, len(layout.stages))
            fewer = ends[0] if halves.first > halves.second else ends[1]
            alone = "; or limit multiply-accumulates without parameters" if sorts_params else ""
            raise InputError(
                f"space {space.name}: too many choices to count within a budget: in layout {number + 1} {ends[0]} can "
                f"be chosen in {halves.first:,} ways and {ends[1]} in {halves.second:,}, which would take "
                f"{_gib(sum(sizes))} of memory, at most {_gib(MOST_BYTES)} are permitted; name fewer embed_dim, depth "
                f"or mlp_ratio for {fewer}{alone}"
            )


def halves_of(layout: Layout) -> Halves:
    """How many halves there are. Groupings with equally many groups are not told apart."""
    stages = layout.stages
    cut = -(-len(stages) // 2)
    return Halves(cut, _chains(layout, 0, cut), _chains(layout, cut, len(stages)) if cut < len(stages) else 1)


def _chains(layout: Layout, start: int, stop: int) -> int:
    """In how many ways neighbouring stages can be chosen, with the width before them."""
    # By width at the end so far: in how many ways the widths up to there can be chosen.
    reached = dict.fromkeys(layout.stages[start - 1].embed_dim if start else (0,), 1)
    others = 1
    for place in range(start, stop):
        widths = layout.stages[place].embed_dim
        reached = {width: sum(ways for before, ways in reached.items() if before <= width) for width in widths}
        others *= _rows(layout, place)
    return others * sum(reached.values())


def _rows(layout: Layout, place: int) -> int:
    """In how many ways a stage can be chosen, besides its width and the one before."""
    stage = layout.stages[place]
    numbers = sum(len(compositions.counts(depth, stage.max_group)) for depth in stage.depth)
    return len(ENTRY.choices(layout, place)) * numbers * len(stage.mlp_ratio)


def _described(stage: StageChoices, place: int) -> str:
    return (
        f"stage {place + 1}, with {len(stage.embed_dim)} embed_dim, {len(stage.mlp_ratio)} mlp_ratio, depths up to "
        f"{max(stage.depth)} and groups of up to {stage.max_group},"
    )


def _stages(first: int, last: int) -> str:
    return f"stage {first}" if first == last else f"stages {first} to {last}"


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
