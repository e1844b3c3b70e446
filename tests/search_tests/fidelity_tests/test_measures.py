"""Rank correlations against SciPy's, intervals against resampling by hand, and the rest against examples by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from psvit.arch.costs import cost
from psvit.search.fidelity.formatting import conclusions, rows
from psvit.search.fidelity.measures import (
    SECOND,
    MeasuredNetwork,
    advantage,
    agreement,
    estimated,
    fidelity_of,
    kendall_tau,
    regret,
    regret_of_random,
    resamples,
    spearman_rho,
)

STATISTICS = [(kendall_tau, stats.kendalltau), (spearman_rho, stats.spearmanr)]
FEW_VALUES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=12)


def array(values):
    return np.array(values, dtype=float)


# --- correlations


def test_tau_and_rho_of_known_permutations():
    order = array([0, 1, 2, 3])
    for other, tau, rho in [
        ([0, 1, 2, 3], 1, 1),
        ([3, 2, 1, 0], -1, -1),
        # One pair of the six is turned round; ranks differ by 1 in two places: 1 - 6 * 2 / (4 * 15).
        ([1, 0, 2, 3], 4 / 6, 1 - 12 / 60),
        # Three of the six; by 3, 1, 1 and 1: 1 - 6 * 12 / 60.
        ([3, 0, 1, 2], 0, 1 - 72 / 60),
    ]:
        assert kendall_tau(order, array(other))[0] == pytest.approx(tau)
        assert spearman_rho(order, array(other))[0] == pytest.approx(rho)


@given(FEW_VALUES)
def test_correlations_are_scipys_with_ties(pairs):
    one, other = (array(values) for values in zip(*pairs, strict=True))
    for ours, theirs in STATISTICS:
        if len(set(one)) == 1 or len(set(other)) == 1:
            assert math.isnan(ours(one, other)[0])
        else:
            assert ours(one, other)[0] == pytest.approx(theirs(one, other).statistic, abs=1e-12)


@pytest.mark.parametrize(("ours", "theirs"), STATISTICS)
def test_correlations_of_resamples_are_those_of_networks_written_out(ours, theirs):
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=9), rng.integers(4, size=9).astype(float)
    counts = resamples(9, number=200)
    found = ours(one, other, counts)
    for times, value in zip(counts.astype(int), found, strict=True):
        expected = theirs(np.repeat(one, times), np.repeat(other, times)).statistic
        assert value == pytest.approx(expected, abs=1e-12, nan_ok=True)


# --- intervals


def test_resamples_take_as_many_networks_as_there_are_each_as_often():
    counts = resamples(7)
    assert counts.shape == (10_000, 7)
    assert (counts.sum(axis=1) == 7).all()
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.05)
    # As of any bootstrap, a network is missing from a resample with probability (1 - 1/n)^n.
    assert (counts == 0).mean() == pytest.approx((6 / 7) ** 7, abs=0.01)
    assert (resamples(7) == counts).all()


def test_an_interval_is_that_of_scipys_bootstrap():
    rng = np.random.default_rng(1)
    one = rng.normal(size=30)
    other = one + rng.normal(size=30)
    ours = estimated(lambda counts: spearman_rho(one, other, counts), 30)
    theirs = stats.bootstrap(
        (one, other),
        lambda a, b: stats.spearmanr(a, b).statistic,
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=1000,
        rng=rng,
    ).confidence_interval
    assert ours.value == pytest.approx(stats.spearmanr(one, other).statistic, abs=1e-4)
    assert ours.interval == pytest.approx(theirs, abs=0.04)


def test_intervals_hold_the_true_tau_about_as_often_as_they_say():
    # Of a normal pair with correlation r, tau is 2/pi asin(r) (Greiner).
    rng = np.random.default_rng(2)
    r, runs = 0.7, 150
    true = 2 / np.pi * np.arcsin(r)
    held = 0
    counts = resamples(30, number=1000)
    for _ in range(runs):
        one = rng.normal(size=30)
        other = r * one + math.sqrt(1 - r**2) * rng.normal(size=30)
        lower, upper = np.quantile(kendall_tau(one, other, counts), [0.025, 0.975])
        held += lower <= true <= upper
    assert 0.88 <= held / runs <= 1


def test_what_is_not_defined_has_no_value():
    nothing = estimated(lambda counts: kendall_tau(np.ones(8), np.arange(8.0), counts), 8)
    assert (nothing.value, nothing.interval) == (None, None)
    assert estimated(lambda counts: counts.mean(axis=1), 0).value is None


def test_few_networks_that_agree_are_told_to_be_few_instead_of_an_interval_without_width(networks):
    for n, interval in [(2, None), (7, None), (8, (1, 1))]:
        order = np.arange(float(n))
        found = estimated(lambda counts, order=order: kendall_tau(order, order, counts), n)
        assert (found.value, found.interval) == (1, interval)
    few = fidelity_of(networks([50.0, 52.0, 54.0, 56.0], [40.0, 41.0, 42.0, 43.0]), {"macs": (0, 9)})
    assert rows(few)[0][1:3] == ("1.00", "too few")
    assert "a tau of 1.00 (too few networks); that cannot be told from no agreement" in conclusions(few)[0]


def test_the_share_of_the_ceiling_is_of_the_networks_that_were_trained_twice(networks):
    # Of the eight, six pairs of 28 are turned round; of the first four, which were trained twice, none.
    standalone = [50.0, 51.0, 52.0, 53.0, 54.0, 55.0, 56.0, 57.0]
    inherited = [40.0, 41.0, 42.0, 43.0, 47.0, 46.0, 45.0, 44.0]
    measured = fidelity_of(networks(standalone, inherited, second=[50.0, 52.0, 51.0, 53.0]), {"macs": (0, 9)})
    assert measured.agreement("inherited").kendall_tau.value == pytest.approx(1 - 2 * 6 / 28, abs=1e-4)
    assert (measured.below_ceiling.networks, measured.below_ceiling.kendall_tau.value) == (4, 1)
    assert measured.ceiling.kendall_tau.value == pytest.approx(1 - 2 / 6, abs=1e-4)
    assert measured.share_of_ceiling == pytest.approx(1.5, abs=1e-3)
    unscored = fidelity_of(networks(standalone, [None, *inherited[1:]], second=[50.0, 52.0]), {"macs": (0, 9)})
    assert unscored.share_of_ceiling is None


def test_two_scores_are_compared_on_the_same_resamples():
    rng = np.random.default_rng(3)
    accuracies = rng.normal(size=20)
    good, other = accuracies + 0.3 * rng.normal(size=20), rng.normal(size=20)
    # Ranked alike, they differ in no resample, however wide the intervals of their own.
    same = advantage(good, np.exp(good), accuracies)
    assert (same.value, same.interval) == (0, (0, 0))
    better = advantage(good, other, accuracies)
    difference = stats.kendalltau(good, accuracies).statistic - stats.kendalltau(other, accuracies).statistic
    assert better.value == pytest.approx(difference, abs=1e-4)
    assert better.interval[0] < better.value < better.interval[1]
    back = advantage(other, good, accuracies)
    assert back.interval == pytest.approx([-better.interval[1], -better.interval[0]], abs=2e-4)


# --- regret


def test_the_regret_of_the_best_five_by_hand():
    accuracies = 10 * np.arange(1, 16.0)
    falling = accuracies[::-1]
    assert regret(falling, accuracies) == 100  # the fifth has 50, the best 150
    assert regret(accuracies, accuracies) == 0
    assert regret(np.append(falling[:-1], 115.0), accuracies) == 0  # the best comes fourth
    # Of equals the earlier counts as better: the last are not among the five.
    assert regret(np.ones(15), accuracies) == 100
    # Of fewer than three times five, five hold one of the best by any score.
    assert regret(accuracies[:14], accuracies[:14]) is None
    assert regret(falling[:6], accuracies[:6], top=2) == 40
    assert regret(falling[:5], accuracies[:5], top=2) is None


def test_the_regret_of_random_five_is_the_mean_over_all_choices():
    accuracies = array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9])
    choices = [max(chosen) for chosen in itertools.combinations(accuracies, 5)]
    assert regret_of_random(accuracies) == pytest.approx(9 - np.mean(choices))
    assert regret_of_random(accuracies[:14]) is None


# --- a set of networks


@pytest.fixture
def networks(digits_space):
    """Makes networks with these accuracies, the cheapest first."""

    def make(standalone, inherited, second=(), other=None):
        archs = sorted((digits_space[i] for i in range(0, digits_space.size, 37)), key=lambda arch: cost(arch).macs)
        archs = list({cost(arch).macs: arch for arch in archs}.values())
        second = [*second, *[None] * (len(standalone) - len(second))]
        return [
            MeasuredNetwork(
                index=digits_space.index(arch),
                arch=arch,
                cost=cost(arch),
                is_within=True,
                is_spread=False,
                scores={"inherited": score, "DSS": float(other[number] if other else number)},
                standalone=accuracy,
                second=again,
            )
            for number, (arch, accuracy, score, again) in enumerate(
                zip(archs, standalone, inherited, second, strict=False)
            )
        ]

    return make


def test_what_a_set_of_networks_says_by_hand(networks):
    standalone = [50.0, 52.0, 54.0, 56.0, 58.0, 60.0]
    measured = fidelity_of(
        networks(standalone, [40.0, 43.0, 42.0, 47.0, 48.0, 50.0], second=[51.0, 50.0, 55.0]),
        {"macs": (1, 2)},
    )
    assert measured.limits == {"macs": (1, 2)}
    inherited, indicator, macs, params = measured.agreements
    assert [one.score for one in measured.agreements] == ["inherited", "DSS", "macs", "num_params"]
    # One of fifteen pairs is turned round.
    assert inherited.kendall_tau.value == pytest.approx(13 / 15, abs=1e-4)
    assert (indicator.kendall_tau.value, macs.kendall_tau.value) == (1, 1)
    assert inherited.above_macs.value == pytest.approx(13 / 15 - 1, abs=1e-4)
    assert (indicator.above_macs.value, macs.above_macs) == (0, None)
    assert (inherited.regret, inherited.networks, params.networks) == (None, 6, 6)
    # Inherited minus standalone: -10, -9, -12, -9, -10, -10.
    assert measured.gap.value == -10
    assert measured.gap_std == pytest.approx(np.std([-10, -9, -12, -9, -10, -10], ddof=1), abs=1e-4)
    # The trainings of three networks differ by 1, 2 and 1; in three pairs the order is turned round once.
    assert (measured.ceiling.score, measured.ceiling.networks) == (SECOND, 3)
    assert measured.ceiling.kendall_tau.value == pytest.approx(1 / 3, abs=1e-4)
    assert measured.seed_std == pytest.approx(math.sqrt((1 + 4 + 1) / 3 / 2), abs=1e-4)
    # Inherited accuracy turns one of the same three round: 40, 43 and 42.
    assert (measured.below_ceiling.score, measured.below_ceiling.networks) == ("inherited", 3)
    assert measured.below_ceiling.kendall_tau.value == pytest.approx(1 / 3, abs=1e-4)
    assert measured.share_of_ceiling == pytest.approx(1)
    assert "on 3, on which it ranks with 0.33 (too few networks), 1.00 of the ceiling" in conclusions(measured)[0]
    assert measured.regret_of_random is None


def test_networks_without_an_accuracy_are_left_out(networks):
    whole = networks([50.0, 52.0, 51.0, 56.0], [1.0, 2.0, 3.0, 4.0])
    holed = networks([50.0, None, 52.0, None, 51.0, 56.0], [1.0, 9.0, 2.0, 0.0, 3.0, 4.0])
    one, other = (fidelity_of(some, {"macs": (0, 9)}).agreement("inherited") for some in (whole, holed))
    assert one == other
    unscored = networks([50.0, 52.0, 51.0, 56.0, 10.0], [1.0, 2.0, 3.0, 4.0, None])
    measured = fidelity_of(unscored, {"macs": (0, 9)})
    assert measured.agreement("inherited").kendall_tau == one.kendall_tau
    assert measured.agreement("DSS").networks == 5


def test_without_second_trainings_there_is_no_ceiling(networks):
    measured = fidelity_of(networks([50.0, 52.0, 51.0], [1.0, 2.0, 3.0]), {"macs": (0, 9)})
    assert (measured.ceiling, measured.seed_std, measured.share_of_ceiling) == (None, None, None)
    assert len(rows(measured)) == 4
    assert "ceiling" not in " ".join(conclusions(measured))


def test_the_best_without_a_supernet_is_named_and_costs_are_enough_where_nothing_beats_them(networks):
    rng = np.random.default_rng(0)
    accuracies = (50 + np.arange(30) / 3 + rng.normal(size=30)).tolist()
    by_macs = fidelity_of(networks(accuracies, accuracies, other=rng.normal(size=30).tolist()), {"macs": (0, 9)})
    assert by_macs.best_free.score == "macs"
    assert "No training-free indicator was found to beat as many multiply-accumulates" in " ".join(conclusions(by_macs))
    rng.shuffle(accuracies)
    by_indicator = fidelity_of(networks(accuracies, accuracies, other=accuracies), {"macs": (0, 9)})
    assert by_indicator.best_free.score == "DSS"
    assert "Indicator DSS beats multiply-accumulates alone" in " ".join(conclusions(by_indicator))


def test_a_ranking_that_may_be_none_is_called_so(networks):
    rng = np.random.default_rng(5)
    noise = fidelity_of(networks(rng.normal(size=20).tolist(), rng.normal(size=20).tolist()), {"macs": (0, 9)})
    assert "cannot be told from no agreement at all" in conclusions(noise)[0]
    alike = fidelity_of(networks([50.0] * 6, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), {"macs": (0, 9)})
    assert alike.agreement("inherited").kendall_tau.value is None
    assert "ranks nothing" in conclusions(alike)[0]


def test_an_agreement_is_the_same_for_any_scale_of_the_score():
    rng = np.random.default_rng(6)
    scores, accuracies = rng.normal(size=15), rng.normal(size=15)
    assert agreement("one", scores, accuracies) == agreement("one", np.exp(scores), accuracies)
