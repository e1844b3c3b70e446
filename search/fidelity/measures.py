"""How well scores rank networks: rank correlations with bootstrap intervals, regret, the gap between accuracies.

Intervals come from the percentile bootstrap over networks (Efron and Tibshirani, "An Introduction to the Bootstrap",
1993, chapter 13): resamples take whole networks, so what belongs together stays together, and two scores can be
compared on the same resamples. A resample is written as how often it has each network; then both correlations are
sums over pairs of networks, and thousands of resamples are a product of matrices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from psvit.arch.architecture import Architecture
from psvit.arch.costs import ADDITIVE, Cost
from psvit.search.fidelity.record import INHERITED, Agreement, Estimate, SetFidelity
from psvit.search.report.best_of_draws import best_of_draws

Floats = NDArray[np.float64]

RESAMPLES = 10_000
CONFIDENCE = 0.95

LEAST = 8
"""Fewest networks that are resampled: of fewer that agree, hardly any resample would disagree, and an interval of no
width would say that they are enough. One from few more is too narrow all the same."""

TOP = 5
"""Networks with the best scores whose regret is told: as many finalists as a search trains by default."""

ENOUGH = 3
"""How many times as many networks there have to be for that; of hardly more, any score finds one of the best."""

DIGITS = 4
"""Of what is written; more would say nothing."""

SECOND = "second training"
"""What is taken as the score where the ceiling is measured."""


@dataclass(frozen=True, kw_only=True)
class MeasuredNetwork:
    """A network with all that was found out about it.

    Attributes:
        index: its number in the space.
        arch: the network.
        cost: what it costs.
        is_within: whether it was drawn around the budget.
        is_spread: whether it was drawn over the whole reach of MACs.
        scores: by name, more is better; `None` if there is no score.
        standalone: top-1 in percent on the search images after a training of its own; `None` if that failed.
        second: the same with another seed.
    """

    index: int
    arch: Architecture
    cost: Cost
    is_within: bool
    is_spread: bool
    scores: dict[str, float | None] = field(default_factory=dict)
    standalone: float | None = None
    second: float | None = None

    @property
    def all_scores(self) -> dict[str, float | None]:
        """The scores, and the costs that are taken as scores."""
        return {**self.scores, **{metric: float(getattr(self.cost, metric)) for metric in ADDITIVE}}


# --- statistics


def resamples(n: int, number: int = RESAMPLES, seed: int = 0) -> Floats:
    """How often each of `n` networks is in each of `number` resamples of `n`, (number, n); equal calls, equal ones."""
    return np.random.default_rng([seed, n]).multinomial(n, np.full(n, 1 / n), size=number).astype(np.float64)


def kendall_tau(
    one: Floats, other: Floats, counts: Floats | None = None, strata: Sequence[Hashable] | None = None
) -> Floats:
    """Kendall's tau-b, pairs that are tied in either left out of the scale (Kendall, Biometrika 33, 1945).

    Args:
        one: a score of each network, (n,).
        other: another score of each network, (n,).
        counts: resamples as `resamples` gives them, (r, n); by default the networks themselves.
        strata: what each network belongs to, (n,); only pairs of one stratum are then compared.

    Returns:
        One for each resample, (r,); NaN where no pair can be compared, or all are tied in one of the two.
    """
    weights = np.ones((1, len(one))) if counts is None else counts
    ones, others = _signs(one), _signs(other)
    if strata is not None:
        together = np.array([[mine == its for its in strata] for mine in strata])
        ones, others = ones * together, others * together
    return _ratio(_pairs(weights, ones * others), _pairs(weights, ones**2), _pairs(weights, others**2))


def spearman_rho(one: Floats, other: Floats, counts: Floats | None = None) -> Floats:
    """Spearman's rho, the correlation of ranks, those of ties averaged; arguments and result as of `kendall_tau`."""
    weights = np.ones((1, len(one))) if counts is None else counts
    # Twice the rank within the resample, from the middle: how many are less, minus how many are greater.
    ones, others = weights @ _signs(one).T, weights @ _signs(other).T
    products = [(weights * a * b).sum(axis=1) for a, b in ((ones, others), (ones, ones), (others, others))]
    return _ratio(*products)


def _signs(values: Floats) -> Floats:
    """1 if the first of two is greater, -1 if it is less, 0 if they are equal, (n, n)."""
    return np.sign(values[:, None] - values[None, :])


def _pairs(weights: Floats, matrix: Floats) -> Floats:
    """The sum of a matrix over all pairs of a resample, (r,)."""
    total: Floats = ((weights @ matrix) * weights).sum(axis=1)
    return total


def _ratio(both: Floats, one: Floats, other: Floats) -> Floats:
    scale = np.sqrt(one * other)
    return np.divide(both, scale, out=np.full_like(both, np.nan), where=scale > 0)


def estimated(statistic: Callable[[Floats], Floats], n: int, seed: int = 0) -> Estimate:
    """A statistic of `n` networks with its interval; resamples in which it is not defined are left out.

    Args:
        statistic: from counts (r, n) to values (r,).
        n: how many networks there are.
        seed: of the resamples.
    """
    if n == 0:
        return Estimate(value=None)
    (value,) = statistic(np.ones((1, n)))
    if not math.isfinite(value):
        return Estimate(value=None)
    interval = None
    if n >= LEAST:
        values = statistic(resamples(n, seed=seed))
        ends = np.quantile(values[np.isfinite(values)], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        interval = (round(float(ends[0]), DIGITS), round(float(ends[1]), DIGITS))
    return Estimate(value=round(float(value), DIGITS), interval=interval)


def regret(scores: Floats, accuracies: Floats, top: int = TOP) -> float | None:
    """By how much the best accuracy exceeds the best among the `top` best scores; of equals the earlier counts as
    better. `None` if there are fewer than `ENOUGH` times as many to choose from.
    """
    if len(scores) < ENOUGH * top:
        return None
    chosen = np.argsort(-scores, kind="stable")[:top]
    return float(accuracies.max() - accuracies[chosen].max())


def regret_of_random(accuracies: Floats, top: int = TOP) -> float | None:
    """The expected regret of `top` networks that are drawn at random."""
    if len(accuracies) < ENOUGH * top:
        return None
    return float(accuracies.max() - best_of_draws(accuracies.tolist(), [top]).expected[0])


def advantage(one: Floats, other: Floats, accuracies: Floats) -> Estimate:
    """By how much one score's tau exceeds another's on the same networks, both on the same resamples."""
    return estimated(
        lambda counts: kendall_tau(one, accuracies, counts) - kendall_tau(other, accuracies, counts), len(accuracies)
    )


# --- of a set of networks


def agreement(score: str, values: Floats, accuracies: Floats, macs: Floats | None = None) -> Agreement:
    """How well values rank networks by their accuracies.

    Args:
        score: what the values are called.
        values: of each network, NaN if it has none, (n,).
        accuracies: standalone accuracies of the same networks.
        macs: of each network, to compare with.
    """
    known = np.isfinite(values) & np.isfinite(accuracies)
    mine, theirs = values[known], accuracies[known]
    return Agreement(
        score=score,
        networks=len(mine),
        kendall_tau=estimated(lambda counts: kendall_tau(mine, theirs, counts), len(mine)),
        spearman_rho=estimated(lambda counts: spearman_rho(mine, theirs, counts), len(mine)),
        regret=_rounded(regret(mine, theirs)),
        above_macs=None if macs is None else advantage(mine, macs[known], theirs),
    )


def fidelity_of(networks: Sequence[MeasuredNetwork], limits: dict[str, tuple[int | None, int]]) -> SetFidelity:
    """The measures of a set of networks.

    Args:
        networks: the set; those without an accuracy of their own are left out.
        limits: within which it was drawn.
    """
    names = list(networks[0].all_scores)
    values = {name: _floats([network.all_scores[name] for network in networks]) for name in names}
    first = _floats([network.standalone for network in networks])
    second = _floats([network.second for network in networks])
    twice = np.isfinite(first) & np.isfinite(second)
    gaps = (values[INHERITED] - first)[np.isfinite(values[INHERITED] - first)]
    return SetFidelity(
        limits=limits,
        agreements=tuple(
            agreement(name, values[name], first, None if name == "macs" else values["macs"]) for name in names
        ),
        ceiling=agreement(SECOND, second, first) if twice.any() else None,
        below_ceiling=(
            agreement(INHERITED, values[INHERITED], np.where(twice, first, math.nan)) if twice.any() else None
        ),
        seed_std=_rounded(math.sqrt(float(np.mean((first - second)[twice] ** 2)) / 2)) if twice.any() else None,
        gap=estimated(lambda counts: counts @ gaps / len(gaps), len(gaps)),
        gap_std=_rounded(float(gaps.std(ddof=1))) if len(gaps) > 1 else None,
        regret_of_random=_rounded(regret_of_random(first[np.isfinite(first)])),
    )


def _floats(values: Sequence[float | None]) -> Floats:
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)
