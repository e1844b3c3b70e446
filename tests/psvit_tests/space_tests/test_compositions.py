"""Compositions against their enumeration by brute force."""

from __future__ import annotations

import itertools

import pytest

from psvit.space import compositions

CASES = [(total, largest) for total in range(1, 8) for largest in range(1, 8)]


def enumerated(total, largest):
    """All compositions, fewer parts first and then in lexicographic order."""
    return [
        groups
        for parts in range(1, total + 1)
        for groups in itertools.product(range(1, largest + 1), repeat=parts)
        if sum(groups) == total
    ]


@pytest.mark.parametrize(("total", "largest"), CASES)
def test_counts_equal_the_enumeration(total, largest):
    found = enumerated(total, largest)
    assert compositions.size(total, largest) == len(found)
    for parts in range(total + 2):
        assert compositions.count(total, parts, largest) == sum(len(groups) == parts for groups in found)
    by_parts = {}
    for groups in found:
        by_parts[len(groups)] = by_parts.get(len(groups), 0) + 1
    assert compositions.counts(total, largest) == tuple(sorted(by_parts.items()))


@pytest.mark.parametrize(("total", "largest"), CASES)
def test_numbering_follows_parts_and_then_lexicographic_order(total, largest):
    found = enumerated(total, largest)
    assert [compositions.unrank_any(number, total, largest) for number in range(len(found))] == found
    assert [compositions.rank_any(groups, largest) for groups in found] == list(range(len(found)))


@pytest.mark.parametrize(("total", "largest"), CASES)
def test_numbering_among_those_with_equally_many_parts(total, largest):
    for parts, members in itertools.groupby(enumerated(total, largest), key=len):
        for number, groups in enumerate(members):
            assert compositions.unrank(number, total, parts, largest) == groups
            assert compositions.rank(groups, largest) == number


def test_without_a_bound_there_are_two_to_the_power_of_the_borders():
    # Every border between neighbouring layers either separates two groups or does not.
    assert [compositions.size(total, total) for total in range(1, 17)] == [2 ** (total - 1) for total in range(1, 17)]


def test_deep_stages_are_numbered_without_listing_them():
    total, largest = 60, 4
    last = compositions.size(total, largest) - 1
    assert last > 10**15
    assert compositions.unrank_any(0, total, largest) == (4,) * 15
    assert compositions.unrank_any(last, total, largest) == (1,) * 60
    middle = compositions.unrank_any(last // 3, total, largest)
    assert sum(middle) == total
    assert compositions.rank_any(middle, largest) == last // 3


@pytest.mark.parametrize("number", [-1, 4])
def test_a_number_out_of_range_is_not_answered(number):
    with pytest.raises(IndexError):
        compositions.unrank_any(number, 3, 3)
