"""The part of a search space that a budget leaves: counted exactly, sampled exactly uniformly, never by rejection.

MACs and parameters add up over stages and poolings, and a stage's share depends on its grouping only through the
number of groups. So each layout is cut into two halves whose possible costs are listed (a few thousand rows, each
standing for many groupings), with the width at the cut as the only thing the halves must agree on. For a row of the
first half, the rows of the second that keep the sum within the limits form a rectangle in (MACs, parameters); a
merge-sort tree counts them and picks the t-th. Counting is then a sum, and drawing a member is drawing one integer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psvit import compositions, costs
from psvit.architecture import Architecture, stage_grids
from psvit.budget import Budget
from psvit.search_space import GENES_PER_STAGE, SearchSpace

Ints = NDArray[np.int64]

_UNLIMITED = 2**62
_PARTS = len(GENES_PER_STAGE) - 1
"""In a row's genes the grouping's place holds its number of groups, until one of that many is drawn."""


class Batch:
    """Members of a space in encoded form with their costs; indexing decodes one.

    Attributes:
        rows: encoded architectures, (n, genes).
        macs: multiply-accumulates, (n,).
        num_params: parameters, (n,).
    """

    def __init__(self, space: SearchSpace, rows: Ints, cost: Ints) -> None:
        self._space = space
        self.rows = rows
        self.macs, self.num_params = cost.T

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> Architecture:
        return self._space.decode(self.rows[position])

    def __iter__(self) -> Iterator[Architecture]:
        return (self[position] for position in range(len(self)))


class _Half(NamedTuple):
    """The possible choices of some neighbouring stages, one row for all groupings with equally many groups.

    Attributes:
        width_in: `embed_dim` of the stage before, 0 where there is none, (rows,).
        width_out: `embed_dim` of the last of these stages, (rows,).
        cost: MACs and parameters, poolings before these stages included, (rows, 2).
        ways: number of architectures' parts that a row stands for, (rows,).
        genes: the choices, (rows, stages, genes per stage).
    """

    width_in: Ints
    width_out: Ints
    cost: Ints
    ways: Ints
    genes: Ints

    def take(self, rows: NDArray[np.bool_] | Ints) -> _Half:
        """Some of the rows."""
        return _Half(*(column[rows] for column in self))


def _stage_rows(space: SearchSpace, layout: int, position: int) -> _Half:
    """All choices of one stage, with the pooling before it, the stem before the first and the head after the last."""
    stages = space.layouts[layout].stages
    choices = stages[position]
    grids = stage_grids(space.variant, space.image_size, space.patch_size, space.patch_stride, len(stages))
    patches = math.prod(grids[position])
    tokens = patches + costs.has_class_token(space.variant)
    pools = space.layouts[layout].pools[position - 1] if position else ()

    # What depends on depth, grouping and MLP only, for one width.
    parts = [
        (depth, mlp_ratio, groups, number)
        for depth in range(len(choices.depth))
        for mlp_ratio in range(len(choices.mlp_ratio))
        for groups, number in compositions.counts(choices.depth[depth], choices.max_group)
    ]
    depth_gene, mlp_gene, groups, ways = np.array(parts, dtype=np.int64).T
    depths = np.array(choices.depth, dtype=np.int64)[depth_gene]
    halves = []
    for width_gene, width in enumerate(choices.embed_dim):
        hidden = np.array([round(width * ratio) for ratio in choices.mlp_ratio], dtype=np.int64)[mlp_gene]
        layers = np.stack(costs.layers(tokens, width, hidden, groups, depths - groups), axis=1)
        if position == len(stages) - 1:
            layers = layers + costs.head(width, space.num_classes)
        entries: list[tuple[int, int, costs.Terms]]
        if position == 0:
            entries = [(0, 0, costs.stem(space.variant, patches, space.in_chans, space.patch_size, width))]
        else:
            entries = [
                (before, gene, costs.pooling(space.variant, pool, patches, before, width))
                for before in stages[position - 1].embed_dim
                if before <= width
                for gene, pool in enumerate(pools)
            ]
        for before, pool_gene, terms in entries:
            n = len(ways)
            genes = np.stack(
                [np.full(n, pool_gene), np.full(n, width_gene), depth_gene, mlp_gene, groups], axis=1, dtype=np.int64
            )
            halves.append(
                _Half(np.full(n, before), np.full(n, width), layers + np.array(terms), ways, genes[:, None, :])
            )
    return _Half(*(np.concatenate(columns) for columns in zip(*halves, strict=True)))


def _join(first: _Half, second: _Half) -> _Half:
    """All pairs of rows that agree on the width between them."""
    pairs = [
        [array.ravel() for array in np.meshgrid(ends, begins, indexing="ij")]
        for width in np.unique(first.width_out)
        for ends in [np.flatnonzero(first.width_out == width)]
        for begins in [np.flatnonzero(second.width_in == width)]
    ]
    a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return _Half(
        first.width_in[a],
        second.width_out[b],
        first.cost[a] + second.cost[b],
        first.ways[a] * second.ways[b],
        np.concatenate([first.genes[a], second.genes[b]], axis=1),
    )


class _RectangleTree:
    """Weighted points in (MACs, parameters), counted and picked inside rectangles: a merge-sort tree.

    Level k cuts the points, sorted by MACs, into blocks of 2**k, each sorted by parameters. A range of the first
    order is a union of at most two blocks a level, and within a block the second limits are found by bisection. One
    key per level, block number times the number of points plus rank, lets NumPy bisect all blocks in one call.
    """

    def __init__(self, cost: Ints, ways: Ints) -> None:
        order = np.argsort(cost[:, 0], kind="stable")
        self._macs = cost[order, 0]
        params = cost[order, 1]
        self._params = np.sort(params)
        rank = np.searchsorted(self._params, params)
        self._stride = len(order) + 1
        self._levels = []
        for level in range(max(1, (len(order) - 1).bit_length() + 1)):
            key = (np.arange(len(order)) >> level) * self._stride + rank
            within = np.argsort(key, kind="stable")
            before = np.concatenate([[0], np.cumsum(ways[order[within]])])
            self._levels.append((key[within], before, order[within]))

    def _blocks(self, lower: Ints, upper: Ints) -> Iterator[tuple[int, Ints, Ints, Ints]]:
        """The blocks that make up each query's rectangle, as (level, queries, weight before, weight up to its end).

        Args:
            lower: least MACs and parameters, (queries, 2), inclusive.
            upper: greatest ones, (queries, 2), inclusive.
        """
        start = np.searchsorted(self._macs, lower[:, 0], side="left")
        stop = np.searchsorted(self._macs, upper[:, 0], side="right")
        least = np.searchsorted(self._params, lower[:, 1], side="left")
        beyond = np.searchsorted(self._params, upper[:, 1], side="right")
        # Nearly all searches limit MACs alone: then a range of the finest level is the whole answer.
        if not least.any() and (beyond == len(self._params)).all():
            before = self._levels[0][1]
            yield 0, np.arange(len(start)), before[start], before[np.maximum(start, stop)]
            return
        for level, (keys, before, _) in enumerate(self._levels):

            def span(queries: Ints, blocks: Ints, keys: Ints = keys, before: Ints = before) -> tuple[Ints, Ints]:
                low = np.searchsorted(keys, blocks * self._stride + least[queries])
                high = np.searchsorted(keys, blocks * self._stride + beyond[queries])
                return before[low], before[np.maximum(low, high)]

            # A block whose neighbour lies outside cannot be part of a larger one, so it is taken at this level.
            queries = np.flatnonzero((start < stop) & (start & 1 == 1))
            yield level, queries, *span(queries, start[queries])
            start[queries] += 1
            queries = np.flatnonzero((start < stop) & (stop & 1 == 1))
            stop[queries] -= 1
            yield level, queries, *span(queries, stop[queries])
            start >>= 1
            stop >>= 1

    def count(self, lower: Ints, upper: Ints) -> Ints:
        """The weight inside each rectangle, (queries,)."""
        total = np.zeros(len(lower), dtype=np.int64)
        for _, queries, low, high in self._blocks(lower, upper):
            total[queries] += high - low
        return total

    def pick(self, lower: Ints, upper: Ints, number: Ints) -> tuple[Ints, Ints]:
        """The point that holds the `number`-th unit of weight inside each rectangle, and the rest within the point."""
        point = np.full(len(lower), -1, dtype=np.int64)
        rest = number.copy()
        for level, queries, low, high in self._blocks(lower, upper):
            here = (point[queries] < 0) & (rest[queries] < high - low)
            found, passed = queries[here], queries[~here & (point[queries] < 0)]
            _, before, order = self._levels[level]
            target = low[here] + rest[found]
            position = np.searchsorted(before, target, side="right") - 1
            point[found] = order[position]
            rest[found] = target - before[position]
            rest[passed] -= (high - low)[~here & (point[queries] < 0)]
        assert (point >= 0).all()
        return point, rest


class _Part(NamedTuple):
    """All networks of one layout with one width at the cut."""

    layout: int
    first: _Half
    second: _Half
    tree: _RectangleTree


@lru_cache(maxsize=32)
def reach(space: SearchSpace) -> dict[str, tuple[int, int]]:
    """The smallest and the largest value of every cost in a space, stage by stage without joining any rows."""
    found: dict[str, tuple[int, int]] = {}
    for layout, choices in enumerate(space.layouts):
        # By width at the end so far: least and greatest costs of all ways to get there.
        least, greatest = (
            {0: np.zeros(len(costs.METRICS), dtype=np.int64)},
            {0: np.zeros(len(costs.METRICS), dtype=np.int64)},
        )
        for position in range(len(choices.stages)):
            rows = _stage_rows(space, layout, position)
            ends: dict[int, list[tuple[Ints, Ints]]] = {}
            for width_in, width_out in {*zip(rows.width_in.tolist(), rows.width_out.tolist(), strict=True)}:
                cost = rows.cost[(rows.width_in == width_in) & (rows.width_out == width_out)]
                pair = (least[width_in] + cost.min(axis=0), greatest[width_in] + cost.max(axis=0))
                ends.setdefault(width_out, []).append(pair)
            least = {width: np.min([low for low, _ in pairs], axis=0) for width, pairs in ends.items()}
            greatest = {width: np.max([high for _, high in pairs], axis=0) for width, pairs in ends.items()}
        for index, metric in enumerate(costs.METRICS):
            low = int(min(cost[index] for cost in least.values()))
            high = int(max(cost[index] for cost in greatest.values()))
            known = found.get(metric, (low, high))
            found[metric] = (min(low, known[0]), max(high, known[1]))
    return found


@lru_cache(maxsize=8)
def _parts(space: SearchSpace) -> tuple[_Part, ...]:
    """The halves of every layout; they do not depend on the budget."""
    parts = []
    for layout, choices in enumerate(space.layouts):
        rows = [_stage_rows(space, layout, position) for position in range(len(choices.stages))]
        cut = -(-len(rows) // 2)
        first = rows[0]
        for half in rows[1:cut]:
            first = _join(first, half)
        second = _nothing(choices.stages[-1].embed_dim)
        for position, half in enumerate(rows[cut:]):
            second = half if position == 0 else _join(second, half)
        for width in np.unique(first.width_out):
            ends, begins = first.take(first.width_out == width), second.take(second.width_in == width)
            parts.append(_Part(layout, ends, begins, _RectangleTree(begins.cost, begins.ways)))
    return tuple(parts)


def _nothing(widths: tuple[int, ...]) -> _Half:
    """The second half of a layout of one stage: no choices, no cost."""
    n = len(widths)
    width = np.array(widths, dtype=np.int64)
    genes = np.zeros((n, 0, len(GENES_PER_STAGE)), dtype=np.int64)
    return _Half(width, width, np.zeros((n, 2), dtype=np.int64), np.ones(n, dtype=np.int64), genes)


class FeasibleSet:
    """The members of a space within a budget.

    Attributes:
        count: how many there are, exact.
    """

    def __init__(self, space: SearchSpace, budget: Budget) -> None:
        self._space = space
        limits = [budget.limit(metric) for metric in costs.METRICS]
        self._lower = np.array(
            [min((limit.lower or 0) if limit else 0, _UNLIMITED) for limit in limits], dtype=np.int64
        )
        self._upper = np.array(
            [min(limit.upper, _UNLIMITED) if limit else _UNLIMITED for limit in limits], dtype=np.int64
        )
        self._completions = [part.tree.count(*self._limits(part.first.cost)) for part in _parts(space)]
        weights = [part.first.ways * n for part, n in zip(_parts(space), self._completions, strict=True)]
        self._before = [np.concatenate([[0], np.cumsum(weight)]) for weight in weights]
        totals = [int(before[-1]) for before in self._before]
        self._parts_before = np.array([0, *itertools.accumulate(totals)], dtype=np.int64)
        self.count = sum(totals)

    def _limits(self, spent: Ints) -> tuple[Ints, Ints]:
        """What the second half may cost when the first has cost this much."""
        return self._lower - spent, self._upper - spent

    def sample(self, rng: np.random.Generator, n: int) -> Batch:
        """Draw `n` members exactly uniformly, with replacement; there must be one."""
        return self.take(rng.integers(self.count, size=n))

    def take(self, numbers: Ints) -> Batch:
        """The members with these numbers, each 0 <= number < count; every member has exactly one."""
        slots = max(len(layout.stages) for layout in self._space.layouts)
        rows = np.zeros((len(numbers), 1 + slots * len(GENES_PER_STAGE)), dtype=np.int64)
        cost = np.zeros((len(numbers), len(costs.METRICS)), dtype=np.int64)
        owner = np.searchsorted(self._parts_before, numbers, side="right") - 1
        for index, part in enumerate(_parts(self._space)):
            mine = np.flatnonzero(owner == index)
            if not len(mine):
                continue
            number = numbers[mine] - self._parts_before[index]
            a = np.searchsorted(self._before[index], number, side="right") - 1
            way, number = np.divmod(number - self._before[index][a], self._completions[index][a])
            b, way_b = part.tree.pick(*self._limits(part.first.cost[a]), number)
            genes = np.concatenate(
                [
                    self._with_groupings(part.layout, 0, part.first.genes[a], way),
                    self._with_groupings(part.layout, part.first.genes.shape[1], part.second.genes[b], way_b),
                ],
                axis=1,
            ).reshape(len(mine), -1)
            rows[mine, 0] = part.layout
            rows[mine, 1 : 1 + genes.shape[1]] = genes
            cost[mine] = part.first.cost[a] + part.second.cost[b]
        return Batch(self._space, rows, cost)

    def _with_groupings(self, layout: int, position: int, genes: Ints, way: Ints) -> Ints:
        """Replace numbers of groups by numbers of groupings: the `way`-th choice of one for every stage."""
        genes = genes.copy()
        for offset in range(genes.shape[1]):
            stage = self._space.layouts[layout].stages[position + offset]
            ways, fewer = _grouping_tables(stage.depth, stage.max_group)
            depth, parts = genes[:, offset, 2], genes[:, offset, _PARTS]
            way, here = np.divmod(way, ways[depth, parts])
            genes[:, offset, _PARTS] = fewer[depth, parts] + here
        return genes


@lru_cache
def _grouping_tables(depths: tuple[int, ...], max_group: int) -> tuple[Ints, Ints]:
    """For every depth choice and number of groups: how many groupings have it, and how many have fewer groups."""
    ways = np.zeros((len(depths), max(depths) + 1), dtype=np.int64)
    for gene, depth in enumerate(depths):
        for parts, number in compositions.counts(depth, max_group):
            ways[gene, parts] = number
    fewer = np.cumsum(ways, axis=1) - ways
    return ways, fewer


@lru_cache(maxsize=32)
def feasible_set(space: SearchSpace, budget: Budget) -> FeasibleSet:
    """The members of `space` within `budget`; kept, because searches ask again and again."""
    return FeasibleSet(space, budget)
