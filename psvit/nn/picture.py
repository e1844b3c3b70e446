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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from psvit.arch.architecture import Architecture, stage_grids
from psvit.arch.costs import has_class_token
from psvit.arch.stem import KERNEL, convolutions
from psvit.errors import InputError
from psvit.nn.picture_svg import (
    AMBER,
    FONT,
    GREEN,
    GREY,
    HEADING_SIZE,
    INK,
    MARGIN,
    ROW,
    TEXT_SIZE,
    TITLE_SIZE,
    digits,
    line_height,
    path,
    printable,
    rect,
    shape,
    text_width,
    tooltip,
    write,
    write_lines,
)
from psvit.nn.picture_text import count, description, summary, times

TOKEN_SCALE = 10.0
"""A bar is this many pixels times the square root of its patch tokens high."""

WIDTH_SCALE = 1.0
"""A bar is this many pixels times the square root of its channels wide."""

NARROW = 320.0
"""Pixels that a picture may be wide on a phone."""

# All lengths are pixels.
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

_Paint = Callable[[Element, float, float], object]


def draw(*archs: Architecture, titles: Sequence[str] = (), width: float | None = None) -> str:
    """A picture of one architecture, or of several below each other.

    Args:
        archs: one or more architectures.
        titles: one title for each of them, or none at all.
        width: pixels that the picture may be wide, if its widest part permits. By default, a network is one line.

    Returns:
        An SVG document; equal arguments give equal text.

    Raises:
        InputError: no architecture, something else, or another number of titles than of architectures.
    """
    if not archs:
        raise InputError("a picture needs at least one architecture, received none")
    if strange := [arch for arch in archs if not isinstance(arch, Architecture)]:
        raise InputError(
            f"a picture is of architectures, received {strange[0]!r}; Architecture.load reads the file or name of one"
        )
    if titles and len(titles) != len(archs):
        raise InputError(f"titles must be one for each of {len(archs)} architectures, received {len(titles)}")
    names = [printable(title) for title in titles] or [f"PSViT-{arch.variant.upper()}" for arch in archs]
    rows = [_columns(arch) for arch in archs]
    # The first stages of networks below each other begin at one place.
    first = max(columns[0].full_width for columns in rows)
    widths = [[first, *(column.full_width for column in columns[1:])] for columns in rows]
    if width is None:
        inside = max(
            _MIN_WIDTH,
            *(_together(row) for row in widths),
            *(text_width(name, TITLE_SIZE, bold=True) for name in names),
            *(text_width(summary(arch), HEADING_SIZE) for arch in archs),
            *(text_width(note, TEXT_SIZE) for note in _NOTES),
        )
    else:
        inside = max(width - 2 * MARGIN, *(max(row) for row in widths))

    root = Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "role": "img", "font-family": FONT})
    SubElement(root, "title").text = " and ".join(names)
    descriptions = [f"{name}: {description(arch)}" for name, arch in zip(names, archs, strict=True)]
    SubElement(root, "desc").text = " ".join(descriptions)
    ground = SubElement(root, "rect", fill="#ffffff")
    y = MARGIN
    for arch, name, columns, row in zip(archs, names, rows, widths, strict=True):
        part = SubElement(root, "g", {"data-part": "network"})
        y = write_lines(part, name, TITLE_SIZE, inside, y + TITLE_SIZE - line_height(TITLE_SIZE), INK, bold=True)
        y = write_lines(part, summary(arch), HEADING_SIZE, inside, y + 3, GREY, between=" · ")
        for begin, end in _broken(row, inside):
            y = _network(part, arch, columns, row, begin, end, inside, y)
        path(root, "line", f"M {digits(MARGIN)} {digits(y)} h {digits(inside)}")
        y += MARGIN
    y = _legend(SubElement(root, "g", {"data-part": "legend"}), archs, inside, y)
    size = {"width": digits(inside + 2 * MARGIN), "height": digits(y + MARGIN)}
    ground.attrib.update(size)
    root.attrib.update({**size, "viewBox": f"0 0 {size['width']} {size['height']}"})
    indent(root)
    return tostring(root, encoding="unicode") + "\n"


# --- one network


@dataclass(frozen=True)
class _Column:
    """A part of a network, with the text below it.

    Attributes:
        width, height: what the shapes need.
        labels: lines of text, the first a heading.
        color: of the heading.
        paint: draws the shapes, given an element, their left edge and the baseline.
    """

    width: float
    height: float
    labels: tuple[str, ...]
    color: str
    paint: _Paint

    @property
    def full_width(self) -> float:
        """What shapes and text need."""
        heading, *others = self.labels
        texts = [text_width(heading, HEADING_SIZE, bold=True), *(text_width(other, TEXT_SIZE) for other in others)]
        return max(self.width, *texts)


def _together(widths: Sequence[float]) -> float:
    """How wide columns are beside each other."""
    return sum(widths) + (len(widths) - 1) * _COLUMN_GAP


def _broken(widths: Sequence[float], most: float) -> Iterator[tuple[int, int]]:
    """Which columns stand in one line: first and last, the latter excluded."""
    begin = 0
    for end in range(1, len(widths) + 1):
        if end == len(widths) or _together(widths[begin : end + 1]) > most:
            yield begin, end
            begin = end


def _network(
    parent: Element,
    arch: Architecture,
    columns: Sequence[_Column],
    widths: Sequence[float],
    begin: int,
    end: int,
    inside: float,
    y: float,
) -> float:
    """Draw a line of columns and their texts from y on; returns where the next thing may begin."""
    here, widths = columns[begin:end], widths[begin:end]
    is_first, is_last = begin == 0, end == len(columns)
    baseline = y + 24 + max(column.height for column in here)
    rows = baseline + 24
    middles = [MARGIN + _together([*widths[:at], 0.0]) + width / 2 for at, width in enumerate(widths)]
    # The patch tokens. If there is a class token, the classifier does not read them.
    has_token = has_class_token(arch.variant)
    reading = len(here) - (is_last and has_token)
    left = middles[0] if is_first else MARGIN
    if reading:
        right = middles[-1] if is_last else MARGIN + inside
        right = middles[reading - 1] + here[reading - 1].width / 2 - 1 if reading < len(here) else right
        path(parent, "flow", f"M {digits(left)} {digits(baseline - TOKEN_SCALE / 2)} H {digits(right)}")
    if has_token:
        # It runs below everything from the patches to the classifier, as it passes by the poolings.
        left -= here[0].width / 2 if is_first else 0
        rail_end = f"H {digits(middles[-1])} V {digits(baseline)}" if is_last else f"H {digits(MARGIN + inside)}"
        rail = path(parent, "class-token", f"M {digits(left)} {digits(baseline + 2 * _PADDING + 2)} {rail_end}")
        tooltip(rail, "class token: added to the patch tokens, passes by the poolings, is what the classifier reads")
        rows += 2 * _PADDING
    for column, middle in zip(here, middles, strict=True):
        column.paint(parent, middle - column.width / 2, baseline)
        heading, *others = column.labels
        write(parent, middle, rows, heading, HEADING_SIZE, column.color, bold=True, centred=True)
        for number, label in enumerate(others, start=1):
            write(parent, middle, rows + number * ROW, label, TEXT_SIZE, GREY, centred=True)
    return rows + max(len(column.labels) for column in here) * ROW + 4


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
        rect(parent, "patches", x, top, width, height)
        vertical = range(1, columns) if width / columns >= _MIN_CELL else ()
        horizontal = range(1, rows) if height / rows >= _MIN_CELL else ()
        lines = [f"M {digits(x + n * width / columns)} {digits(top)} v {digits(height)}" for n in vertical]
        lines += [f"M {digits(x)} {digits(top + n * height / rows)} h {digits(width)}" for n in horizontal]
        if lines:
            path(parent, "line", " ".join(lines))
        for place, conv in enumerate(convs):
            left = x + width + _GAP_IN_GROUP + place * (_WIDENING_WIDTH + _GAP_IN_GROUP)
            strip = rect(parent, "convolution", left, top, _WIDENING_WIDTH, height)
            size = times(KERNEL, KERNEL)
            tooltip(strip, f"{size} convolution, stride {conv.stride}, {count(conv.out_chans, 'channel')}")

    return _Column(width + len(convs) * (_WIDENING_WIDTH + _GAP_IN_GROUP), height, tuple(labels), INK, paint)


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
                group = rect(parent, "group", x, top, inside + 2 * _PADDING, height + 2 * _PADDING)
                tooltip(group, f"layers {first} to {first + length - 1} use one attention map")
                x += _PADDING
            for member in range(length):
                part = "sharer" if member else "producer"
                bar = rect(parent, part, x + member * step, baseline - height, width, height)
                use = f"uses the attention map of layer {first}" if member else "computes an attention map"
                tooltip(bar, f"layer {first + member}: {use}")
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
    return _Column(edges[-1] - _GAP, height, tuple(labels), INK, paint)


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
        points = " ".join(f"{digits(across)},{digits(down)}" for across, down in corners)
        trapezium = shape(parent, "polygon", "pooling", points=points)
        tooltip(trapezium, f"{arch.pools[index]} pooling, kernel 3, stride 2")
        if widens:
            strip = rect(parent, "widening", right + _GAP_IN_GROUP, baseline - low, _WIDENING_WIDTH, low)
            tooltip(strip, f"linear layer, {change} channels")

    return _Column(width, high, (f"{arch.pools[index]} pool", change), AMBER, paint)


def _head(arch: Architecture) -> _Column:
    """What the classifier reads, drawn as the one token that it is."""
    channels = arch.stages[-1].embed_dim
    width = WIDTH_SCALE * math.sqrt(channels)
    source = "class token" if has_class_token(arch.variant) else "mean of tokens"
    classes = count(arch.num_classes, "class", "classes") if arch.num_classes else "no classifier"

    def paint(parent: Element, x: float, baseline: float) -> None:
        vector = rect(parent, "head", x, baseline - TOKEN_SCALE, width, TOKEN_SCALE)
        tooltip(vector, f"{source}, {count(channels, 'channel')}: {classes}")

    return _Column(width, TOKEN_SCALE, (classes, source), GREEN, paint)


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
    x = MARGIN
    y += TEXT_SIZE
    for name, sample in _entries(archs):
        needed = _SAMPLE + 8 + text_width(name, TEXT_SIZE)
        if x > MARGIN and x + needed > MARGIN + width:
            x, y = MARGIN, y + ROW + 6
        sample(parent, x, y + 2)
        write(parent, x + _SAMPLE + 8, y, name, TEXT_SIZE, INK)
        x += needed + 14
    y += 8
    for note in _NOTES:
        y = write_lines(parent, note, TEXT_SIZE, width, y, GREY)
    return y


def _entries(archs: Sequence[Architecture]) -> list[tuple[str, _Paint]]:
    """What occurs in the networks: names, and what draws a sample from a left edge and a baseline."""

    def bar(part: str, width: float = _SAMPLE - 4) -> _Paint:
        return lambda parent, x, y: rect(parent, part, x + (_SAMPLE - width) / 2, y - _SAMPLE, width, _SAMPLE)

    def pooling(parent: Element, x: float, y: float) -> Element:
        corners = [(x, y), (x, y - _SAMPLE), (x + _SAMPLE, y - _SAMPLE / 2), (x + _SAMPLE, y)]
        return shape(parent, "polygon", "pooling", points=" ".join(f"{digits(a)},{digits(b)}" for a, b in corners))

    def class_token(parent: Element, x: float, y: float) -> Element:
        return path(parent, "class-token", f"M {digits(x)} {digits(y - _SAMPLE / 2)} h {digits(_SAMPLE)}")

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
