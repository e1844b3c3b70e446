"""Charts of a page, as plotly.js draws them; the only place that knows it.

`plotly-basic.min.js` beside this file is plotly.js-basic-dist-min 4.1.1 as npm has it. A chart is a mapping in the form
that plotly.js documents (https://plotly.com/javascript/reference/), so no other part of plotly is needed to make one.

Colours of traces are chosen to be told apart on light and dark grounds. Those of text, axes and grid are left to the
page, which knows which of the two it has.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

BLUE, GREY, GREEN, ORANGE, VIOLET = "#3d85c6", "#8593a0", "#2f9e6e", "#d0741c", "#9a6cd0"

LIBRARY = "plotly-basic.min.js"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One chart of a page.

    Attributes:
        name: of the element that it is drawn in.
        label: what it shows, for those who do not see it.
        json: the chart's data and layout.
        views: by the name of a button, ranges of the horizontal axis.
    """

    name: str
    label: str
    json: str
    views: dict[str, list[float]] = field(default_factory=dict)


class Chart:
    """A chart without points, in the manner of the page; what is added to it is named as in plotly.js.

    Args:
        x_title: of the horizontal axis.
        y_title: of the vertical axis.
    """

    def __init__(self, x_title: str, y_title: str) -> None:
        axis = {"automargin": True, "zeroline": False, "showline": True, "ticks": "outside", "ticklen": 4}
        self.traces: list[dict[str, Any]] = []
        self.layout: dict[str, Any] = {
            "height": 440,
            "margin": {"l": 8, "r": 12, "t": 12, "b": 8, "pad": 2},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "system-ui, -apple-system, Segoe UI, Roboto, DejaVu Sans, sans-serif", "size": 13},
            "xaxis": {"title": {"text": as_text(x_title), "standoff": 8}, **axis},
            "yaxis": {"title": {"text": as_text(y_title), "standoff": 8}, **axis},
            "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
            "hovermode": "closest",
            "shapes": [],
            "annotations": [],
        }

    def add_scatter(self, **trace: Any) -> None:
        """Add points or a line; what is `None` is left out."""
        self.traces.append({"type": "scatter", **{key: value for key, value in trace.items() if value is not None}})

    def add_vertical(self, x: float, line: dict[str, Any], text: str = "") -> None:
        """Add a line from the bottom to the top, with a text along it."""
        ends = {"x0": x, "x1": x, "xref": "x", "y0": 0, "y1": 1, "yref": "y domain"}
        self.layout["shapes"].append({"type": "line", **ends, "line": line})
        if text:
            place = {"x": x, "xref": "x", "xanchor": "right", "y": 0, "yref": "y domain", "yanchor": "bottom"}
            said = {"text": as_text(text), "textangle": -90, "font": {"size": 12}, "showarrow": False}
            self.layout["annotations"].append({**place, **said})

    def to_json(self) -> str:
        """Its data and layout.

        Raises:
            ValueError: a value is no number.
        """
        return json.dumps({"data": self.traces, "layout": self.layout}, allow_nan=False)


@cache
def library() -> str:
    """The library that draws, packed: 0.5 of its 1.2 MB."""
    return packed(files("psvit.report").joinpath(LIBRARY).read_text(encoding="utf-8"))


def packed(text: str) -> str:
    """A text compressed (gzip) and in base 64, for a script element, which nothing in it can end."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def padded_range(values: Sequence[float]) -> list[float]:
    """From the least to the greatest and a little beyond."""
    least, greatest = min(values), max(values)
    room = 0.06 * (greatest - least) or 0.05 * abs(greatest) or 1.0
    return [least - room, greatest + room]


def faint(color: str) -> str:
    """The colour, for an area."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"


def as_text(text: str) -> str:
    """Text as it is: plotly.js reads tags in labels."""
    return html.escape(text, quote=False)
