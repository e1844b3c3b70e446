"""The networks that a fidelity is measured on: within the limits, over the range, and more of them add to fewer."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psvit.arch.costs import cost
from psvit.errors import InputError
from psvit.search.fidelity.drawing import Drawn, around, draw_spread, draw_within
from psvit.space.budget import Budget
from psvit.space.search_space import SearchSpace
from psvit.supernet.sampling import BINS, macs_bin

DIGITS = SearchSpace.load("psvit-2d-digits")
NANO = SearchSpace.load("psvit-2d-nano")


def parse(*texts):
    return Budget.parse(*texts, space=DIGITS)


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        (["1MFLOPs"], {"macs": [950_000, 1_050_000]}),
        (["101FLOPs"], {"macs": [96, 106]}),  # 95.95 to 106.05
        (["80kparams"], {"num_params": [76_000, 84_000]}),
        (["1MFLOPs", "90kparams", "40kB"], {
            "macs": [950_000, 1_050_000], "num_params": [None, 90_000], "activation_bytes": [None, 40_000],
        }),
        (["40kB", "80kparams"], {"activation_bytes": [None, 40_000], "num_params": [76_000, 84_000]}),
        (["1..1.1MFLOPs"], {"macs": [1_000_000, 1_100_000]}),
        (["19..21kparams"], {"num_params": [19_000, 21_000]}),
    ],
)  # fmt: skip
def test_networks_lie_around_the_first_limit_on_macs_or_parameters(given_, expected):
    assert around(parse(*given_)).resolved == expected


@pytest.mark.parametrize(
    ("given_", "middle"),
    [
        (["0.5..1.9MFLOPs"], "give 1.2MFLOPs, or"),
        (["40kB", "18.999..21kparams"], "give 20kparams, or"),
        (["0..1MFLOPs"], "give 500kFLOPs, or"),
    ],
)
def test_a_range_in_which_costs_would_be_measured_is_refused_with_its_middle(given_, middle):
    with pytest.raises(InputError, match=f"within 5 % of one cost.*{middle}"):
        around(parse(*given_))


@pytest.mark.parametrize("given_", [["40kB"], ["5ms@cpu"], ["1MFLOPs", "5ms@cpu"]])
def test_a_budget_that_networks_cannot_be_drawn_around_is_refused(given_):
    with pytest.raises(InputError, match=r"2GFLOPs or 22Mparams|leave out those on latency"):
        around(parse(*given_))


@given(seed=st.integers(0, 2**32), fewer=st.integers(0, 12), more=st.integers(0, 12))
@settings(max_examples=25)
def test_more_networks_begin_with_those_that_fewer_are(seed, fewer, more):
    budget = around(parse("1MFLOPs"))
    for draw in (lambda n: draw_within(DIGITS, budget, n, seed), lambda n: draw_spread(DIGITS, n, seed)):
        short, long = draw(fewer), draw(fewer + more)
        assert long[:fewer] == short
        assert len(set(long)) == len(long) == fewer + more


def test_networks_around_the_budget_are_within_five_percent_and_differ_by_seed():
    budget = around(parse("1MFLOPs"))
    drawn = {seed: draw_within(DIGITS, budget, 30, seed) for seed in (0, 1)}
    for archs in drawn.values():
        assert all(950_000 <= cost(arch).macs <= 1_050_000 for arch in archs)
        assert len(set(archs)) == 30
    assert drawn[0] != drawn[1]


def test_where_fewer_are_within_the_budget_all_are_taken():
    budget = parse("0..0.26MFLOPs")
    everything = {DIGITS[i] for i in range(DIGITS.size) if cost(DIGITS[i]).macs <= 260_000}
    assert set(draw_within(DIGITS, budget, 50, 0)) == everything
    assert len(everything) == 6


def test_where_none_is_within_the_budget_the_reach_is_named():
    with pytest.raises(InputError, match=r"231\.4 kFLOPs to 3\.211 MFLOPs"):
        draw_within(DIGITS, around(parse("100kFLOPs")), 3, 0)


@pytest.mark.parametrize("space", [DIGITS, NANO], ids=lambda space: space.name)
@pytest.mark.parametrize("n", [4, 8, 15, 16, 40])
def test_the_spread_visits_all_parts_of_the_range_alike(space, n):
    least, most = space.reach("macs")
    macs = np.array([cost(arch).macs for arch in draw_spread(space, n, 3)])
    parts = Counter(((macs - least) * BINS // (most + 1 - least)).tolist())
    filled = [number for number in range(BINS) if macs_bin(space, number).count]
    times = [parts[number] for number in filled]
    assert max(times) <= -(-n // len(filled))
    # However many are drawn, no part of the range is left out that is much wider than n parts would be.
    ends = np.sort(np.concatenate([[least], macs, [most]]))
    assert np.diff(ends).max() <= 3 * (most - least) / min(n, BINS)


def test_the_spread_of_a_small_space_is_all_of_it(tiny_space):
    everything = {tiny_space[i] for i in range(tiny_space.size)}
    drawn = draw_spread(tiny_space, 100, 0)
    assert len(drawn) == tiny_space.size == 38
    assert set(drawn) == everything


def test_a_network_of_both_sets_is_listed_once():
    one, two, three = (DIGITS[i] for i in range(3))
    assert Drawn(within=(one, two), spread=(three, one)).all == [one, two, three]
