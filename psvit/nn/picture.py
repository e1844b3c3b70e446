"""A picture of an architecture: the one writer of SVG, used wherever a network is shown.

Every layer is a bar. Its height is the square root of its patch tokens, its width the square root of its channels,
times constants that are the same for every network, so that any two pictures compare. Linear scales cannot do that:
between the networks of the shipped spaces lie factors of 49 in tokens and 36 in channels, and what makes the small
ones visible makes the large ones fill a wall. A logarithm would draw 4 tokens a quarter as high as 196. The root of the
tokens is the side of the token grid: a pooling that halves the grid halves the bars.

A picture stands for itself: its own white ground, no style sheet, no script, no font to be loaded, and no identifiers,
so that several may be embedded in one HTML page.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from psvit.arch.architecture import Architecture, stage_grids
from psvit.arch.costs import has_class_token
from psvit.arch.stem import KERNEL, convolutions
from psvit.nn.picture_text import count, description, summary, times

TOKEN_SCALE = 10.0
"""A bar is this many pixels times the square root of its patch tokens high."""

WIDTH_SCALE = 1.0
"""A bar is this many pixels times the square root of its channels wide."""

# All lengths are pixels.
_MARGIN = 24.0
_MIN_WIDTH = 600.0  # of what is inside the margins
_PADDING = 4.0  # between the bars of an attention group and the line around them
_GAP_IN_GROUP = 2.0
_GAP = 4.0  # between neighbouring groups
_COLUMN_GAP = 20.0
_POOL_WIDTH = 24.0
_WIDENING_WIDTH = 5.0
_PATCHES_WIDTH = (20.0, 140.0)  # least and most
_MIN_CELL = 3.0  # grids with smaller cells are drawn without lines
_SAMPLE = 14.0  # side of a sample in the legend

_FONT = "Helvetica Neue, Helvetica, Arial, DejaVu Sans, sans-serif"
_TITLE_SIZE, _HEADING_SIZE, _TEXT_SIZE = 17.0, 13.0, 12.0
_ROW = 17.0  # from one line of text to the next

_INK, _GREY, _FAINT = "#1b2733", "#51606e", "#d5dde4"
_BLUE, _AMBER, _GREEN, _VIOLET = "#2f6fb3", "#96600f", "#2b8a57", "#7a5aa6"

_STYLES = {
    "patches": {"fill": "#f1f4f7", "stroke": _GREY},
    "convolution": {"fill": _VIOLET},
    "group": {"fill": "#e9eef3", "stroke": _INK, "rx": "4"},
    "producer": {"fill": _BLUE, "stroke": _BLUE, "rx": "2"},
    # Told apart from a producer by its outline too, in print and by those who see no colours.
    "sharer": {"fill": "#ddebf8", "stroke": _BLUE, "rx": "2"},
    "pooling": {"fill": "#f6dfb8", "stroke": _AMBER},
    "widening": {"fill": _AMBER},
    "class-token": {"fill": "none", "stroke": _GREEN, "stroke-width": "2"},
    "head": {"fill": _GREEN, "rx": "2"},
    "line": {"fill": "none", "stroke": _FAINT},
    "flow": {"fill": "none", "stroke": "#aab7c3", "stroke-width": "1.5"},
}

_Paint = Callable[[Element, float, float], object]


def draw(*archs: Architecture, titles: Sequence[str] = ()) -> str:
    """A picture of one architecture, or of several below each other.

    Args:
        archs: one or more architectures.
        titles: one title for each of them, or none at all.

    Returns:
        An SVG document; equal arguments give equal text.

    Raises:
        ValueError: no architecture, or another number of titles than of architectures.
    """
    if not archs:
        raise ValueError("a picture needs at least one architecture, received none")
    if titles and len(titles) != len(archs):
        raise ValueError(f"titles must be one for each of {len(archs)} architectures, received {len(titles)}")
    names = [_printable(title) for title in titles] or [f"PSViT-{arch.variant.upper()}" for arch in archs]
    rows = [_columns(arch) for arch in archs]
    # The first stages of networks below each other begin at one place.
    first = max(columns[0].full_width for columns in rows)
    widths = [[first, *(column.full_width for column in columns[1:])] for columns in rows]
    width = max(
        _MIN_WIDTH,
        *(sum(row) + (len(row) - 1) * _COLUMN_GAP for row in widths),
        *(_text_width(name, _TITLE_SIZE, bold=True) for name in names),
        *(_text_width(summary(arch), _HEADING_SIZE) for arch in archs),
        *(_text_width(note, _TEXT_SIZE) for note in _NOTES),
    )

    root = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "font-family": _FONT})
    SubElement(root, "title").text = " and ".join(names)
    descriptions = [f"{name}: {description(arch)}" for name, arch in zip(names, archs, strict=True)]
    SubElement(root, "desc").text = " ".join(descriptions)
    ground = SubElement(root, "rect", fill="#ffffff")
    y = _MARGIN
    for arch, name, columns, row in zip(archs, names, rows, widths, strict=True):
        y = _network(SubElement(root, "g", {"data-part": "network"}), arch, name, columns, row, y)
        _path(root, "line", f"M {_n(_MARGIN)} {_n(y)} h {_n(width)}")
        y += _MARGIN
    y = _legend(SubElement(root, "g", {"data-part": "legend"}), archs, width, y)
    size = {"width": _n(width + 2 * _MARGIN), "height": _n(y + _MARGIN)}
    ground.attrib.update(size)
    root.attrib.update({**size, "viewBox": f"0 0 {size['width']} {size['height']}"})
    indent(root)
    return tostring(root, encoding="unicode") + "\n"


# --- one network


@dataclass(frozen=True)
class _Column:
    """A part of a network, with the text below it.

    Attributes:
        width: what the shapes need.
        labels: lines of text, the first a heading.
        color: of the heading.
        paint: draws the shapes, given an element, their left edge and the baseline.
    """

    width: float
    labels: tuple[str, ...]
    color: str
    paint: _Paint

    @property
    def full_width(self) -> float:
        """What shapes and text need."""
        heading, *others = self.labels
        texts = [_text_width(heading, _HEADING_SIZE, bold=True), *(_text_width(other, _TEXT_SIZE) for other in others)]
        return max(self.width, *texts)


def _network(
    parent: Element, arch: Architecture, name: str, columns: list[_Column], widths: list[float], y: float
) -> float:
    """Draw name, costs, columns and their texts from y on; returns where the next thing may begin."""
    y += _TITLE_SIZE
    _text(parent, _MARGIN, y, name, _TITLE_SIZE, _INK, bold=True)
    y += 20
    _text(parent, _MARGIN, y, summary(arch), _HEADING_SIZE, _GREY)
    baseline = y + 24 + _height(arch, 0)
    rows = baseline + 24
    lefts = [_MARGIN + sum(widths[:index]) + index * _COLUMN_GAP for index in range(len(columns))]
    middles = [left + width / 2 for left, width in zip(lefts, widths, strict=True)]
    # The patch tokens. If there is a class token, the classifier does not read them.
    flow_end = middles[-2] + columns[-2].width / 2 - 1 if has_class_token(arch.variant) else middles[-1]
    _path(parent, "flow", f"M {_n(middles[0])} {_n(baseline - TOKEN_SCALE / 2)} H {_n(flow_end)}")
    if has_class_token(arch.variant):
        # It runs below everything from the patches to the classifier, as it passes by the poolings.
        begin, end, below = middles[0] - columns[0].width / 2, middles[-1], baseline + 2 * _PADDING + 2
        rail = _path(parent, "class-token", f"M {_n(begin)} {_n(below)} H {_n(end)} V {_n(baseline)}")
        _tooltip(rail, "class token: added to the patch tokens, passes by the poolings, is what the classifier reads")
        rows += 2 * _PADDING
    for column, middle in zip(columns, middles, strict=True):
        column.paint(parent, middle - column.width / 2, baseline)
        heading, *others = column.labels
        _text(parent, middle, rows, heading, _HEADING_SIZE, column.color, bold=True, centred=True)
        for number, label in enumerate(others, start=1):
            _text(parent, middle, rows + number * _ROW, label, _TEXT_SIZE, _GREY, centred=True)
    return rows + max(len(column.labels) for column in columns) * _ROW + 4


def _columns(arch: Architecture) -> list[_Column]:
    """The parts of a network from left to right."""
    columns = [_patches(arch), _stage(arch, 0)]
    for index in range(len(arch.pools)):
        columns += [_pooling(arch, index), _stage(arch, index + 1)]
    return [*columns, _head(arch)]


def _patches(arch: Architecture) -> _Column:
    """The image, cut into patches, and the convolutions of the stem, if it has any."""
    # In 1d as well the image is cut in two dimensions.
    rows, columns = stage_grids("2d", arch.image_size, arch.patch_size, arch.patch_stride, 1)[0]
    height = _height(arch, 0)
    least, most = _PATCHES_WIDTH
    width = min(max(height * columns / rows, least), most)
    labels = [f"{times(rows, columns)} patches", f"of {times(arch.patch_size, arch.patch_size)} pixels"]
    if arch.patch_stride != arch.patch_size:
        labels.append(f"{count(arch.patch_stride, 'pixel')} apart")
    convs = convolutions(arch.in_chans, arch.stages[0].embed_dim, arch.patch_size) if arch.stem == "conv" else ()
    if convs:
        labels.append(f"by {count(len(convs), 'convolution')}")
    elif arch.stem != "patch":
        labels.append(f"by {arch.stem}")

    def paint(parent: Element, x: float, baseline: float) -> None:
        top = baseline - height
        _rect(parent, "patches", x, top, width, height)
        vertical = range(1, columns) if width / columns >= _MIN_CELL else ()
        horizontal = range(1, rows) if height / rows >= _MIN_CELL else ()
        lines = [f"M {_n(x + n * width / columns)} {_n(top)} v {_n(height)}" for n in vertical]
        lines += [f"M {_n(x)} {_n(top + n * height / rows)} h {_n(width)}" for n in horizontal]
        if lines:
            _path(parent, "line", " ".join(lines))
        for place, conv in enumerate(convs):
            left = x + width + _GAP_IN_GROUP + place * (_WIDENING_WIDTH + _GAP_IN_GROUP)
            strip = _rect(parent, "convolution", left, top, _WIDENING_WIDTH, height)
            size = times(KERNEL, KERNEL)
            _tooltip(strip, f"{size} convolution, stride {conv.stride}, {count(conv.out_chans, 'channel')}")

    return _Column(width + len(convs) * (_WIDENING_WIDTH + _GAP_IN_GROUP), tuple(labels), _INK, paint)


def _stage(arch: Architecture, index: int) -> _Column:
    """The layers of a stage; attention groups of two layers or more are enclosed."""
    stage = arch.stages[index]
    width, height = WIDTH_SCALE * math.sqrt(stage.embed_dim), _height(arch, index)
    step = width + _GAP_IN_GROUP
    # Left edges of the groups, what encloses them included.
    edges = [0.0]
    for length in stage.groups:
        edges.append(edges[-1] + length * step - _GAP_IN_GROUP + 2 * _PADDING * (length > 1) + _GAP)

    def paint(parent: Element, left: float, baseline: float) -> None:
        first = 1 + sum(before.depth for before in arch.stages[:index])
        for edge, length in zip(edges[:-1], stage.groups, strict=True):
            x = left + edge
            if length > 1:
                inside = length * step - _GAP_IN_GROUP
                top = baseline - height - _PADDING
                group = _rect(parent, "group", x, top, inside + 2 * _PADDING, height + 2 * _PADDING)
                _tooltip(group, f"layers {first} to {first + length - 1} use one attention map")
                x += _PADDING
            for member in range(length):
                part = "sharer" if member else "producer"
                bar = _rect(parent, part, x + member * step, baseline - height, width, height)
                use = f"uses the attention map of layer {first}" if member else "computes an attention map"
                _tooltip(bar, f"layer {first + member}: {use}")
            first += length

    rows, columns = arch.grids[index]
    tokens = f"{columns} + 1 tokens" if has_class_token(arch.variant) else f"{times(rows, columns)} tokens"
    labels = [
        tokens,
        count(stage.embed_dim, "channel"),
        count(stage.embed_dim // arch.head_dim, "head"),
        f"MLP {stage.hidden_dim} (×{stage.mlp_ratio:.4g})",
        f"{count(stage.depth, 'layer')}, {count(len(stage.groups), 'map')}",
    ]
    return _Column(edges[-1] - _GAP, tuple(labels), _INK, paint)


def _pooling(arch: Architecture, index: int) -> _Column:
    """The pooling after a stage and, where the width changes, the linear layer that follows it."""
    before, after = arch.stages[index : index + 2]
    high, low = _height(arch, index), _height(arch, index + 1)
    widens = before.embed_dim != after.embed_dim
    width = _POOL_WIDTH + widens * (_GAP_IN_GROUP + _WIDENING_WIDTH)
    change = f"{before.embed_dim} → {after.embed_dim}" if widens else "same width"

    def paint(parent: Element, x: float, baseline: float) -> None:
        right = x + _POOL_WIDTH
        corners = [(x, baseline), (x, baseline - high), (right, baseline - low), (right, baseline)]
        points = " ".join(f"{_n(across)},{_n(down)}" for across, down in corners)
        trapezium = _shape(parent, "polygon", "pooling", points=points)
        _tooltip(trapezium, f"{arch.pools[index]} pooling, kernel 3, stride 2")
        if widens:
            strip = _rect(parent, "widening", right + _GAP_IN_GROUP, baseline - low, _WIDENING_WIDTH, low)
            _tooltip(strip, f"linear layer, {change} channels")

    return _Column(width, (f"{arch.pools[index]} pool", change), _AMBER, paint)


def _head(arch: Architecture) -> _Column:
    """What the classifier reads, drawn as the one token that it is."""
    channels = arch.stages[-1].embed_dim
    width = WIDTH_SCALE * math.sqrt(channels)
    source = "class token" if has_class_token(arch.variant) else "mean of tokens"
    classes = count(arch.num_classes, "class", "classes") if arch.num_classes else "no classifier"

    def paint(parent: Element, x: float, baseline: float) -> None:
        vector = _rect(parent, "head", x, baseline - TOKEN_SCALE, width, TOKEN_SCALE)
        _tooltip(vector, f"{source}, {count(channels, 'channel')}: {classes}")

    return _Column(width, (classes, source), _GREEN, paint)


def _height(arch: Architecture, index: int) -> float:
    """Height of the bars of a stage."""
    return TOKEN_SCALE * math.sqrt(math.prod(arch.grids[index]))


# --- in words


_NOTES = (
    "A layer is as high as the square root of its patch tokens, and as wide as that of its channels.",
    "One scale for all pictures. FLOPs are multiply-accumulates (MACs).",
)


def _legend(parent: Element, archs: Sequence[Architecture], width: float, y: float) -> float:
    """Explain the parts that occur in the networks, in as many lines as that takes; returns the position of the end."""
    x = _MARGIN
    y += _TEXT_SIZE
    for name, sample in _entries(archs):
        needed = _SAMPLE + 8 + _text_width(name, _TEXT_SIZE)
        if x > _MARGIN and x + needed > _MARGIN + width:
            x, y = _MARGIN, y + _ROW + 6
        sample(parent, x, y + 2)
        _text(parent, x + _SAMPLE + 8, y, name, _TEXT_SIZE, _INK)
        x += needed + 14
    y += 8
    for line in _NOTES:
        y += _ROW
        _text(parent, _MARGIN, y, line, _TEXT_SIZE, _GREY)
    return y


def _entries(archs: Sequence[Architecture]) -> list[tuple[str, _Paint]]:
    """What occurs in the networks: names, and what draws a sample from a left edge and a baseline."""

    def bar(part: str, width: float = _SAMPLE - 4) -> _Paint:
        return lambda parent, x, y: _rect(parent, part, x + (_SAMPLE - width) / 2, y - _SAMPLE, width, _SAMPLE)

    def pooling(parent: Element, x: float, y: float) -> Element:
        corners = [(x, y), (x, y - _SAMPLE), (x + _SAMPLE, y - _SAMPLE / 2), (x + _SAMPLE, y)]
        return _shape(parent, "polygon", "pooling", points=" ".join(f"{_n(a)},{_n(b)}" for a, b in corners))

    def class_token(parent: Element, x: float, y: float) -> Element:
        return _path(parent, "class-token", f"M {_n(x)} {_n(y - _SAMPLE / 2)} h {_n(_SAMPLE)}")

    stages = [stage for arch in archs for stage in arch.stages]
    entries: list[tuple[bool, str, _Paint]] = [
        (any(arch.stem == "conv" for arch in archs), "convolution of the stem", bar("convolution", _WIDENING_WIDTH)),
        (True, "layer that computes an attention map", bar("producer")),
        (
            any(stage.depth > len(stage.groups) for stage in stages),
            "layer that uses the map of its group",
            bar("sharer"),
        ),
        (any(max(stage.groups) > 1 for stage in stages), "attention group", bar("group", _SAMPLE)),
        (any(arch.pools for arch in archs), "token pooling", pooling),
        (
            any(len({stage.embed_dim for stage in arch.stages}) > 1 for arch in archs),
            "linear layer to a new width",
            bar("widening"),
        ),
        (any(has_class_token(arch.variant) for arch in archs), "class token (+ 1)", class_token),
    ]
    return [(name, paint) for occurs, name, paint in entries if occurs]


# --- SVG


def _shape(parent: Element, tag: str, part: str, **attributes: str) -> Element:
    """A shape in the style of the part that it stands for."""
    return SubElement(parent, tag, {"data-part": part, **attributes, **_STYLES[part]})


def _rect(parent: Element, part: str, x: float, y: float, width: float, height: float) -> Element:
    return _shape(parent, "rect", part, x=_n(x), y=_n(y), width=_n(width), height=_n(height))


def _path(parent: Element, part: str, commands: str) -> Element:
    return _shape(parent, "path", part, d=commands)


def _tooltip(shape: Element, text: str) -> None:
    """What is shown when the pointer rests on a shape."""
    SubElement(shape, "title").text = text


def _text(
    parent: Element, x: float, y: float, text: str, size: float, color: str, bold: bool = False, centred: bool = False
) -> None:
    attributes = {"x": _n(x), "y": _n(y), "font-size": _n(size), "fill": color}
    if bold:
        attributes["font-weight"] = "bold"
    if centred:
        attributes["text-anchor"] = "middle"
    SubElement(parent, "text", attributes).text = text


def _text_width(text: str, size: float, bold: bool = False) -> float:
    """An estimate, rather too wide, of a text's width in the widest of the fonts."""
    return size * (1.12 if bold else 1.0) * sum(map(_em, text))


def _em(character: str) -> float:
    """Width of a character relative to the size of its font."""
    if character in " '.,:;·|/\\-!()[]ijlIftr":
        return 0.42
    if not character.isascii() or character in "mMW@%":
        return 1.0
    return 0.85 if character in "w#+<=>^~&" or character.isupper() else 0.65


def _n(value: float) -> str:
    """A number for SVG: at most one decimal."""
    return f"{value:.1f}".removesuffix(".0")


def _printable(text: str) -> str:
    """A text without the characters that XML cannot hold, and on one line."""
    return " ".join(re.sub("[^\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]", " ", text).split())
