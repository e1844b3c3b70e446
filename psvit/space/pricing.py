"""Encoded architectures with their costs, by look-ups in tables of what each stage may be.

A stage's share of the costs depends on its choices, on the width before it, and on its grouping only through the number
of groups; so a table of a few hundred to a few thousand rows holds all that one stage can contribute. (The first
stage's activation memory also depends on which groups share a map; a row holds both values that it can take.)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psvit.arch import costs
from psvit.arch.architecture import Architecture, stage_grids
from psvit.arch.operators import STEMS, until_operators_change
from psvit.space import compositions
from psvit.space.dimensions import ENTRY
from psvit.space.encoding import by_layout, stage_genes
from psvit.space.layout import Layout, StageChoices
from psvit.space.listing import check_priceable
from psvit.space.members import Members

Ints = NDArray[np.int64]

CHUNK = 2**15
"""Rows that are priced at once, so that intermediate results stay in the processor's caches."""


class StageTable(NamedTuple):
    """All that one stage of a layout may be, one row for all groupings with equally many groups.

    Costs include the pooling before the stage, the first's the stem, the last's the head.

    Attributes:
        width_in: `embed_dim` of the stage before, 0 for the first, (rows,).
        width_out: the stage's own, (rows,).
        genes: the choices by gene, each (rows,); for `grouping` the number of the first grouping.
        ways: the number of groupings, (rows,).
        cost: the additive costs, (rows, 2).
        peak: bytes of activations, (rows,).
        last_peak: the same with the last of the groupings, which in the first stage may need less, (rows,).
        blocks: the row of the first part, by width before, entry and width, all as positions among the choices.
        parts: the position among the parts of the least number of groups, by depth and MLP ratio.
        runs: how many smaller numbers of groups there are, by depth and number of the grouping.
    """

    width_in: Ints
    width_out: Ints
    genes: dict[str, Ints]
    ways: Ints
    cost: Ints
    peak: Ints
    last_peak: Ints
    blocks: Ints
    parts: Ints
    runs: Ints

    def fitting(self, memory: int | None) -> tuple[Ints, Ints]:
        """Of each row's groupings those that need at most `memory` bytes: the number of the first, and how many."""
        first = self.genes["grouping"]
        if memory is None:
            return first, self.ways
        all_fit = self.peak <= memory
        return (
            np.where(all_fit, first, first + self.ways - 1),
            np.where(all_fit, self.ways, self.last_peak <= memory),
        )

    def locate(self, width_before: Ints, genes: Mapping[str, Ints]) -> Ints:
        """The rows of encoded stages.

        Args:
            width_before: position of the width of the stage before among its choices, 0 where there is none, (n,).
            genes: the encoded stages by gene, each (n,).

        Raises:
            ValueError: a width is less than the one before.
        """
        _, entries, widths = self.blocks.shape
        rows = self.blocks.ravel().take((width_before * entries + genes["entry"]) * widths + genes["embed_dim"])
        if (rows < 0).any():
            raise ValueError("embed_dim never shrinks from stage to stage, but in some rows it does")
        depth = genes["depth"]
        rows += self.parts.ravel().take(depth * self.parts.shape[1] + genes["mlp_ratio"])
        rows += self.runs.ravel().take(depth * self.runs.shape[1] + genes["grouping"])
        return rows


@until_operators_change
@lru_cache(maxsize=32)
def stage_tables(space: Members) -> tuple[tuple[StageTable, ...], ...]:
    """For every layout the tables of its stages.

    Raises:
        InputError: they would take too much memory, see `psvit.space.listing`.
    """
    check_priceable(space)
    return tuple(
        tuple(_stage_table(space, layout, position) for position in range(len(choices.stages)))
        for layout, choices in enumerate(space.layouts)
    )


def _stage_table(space: Members, number: int, place: int) -> StageTable:
    layout = space.layouts[number]
    stages = layout.stages
    choices = stages[place]
    widths_before: tuple[int, ...] = stages[place - 1].embed_dim if place else (0,)
    grids = stage_grids(layout.variant, space.image_size, space.patch_size, space.patch_stride, len(stages))
    tokens = [math.prod(grid) + costs.has_class_token(layout.variant) for grid in grids]

    # A block for the widths and what stands between them; in each of them a part for the rest.
    entries = ENTRY.choices(layout, place)
    blocks, block_genes = _blocks(widths_before, len(entries), choices.embed_dim)
    parts, runs, part_genes = _parts(choices)
    blocks[blocks >= 0] *= len(part_genes)
    before_gene, entry_gene, width_gene = np.repeat(block_genes, len(part_genes), axis=0).T
    depth_gene, mlp_gene, first, groups, ways = np.tile(part_genes, (len(block_genes), 1)).T

    between = [
        costs.pooling(layout.variant, entries[entry], grids[place - 1], widths_before[before], choices.embed_dim[width])
        if place
        else costs.stem(layout.variant, entries[entry], space.patches, space.in_chans, choices.embed_dim[width])
        for before, entry, width in block_genes.tolist()
    ]
    hidden_dims = np.array([[round(width * ratio) for ratio in choices.mlp_ratio] for width in choices.embed_dim])
    d_before, d = np.array(widths_before)[before_gene], np.array(choices.embed_dim)[width_gene]
    n, h = tokens[place], hidden_dims[width_gene, mlp_gene]
    sharers = np.array(choices.depth)[depth_gene] - groups
    cost = np.stack(costs.layers(n, d, h, groups, sharers), axis=1) + np.repeat(between, len(part_genes), axis=0)
    if place == len(stages) - 1:
        cost += np.array([costs.head(width, space.num_classes) for width in choices.embed_dim])[width_gene]

    heads = d // layout.head_dim
    plain, sharing = (costs.group_elements(n, d, h, heads, shares) for shares in (False, True))
    group = np.where(sharers > 0, sharing, plain)
    if place:
        peak = last_peak = group + tokens[place - 1] * d_before
    else:
        # A group after the first has the stage's input beside its own. The last of the groupings is the one with the
        # largest first group; where that can hold all sharers no other shares, and one without needs less even so.
        peak = group + np.where(groups > 1, n * d, 0)
        last_peak = np.where((sharers > 0) & (sharers < choices.max_group), group, peak)
    ends = _ends_elements(space, layout, place, n)[entry_gene, width_gene]
    peak, last_peak = np.maximum(peak, ends), np.maximum(last_peak, ends)
    image = costs.image_elements(space.in_chans, space.image_size)
    return StageTable(
        width_in=d_before,
        width_out=d,
        genes={
            "entry": entry_gene,
            "embed_dim": width_gene,
            "depth": depth_gene,
            "mlp_ratio": mlp_gene,
            "grouping": first,
        },
        ways=ways,
        cost=cost,
        peak=costs.BYTES * (image + peak),
        last_peak=costs.BYTES * (image + last_peak),
        blocks=blocks,
        parts=parts,
        runs=runs,
    )


def _ends_elements(space: Members, layout: Layout, place: int, n: int) -> Ints:
    """The most numbers alive in the stem or the head where they belong to a stage, (entries, widths)."""
    widths = layout.stages[place].embed_dim
    elements = np.zeros((len(ENTRY.choices(layout, place)), len(widths)), dtype=np.int64)
    if place == len(layout.stages) - 1:
        elements[:] = [costs.head_elements(layout.variant, n, width, space.num_classes) for width in widths]
    if place == 0:
        stems = [
            [STEMS[kind].elements(space.patches, space.in_chans, width) for width in widths] for kind in layout.stem
        ]
        elements = np.maximum(elements, stems)
    return elements


def _blocks(widths_before: tuple[int, ...], entries: int, widths: tuple[int, ...]) -> tuple[Ints, Ints]:
    """The possible pairs of widths with what stands between them, and where each of them is.

    Returns:
        By positions of width before, entry and width the block's number, -1 where the width would shrink; and those
        positions of every block, (blocks, 3).
    """
    numbers = np.full((len(widths_before), entries, len(widths)), -1, dtype=np.int64)
    genes = [
        (before, entry, width)
        for width in range(len(widths))
        for before in range(len(widths_before))
        for entry in range(entries)
        if widths_before[before] <= widths[width]
    ]
    for number, gene in enumerate(genes):
        numbers[gene] = number
    return numbers, np.array(genes, dtype=np.int64)


def _parts(choices: StageChoices) -> tuple[Ints, Ints, Ints]:
    """The depths, MLP ratios and numbers of groups of a stage, and where each of them is.

    Returns:
        `parts` and `runs` of a `StageTable`; and for every part the positions of depth and MLP ratio, the number of the
        first grouping, the number of groups and that of groupings, (parts, 5).
    """
    groupings = max(compositions.size(depth, choices.max_group) for depth in choices.depth)
    parts = np.zeros((len(choices.depth), len(choices.mlp_ratio)), dtype=np.int64)
    runs = np.zeros((len(choices.depth), groupings), dtype=np.int64)
    genes: list[tuple[int, int, int, int, int]] = []
    for depth_gene, depth in enumerate(choices.depth):
        counts = compositions.counts(depth, choices.max_group)
        ends = list(itertools.accumulate(number for _, number in counts))
        runs[depth_gene, : ends[-1]] = np.repeat(np.arange(len(counts)), [number for _, number in counts])
        for mlp_gene in range(len(choices.mlp_ratio)):
            parts[depth_gene, mlp_gene] = len(genes)
            genes += [
                (depth_gene, mlp_gene, end - number, groups, number)
                for end, (groups, number) in zip(ends, counts, strict=True)
            ]
    return parts, runs, np.array(genes, dtype=np.int64)


class Batch:
    """Members of a space in encoded form with their costs; indexing decodes one.

    Attributes:
        space: the space, in which alone the rows mean these architectures.
        rows: encoded architectures, (n, genes).
        macs: multiply-accumulates, (n,).
        num_params: parameters, (n,).
        activation_bytes: peak activation memory, (n,).
    """

    def __init__(self, space: Members, rows: Ints) -> None:
        self.space = space
        self.rows = rows
        self.macs, self.num_params, self.activation_bytes = price(space, rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> Architecture:
        return self.space.decode(self.rows[position])

    def __iter__(self) -> Iterator[Architecture]:
        return (self[position] for position in range(len(self)))


def price(space: Members, rows: Ints) -> Ints:
    """The costs of members in encoded form.

    Args:
        space: their space.
        rows: as `Members.encode` gives them, (n, genes).

    Returns:
        The costs in the order of `METRICS`, (costs, n).

    Raises:
        ValueError: a row encodes a network whose width shrinks.
    """
    total = np.empty((len(costs.METRICS), len(rows)), dtype=np.int64)
    for start in range(0, len(rows), CHUNK):
        chunk = slice(start, start + CHUNK)
        if len(space.layouts) == 1:
            total[:, chunk] = _price(stage_tables(space)[0], rows[chunk].T)
            continue
        for layout, mine in by_layout(rows[chunk], len(space.layouts)):
            total[:, start + mine] = _price(stage_tables(space)[layout], rows[start + mine].T)
    return total


def _price(tables: tuple[StageTable, ...], rows: Ints) -> Ints:
    """The costs (costs, n) of members of one layout, encoded (genes, n)."""
    rows = np.ascontiguousarray(rows)
    total = np.zeros((len(costs.METRICS), rows.shape[1]), dtype=np.int64)
    width = np.zeros(rows.shape[1], dtype=np.int64)
    for place, table in enumerate(tables):
        genes = stage_genes(rows, place)
        found = table.locate(width, genes)
        total[0] += table.cost[:, 0].take(found)
        total[1] += table.cost[:, 1].take(found)
        is_last = genes["grouping"] == (table.genes["grouping"] + table.ways - 1).take(found)
        peak = np.where(is_last, table.last_peak.take(found), table.peak.take(found))
        np.maximum(total[2], peak, out=total[2])
        width = genes["embed_dim"]
    return total
