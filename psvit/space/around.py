"""Spaces around a network: the same network with its tokens pooled earlier, and with maps that layers share.

All members have its stem, widths, heads, MLPs and, unless asked otherwise, all its layers, so that each takes its
weights: pooling by maximum or average has none, and a layer that shares a map only loses queries and keys. The largest
member is the network itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

from psvit.arch.architecture import Architecture, Stage, stage_grids
from psvit.arch.costs import cost
from psvit.arch.operators import Pool
from psvit.errors import InputError
from psvit.io.arguments import several
from psvit.space.budget import Budget
from psvit.space.layout import Layout, StageChoices
from psvit.space.listing import check_countable
from psvit.space.members import Members
from psvit.space.references import Reference

Space = TypeVar("Space", bound=Members)

MOST_POOLINGS = 2
"""The most poolings that members have besides the network's own."""

MAX_GROUP = 4
"""The most layers of a member that use one map; fewer where the network has so many that they could not be counted."""

POOLS: tuple[Pool, ...] = ("max", "avg")
"""Poolings without weights."""

BY_HAND: Pool = "avg"
"""What one would pool with by hand. In a supernet that began as a trained network and was adapted to both, members of
equal cost had 1 to 2 points more with it than with `max` (`docs/benchmarks.md`)."""

MOST_LAYERS = 44
"""Of the network. More would give more layouts than a space may have."""


def space_around(kind: type[Space], arch: Architecture, depths: Sequence[int] | None = None) -> Space:
    """See `SearchSpace.around`."""
    layers = arch.depth
    if layers > MOST_LAYERS:
        raise InputError(f"a space around a network is made for at most {MOST_LAYERS} layers, received {layers}")
    if any(max(stage.groups) > 1 for stage in arch.stages):
        raise InputError("a space around a network is made for networks whose layers share no attention map")
    allowed = sorted({*several("depths", depths or (), (int,), "a number of layers"), layers})
    if allowed[0] < 1 or allowed[-1] > layers:
        raise InputError(f"depths must be numbers of layers from 1 to the network's {layers}, received {allowed}")
    made = (_space(kind, arch, allowed, max_group) for max_group in range(MAX_GROUP, 0, -1))
    return next(space for space in made if _is_countable(space))


def _space(kind: type[Space], arch: Architecture, depths: Sequence[int], max_group: int) -> Space:
    return kind(
        name=f"around-{arch.variant}-{'-'.join(f'{stage.depth}x{stage.embed_dim}' for stage in arch.stages)}",
        image_size=arch.image_size,
        in_chans=arch.in_chans,
        num_classes=arch.num_classes,
        patch_size=arch.patch_size,
        patch_stride=arch.patch_stride,
        layouts=tuple(_layout(arch, cuts, depths, max_group) for cuts in _cuts(arch)),
    )


def _is_countable(space: Members) -> bool:
    try:
        check_countable(space, sorts_params=True)
    except InputError:
        return False
    return True


def _cuts(arch: Architecture) -> Iterator[tuple[int, ...]]:
    """The sets of places at which members are pooled besides the network's own poolings, the fewest first."""
    own = {0, *itertools.accumulate(stage.depth for stage in arch.stages)}
    free = [place for place in range(arch.depth) if place not in own]
    for number in range(min(MOST_POOLINGS, len(free)) + 1):
        try:
            stage_grids(arch.variant, arch.image_size, arch.patch_size, arch.patch_stride, len(arch.stages) + number)
        except ValueError:
            return  # too few tokens are left to pool
        yield from itertools.combinations(free, number)


def _layout(arch: Architecture, cuts: Sequence[int], depths: Sequence[int], max_group: int) -> Layout:
    """The members that are pooled at these places."""
    borders = [*itertools.accumulate((stage.depth for stage in arch.stages), initial=0)]
    begins = sorted({*borders[:-1], *cuts})
    stages = []
    for begin, end in itertools.pairwise([*begins, arch.depth]):
        of_network = arch.stages[sum(border <= begin for border in borders) - 1]
        is_last = end == arch.depth
        depth = [layers - begin for layers in depths if layers > begin] if is_last else [end - begin]
        stages.append(
            StageChoices(
                begin=begin,
                embed_dim=(of_network.embed_dim,),
                depth=tuple(depth),
                max_group=min(max_group, max(depth)),
                mlp_ratio=(of_network.mlp_ratio,),
            )
        )
    pools = tuple((arch.pools[borders.index(begin) - 1],) if begin in borders else POOLS for begin in begins[1:])
    return Layout(variant=arch.variant, head_dim=arch.head_dim, stem=(arch.stem,), stages=tuple(stages), pools=pools)


def shortened(arch: Architecture, layers: int) -> Architecture:
    """A network without its last layers, and without the poolings before them."""
    stages: list[Stage] = []
    for stage in arch.stages:
        left = layers - sum(one.depth for one in stages)
        if left > 0:
            stages.append(
                Stage(embed_dim=stage.embed_dim, groups=(1,) * min(stage.depth, left), mlp_ratio=stage.mlp_ratio)
            )
    fields = {name: getattr(arch, name) for name in Architecture.model_fields}
    return Architecture(**{**fields, "stages": tuple(stages), "pools": arch.pools[: len(stages) - 1]})


def evenly_pooled(space: Members, arch: Architecture, limits: Budget) -> tuple[Reference, ...]:
    """Members that one would make by hand: layers spread evenly between the poolings, and no map shared.

    For one and for two poolings, the member within the limits that is pooled by average and whose stages depart least
    from equal depth; so where the budget does not permit equal depths, tokens are pooled as little earlier as it
    demands.

    Args:
        space: a space around a network.
        arch: the network.
        limits: what the members may cost; latency is not looked at.
    """
    found = []
    for number in range(1, MOST_POOLINGS + 1):
        members = [_pooled(arch, cuts, BY_HAND) for cuts in _cuts(arch) if len(cuts) == number]
        within = [one for one in members if limits.deviation(cost(one)) == 0 and space.contains(one)]
        if within:
            # With as many layers in all, the product of depths is the greater the more equal they are.
            member = max(within, key=lambda one: (math.prod(stage.depth for stage in one.stages), cost(one).macs))
            name = f"evenly pooled, {number} x {BY_HAND}"
            found.append(Reference(name=name, family="evenly pooled", arch=member))
    return tuple(found)


def _pooled(arch: Architecture, cuts: Sequence[int], pool: Pool) -> Architecture:
    """The network with all its layers, pooled at these places as well."""
    layout = _layout(arch, cuts, [arch.depth], max_group=1)
    stages = [
        Stage(embed_dim=one.embed_dim[0], groups=(1,) * one.depth[0], mlp_ratio=one.mlp_ratio[0])
        for one in layout.stages
    ]
    pools = [choices[0] if len(choices) == 1 else pool for choices in layout.pools]
    fields = {name: getattr(arch, name) for name in Architecture.model_fields}
    return Architecture(**{**fields, "stages": tuple(stages), "pools": tuple(pools)})
