"""Spaces made for images and a budget: `SearchSpace.for_images`.

Everything here is arithmetic on the arguments, so that equal arguments give equal spaces on every machine. The rules:

1. *Patches* do not overlap, and both stems can make tokens of them. They give 7 to 16 tokens a side, but have 2 pixels
   or more: a token of a single pixel says too little, so a side of less than 14 pixels has 4 to 6. Of the patches
   that divide the image, the one is taken whose number of tokens comes nearest to the number of channels. If none
   divides it, the size changes: then one per cent of a side counts as much as 15 % of the tokens. Where a side is so
   much longer than the other that no patch gives 7 to 16 tokens on both, the number of all tokens has to come as near
   to 49 to 256 as it can, with four or more on the short side.
2. *The usual network* is what such a budget buys without pooling: as many layers as its width permits (`_layers`), and
   the width at which they spend the budget.
3. *Layouts* have one, two and three stages of both variants, with widths and depths around the usual network's. After a
   pooling, widths go up to four times as far, because a layer costs less there: at equal multiply-accumulates, capacity
   belongs late.

A space is passed over if it does not hold the budget, if few of its members spend it, or if it has no reference of a
family within it. Then come other widths. Only if there are few members or no references come other patches: those that
suit a budget are better than a family more. If all are passed over, the first of the best is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

from psvit.arch.costs import ADDITIVE
from psvit.arch.operators import Patches, Pool, Stem, Variant
from psvit.arch.stem import patch_sizes
from psvit.errors import InputError
from psvit.space.budget import SPENT, Budget, Limit, format_cost
from psvit.space.feasible import feasible_set, reach
from psvit.space.layout import Layout, StageChoices
from psvit.space.members import Members
from psvit.space.references import FAMILIES, num_families

Space = TypeVar("Space", bound=Members)

LEAST_SIDE, MOST_SIDE = 8, 512
"""Pixels of a side for which a space can be made."""

LEAST_PATCH = 2
"""Pixels of a patch's side. In spaces made for the digits of 8 pixels and 1 MFLOPs, the best inherited accuracy of a
search was 29 % with patches of a single pixel, and 53 % with patches of 2 pixels."""

LEAST_TOKENS, MOST_TOKENS = 7, 16
"""Tokens of a side behind the stem; fewer where patches would have a single pixel. That the least is 7 and not 8 is for
images of 28 pixels: after 9 epochs of Fashion-MNIST, PiT-like networks of 5 MFLOPs had 49 % with 14 x 14 tokens, and
65 % with 7 x 7 (`docs/benchmarks.md`)."""

SHORT_SIDE_TOKENS = 4
"""The least tokens on the short side where the other side is much longer."""

MOST_CHANGE = 0.13
"""By which share a side may change so that patches divide it, with 7 to 16 tokens a side."""

CHANGE_WEIGHT = 15
"""How much a changed side counts, relative to a number of tokens that does not suit the budget."""

BELOW, ABOVE = 2, 1.5
"""A space holds a budget if its cheapest network costs a half of it or less, and its dearest this much or more."""

NUDGES = (1.1, 0.9, 1.2, 0.8, 1.3, 0.7)
"""Other widths, relative to the usual network's, that are tried if a space lacks members or a family of references."""

ENOUGH = 1000
"""Members that shall spend the budget. Between the costs of networks that have few channels there may be gaps."""

MACS_A_PIXEL = 40_000
"""What is spent where no budget limits multiply-accumulates or parameters: 2 GFLOPs at 224 x 224 pixels."""

QUICK = 0.1
"""Share of that with which networks train quickly."""

PARAMS_OF_POOLED = 3
"""How many times the parameters of the usual network one that widens after pooling has, at equal cost."""

STEMS: tuple[Stem, ...] = ("patch", "conv")
POOLS: tuple[Pool, ...] = ("max", "avg", "conv")
MLP_RATIOS = (2.0, 3.0, 4.0)

# Widths relative to the usual network's.
ALONE = (0.5, 0.625, 0.75, 0.875, 1, 1.125, 1.25, 1.375, 1.5, 1.75)
FIRST_1D, SECOND_1D, THIRD_1D = (0.5, 0.75, 1, 1.25, 1.5), (0.5, 0.75, 1, 1.25, 1.5, 2), (0.75, 1, 1.25, 1.5, 2, 3)
FIRST_2D, SECOND_2D, THIRD_2D = (0.375, 0.55, 0.725, 0.9, 1.075, 1.25), (0.5, 0.75, 1), (0.75, 1)


class _Images(NamedTuple):
    """What is known of the images."""

    height: int
    width: int
    in_chans: int
    num_classes: int


class _Usual(NamedTuple):
    """The usual network for a budget and patches."""

    width: float
    layers: int

    def nudged(self, share: float) -> _Usual:
        """The same with another width."""
        return _Usual(share * self.width, self.layers)


NARROWEST, WIDEST = _Usual(16, 2), _Usual(1024, 12)
"""The usual networks of the smallest and the largest budget."""


def space_for(kind: type[Space], image_size: tuple[int, int], in_chans: int, num_classes: int, budget: Budget) -> Space:
    """See `SearchSpace.for_images`."""
    for side in image_size:
        if not LEAST_SIDE <= side <= MOST_SIDE:
            raise InputError(
                f"image_size: a space is made for sides of {LEAST_SIDE} to {MOST_SIDE} pixels, "
                f"received {image_size[0]} x {image_size[1]}"
            )
    images = _Images(*image_size, in_chans, num_classes)
    limits = [limit for limit in budget.limits if limit.metric in ADDITIVE]
    limits = limits or [Limit(metric="macs", upper=MACS_A_PIXEL * image_size[0] * image_size[1])]
    spent = "-".join(format_cost(limit.metric, limit.upper).replace(" ", "") for limit in limits)
    name = f"images-{image_size[0]}x{image_size[1]}-{spent}"
    whole = Budget(limits=tuple(limits))
    # Of several limits the first need not be the tightest, and then cannot be spent.
    for wanted in (whole.spent(SPENT), whole)[: len(limits)]:
        best, suited = None, (0, False)
        for patches in _patches(images, limits):
            for space in _candidates(kind, name, images, limits, patches):
                members, families = min(feasible_set(space, wanted).count, ENOUGH), num_families(space, wanted)
                if members == ENOUGH and families == len(FAMILIES):
                    return space
                if members and (members, families > 0) > suited:
                    best, suited = space, (members, families > 0)
            if suited == (ENOUGH, True):
                break  # rather a family less than other patches
        if best is not None:
            return best
    raise InputError(_what_is_possible(images, limits))


def usual_budgets(image_size: tuple[int, int]) -> tuple[str, str]:
    """Two budgets for images of a height and a width: one for networks that train quickly, and the usual one."""
    usual = MACS_A_PIXEL * image_size[0] * image_size[1]
    quick, usual = (int(float(f"{macs:.1g}")) for macs in (QUICK * usual, usual))
    return format_cost("macs", quick).replace(" ", ""), format_cost("macs", usual).replace(" ", "")


def _candidates(
    kind: type[Space], name: str, images: _Images, limits: Sequence[Limit], patches: Patches
) -> Iterator[Space]:
    """The spaces with some patches that hold a budget, the best first."""
    usual = _usual(images, patches, limits)
    if not NARROWEST.width <= usual.width <= WIDEST.width:
        return
    space = _space(kind, name, images, patches, usual)
    if _holds(space, limits):
        others = (_space(kind, name, images, patches, usual.nudged(share)) for share in NUDGES)
        yield space
        yield from (other for other in others if _holds(other, limits))


def _holds(space: Members, limits: Sequence[Limit]) -> bool:
    """Whether all limits can be met with room to spare, and one of them be spent so."""
    ends = [(reach(space)[limit.metric], limit.upper) for limit in limits]
    return all(least * BELOW <= upper for (least, _), upper in ends) and any(
        greatest >= ABOVE * upper for (_, greatest), upper in ends
    )


def _what_is_possible(images: _Images, limits: Sequence[Limit]) -> str:
    """The range of budgets for which there is a space, as an error."""
    ranges = []
    for limit in limits:
        candidates = _patches(images, [limit])
        least = min(
            max(
                _cost(images, patches, limit.metric, NARROWEST),
                BELOW * reach(_space(Members, "narrowest", images, patches, NARROWEST))[limit.metric][0],
            )
            for patches in candidates
        )
        most = max(_cost(images, patches, limit.metric, WIDEST) for patches in candidates)
        ranges.append(f"{format_cost(limit.metric, least)} to {format_cost(limit.metric, most)}")
    return (
        f"budget: {' and '.join(map(str, limits))} does not suit images of {images.height} x {images.width} pixels; "
        f"networks for them are searched for budgets of {' and '.join(ranges)}{' (each alone)' * (len(limits) > 1)}"
    )


# --- patches


def _patches(images: _Images, limits: Sequence[Limit]) -> list[Patches]:
    """The patches that come into question, the best first."""
    sides = images[:2]
    fitting = []
    sizes = [size for size in patch_sizes() if size >= LEAST_PATCH]
    for size in sizes:
        least = [min(LEAST_TOKENS, side // LEAST_PATCH) for side in sides]
        cut = [min(max(round(side / size), few), MOST_TOKENS) for side, few in zip(sides, least, strict=True)]
        if max(_changes(sides, size, cut)) <= math.log(1 + MOST_CHANGE):
            fitting.append(Patches(size, size, *cut))
    if not fitting:
        cuts = ((size, [max(round(side / size), 1) for side in sides]) for size in sizes)
        few = [Patches(size, size, *cut) for size, cut in cuts if min(cut) >= SHORT_SIDE_TOKENS]
        nearest = min(_beyond_band(patches.number) for patches in few)
        fitting = [patches for patches in few if _beyond_band(patches.number) == nearest]

    def unsuitable(patches: Patches) -> tuple[bool, float, int]:
        channels = _usual(images, patches, limits).width
        wanted = min(max(channels, LEAST_TOKENS**2), MOST_TOKENS**2)
        changed = sum(_changes(sides, patches.size, patches.grid))
        # Rounded, so that no machine's last digit decides; of equals, the smaller patch.
        weighed = round(CHANGE_WEIGHT * changed + abs(math.log(patches.number / wanted)), 6)
        return patches.image_size != sides, weighed, patches.size

    return sorted(fitting, key=unsuitable)


def _beyond_band(tokens: int) -> float:
    """How far a number of tokens is from what 7 to 16 a side give: the logarithm of a ratio, 0 between them."""
    return math.log(max(LEAST_TOKENS**2 / tokens, tokens / MOST_TOKENS**2, 1))


def _changes(sides: Sequence[int], size: int, cut: Sequence[int]) -> list[float]:
    """How much each side changes if it is cut into so many patches of this size: absolute logarithms."""
    return [abs(math.log(number * size / side)) for side, number in zip(sides, cut, strict=True)]


# --- the usual network


def _usual(images: _Images, patches: Patches, limits: Sequence[Limit]) -> _Usual:
    """The network without pooling that spends the tighter of the limits."""
    found = []
    for limit in limits:
        for layers in range(WIDEST.layers, NARROWEST.layers - 1, -1):
            square, linear = _terms(images, patches, limit.metric, layers)
            width = (math.sqrt(linear**2 + 4 * square * limit.upper) - linear) / (2 * square)
            if _layers(width) >= layers:
                break
        found.append(_Usual(width, layers))
    return min(found)


def _cost(images: _Images, patches: Patches, metric: str, usual: _Usual) -> int:
    """What a usual network costs."""
    square, linear = _terms(images, patches, metric, usual.layers)
    return int(square * usual.width**2 + linear * usual.width)


def _terms(images: _Images, patches: Patches, metric: str, layers: int) -> tuple[int, int]:
    """What such a network costs for every square of its width and for its width: a patch stem, MLPs four times wide."""
    n, pixels = patches.number, patches.size**2 * images.in_chans
    if metric == "macs":
        return 12 * n * layers, 2 * n * n * layers + n * pixels
    return PARAMS_OF_POOLED * 12 * layers, n + pixels + images.num_classes


def _layers(width: float) -> int:
    """How many layers a network of a width has: 2 of 16 channels, one more for every 16 channels, at most DeiT's 12."""
    return min(max(2 + int(width / 16), NARROWEST.layers), WIDEST.layers)


# --- layouts


def _space(kind: type[Space], name: str, images: _Images, patches: Patches, usual: _Usual) -> Space:
    """The space of networks around the usual one."""
    return kind(
        name=name,
        image_size=patches.image_size,
        in_chans=images.in_chans,
        num_classes=images.num_classes,
        patch_size=patches.size,
        patch_stride=patches.stride,
        layouts=tuple(_layouts(usual)),
    )


def _layouts(usual: _Usual) -> Iterator[Layout]:
    """One, two and three stages of both variants."""
    head_dim = max(8, min(64, 2 ** int(math.log2(usual.width / 4))))

    def widths(ratios: Sequence[float]) -> set[int]:
        return {max(16, round(ratio * usual.width / head_dim) * head_dim) for ratio in ratios}

    # HVT keeps its width, and PiT doubles it twice.
    first = widths(FIRST_2D)
    of_three: dict[Variant, list[set[int]]] = {
        "1d": [widths(FIRST_1D), widths(SECOND_1D), widths(THIRD_1D)],
        "2d": [
            first,
            widths(SECOND_2D) | {2 * width for width in first},
            widths(THIRD_2D) | {4 * width for width in widths(FIRST_2D[:-1])},
        ],
    }
    deep = usual.layers
    alone = [range(max(2, -(-deep // 2)), min(16, -(-3 * deep // 2)) + 1)]
    two = [range(1, max(2, deep // 2) + 1), range(1, max(3, 3 * deep // 4) + 1)]
    three = [range(1, max(2, deep // 3) + 1), range(1, max(3, 2 * deep // 3) + 1), range(1, max(2, deep // 2) + 1)]
    begins = [0, max(two[0]), max(two[0]) + max(three[1])]
    for variant, grids in of_three.items():
        for depths, chosen in ((alone, [widths(ALONE)]), (two, grids[:2]), (three, grids)):
            stages = [
                StageChoices(
                    begin=begin,
                    embed_dim=tuple(sorted(grid)),
                    depth=tuple(depth),
                    max_group=min(3 if deep < 8 else 4, max(depth)),
                    mlp_ratio=MLP_RATIOS,
                )
                for begin, grid, depth in zip(begins, chosen, depths, strict=False)
            ]
            yield Layout(
                variant=variant,
                head_dim=head_dim,
                stem=STEMS,
                stages=tuple(stages),
                pools=(POOLS,) * (len(stages) - 1),
            )
