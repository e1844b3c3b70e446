"""Curve: a line of numbers over epochs, for a page that draws it with SVG and writes its axes itself.

Places are in percent of the frame, so that the curve is as wide as the window while lines and letters keep their size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Tick = tuple[float, str]
"""A place along an axis, in percent, and the number there."""

TICKS = 5
"""About so many are on an axis."""

_ROOM = 0.06
"""Part of the range of the values that is left free above and below the curve."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A curve, ready to be drawn.

    Attributes:
        path: the line, as SVG has it; a single value is a dot.
        across: the ticks of the horizontal axis, from the left.
        up: the ticks of the vertical axis, from the top.
    """

    path: str
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]


def curve_of(values: Sequence[float]) -> Curve:
    """The curve of a value after each epoch, from the first one."""
    low, high = min(values), max(values)
    room = _ROOM * (high - low) or 0.1 * abs(high) or 1.0
    low, high = low - room, high + room
    last = len(values)

    def left(epoch: float) -> float:
        return round(100 * (epoch - 1) / (last - 1), 2) if last > 1 else 50.0

    def top(value: float) -> float:
        return round(100 * (high - value) / (high - low), 2)

    points = [f"{left(epoch):g} {top(value):g}" for epoch, value in enumerate(values, 1)]
    return Curve(
        path=f"M{'L'.join(points)}" if last > 1 else f"M{points[0]}h0",
        across=tuple((left(epoch), f"{epoch:.0f}") for epoch in _epochs(last)),
        up=tuple((top(value), f"{value:.4g}") for value in nice_values(low, high)[::-1]),
    )


def _epochs(last: int) -> list[float]:
    """The first and the last epoch, and round numbers that are not too near to them."""
    step = last / TICKS
    between = [epoch for epoch in nice_values(1, last, least=1.0) if 1 + step / 2 < epoch < last - step / 2]
    return [1, *between, last] if last > 1 else [1]


def nice_values(low: float, high: float, least: float = 0.0) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within a range.

    Args:
        low: its lower end.
        high: its upper end.
        least: the least distance between two.
    """
    rough = max((high - low) / TICKS, least, 1e-12)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough * (1 - 1e-9))
    return [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
