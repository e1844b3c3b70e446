"""Random search: the control that every other searcher has to beat."""

from __future__ import annotations

import numpy as np

from psvit.architecture import Architecture
from psvit.budget import Budget
from psvit.search.searchers.base import Searcher, draw_unseen
from psvit.search.trial import Trial
from psvit.search_space import SearchSpace


class Random(Searcher):
    """Draws uniformly from the architectures within the budget, never one twice."""

    def __init__(self, batch_size: int = 32) -> None:
        self.batch_size = batch_size

    def propose(
        self, n: int, history: list[Trial], space: SearchSpace, budget: Budget, rng: np.random.Generator
    ) -> list[Architecture]:
        """Uniform draws without repetition."""
        return draw_unseen(n, {trial.arch for trial in history}, space, budget, rng)
