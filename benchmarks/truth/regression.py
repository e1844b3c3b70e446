"""Ridge regression from structure to accuracy, fitted on a few trainings: how well it ranks unseen networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from psvit.search.fidelity.measures import kendall_tau
from truth.entries import Entry

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


def _predicted(fitted: Sequence[Entry], wanted: Sequence[Entry]) -> np.ndarray:
    """Accuracies of networks, predicted from those of others."""
    model = make_pipeline(StandardScaler(), RidgeCV(PENALTIES))
    model.fit([entry.structure for entry in fitted], [entry.truth for entry in fitted])
    return np.asarray(model.predict([entry.structure for entry in wanted]))


def _tau(predicted: np.ndarray, some: Sequence[Entry]) -> float:
    strata = [entry.first.stratum for entry in some]
    (tau,) = kendall_tau(predicted, np.array([entry.truth for entry in some]), strata=strata)
    return float(tau)
