"""Candidates: what a search may propose, in a space, under limits on costs and on predicted latency.

Limits on costs are kept exactly and without rejection. Predicted latency is looked up for every candidate, so
architectures beyond it are drawn and left out; `DRAWS` bounds how often, and limits on MACs that follow from those on
latency keep what has to be left out small.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from psvit.architecture import Architecture
from psvit.budget import Budget, Limit
from psvit.errors import InputError
from psvit.feasible import feasible_set
from psvit.search.latency.limits import PredictedLimit
from psvit.search_space import SearchSpace

DRAWS = 2**20
"""Architectures drawn before it counts as settled that no more can be found within the limits on latency."""

LISTED = 2**17
"""Sets of at most this many architectures are looked through one by one instead."""


class Candidates:
    """The members of a space that a search may propose.

    Args:
        space: the space.
        budget: the limits; of those on latency `latencies` knows.
        latencies: limits on predicted latency.

    Raises:
        InputError: nothing is within a limit; names the reachable range.
    """

    def __init__(self, space: SearchSpace, budget: Budget, latencies: Sequence[PredictedLimit] = ()) -> None:
        space.check(budget)
        for latency in latencies:
            latency.check(space)
        self.space = space
        self.budget = _narrowed(space, budget, latencies)
        self._latencies = latencies
        if not space.count(self.budget):
            raise InputError(
                f"budget: no architecture of {space.name} is predicted to keep {budget}; "
                f"{'; '.join(latency.reach(space) for latency in latencies)}, without the other limits"
            )

    def permits(self, arch: Architecture) -> bool:
        """Whether an architecture within the limits on costs is predicted to keep those on latency."""
        return all(latency.permits(arch) for latency in self._latencies)

    def mutate(self, arch: Architecture, rng: np.random.Generator, rate: float) -> Architecture:
        """`SearchSpace.mutate` within the limits on costs."""
        return self.space.mutate(arch, rng, self.budget, rate)

    def crossover(self, one: Architecture, other: Architecture, rng: np.random.Generator) -> Architecture:
        """`SearchSpace.crossover` within the limits on costs."""
        return self.space.crossover(one, other, rng, self.budget)

    def draw_unseen(self, n: int, seen: set[Architecture], rng: np.random.Generator) -> list[Architecture]:
        """Draw candidates uniformly from those not seen; adds them to `seen`.

        Returns:
            `n` architectures, or all that are left; under limits on latency, or all that `DRAWS` draws found.
        """
        feasible = feasible_set(self.space, self.budget)
        drawn: list[Architecture] = []
        spent = 0
        while len(drawn) < n and spent < DRAWS:
            few = 2 * len(seen) >= feasible.count or (bool(self._latencies) and feasible.count <= LISTED)
            if few:
                # Most may have been seen, so drawing would mostly repeat; what is left is few enough to list.
                batch = feasible.take(rng.permutation(feasible.count))
            else:
                # Under limits on latency at least as many again as were drawn in vain.
                batch = feasible.sample(rng, max(n - len(drawn), min(spent, LISTED)))
            spent += len(batch) if self._latencies else 0
            for position in np.flatnonzero(self._within(batch.rows)):
                arch = batch[int(position)]
                if arch not in seen:
                    seen.add(arch)
                    drawn.append(arch)
                if len(drawn) == n:
                    break
            if few:
                break
        return drawn

    def _within(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which encoded architectures are predicted to keep the limits on latency, (n, genes) to (n,)."""
        within = np.ones(len(rows), dtype=np.bool_)
        for latency in self._latencies:
            within &= latency.permits_rows(self.space, rows)
        return within


def _narrowed(space: SearchSpace, budget: Budget, latencies: Sequence[PredictedLimit]) -> Budget:
    """The budget with the limits on MACs that follow from those on predicted latency."""
    if not latencies:
        return budget
    given = budget.limit("macs")
    least, greatest = space.reach("macs")
    lower = max(given.lower or 0, least) if given else least
    upper = min(given.upper, greatest) if given else greatest
    for latency in latencies:
        low, high = latency.macs(space)
        lower, upper = max(lower, low), min(upper, high)
    if lower > upper:
        # Nothing keeps both; a budget that nothing can keep says so in the same way as any other.
        lower = upper = least - 1
    others = tuple(limit for limit in budget.limits if limit.metric != "macs")
    return Budget(limits=(Limit(metric="macs", lower=lower, upper=upper), *others))
