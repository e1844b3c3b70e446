"""Networks made by hand after the papers that PSViT builds on, with heads of any width, fitted to a budget.

Their proportions are those of `psvit.space.references`, which finds such networks among the members of a space. Those
made here need not be members. Comparisons at equal cost need networks within 2 % of one budget, and few members of a
space for small images are. So the width of a head is free as well, and with it the channels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from psvit import Architecture, SearchSpace, Stage, cost
from psvit.arch.operators import Stem
from psvit.errors import InputError
from psvit.space.references import DEIT, DEPTHS, MLP_RATIO, PIT, Proportions

TOLERANCE = 0.02
"""By which share the multiply-accumulates of networks that are compared may differ from the budget."""

HEAD_DIMS = (0.7, 1.3)
"""Least and greatest channels of a head, relative to the space's; with a single value widths come in coarse steps."""


@dataclass(frozen=True, kw_only=True)
class Sharing(Proportions):
    """Proportions of networks in which neighbouring layers share attention maps.

    Attributes:
        group: how many layers use one map.
    """

    group: int = 2


SHARING = Sharing(**{**vars(DEIT), "name": "sharing only"})
"""DeiT-like with attention maps that two layers share."""

BOTH = Sharing(**{**vars(PIT), "name": "pooling and sharing"})
"""PiT-like with attention maps that two layers share."""


def fit(
    proportions: Proportions,
    space: SearchSpace,
    macs: int,
    depth: float,
    *,
    stem: Stem = "patch",
    head_dims: Iterable[int] | None = None,
    tolerance: float = TOLERANCE,
) -> Architecture:
    """The network of a family for a budget; the same for equal arguments.

    The paper's layers times `depth` are aimed at, and whatever that leaves of the budget is spent on width: so a
    network whose layers share attention maps is wider than one whose do not. Widths are whole numbers of heads. Because
    few combinations come near a budget, a stage may have more or fewer layers than aimed at (`DEPTHS`), and heads more
    or fewer channels than the space's (`HEAD_DIMS`). Of all networks within the tolerance of the budget, the one is
    taken that departs least from what is aimed at: the sum of the absolute logarithms of the ratios, over the layers of
    the stages and the channels of a head. Of equals, the one that is nearest to the budget.

    Nothing of this looks at accuracy; `depth` is what can be tuned.

    Args:
        proportions: of the family.
        space: whose images, patches, classes and heads the network has.
        macs: the budget.
        depth: layers, relative to the paper's.
        stem: of the network.
        head_dims: permitted channels of a head; by default those around the space's first layout's.
        tolerance: by which share the multiply-accumulates may differ from the budget.

    Raises:
        InputError: no network of the family is within the tolerance.
    """
    aims = [depth * layers for layers in proportions.depths]
    nearest = math.inf
    best: tuple[tuple[float, float], Architecture] | None = None
    usual = space.layouts[0].head_dim
    if head_dims is None:
        head_dims = range(round(HEAD_DIMS[0] * usual), round(HEAD_DIMS[1] * usual) + 1)
    for layers, head_dim in itertools.product(itertools.product(*map(_near, aims)), head_dims):
        departure = sum(abs(math.log(one / aim)) for one, aim in zip(layers, aims, strict=True))
        departure += abs(math.log(head_dim / usual))
        for arch, error in _by_width(proportions, space, stem, layers, head_dim, macs, tolerance):
            nearest = min(nearest, abs(error))
            # Rounded, because equal departures are computed in different orders.
            key = (round(departure, 9), abs(error))
            if abs(error) <= tolerance and (best is None or key < best[0]):
                best = key, arch
    if best is None:
        raise InputError(
            f"budget: no {proportions.name} network of about {sum(aims):g} layers is within {tolerance:.0%} of "
            f"{macs} multiply-accumulates; the nearest is {nearest:.1%} from it; give another --budget or --depth"
        )
    return best[1]


def _near(aim: float) -> range:
    """The numbers of layers that a stage may have."""
    return range(max(1, math.ceil(DEPTHS[0] * aim)), max(1, math.floor(DEPTHS[1] * aim)) + 1)


def _by_width(
    proportions: Proportions,
    space: SearchSpace,
    stem: Stem,
    layers: tuple[int, ...],
    head_dim: int,
    macs: int,
    tolerance: float,
) -> Iterator[tuple[Architecture, float]]:
    """Networks of rising width up to the first beyond the budget, and by which share each is above it."""
    for heads in itertools.count(1):
        arch = Architecture(
            variant=proportions.variant,
            image_size=space.image_size,
            in_chans=space.in_chans,
            num_classes=space.num_classes,
            stem=stem,
            patch_size=space.patch_size,
            patch_stride=space.patch_stride,
            head_dim=head_dim,
            stages=tuple(
                Stage(
                    embed_dim=width * heads * head_dim,
                    groups=grouped(number, group_of(proportions)),
                    mlp_ratio=MLP_RATIO,
                )
                for number, width in zip(layers, proportions.widths, strict=True)
            ),
            pools=(proportions.pool,) * (len(layers) - 1) if proportions.pool else (),
        )
        error = cost(arch).macs / macs - 1
        yield arch, error
        if error > tolerance:
            return


def group_of(proportions: Proportions) -> int:
    """How many layers use one map."""
    return proportions.group if isinstance(proportions, Sharing) else 1


def grouped(layers: int, group: int) -> tuple[int, ...]:
    """Layers in attention groups of a size, the last one smaller where that does not divide them."""
    whole, rest = divmod(layers, group)
    return (group,) * whole + ((rest,) if rest else ())
