"""Numbering: every member of a layout has one number, and every number is a member's.

`embed_dim` never shrinks from a stage to the next; all else is independent. So a layout is numbered stage by stage: the
width first, then the other dimensions as the digits of a number with mixed radices, then the later stages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from psvit.space.dimensions import DIMENSIONS, EMBED_DIM, GROUPS, Chosen, Dimension
from psvit.space.layout import Layout

INDEPENDENT: tuple[Dimension, ...] = tuple(
    sorted((dimension for dimension in DIMENSIONS if dimension is not EMBED_DIM), key=lambda d: d is GROUPS)
)
"""The dimensions that nothing else depends on, as digits: the groups change fastest."""


class Numbering:
    """The numbers of a layout's members.

    Args:
        layout: the layout.

    Attributes:
        size: the number of members.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        last = layout.stages[-1].embed_dim
        # By width at a stage, the number of ways to choose all later stages.
        self._after: list[dict[int, int]] = [dict.fromkeys(last, 1)]
        for place in range(len(layout.stages) - 1, 0, -1):
            here = self._per_width(place)
            floors = layout.stages[place - 1].embed_dim
            after = self._after[0]
            self._after.insert(0, {low: here * sum(n for width, n in after.items() if width >= low) for low in floors})
        self.size = self._per_width(0) * sum(self._after[0].values())

    def number(self, chosen: Chosen) -> int:
        """The number of a member, 0 <= number < size."""
        number = floor = 0
        for place, stage in enumerate(self._layout.stages):
            width, after = chosen[EMBED_DIM, place], self._after[place]
            smaller = [other for other in stage.embed_dim if floor <= other < width]
            number += self._per_width(place) * sum(after[other] for other in smaller)
            within = 0
            for dimension, choices in self._digits(place):
                within = within * dimension.size(choices) + choices.index(chosen[dimension, place])
            number += within * after[width]
            floor = width
        return number

    def member(self, number: int) -> Chosen:
        """The choices of the member with this number; the inverse of `number`."""
        chosen: dict[tuple[Dimension, int], Any] = {}
        floor = 0
        for place, stage in enumerate(self._layout.stages):
            after, per_width = self._after[place], self._per_width(place)
            for width in stage.embed_dim:
                if width < floor:
                    continue
                if number < per_width * after[width]:
                    break
                number -= per_width * after[width]
            within, number = divmod(number, after[width])
            for dimension, choices in reversed(self._digits(place)):
                within, digit = divmod(within, dimension.size(choices))
                chosen[dimension, place] = choices[digit]
            chosen[EMBED_DIM, place] = floor = width
        return chosen

    def _digits(self, place: int) -> Sequence[tuple[Dimension, Any]]:
        return [(dimension, dimension.choices(self._layout, place)) for dimension in INDEPENDENT]

    def _per_width(self, place: int) -> int:
        """The number of ways to choose the other dimensions of a stage."""
        return math.prod(dimension.size(choices) for dimension, choices in self._digits(place))
