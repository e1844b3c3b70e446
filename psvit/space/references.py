"""References: networks that one would make by hand after DeiT, PiT and HVT, as members of a space within a budget.

What is taken from a paper are its proportions (`Proportions`): how layers are spread over stages, how much wider each
stage is than the first, how tokens are pooled, and MLPs of four times the width. What is not taken is the size.

References are ordinary members of their space, so they differ from the papers' networks where the family does: PiT-like
ones average the last tokens instead of carrying a class token, and widen in a linear layer after the convolution;
HVT-like ones keep the class token. Nothing here looks at accuracy.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from psvit.arch.architecture import Architecture
from psvit.arch.costs import ADDITIVE
from psvit.arch.operators import Pool, Stem, Variant
from psvit.space import dimensions
from psvit.space.budget import Budget
from psvit.space.dimensions import EMBED_DIM, ENTRY, GROUPS
from psvit.space.encoding import write_stages
from psvit.space.layout import Layout
from psvit.space.members import Members
from psvit.space.pricing import Batch, Ints

MLP_RATIO = 4.0
"""Hidden width of the MLPs in all three papers, relative to the channels."""

DEPTHS = (0.5, 2.0)
"""Least and greatest number of layers of a stage, relative to its share in the paper; one layer is always enough."""

APART = 1.25
"""How many times as many layers the deeper of two references of a family has, at least."""


@dataclass(frozen=True, kw_only=True)
class Proportions:
    """What makes a family.

    Attributes:
        name: of the family.
        variant: of its networks.
        pool: between all stages; `None` if there is a single one.
        depths: the layers of each stage in the paper.
        widths: the channels of each stage, relative to the first.
    """

    name: str
    variant: Variant
    pool: Pool | None
    depths: tuple[int, ...]
    widths: tuple[int, ...]


DEIT = Proportions(name="DeiT-like", variant="1d", pool=None, depths=(12,), widths=(1,))
"""DeiT (arXiv 2012.12877): all layers alike."""

PIT = Proportions(name="PiT-like", variant="2d", pool="conv", depths=(2, 6, 4), widths=(1, 2, 4))
"""PiT-Ti and PiT-S (arXiv 2103.16302): the width doubles where the token grid halves."""

HVT = Proportions(name="HVT-like", variant="1d", pool="max", depths=(1, 6, 5), widths=(1, 1, 1))
"""HVT-S-2 (arXiv 2103.10619): the sequence is pooled after the first layer and six layers later, the width stays."""

FAMILIES = (DEIT, PIT, HVT)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A network that a search has to beat.

    Attributes:
        name: of its family, with its stem where the space has several, and the number of its layers.
        family: the name of its family alone.
        arch: the network, a member of the space.
    """

    name: str
    family: str
    arch: Architecture


def references(space: Members, limits: Budget) -> tuple[Reference, ...]:
    """The references of a space: of every family and stem up to two members within the limits on costs.

    A family keeps its widths, its pooling and its order of stages; one MLP ratio holds for all stages. How many layers
    it has in all is free, and their shares of the stages may be rounded (`DEPTHS`). Of all such members two are taken:
    one at a third and one at two thirds of the way from the fewest to the most layers that occur, on a logarithmic
    scale. So neither is as shallow or as deep as the space permits. Around each of the two, the member is taken that
    departs least: the sum of the absolute logarithms of the ratios of what it has to what is aimed at, over the number
    of layers in all, the layers of every stage, the MLP ratio, and the cost, where as much as possible is aimed at. Two
    with about as many layers (`APART`) are one too many; then the one stays that departs less.

    Args:
        space: the space.
        limits: what the references may cost; latency is not looked at.

    Returns:
        The references, the same for equal arguments; none of a family that the space or the limits have no member of.
    """
    stems = _stems(space)
    found = []
    for proportions, stem in itertools.product(FAMILIES, stems):
        of_stem = f", {stem} stem" if len(stems) > 1 else ""
        for member in _chosen([*_members(space, limits, proportions, stem)]):
            arch = space.decode(member.row)
            name = f"{proportions.name}{of_stem}, {arch.depth} layers"
            found.append(Reference(name=name, family=proportions.name, arch=arch))
    return tuple(found)


def num_families(space: Members, limits: Budget) -> int:
    """Of how many families there is a reference, behind whichever stem."""
    return sum(
        any(True for stem in _stems(space) for _ in _members(space, limits, proportions, stem))
        for proportions in FAMILIES
    )


def _stems(space: Members) -> list[Stem]:
    return [*dict.fromkeys(stem for layout in space.layouts for stem in layout.stem)]


class _Member(NamedTuple):
    """A member of a space that belongs to a family and is within the limits.

    Attributes:
        row: the member in encoded form.
        layers: how many it has.
        departure: from the family's proportions, whatever the number of layers.
        cost: what it has of the cost that is to be spent.
    """

    row: Ints
    layers: int
    departure: float
    cost: int


def _members(space: Members, limits: Budget, proportions: Proportions, stem: Stem) -> Iterator[_Member]:
    """The members of a family behind a stem."""
    spent = next((limit.metric for limit in limits.limits if limit.metric in ADDITIVE), "macs")
    for number, layout in enumerate(space.layouts):
        if (layout.variant, len(layout.stages)) != (proportions.variant, len(proportions.depths)):
            continue
        entries = [stem, *[proportions.pool] * (len(layout.stages) - 1)]
        if any(entry not in ENTRY.choices(layout, place) for place, entry in enumerate(entries)):
            continue
        depths = [
            one for one in itertools.product(*(stage.depth for stage in layout.stages)) if keeps(proportions, one)
        ]
        widths = [tuple(ratio * first for ratio in proportions.widths) for first in layout.stages[0].embed_dim]
        ratios = set.intersection(*(set(stage.mlp_ratio) for stage in layout.stages))
        made = [
            (depth, width, ratio)
            for depth, width, ratio in itertools.product(depths, widths, sorted(ratios))
            if all(one in stage.embed_dim for one, stage in zip(width, layout.stages, strict=True))
        ]
        if not made:
            continue
        rows = space.encoding.rows(len(made))
        write_stages(rows, np.arange(len(made)), number, _genes(layout, entries, made))
        batch = Batch(space, rows)
        for position in np.flatnonzero(limits.deviation(batch) == 0).tolist():
            depth, _, ratio = made[position]
            departure = _departure(proportions, depth) + abs(math.log(ratio / MLP_RATIO))
            yield _Member(rows[position], sum(depth), departure, int(getattr(batch, spent)[position]))


def _genes(
    layout: Layout, entries: Sequence[Any], made: Sequence[tuple[Sequence[int], Sequence[int], float]]
) -> list[dict[str, Ints]]:
    """Networks without shared maps, given by depths, widths and MLP ratio, as encoded stages by gene."""
    stages = []
    for place, stage in enumerate(layout.stages):
        groups = {depth: GROUPS.encode(stage.groups, (1,) * depth) for depth in stage.depth}
        genes = [
            (
                ENTRY.choices(layout, place).index(entries[place]),
                stage.embed_dim.index(width[place]),
                *groups[depth[place]],
                stage.mlp_ratio.index(ratio),
            )
            for depth, width, ratio in made
        ]
        columns = np.array(genes, dtype=np.int64).T
        names = (*ENTRY.genes, *EMBED_DIM.genes, *GROUPS.genes, *dimensions.MLP_RATIO.genes)
        stages.append(dict(zip(names, columns, strict=True)))
    return stages


def keeps(proportions: Proportions, depths: Sequence[int]) -> bool:
    """Whether networks with these layers in their stages keep the proportions of a family, see `DEPTHS`."""
    return all(
        max(1, math.ceil(DEPTHS[0] * share)) <= depth <= max(1, math.floor(DEPTHS[1] * share))
        for depth, share in zip(depths, _shares(proportions, depths), strict=True)
    )


def _shares(proportions: Proportions, depths: Sequence[int]) -> list[float]:
    """As many layers as there are in all, spread as in the paper."""
    return [sum(depths) * layers / sum(proportions.depths) for layers in proportions.depths]


def _departure(proportions: Proportions, depths: Sequence[int]) -> float:
    """How far the layers of the stages are from the paper's proportions."""
    return sum(abs(math.log(depth / share)) for depth, share in zip(depths, _shares(proportions, depths), strict=True))


def _chosen(members: Sequence[_Member]) -> list[_Member]:
    """Up to two members of a family, the shallower first."""
    if not members:
        return []
    fewest, most = (end(member.layers for member in members) for end in (min, max))
    dearest = max(member.cost for member in members)

    def departure(member: _Member, layers: float) -> float:
        whole = member.departure + abs(math.log(member.layers / layers)) + math.log(dearest / member.cost)
        return round(whole, 9)  # equal departures are computed in different orders

    chosen = []
    for share in (1 / 3, 2 / 3):
        wanted = fewest ** (1 - share) * most**share
        chosen.append(min(members, key=lambda member: departure(member, wanted)))
    shallow, deep = chosen
    if deep.layers >= APART * shallow.layers:
        return chosen
    return [min(chosen, key=lambda member: departure(member, member.layers))]
