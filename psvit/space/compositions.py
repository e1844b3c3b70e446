"""Compositions: the ways to write a stage's depth as an ordered sum of attention groups.

A stage of `total` layers whose groups hold at most `largest` layers has one grouping for every composition of `total`
with parts of at most `largest`. They are counted, numbered and drawn here; the numbering puts compositions with fewer
parts first, and those with equally many in lexicographic order, because a stage's cost depends on a grouping only
through its number of parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np


@cache
def count(total: int, parts: int, largest: int) -> int:
    """Number of compositions of `total` into exactly `parts` parts of 1 to `largest`."""
    if parts == 0:
        return int(total == 0)
    return sum(count(total - first, parts - 1, largest) for first in range(1, min(largest, total) + 1))


@cache
def counts(total: int, largest: int) -> tuple[tuple[int, int], ...]:
    """Pairs (parts, number of compositions) for every possible number of parts, ascending."""
    fewest = -(-total // largest)
    return tuple((parts, count(total, parts, largest)) for parts in range(fewest, total + 1))


@cache
def size(total: int, largest: int) -> int:
    """Number of compositions of `total` into parts of at most `largest`."""
    return sum(number for _, number in counts(total, largest))


def unrank(rank: int, total: int, parts: int, largest: int) -> tuple[int, ...]:
    """The composition with this number among those with exactly `parts` parts, 0 <= rank < count(...)."""
    assert 0 <= rank < count(total, parts, largest)
    chosen: list[int] = []
    for remaining in range(parts, 0, -1):
        for first in range(1, largest + 1):
            here = count(total - first, remaining - 1, largest)
            if rank < here:
                chosen.append(first)
                total -= first
                break
            rank -= here
    return tuple(chosen)


def rank(composition: tuple[int, ...], largest: int) -> int:
    """The number of a composition among those with as many parts; the inverse of `unrank`."""
    number, total = 0, sum(composition)
    for position, part in enumerate(composition):
        remaining = len(composition) - position - 1
        number += sum(count(total - first, remaining, largest) for first in range(1, part))
        total -= part
    return number


def unrank_any(rank: int, total: int, largest: int) -> tuple[int, ...]:
    """The composition with this number among all of them; an `IndexError` if there are fewer."""
    for parts, number in counts(total, largest):
        if 0 <= rank < number:
            return unrank(rank, total, parts, largest)
        rank -= number
    raise IndexError("rank out of range")


def rank_any(composition: tuple[int, ...], largest: int) -> int:
    """The number of a composition among all with its total; the inverse of `unrank_any`."""
    fewer = sum(number for parts, number in counts(sum(composition), largest) if parts < len(composition))
    return fewer + rank(composition, largest)


class Groupings:
    """All attention groupings that a stage may have, the shallowest first; made one by one when they are asked for.

    They are a sequence in all but `len`, which Python limits to 2**63 - 1.

    Args:
        depths: numbers of layers, ascending.
        max_group: most layers of a group.
    """

    def __init__(self, depths: Sequence[int], max_group: int) -> None:
        self.depths = tuple(depths)
        self.max_group = max_group
        self.size = sum(size(depth, max_group) for depth in depths)

    def __contains__(self, groups: object) -> bool:
        return isinstance(groups, tuple) and sum(groups) in self.depths and max(groups) <= self.max_group

    def __getitem__(self, number: int) -> tuple[int, ...]:
        for depth in self.depths:
            here = size(depth, self.max_group)
            if number < here:
                return unrank_any(number, depth, self.max_group)
            number -= here
        raise IndexError("number out of range")

    def index(self, groups: tuple[int, ...]) -> int:
        """The number of a grouping; the inverse of indexing."""
        shallower = (depth for depth in self.depths if depth < sum(groups))
        return sum(size(depth, self.max_group) for depth in shallower) + rank_any(groups, self.max_group)

    def draw(self, rng: np.random.Generator) -> tuple[int, ...]:
        """A depth drawn uniformly, then a grouping of it drawn uniformly."""
        depth = self.depths[int(rng.integers(len(self.depths)))]
        return unrank_any(int(rng.integers(size(depth, self.max_group))), depth, self.max_group)
