"""The part of a search space that a budget leaves: counted exactly, sampled exactly uniformly, never by rejection.

MACs and parameters add up over stages and poolings, and a stage's share depends on its grouping only through the
number of groups. So each layout is cut into two halves whose possible costs are listed (up to a million rows, each
standing for many groupings), with the width at the cut as the only thing the halves must agree on. For a row of the
first half, the rows of the second that keep the sum within the limits form a rectangle in (MACs, parameters); a
merge-sort tree counts them and picks the t-th. Counting is then a sum, and drawing a member is drawing one integer.

Activation memory is a maximum over the stages, so a limit on it leaves each stage those groupings that keep it by
themselves: the halves stay as they are, and their rows stand for fewer groupings, or for none.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psvit.arch import costs
from psvit.arch.architecture import Architecture
from psvit.arch.operators import until_operators_change
from psvit.space.budget import Budget
from psvit.space.encoding import write_stages
from psvit.space.listing import check_countable
from psvit.space.members import Members
from psvit.space.pricing import Batch, Ints, StageTable, stage_tables

_UNLIMITED = 2**62

CHUNK = 2**18
"""First halves that are looked at together."""

FEW = 4096
"""Members that are compared one by one when the nearest to a budget is looked for."""


class _Half(NamedTuple):
    """The possible choices of some neighbouring stages that agree on the widths between them.

    Attributes:
        rows: of the stages' tables, (n, stages).
        cost: the additive costs, (n, 2).
    """

    rows: Ints
    cost: Ints

    def take(self, chosen: NDArray[np.bool_] | Ints) -> _Half:
        """Some of the choices."""
        return _Half(self.rows[chosen], self.cost[chosen])

    def ways(self, ways: Sequence[Ints]) -> Ints:
        """The number of groupings that each choice stands for, from that of each row of the stages' tables, (n,)."""
        total = np.ones(len(self.rows), dtype=np.int64)
        for column, of_stage in zip(self.rows.T, ways, strict=True):
            total *= of_stage.take(column)
        return total


def _chains(tables: Sequence[StageTable]) -> _Half:
    """All choices for neighbouring stages; for no stages one choice, of nothing."""
    if not tables:
        return _Half(np.zeros((1, 0), dtype=np.int64), np.zeros((1, len(costs.ADDITIVE)), dtype=np.int64))
    half = _Half(np.arange(len(tables[0].cost))[:, None], tables[0].cost)
    for before, table in itertools.pairwise(tables):
        width_out = before.width_out[half.rows[:, -1]]
        pairs = [
            [array.ravel() for array in np.meshgrid(ends, begins, indexing="ij")]
            for width in np.unique(width_out)
            for ends in [np.flatnonzero(width_out == width)]
            for begins in [np.flatnonzero(table.width_in == width)]
        ]
        a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
        half = _Half(np.concatenate([half.rows[a], b[:, None]], axis=1), half.cost[a] + table.cost[b])
    return half


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
        self._order, self._rank, self._ways = order, rank, ways
        self._made: list[tuple[Ints, Ints, Ints]] = []

    def _level(self, level: int) -> tuple[Ints, Ints, Ints]:
        """The keys, weights before and points of a level, made when they are asked for: most searches need one."""
        order = self._order
        while len(self._made) <= level:
            key = (np.arange(len(order)) >> len(self._made)) * self._stride + self._rank
            within = np.argsort(key, kind="stable")
            before = np.concatenate([[0], np.cumsum(self._ways[order[within]])])
            self._made.append((key[within], before, order[within]))
        return self._made[level]

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
            before = self._level(0)[1]
            yield 0, np.arange(len(start)), before[start], before[np.maximum(start, stop)]
            return
        for level in range(max(1, (len(self._order) - 1).bit_length() + 1)):
            keys, before, _ = self._level(level)

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
            _, before, order = self._level(level)
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


@until_operators_change
@lru_cache(maxsize=8)
def _parts(space: Members) -> tuple[_Part, ...]:
    """The halves of every layout; they do not depend on the budget."""
    parts = []
    for layout, tables in enumerate(stage_tables(space)):
        cut = -(-len(tables) // 2)
        first, second = _chains(tables[:cut]), _chains(tables[cut:])
        ends = tables[cut - 1].width_out[first.rows[:, -1]]
        for width in np.unique(ends):
            begins = tables[cut].width_in[second.rows[:, 0]] if cut < len(tables) else np.full(1, width)
            parts.append(_Part(layout, first.take(ends == width), second.take(begins == width)))
    return tuple(parts)


@until_operators_change
@lru_cache(maxsize=32)
def reach(space: Members) -> dict[str, tuple[int, int]]:
    """The smallest and the largest value of every cost in a space, stage by stage without joining any rows."""
    ends = []
    for tables in stage_tables(space):
        # By width at the end so far: least and greatest costs of all ways to get there.
        least = greatest = {0: np.zeros(len(costs.METRICS), dtype=np.int64)}
        for table in tables:
            low = np.column_stack([table.cost, np.minimum(table.peak, table.last_peak)])
            high = np.column_stack([table.cost, np.maximum(table.peak, table.last_peak)])
            least, greatest = _extended(least, table, low, np.min), _extended(greatest, table, high, np.max)
        ends.append((np.min([*least.values()], axis=0), np.max([*greatest.values()], axis=0)))
    lows, highs = zip(*ends, strict=True)
    return {
        metric: (int(min(low[index] for low in lows)), int(max(high[index] for high in highs)))
        for index, metric in enumerate(costs.METRICS)
    }


def _extended(reached: dict[int, Ints], table: StageTable, cost: Ints, extreme: Callable[..., Ints]) -> dict[int, Ints]:
    """The least or greatest costs by width after one more stage."""
    found: dict[int, list[Ints]] = {}
    for before, after in {*zip(table.width_in.tolist(), table.width_out.tolist(), strict=True)}:
        here = extreme(cost[(table.width_in == before) & (table.width_out == after)], axis=0)
        both = reached[before] + here
        both[-1] = max(reached[before][-1], here[-1])  # memory does not add up
        found.setdefault(after, []).append(both)
    return {width: extreme(choices, axis=0) for width, choices in found.items()}


class _Slice(NamedTuple):
    """What a budget leaves of a part.

    Attributes:
        first: choices of the first half that can be completed, (n,).
        completions: the number of ways to complete each, (n,).
        before: the number of networks before each, and of all, (n + 1,).
        second: choices of the second half, in the order of the tree's points.
        tree: of the costs of the second half's choices.
    """

    first: Ints
    completions: Ints
    before: Ints
    second: Ints
    tree: _RectangleTree


class FeasibleSet:
    """The members of a space within a budget's limits on costs.

    Args:
        space: the space.
        budget: the limits.
        within: a set that is known to contain this one; what it lacks is not looked at.

    Raises:
        InputError: counting would take too much memory, see `psvit.space.listing`.

    Attributes:
        count: how many members there are, exact.
    """

    def __init__(self, space: Members, budget: Budget, within: FeasibleSet | None = None) -> None:
        self._space = space
        check_countable(space, sorts_params=budget.limit("num_params") is not None)
        limits = [budget.limit(metric) for metric in costs.ADDITIVE]
        self._lower = np.array(
            [min((limit.lower or 0) if limit else 0, _UNLIMITED) for limit in limits], dtype=np.int64
        )
        self._upper = np.array(
            [min(limit.upper, _UNLIMITED) if limit else _UNLIMITED for limit in limits], dtype=np.int64
        )
        memory = budget.limit("activation_bytes")
        self._fitting = [
            [table.fitting(memory.upper if memory else None) for table in tables] for tables in stage_tables(space)
        ]
        self._slices: list[_Slice] = [
            self._slice(part, within._slices[index].first if within else np.arange(len(part.first.cost)))
            for index, part in enumerate(_parts(space))
        ]
        totals = [int(piece.before[-1]) for piece in self._slices]
        self._before = np.array([0, *itertools.accumulate(totals)], dtype=np.int64)
        self.count = sum(totals)

    def _slice(self, part: _Part, first: Ints) -> _Slice:
        """What the budget leaves of a part, looking at some choices of the first half only."""
        ways = [number for _, number in self._fitting[part.layout]]
        cut = part.first.rows.shape[1]
        second = np.flatnonzero(part.second.ways(ways[cut:]))
        cost = part.second.cost[second]
        if len(second):
            # Most limits are met by few first halves even with the best of all second halves.
            spent = part.first.cost[first]
            possible = (spent + cost.min(axis=0) <= self._upper) & (spent + cost.max(axis=0) >= self._lower)
            first = first[possible.all(axis=1)]
        else:
            first = first[:0]
        tree = _RectangleTree(cost, part.second.take(second).ways(ways[cut:]))
        # In chunks, so that what is needed meanwhile does not grow with the space.
        starts = range(0, max(1, len(first)), CHUNK)
        completions = np.concatenate(
            [tree.count(*self._limits(part.first.cost[first[start : start + CHUNK]])) for start in starts]
        )
        weights = completions * part.first.take(first).ways(ways[:cut])
        kept = np.flatnonzero(weights)
        before = np.concatenate([[0], np.cumsum(weights[kept])])
        return _Slice(first[kept], completions[kept], before, second, tree)

    def _limits(self, spent: Ints) -> tuple[Ints, Ints]:
        """What the second half may cost when the first has cost this much."""
        return self._lower - spent, self._upper - spent

    def sample(self, rng: np.random.Generator, n: int) -> Batch:
        """Draw `n` members exactly uniformly, with replacement; there must be one."""
        return self.take(rng.integers(self.count, size=n))

    def take(self, numbers: Ints) -> Batch:
        """The members with these numbers, each 0 <= number < count; every member has exactly one."""
        rows = self._space.encoding.rows(len(numbers))
        owner = np.searchsorted(self._before, numbers, side="right") - 1
        for index, (part, piece) in enumerate(zip(_parts(self._space), self._slices, strict=True)):
            mine = np.flatnonzero(owner == index)
            if not len(mine):
                continue
            number = numbers[mine] - self._before[index]
            a = np.searchsorted(piece.before, number, side="right") - 1
            way, number = np.divmod(number - piece.before[a], piece.completions[a])
            first = part.first.take(piece.first[a])
            b, way_second = piece.tree.pick(*self._limits(first.cost), number)
            second = part.second.take(piece.second[b])
            cut = first.rows.shape[1]
            stages = [
                *self._stages(part.layout, 0, first.rows, way),
                *self._stages(part.layout, cut, second.rows, way_second),
            ]
            write_stages(rows, mine, part.layout, stages)
        return Batch(self._space, rows)

    def _stages(self, layout: int, place: int, rows: Ints, way: Ints) -> list[dict[str, Ints]]:
        """Encoded stages by gene: rows of their tables (n, stages), with the `way`-th choice of their groupings."""
        stages = []
        for offset, row in enumerate(rows.T):
            first, ways = self._fitting[layout][place + offset]
            genes = {
                gene: column[row] for gene, column in stage_tables(self._space)[layout][place + offset].genes.items()
            }
            way, here = np.divmod(way, ways[row])
            stages.append({**genes, "grouping": first[row] + here})
        return stages


@until_operators_change
@lru_cache(maxsize=8)
def feasible_set(space: Members, budget: Budget) -> FeasibleSet:
    """The members of `space` within `budget`; kept, because searches ask again and again."""
    return FeasibleSet(space, budget)


def nearest(space: Members, budget: Budget) -> Architecture:
    """A member that deviates least from a budget: one within it, or the first within it when it is relaxed.

    By how much it has to be is found by bisection over exact counts, each of which looks only at what the one before
    has left.
    """
    within = feasible_set(space, budget)
    if within.count:
        return within.take(np.zeros(1, dtype=np.int64))[0]
    numbers = np.random.default_rng(0).integers(space.size, size=256)
    some = [space.smallest, space.largest, *(space[int(number)] for number in numbers)]
    best = min(some, key=lambda arch: float(budget.deviation(costs.cost(arch))))
    least = float(budget.deviation(costs.cost(best)))
    # The least deviation of all is more than `low` and at most `high`.
    low, high = 0.0, least
    left = FeasibleSet(space, budget.relaxed(high))
    while left.count > FEW and high - low > 1e-12 * high:
        middle = (low + high) / 2
        tighter = FeasibleSet(space, budget.relaxed(middle), within=left)
        if not tighter.count:
            low = middle
            continue
        left = tighter
        # Some of what is left may deviate much less than what was asked for.
        members = left.take(np.linspace(0, left.count - 1, FEW).astype(np.int64))
        deviations = budget.deviation(members)
        if deviations.min() < least:
            best, least = members[int(deviations.argmin())], float(deviations.min())
        high = min(middle, least)
    if left.count <= FEW:
        members = left.take(np.arange(left.count))
        best = members[int(budget.deviation(members).argmin())]
    return best
