"""A picture of values with error bars, as SVG; in the manner of `psvit.nn.picture` it needs nothing to be loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, indent, tostring

# All lengths are pixels.
_WIDTH, _HEIGHT = 760, 420
_LEFT, _TOP, _RIGHT, _BOTTOM = 64, 60, 536, 368  # of the axes; the legend is to their right
_CAP, _MARK = 4, 4.5
_APART = 11  # from one series to the next: side by side, because points that are compared lie at about one place
_FONT = "Helvetica Neue, Helvetica, Arial, DejaVu Sans, sans-serif"
_INK, _GREY, _FAINT = "#1b2733", "#51606e", "#d5dde4"

COLORS = ("#2f6fb3", "#96600f", "#2b8a57", "#8a3a8f", "#51606e", "#b3432f", "#0f8f96")
"""One for each series; marks differ as well, for print and for those who see no colours."""

_MARKS = ("circle", "square", "diamond")


@dataclass(frozen=True)
class Series:
    """Points of one kind.

    Attributes:
        name: what the legend says.
        points: across, up, and half the length of the error bar; `None` if there is no error bar.
    """

    name: str
    points: tuple[tuple[float, float, float | None], ...]


def draw_error_bars(title: str, across: str, up: str, series: Sequence[Series]) -> str:
    """A picture of series with their error bars, set apart a little from left to right.

    Args:
        title: above it.
        across: what is shown from left to right, with its unit; it is positive.
        up: the same, upwards.
        series: at least one point in all.

    Returns:
        An SVG document; equal arguments give equal text.
    """
    points = [point for one in series for point in one.points]
    # With room at both ends, also where all points are at one place.
    x_ticks = ticks(0.9 * min(x for x, _, _ in points), 1.1 * max(x for x, _, _ in points))
    y_ticks = ticks(min(y - (bar or 0) for _, y, bar in points), max(y + (bar or 0) for _, y, bar in points))
    root = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "font-family": _FONT})
    root.attrib |= {"width": str(_WIDTH), "height": str(_HEIGHT), "viewBox": f"0 0 {_WIDTH} {_HEIGHT}"}
    SubElement(root, "title").text = title
    SubElement(root, "desc").text = " ".join(
        f"{one.name}: {_words(x, y, bar)}." for one in series for x, y, bar in one.points
    )
    SubElement(root, "rect", width=str(_WIDTH), height=str(_HEIGHT), fill="#ffffff")
    _text(root, _LEFT, 26, title, 16, _INK, "start")
    for tick in y_ticks:
        y = _scaled(tick, y_ticks, _BOTTOM, _TOP)
        _line(root, _LEFT, y, _RIGHT, y, _FAINT)
        _text(root, _LEFT - 8, y + 4, f"{tick:g}", 12, _GREY, "end")
    for tick in x_ticks:
        x = _scaled(tick, x_ticks, _LEFT, _RIGHT)
        _line(root, x, _BOTTOM, x, _BOTTOM + 5, _GREY)
        _text(root, x, _BOTTOM + 20, f"{tick:g}", 12, _GREY, "middle")
    _line(root, _LEFT, _BOTTOM, _RIGHT, _BOTTOM, _GREY)
    _text(root, (_LEFT + _RIGHT) / 2, _BOTTOM + 42, across, 13, _INK, "middle")
    _text(root, _LEFT, _TOP - 10, up, 12, _GREY, "start")
    for number, one in enumerate(series):
        color, mark = COLORS[number % len(COLORS)], _MARKS[number % len(_MARKS)]
        group = SubElement(root, "g", {"data-series": one.name})
        for x, y, bar in one.points:
            aside = _APART * (number - (len(series) - 1) / 2)
            across_px, up_px = _scaled(x, x_ticks, _LEFT, _RIGHT) + aside, _scaled(y, y_ticks, _BOTTOM, _TOP)
            if bar:
                low, high = (_scaled(end, y_ticks, _BOTTOM, _TOP) for end in (y - bar, y + bar))
                _line(group, across_px, low, across_px, high, color)
                for end in (low, high):
                    _line(group, across_px - _CAP, end, across_px + _CAP, end, color)
            SubElement(_mark(group, mark, across_px, up_px, color), "title").text = f"{one.name}: {_words(x, y, bar)}"
        line = _TOP + 14 + 22 * number
        _mark(group, mark, _RIGHT + 28, line - 4, color)
        _text(group, _RIGHT + 42, line, one.name, 13, _INK, "start")
    indent(root)
    return tostring(root, encoding="unicode") + "\n"


def ticks(least: float, most: float) -> list[float]:
    """Round numbers, evenly spaced, from at or below the least value to at or above the greatest."""
    span = (most - least) or abs(most) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 5))
    step = next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= 6)
    first, last = math.floor(least / step + 1e-9), math.ceil(most / step - 1e-9)
    return [round(step * number, 10) for number in range(first, max(last, first + 1) + 1)]


def _words(x: float, y: float, bar: float | None) -> str:
    return f"{y:.2f}{f' ± {bar:.2f}' if bar else ''} at {x:.4g}"


def _scaled(value: float, along: Sequence[float], begin: float, end: float) -> float:
    """Where a value is on an axis."""
    return begin + (value - along[0]) / (along[-1] - along[0]) * (end - begin)


def _mark(parent: Element, mark: str, x: float, y: float, color: str) -> Element:
    if mark == "circle":
        return SubElement(parent, "circle", cx=_n(x), cy=_n(y), r=_n(_MARK), fill=color)
    square = {"x": _n(x - _MARK), "y": _n(y - _MARK), "width": _n(2 * _MARK), "height": _n(2 * _MARK), "fill": color}
    if mark == "diamond":
        square["transform"] = f"rotate(45 {_n(x)} {_n(y)})"
    return SubElement(parent, "rect", square)


def _line(parent: Element, x1: float, y1: float, x2: float, y2: float, color: str) -> None:
    SubElement(parent, "path", d=f"M {_n(x1)} {_n(y1)} L {_n(x2)} {_n(y2)}", stroke=color, fill="none")


def _text(parent: Element, x: float, y: float, text: str, size: float, color: str, anchor: str) -> None:
    attributes = {"x": _n(x), "y": _n(y), "font-size": _n(size), "fill": color, "text-anchor": anchor}
    SubElement(parent, "text", attributes).text = text


def _n(value: float) -> str:
    """A number for SVG: at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")
