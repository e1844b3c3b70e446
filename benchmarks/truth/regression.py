"""Ridge regression from structure to accuracy, fitted on a few trainings: how well it ranks unseen networks.

The prior of a search (`psvit.search.prior`) is this regression, fitted on all networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from psvit import Architecture, Budget, SearchSpace
from psvit.search.fidelity.measures import kendall_tau
from psvit.search.prior import structure
from truth.entries import RANDOM, Entry
from truth.networks import Network
from truth.taus import advantage, as_cells, taus

# --- thresholds

TRAININGS = 20
"""Networks that it is fitted on."""

LEAST_LEFT = 8
"""Networks that have to be left over to rank."""

FOLDS = 100
"""Random divisions into networks that are fitted on and networks that are ranked."""

WANTED_TAU = 0.6
"""What its tau within strata should reach."""

PENALTIES = tuple(10.0**power for power in range(-2, 4))
"""Tried by leave-one-out cross-validation on the fitted networks alone."""

DRAWS, TOLERANCE = 1500, 0.02
"""Members drawn of every kind to find the favourite among, within which share of the budget."""

PRIOR_PENALTY = 10.0
"""Of the fit on all budgets. The networks of each budget alone choose this one. With all of them together a weaker one
would be chosen, because leaving one network out does not tell what holds for a budget that is not there."""


def regression_lines(some: Sequence[Entry], everything: Sequence[Entry]) -> Iterator[str]:
    """How well it ranks within a budget, and from one budget to another.

    Args:
        some: the networks of a budget.
        everything: those of all budgets.
    """
    yield _within(some)
    others = [entry for entry in everything if entry.budget != some[0].budget]
    if len(others) >= TRAININGS and len(some) >= LEAST_LEFT:
        tau = _tau(_predicted(others, some), some)
        yield f"Fitted on the {len(others)} networks of the other budgets: tau within strata {tau:.2f}."


def _within(some: Sequence[Entry]) -> str:
    """How well it ranks those networks of a budget that it was not fitted on."""
    if len(some) < TRAININGS + LEAST_LEFT:
        return f"Ridge on structure: {TRAININGS + LEAST_LEFT} networks are needed, {len(some)} are there."
    rng = np.random.default_rng(0)
    taus = []
    for _ in range(FOLDS):
        order = rng.permutation(len(some))
        fitted, left = ([some[place] for place in places] for places in (order[:TRAININGS], order[TRAININGS:]))
        taus.append(_tau(_predicted(fitted, left), left))
    middle, low, high = np.nanmedian(taus), *np.nanquantile(taus, [0.025, 0.975])
    reached = "reached" if middle >= WANTED_TAU else "not reached"
    return (
        f"Ridge on structure, fitted on {TRAININGS} networks: tau within strata of the others {middle:.2f} (median of "
        f"{FOLDS} divisions; 95 % of them {low:.2f} to {high:.2f}); {WANTED_TAU} is wanted: {reached}."
    )


def prior_lines(everything: Sequence[Entry]) -> Iterator[str]:
    """How well the regression ranks each network if it is fitted on the other budgets: what the prior is worth."""
    budgets = sorted({entry.budget for entry in everything})
    if len(budgets) < 2:
        return
    groups = [[entry for entry in everything if entry.budget == budget] for budget in budgets]
    ranked = [entry for group in groups for entry in group]
    predicted = np.concatenate(
        [_predicted([entry for entry in everything if entry.budget != group[0].budget], group) for group in groups]
    )
    macs, truths = np.array([(entry.costs["macs"], entry.truth) for entry in ranked]).T
    strata = [f"{entry.budget} {entry.first.stratum}" for entry in ranked]
    random = np.array([entry.first.origin == RANDOM for entry in ranked])
    yield "Ridge on structure, every network ranked by the fit on the other budgets, within budget and stratum:"
    yield ""
    yield "| networks | number | tau | 95 % | above MACs' | 95 % |"
    yield "|---|---|---|---|---|---|"
    for name, chosen in (("all", np.ones_like(random)), ("random ones", random)):
        kinds = [stratum for stratum, is_in in zip(strata, chosen, strict=True) if is_in]
        tau, _ = taus(predicted[chosen], truths[chosen], kinds)
        above = advantage(predicted[chosen], macs[chosen], truths[chosen], kinds)
        yield f"| {name} | {chosen.sum()} | {as_cells(tau, ' | ')} | {as_cells(above, ' | ')} |"


def prior(everything: Sequence[Entry]) -> dict[str, float]:
    """The weights of the regression on all networks, for values as they are: points of accuracy by name."""
    model = _fitted(everything, Ridge(PRIOR_PENALTY))
    names = structure(everything[0].arch)
    weights = model[-1].coef_ / model[0].scale_
    return {name: float(f"{weight:.4g}") for name, weight in zip(names, weights, strict=True)}


def prior_of(others: Sequence[Entry]) -> Callable[[Architecture], float] | None:
    """A prior that is fitted on some networks alone; `None` if there are too few."""
    if len(others) < LEAST_LEFT:
        return None
    model = _fitted(others, Ridge(PRIOR_PENALTY))
    return cache(lambda arch: float(model.predict([_values(arch)])[0]))


def favourite(everything: Sequence[Entry], macs: int) -> Network:
    """Of members drawn from every kind at a budget, the one that the regression on the other budgets prefers."""
    model = _fitted([entry for entry in everything if entry.budget != macs])
    low, high = ((1 + sign * TOLERANCE) * macs / 1e6 for sign in (-1, 1))
    limits, rng = Budget.parse(f"{low:g}..{high:g}MFLOPs"), np.random.default_rng(0)
    space = SearchSpace.for_images((32, 32), 3, 10, f"{macs / 1e6:g}MFLOPs")
    drawn = [arch for part in space.strata() for arch in part.sample(rng, DRAWS, limits)]
    predicted = model.predict([_values(arch) for arch in drawn])
    arch = drawn[int(np.argmax(predicted))]
    return Network(name=f"{macs / 1e6:g}M-favourite", macs=macs, origin="favourite", seeds=(0, 1, 2), arch=arch)


def _predicted(fitted: Sequence[Entry], wanted: Sequence[Entry]) -> np.ndarray:
    """Accuracies of networks, predicted from those of others."""
    return np.asarray(_fitted(fitted).predict([_values(entry.arch) for entry in wanted]))


def _fitted(some: Sequence[Entry], ridge: Ridge | RidgeCV | None = None) -> Pipeline:
    model = make_pipeline(StandardScaler(), ridge or RidgeCV(PENALTIES))
    return model.fit([_values(entry.arch) for entry in some], [entry.truth for entry in some])


def _values(arch: Architecture) -> list[float]:
    return [*structure(arch).values()]


def _tau(predicted: np.ndarray, some: Sequence[Entry]) -> float:
    strata = [entry.first.stratum for entry in some]
    (tau,) = kendall_tau(predicted, np.array([entry.truth for entry in some]), strata=strata)
    return float(tau)
