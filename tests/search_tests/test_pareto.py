"""Ranking by several objectives, against definitions written out and numbers made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psvit.search.pareto import crowding, front, hypervolume, hypervolumes, ordered, ranks

POINTS = st.integers(1, 3).flatmap(
    lambda objectives: st.lists(
        # Few values, so that there are ties in one objective and in all.
        st.tuples(*[st.integers(0, 5).map(float)] * objectives),
        min_size=1,
        max_size=14,
    )
)


def better(one, other):
    """Whether one point is nowhere worse and somewhere better."""
    return all(a >= b for a, b in zip(one, other, strict=True)) and one != other


def fronts(points):
    """The front of every point, by taking away one front after another."""
    found, left, number = {}, set(range(len(points))), 0
    while left:
        first = {i for i in left if not any(better(points[j], points[i]) for j in left)}
        found |= dict.fromkeys(first, number)
        left -= first
        number += 1
    return [found[i] for i in range(len(points))]


@given(POINTS)
def test_ranks_are_what_is_left_when_better_fronts_are_taken_away(points):
    assert ranks(np.array(points)).tolist() == fronts(points)


@given(POINTS)
def test_the_front_is_what_nothing_is_better_than_each_point_once(points):
    found = front(np.array(points)).tolist()
    true = {point for point in points if not any(better(other, point) for other in points)}
    assert {points[i] for i in found} == true
    assert len(found) == len(true)
    assert all(points.index(points[i]) == i for i in found)  # of equal ones the first
    assert [points[i][0] for i in found] == sorted((points[i][0] for i in found), reverse=True)


@given(POINTS)
def test_the_order_is_by_front_then_by_crowding_then_by_time(points):
    objectives = np.array(points)
    order = ordered(objectives).tolist()
    assert sorted(order) == list(range(len(points)))
    if objectives.shape[1] == 1:
        assert order == sorted(range(len(points)), key=lambda i: (-points[i][0], i))
    else:
        distance = crowding(objectives, ranks(objectives))
        assert order == sorted(range(len(points)), key=lambda i: (fronts(points)[i], -distance[i], i))


@given(POINTS)
def test_crowding_is_that_of_each_front_alone(points):
    """The definition of NSGA-II, front by front and objective by objective."""
    objectives = np.array(points)
    number = np.array(fronts(points))
    expected = np.zeros(len(points))
    for one in set(number.tolist()):
        members = [i for i in range(len(points)) if number[i] == one]
        for values in objectives.T:
            row = sorted(members, key=lambda i: (values[i], i))
            for before, here, after in zip(row, row[1:], row[2:], strict=False):
                if values[row[-1]] > values[row[0]]:
                    expected[here] += (values[after] - values[before]) / (values[row[-1]] - values[row[0]])
            expected[[row[0], row[-1]]] = np.inf
    assert np.allclose(crowding(objectives, number), expected)


def test_crowding_by_hand():
    # One front: the ends are infinitely far; in between, (5 - 0) / 10 + (10 - 4) / 10 and so on.
    objectives = np.array([[0.0, 10.0], [2.0, 7.0], [5.0, 4.0], [10.0, 0.0]])
    distance = crowding(objectives, np.zeros(4, dtype=np.int64))
    assert distance.tolist() == pytest.approx([np.inf, 0.5 + 0.6, 0.8 + 0.7, np.inf])
    # A front of one and of two have ends only, and what is equal in all has no width.
    assert crowding(objectives[:1], np.zeros(1, dtype=np.int64)).tolist() == [np.inf]
    assert crowding(np.ones((4, 2)), np.zeros(4, dtype=np.int64)).tolist() == [np.inf, 0, 0, np.inf]
    assert len(crowding(np.empty((0, 2)), np.zeros(0, dtype=np.int64))) == 0


def counted(points, reference):
    """The hypervolume of whole numbers by counting unit cells."""
    best = [max(points, key=lambda p: p[axis])[axis] for axis in range(len(reference))]
    axes = [np.arange(low, max(low, high)) for low, high in zip(reference, best, strict=True)]
    cells = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(reference))
    return sum(any(all(np.array(point) >= cell + 1) for point in points) for cell in cells)


@given(POINTS, st.integers(0, 3))
def test_the_hypervolume_is_the_number_of_cells(points, floor):
    reference = np.full(len(points[0]), float(floor))
    objectives = np.array(points)
    expected = [counted(points[: i + 1], reference) for i in range(len(points))]
    assert hypervolume(objectives, reference) == pytest.approx(expected[-1])
    assert hypervolumes(objectives, reference) == pytest.approx(expected)


def test_nothing_has_no_front():
    empty = np.empty((0, 2))
    assert len(ranks(empty)) == len(front(empty)) == len(ordered(empty)) == 0
    assert len(ordered(np.empty((0, 0)))) == 0
    assert hypervolume(empty, np.zeros(2)) == 0
    assert hypervolumes(empty, np.zeros(2)) == []
