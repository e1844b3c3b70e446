"""Curve: where its points and ticks are."""

from __future__ import annotations

import itertools

import pytest

from psvit.retrain.report.curve import curve_of, nice_values


def points(path):
    return [tuple(map(float, pair.split())) for pair in path[1:].split("L")]


def test_it_goes_from_left_to_right_and_larger_values_are_higher():
    found = points(curve_of([4.0, 2.0, 1.0]).path)
    assert [left for left, _ in found] == [0, 50, 100]
    assert [top for _, top in found] == sorted(top for _, top in found)
    assert 0 < found[0][1] < found[-1][1] < 100


def test_ticks_stand_where_their_values_are():
    curve = curve_of([4.0, 2.0, 1.0])
    (_, high), (_, middle), (_, low) = points(curve.path)
    for place, text in curve.up:
        assert place == pytest.approx(high + (4.0 - float(text)) / 3.0 * (low - high), abs=0.02)
    assert middle == pytest.approx(high + 2 / 3 * (low - high), abs=0.02)
    assert [text for _, text in curve.across] == ["1", "2", "3"]
    assert 3 <= len(curve.up) <= 8


@pytest.mark.parametrize("epochs", [2, 7, 30, 100, 300, 1234])
def test_first_and_last_epoch_are_named_and_no_two_stand_close(epochs):
    across = curve_of([1.0 / epoch for epoch in range(1, epochs + 1)]).across
    assert (across[0], across[-1]) == ((0, "1"), (100, str(epochs)))
    places = [place for place, _ in across]
    assert min(after - before for before, after in itertools.pairwise(places)) > 8
    assert len(places) <= 8


@pytest.mark.parametrize("losses", [[1.5], [1.5, 1.5], [0.0, 0.0]])
def test_a_single_epoch_is_a_dot_and_a_constant_loss_a_line(losses):
    curve = curve_of(losses)
    assert curve.path.endswith("h0") is (len(losses) == 1)
    assert curve.up


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (0.9, 1.31, [0.9, 1.0, 1.1, 1.2, 1.3]), (-3, 3, [-2, 0, 2])],
)
def test_nice_values_are_multiples_of_round_numbers(low, high, expected):
    assert nice_values(low, high) == pytest.approx(expected)
