"""The parts of a picture as SVG: shapes in the style of what they stand for, and texts whose width is estimated."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element, SubElement

# All lengths are pixels.
MARGIN = 24.0
FONT = "Helvetica Neue, Helvetica, Arial, DejaVu Sans, sans-serif"
TITLE_SIZE, HEADING_SIZE, TEXT_SIZE = 17.0, 13.0, 12.0
ROW = 17.0  # from one line of text to the next

INK, GREY, FAINT = "#1b2733", "#51606e", "#d5dde4"
BLUE, AMBER, GREEN, VIOLET = "#2f6fb3", "#96600f", "#2b8a57", "#7a5aa6"

STYLES = {
    "patches": {"fill": "#f1f4f7", "stroke": GREY},
    "convolution": {"fill": VIOLET},
    "group": {"fill": "#e9eef3", "stroke": INK, "rx": "4"},
    "producer": {"fill": BLUE, "stroke": BLUE, "rx": "2"},
    # Told apart from a producer by its outline too, in print and by those who see no colours.
    "sharer": {"fill": "#ddebf8", "stroke": BLUE, "rx": "2"},
    "pooling": {"fill": "#f6dfb8", "stroke": AMBER},
    "widening": {"fill": AMBER},
    "class-token": {"fill": "none", "stroke": GREEN, "stroke-width": "2"},
    "head": {"fill": GREEN, "rx": "2"},
    "line": {"fill": "none", "stroke": FAINT},
    "flow": {"fill": "none", "stroke": "#aab7c3", "stroke-width": "1.5"},
}


def shape(parent: Element, tag: str, part: str, **attributes: str) -> Element:
    """A shape in the style of the part that it stands for."""
    return SubElement(parent, tag, {"data-part": part, **attributes, **STYLES[part]})


def rect(parent: Element, part: str, x: float, y: float, width: float, height: float) -> Element:
    """A rectangle, given its upper left corner."""
    return shape(parent, "rect", part, x=digits(x), y=digits(y), width=digits(width), height=digits(height))


def path(parent: Element, part: str, commands: str) -> Element:
    """A line."""
    return shape(parent, "path", part, d=commands)


def tooltip(shape: Element, text: str) -> None:
    """What is shown when the pointer rests on a shape."""
    SubElement(shape, "title").text = text


def write(
    parent: Element, x: float, y: float, text: str, size: float, color: str, bold: bool = False, centred: bool = False
) -> None:
    """One line of text, given its baseline."""
    attributes = {"x": digits(x), "y": digits(y), "font-size": digits(size), "fill": color}
    if bold:
        attributes["font-weight"] = "bold"
    if centred:
        attributes["text-anchor"] = "middle"
    SubElement(parent, "text", attributes).text = text


def write_lines(
    parent: Element, text: str, size: float, width: float, y: float, color: str, bold: bool = False, between: str = " "
) -> float:
    """Write a text in as many lines as it takes below y, broken between words; returns where the last one stands."""
    first, *others = text.split(between)
    lines = [first]
    for word in others:
        longer = f"{lines[-1]}{between}{word}"
        if text_width(longer, size, bold) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    for line in lines:
        y += line_height(size)
        write(parent, MARGIN, y, line, size, color, bold)
    return y


def line_height(size: float) -> float:
    """From one line of text to the next."""
    return max(ROW, size + 4)


def text_width(text: str, size: float, bold: bool = False) -> float:
    """An estimate, rather too wide, of a text's width in the widest of the fonts."""
    return size * (1.12 if bold else 1.0) * sum(map(_em, text))


def _em(character: str) -> float:
    """Width of a character relative to the size of its font."""
    if character in " '.,:;·|/\\-!()[]ijlIftr":
        return 0.42
    if not character.isascii() or character in "mMW@%":
        return 1.0
    return 0.85 if character in "w#+<=>^~&" or character.isupper() else 0.65


def digits(value: float) -> str:
    """A number for SVG: at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")


def printable(text: str) -> str:
    """A text without the characters that XML cannot hold, and on one line."""
    return " ".join(re.sub("[^\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]", " ", text).split())
