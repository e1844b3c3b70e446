"""How well scores rank networks: Kendall's tau with the truth, with intervals, within strata and over them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from psvit.search.fidelity.formatting import value_and_interval
from psvit.search.fidelity.measures import estimated, kendall_tau
from psvit.search.fidelity.record import Estimate
from truth.entries import Entry


def strata_of(some: Sequence[Entry]) -> list[str]:
    """The stratum of each network."""
    return [entry.first.stratum for entry in some]


def taus(values: np.ndarray, truths: np.ndarray, strata: Sequence[str]) -> tuple[Estimate, Estimate]:
    """Kendall's tau within strata and over them."""
    within = estimated(lambda counts: kendall_tau(values, truths, counts, strata), len(truths))
    return within, estimated(lambda counts: kendall_tau(values, truths, counts), len(truths))


def advantage(values: np.ndarray, others: np.ndarray, truths: np.ndarray, strata: Sequence[str]) -> Estimate:
    """By how much a score's tau within strata exceeds another's, on the same resamples."""
    return estimated(
        lambda counts: kendall_tau(values, truths, counts, strata) - kendall_tau(others, truths, counts, strata),
        len(truths),
    )


def as_cells(estimate: Estimate, between: str = ", ") -> str:
    """A value and its interval."""
    return between.join(value_and_interval(estimate))
