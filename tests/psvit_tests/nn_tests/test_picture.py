"""Pictures: what is in them, that nothing overlaps or is cut off, and that equal networks give equal bytes."""

from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psvit.arch.architecture import Architecture, Stage
from psvit.arch.stem import strides
from psvit.io.shipped import shipped
from psvit.nn import picture_svg
from psvit.nn.picture import NARROW, TOKEN_SCALE, WIDTH_SCALE, draw
from psvit.space.search_space import SearchSpace, shipped_spaces

SVG = "{http://www.w3.org/2000/svg}"
# Coordinates are written with one decimal, so that an edge may be 0.05 off, and a width with both edges 0.1.
ROUNDING = 0.11

EXTREMES = [(name, end) for name in shipped_spaces() for end in ("smallest", "largest")]


def make_arch(**changes) -> Architecture:
    fields = {
        "variant": "2d",
        "image_size": (32, 32),
        "in_chans": 3,
        "num_classes": 10,
        "patch_size": 4,
        "patch_stride": 4,
        "head_dim": 16,
        "stages": (
            Stage(embed_dim=64, groups=(2, 1, 3), mlp_ratio=2),
            Stage(embed_dim=64, groups=(1,), mlp_ratio=1.5),
            Stage(embed_dim=144, groups=(1, 2), mlp_ratio=4),
        ),
        "pools": ("conv", "max"),
    }
    return Architecture(**{**fields, **changes})


DEEP = make_arch(stages=(Stage(embed_dim=64, groups=(3, 1, 4, 2, 1, 1, 5, 3), mlp_ratio=4),), pools=())


def parse(svg: str) -> ET.Element:
    root = ET.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    return root


def networks(root: ET.Element) -> list[ET.Element]:
    return root.findall(f"{SVG}g[@data-part='network']")


def parts(element: ET.Element, *names: str) -> list[ET.Element]:
    return [found for found in element.iter() if found.get("data-part") in names]


def texts(element: ET.Element) -> list[str]:
    return [found.text or "" for found in element.iter(f"{SVG}text")]


def tooltips(elements: list[ET.Element]) -> list[str]:
    return [element.find(f"{SVG}title").text for element in elements]


def rect_box(rect: ET.Element) -> tuple[float, float, float, float]:
    x, y, width, height = (float(rect.get(name)) for name in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


def text_box(text: ET.Element) -> tuple[float, float, float, float]:
    """Generous for a proportional font, whose characters are half as wide as high on average."""
    size, x, y = float(text.get("font-size")), float(text.get("x")), float(text.get("y"))
    width = 0.55 * size * len(text.text or "")
    left = x - width / 2 if text.get("text-anchor") == "middle" else x
    return left, y - 0.8 * size, left + width, y + 0.25 * size


def boxes(root: ET.Element) -> list[tuple[float, float, float, float]]:
    """Boxes around all rectangles, polygons, paths and texts, the ground excepted."""
    found = [rect_box(rect) for rect in root.iter(f"{SVG}rect") if rect.get("data-part")]
    found += [text_box(text) for text in root.iter(f"{SVG}text")]
    outlines = [polygon.get("points").replace(",", " ").split() for polygon in root.iter(f"{SVG}polygon")]
    for points in outlines:
        xs, ys = [float(x) for x in points[::2]], [float(y) for y in points[1::2]]
        found.append((min(xs), min(ys), max(xs), max(ys)))
    return found + [path_box(path.get("d").split()) for path in root.iter(f"{SVG}path")]


def path_box(commands: list[str]) -> tuple[float, float, float, float]:
    xs, ys = [], []
    while commands:
        command, number = commands.pop(0), float(commands.pop(0))
        if command == "M":
            xs.append(number)
            ys.append(float(commands.pop(0)))
        else:
            along = xs if command in "hH" else ys
            along.append(number + (along[-1] if command.islower() else 0))
    return min(xs), min(ys), max(xs), max(ys)


def overlap(one, other) -> bool:
    return all(one[axis] < other[axis + 2] and other[axis] < one[axis + 2] for axis in (0, 1))


def check(arch: Architecture) -> None:
    """All that holds for the picture of any network, be it one line or several."""
    for width in (None, NARROW):
        svg = draw(arch, width=width)
        assert svg == draw(Architecture.from_dict(arch.to_dict()), width=width)
        root = parse(svg)
        (network,) = networks(root)
        check_parts(network, arch)
        check_scale(network, arch)
        check_texts(network, arch)
        check_place(root)
        if width is None:
            assert len({round(rect_box(bar)[3]) for bar in parts(network, "producer", "sharer")}) == 1
            assert len(parts(network, "class-token")) == (arch.variant == "1d")


def in_order(bar: ET.Element) -> tuple[int, float]:
    """Line by line, from left to right."""
    left, _, _, bottom = rect_box(bar)
    return round(bottom), left


def check_parts(network: ET.Element, arch: Architecture) -> None:
    groups = [length for stage in arch.stages for length in stage.groups]
    assert len(parts(network, "producer")) == len(groups)
    assert len(parts(network, "sharer")) == arch.depth - len(groups)
    assert len(parts(network, "group")) == sum(length > 1 for length in groups)
    assert len(parts(network, "pooling")) == len(arch.stages) - 1
    widths = [stage.embed_dim for stage in arch.stages]
    assert len(parts(network, "widening")) == sum(a != b for a, b in itertools.pairwise(widths))
    assert bool(parts(network, "class-token")) == (arch.variant == "1d")
    assert len(parts(network, "patches")) == len(parts(network, "head")) == 1
    assert len(parts(network, "convolution")) == (len(strides(arch.patch_size)) if arch.stem == "conv" else 0)
    # Left to right, a producer is followed by the sharers of its group, and the lines around groups hold just these.
    bars = sorted(parts(network, "producer", "sharer"), key=in_order)
    expected = [part for length in groups for part in ["producer", *["sharer"] * (length - 1)]]
    assert [bar.get("data-part") for bar in bars] == expected
    held = []
    for group in parts(network, "group"):
        left, top, right, bottom = rect_box(group)
        inside = [bar for bar in bars if overlap(rect_box(group), rect_box(bar))]
        assert all(left < rect_box(bar)[0] and rect_box(bar)[2] < right for bar in inside)
        assert all(top < rect_box(bar)[1] and rect_box(bar)[3] < bottom for bar in inside)
        held.append(len(inside))
    assert held == [length for length in groups if length > 1]


def check_scale(network: ET.Element, arch: Architecture) -> None:
    bars = [rect_box(bar) for bar in sorted(parts(network, "producer", "sharer"), key=in_order)]
    stages = [index for index, stage in enumerate(arch.stages) for _ in range(stage.depth)]
    for (left, top, right, bottom), index in zip(bars, stages, strict=True):
        assert bottom - top == pytest.approx(TOKEN_SCALE * math.sqrt(math.prod(arch.grids[index])), abs=ROUNDING)
        assert right - left == pytest.approx(WIDTH_SCALE * math.sqrt(arch.stages[index].embed_dim), abs=ROUNDING)


def check_texts(network: ET.Element, arch: Architecture) -> None:
    found = texts(network)
    for stage, (rows, columns) in zip(arch.stages, arch.grids, strict=True):
        assert (f"{rows}×{columns} tokens" if arch.variant == "2d" else f"{columns} + 1 tokens") in found
        assert f"{stage.embed_dim} channels" in found
        heads = stage.embed_dim // arch.head_dim
        assert f"{heads} head{'s' * (heads > 1)}" in found
        assert f"MLP {stage.hidden_dim} (×{stage.mlp_ratio:.4g})" in found
    assert [text for text in found if text.endswith(" pool")] == [f"{pool} pool" for pool in arch.pools]
    changes = [
        "same width" if one.embed_dim == other.embed_dim else f"{one.embed_dim} → {other.embed_dim}"
        for one, other in itertools.pairwise(arch.stages)
    ]
    assert [text for text in found if "→" in text or text == "same width"] == changes


def check_place(root: ET.Element) -> None:
    left, top, width, height = (float(number) for number in root.get("viewBox").split())
    assert (left, top, root.get("width"), root.get("height")) == (0, 0, f"{width:g}", f"{height:g}")
    for box in boxes(root):
        assert box[0] >= 0
        assert box[1] >= 0
        assert box[2] <= width
        assert box[3] <= height
    words = [text_box(text) for text in root.iter(f"{SVG}text")]
    apart = [
        *words,
        *(rect_box(bar) for bar in parts(root, "producer", "sharer", "patches", "convolution", "head", "widening")),
    ]
    for one, other in itertools.combinations(apart, 2):
        assert not overlap(one, other)
    for one, other in itertools.combinations([rect_box(group) for group in parts(root, "group")], 2):
        assert not overlap(one, other)


# --- what is in a picture


@pytest.mark.parametrize("arch", [make_arch(), make_arch(variant="1d"), make_arch(stem="conv"), DEEP])
def test_a_picture_is_right(arch):
    check(arch)


@pytest.mark.parametrize(("name", "end"), EXTREMES)
def test_the_ends_of_shipped_spaces_are_right(name, end):
    check(getattr(SearchSpace.load(name), end))


@pytest.mark.parametrize("name", shipped("arch"))
def test_shipped_architectures_are_right(name):
    check(Architecture.load(name))


@settings(max_examples=40)
@given(st.data())
def test_any_network_is_drawn_right(generated_spaces, data):
    space = data.draw(generated_spaces)
    check(space[data.draw(st.integers(0, space.size - 1))])


@pytest.mark.parametrize(
    ("image_size", "patch_size", "patch_stride"),
    [((4, 400), 4, 4), ((400, 4), 4, 4), ((224, 224), 2, 2), ((9, 9), 3, 2)],
    ids=["wide", "high", "fine", "overlapping"],
)
def test_uncommon_grids_are_drawn_right(image_size, patch_size, patch_stride):
    check(make_arch(image_size=image_size, patch_size=patch_size, patch_stride=patch_stride))


def test_a_network_bar_by_bar():
    (network,) = networks(parse(draw(make_arch())))
    assert tooltips(parts(network, "producer", "sharer")) == [
        "layer 1: computes an attention map",
        "layer 2: uses the attention map of layer 1",
        "layer 3: computes an attention map",
        "layer 4: computes an attention map",
        "layer 5: uses the attention map of layer 4",
        "layer 6: uses the attention map of layer 4",
        "layer 7: computes an attention map",
        "layer 8: computes an attention map",
        "layer 9: computes an attention map",
        "layer 10: uses the attention map of layer 9",
    ]
    assert tooltips(parts(network, "group")) == [
        "layers 1 to 2 use one attention map",
        "layers 4 to 6 use one attention map",
        "layers 9 to 10 use one attention map",
    ]
    assert tooltips(parts(network, "pooling")) == [
        "conv pooling, kernel 3, stride 2",
        "max pooling, kernel 3, stride 2",
    ]
    assert tooltips(parts(network, "widening")) == ["linear layer, 64 → 144 channels"]


def test_deit_tiny_is_described_by_its_numbers():
    root = parse(draw(Architecture.load("deit-tiny")))
    assert texts(root)[:2] == [
        "PSViT-1D",
        "1.254 GFLOPs · 5.717 Mparams · 12 layers, 12 attention maps · image 224×224, 3 channels",
    ]
    assert texts(networks(root)[0])[2:] == [
        *("14×14 patches", "of 16×16 pixels"),
        *("196 + 1 tokens", "192 channels", "3 heads", "MLP 768 (×4)", "12 layers, 12 maps"),
        *("1000 classes", "class token"),
    ]


def test_patches_that_overlap_and_a_missing_classifier_are_said():
    found = texts(parse(draw(make_arch(image_size=(9, 9), patch_size=3, patch_stride=2, num_classes=0))))
    assert {"4×4 patches", "of 3×3 pixels", "2 pixels apart", "no classifier", "mean of tokens"} <= set(found)


def test_the_legend_explains_what_occurs_and_nothing_else():
    def explained(*archs):
        (legend,) = parse(draw(*archs)).findall(f"{SVG}g[@data-part='legend']")
        return [part.get("data-part") for part in legend if part.get("data-part")]

    assert explained(make_arch()) == ["producer", "sharer", "group", "pooling", "widening"]
    assert explained(make_arch(stem="conv"))[:2] == ["convolution", "producer"]
    assert explained(Architecture.load("deit-tiny")) == ["producer", "class-token"]
    assert explained(Architecture.load("deit-tiny"), DEEP) == ["producer", "sharer", "group", "class-token"]


def test_the_description_says_what_the_picture_shows():
    description = parse(draw(make_arch(variant="1d"), titles=["Mine"])).find(f"{SVG}desc").text
    assert description.startswith("Mine: ")
    assert (
        "64 tokens and a class token, 64 channels, MLPs 128 wide, layers in attention groups of 2, 1, 3" in description
    )
    assert "Stage 3: max pooling, then 16 tokens" in description


def test_the_convolutions_of_a_stem_are_said():
    root = parse(draw(make_arch(stem="conv", patch_size=8, patch_stride=8)))
    strips = parts(networks(root)[0], "convolution")
    assert [text.rpartition(", ")[2] for text in tooltips(strips)] == ["16 channels", "32 channels", "64 channels"]
    assert "by 3 convolutions" in texts(networks(root)[0])
    assert "3 convolutions with 16, 32, 64 channels" in root.find(f"{SVG}desc").text


# --- several networks


@pytest.mark.parametrize("name", ["psvit-2d-digits", "psvit-nano", "psvit-2d-tiny"])
def test_a_narrow_picture_is_as_narrow_as_asked_for(name):
    for end in ("smallest", "largest"):
        root = parse(draw(getattr(SearchSpace.load(name), end), titles=["a title of many words " * 3], width=NARROW))
        assert float(root.get("width")) == NARROW
        # Every line of text that a wide picture has is there, however it is broken.
        wide = parse(draw(getattr(SearchSpace.load(name), end), titles=["a title of many words " * 3]))
        said = [" ".join(texts(one)).replace(" · ", " ").split() for one in (root, wide)]
        assert sorted(said[0]) == sorted(said[1])


def test_networks_below_each_other_have_one_scale_and_begin_at_one_place():
    archs = [SearchSpace.load("psvit-2d-digits").smallest, Architecture.load("deit-tiny"), make_arch(), DEEP]
    root = parse(draw(*archs, titles=["a", "b", "c", "d"]))
    drawn = networks(root)
    for network, arch in zip(drawn, archs, strict=True):
        check_parts(network, arch)
        check_scale(network, arch)
        check_texts(network, arch)
    check_place(root)
    assert [texts(network)[0] for network in drawn] == ["a", "b", "c", "d"]
    assert root.find(f"{SVG}title").text == "a and b and c and d"


def test_no_network_and_wrong_numbers_of_titles_are_refused():
    with pytest.raises(ValueError, match="at least one architecture"):
        draw()
    with pytest.raises(ValueError, match="one for each of 2 architectures, received 1"):
        draw(DEEP, DEEP, titles=["one"])


# --- the document


@pytest.mark.parametrize("title", ["a < b & \"c\" > 'd'", "</title><script>", "]]>", "Bäume 木", "x" * 300, ""])
def test_any_title_is_shown_as_it_is(title):
    root = parse(draw(make_arch(), titles=[title]))
    assert texts(root)[0] == title
    assert root.find(f"{SVG}title").text == (title or None)
    check_place(root)


def test_what_xml_cannot_hold_is_left_out_of_titles():
    assert texts(parse(draw(make_arch(), titles=["a\0b\x1b\nc\ud800d\ufffe"])))[0] == "a b c d"


def test_a_picture_stands_for_itself():
    root = parse(draw(make_arch(variant="1d")))
    # A ground of its own, because a page may be dark; nothing loaded; no names that another picture may have too.
    ground = root.find(f"{SVG}rect")
    assert (ground.get("fill"), ground.get("width"), ground.get("height")) == (
        "#ffffff",
        root.get("width"),
        root.get("height"),
    )
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        *("svg", "title", "desc", "g", "rect", "polygon", "path", "text")
    }
    attributes = {name for element in root.iter() for name in element.attrib}
    assert not attributes & {"id", "class", "style", "href", "onload"}
    assert root.get("role") == "img"


def test_every_part_that_is_drawn_has_a_style_and_every_style_a_part():
    root = parse(draw(make_arch(variant="1d", stem="conv")))
    drawn = {element.get("data-part") for element in root.iter()} - {None, "network", "legend"}
    assert drawn == set(picture_svg.STYLES)


def test_the_readme_shows_shipped_networks_as_they_are():
    shown = Path(__file__).resolve().parents[3] / "docs" / "psvit.svg"
    archs = ("deit-tiny", "psvit-2d-tiny")
    assert shown.read_text(encoding="utf-8") == draw(*map(Architecture.load, archs), titles=archs)
