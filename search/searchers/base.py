"""The interface of searchers, and the draw that all of them fall back on."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from psvit.architecture import Architecture
from psvit.budget import Budget
from psvit.feasible import feasible_set
from psvit.search.trial import Trial
from psvit.search_space import SearchSpace


class Searcher(Protocol):
    """Proposes architectures; keeps no state, so that a search can be continued from its history alone."""

    batch_size: int
    """How many architectures are proposed from the same history."""

    def propose(
        self, n: int, history: list[Trial], space: SearchSpace, budget: Budget, rng: np.random.Generator
    ) -> list[Architecture]:
        """What to evaluate next.

        Args:
            n: how many architectures.
            history: all trials so far.
            space: the space they come from.
            budget: the budget they are within.
            rng: the only source of randomness; equal arguments give equal proposals.

        Returns:
            Members of the space within the budget, none of them in the history and no two equal; fewer than `n` only
            where no more are left.
        """
        ...


def draw_unseen(
    n: int, seen: set[Architecture], space: SearchSpace, budget: Budget, rng: np.random.Generator
) -> list[Architecture]:
    """Draw members within the budget uniformly from those not seen; adds them to `seen`.

    Returns:
        `n` architectures, or all that are left.
    """
    feasible = feasible_set(space, budget)
    drawn: list[Architecture] = []
    while len(drawn) < n:
        few = 2 * len(seen) >= feasible.count
        if few:
            # Most may have been seen, so drawing would mostly repeat; what is left is few enough to list.
            candidates = [arch for arch in feasible.take(rng.permutation(feasible.count)) if arch not in seen]
        else:
            candidates = list(feasible.sample(rng, n - len(drawn)))
        for arch in candidates[: n - len(drawn)]:
            if arch not in seen:
                seen.add(arch)
                drawn.append(arch)
        if few:
            break
    return drawn
