"""Random search: the control that every other searcher has to beat."""

from __future__ import annotations

import numpy as np

from psvit.architecture import Architecture
from psvit.search.candidates import Candidates
from psvit.search.searchers.base import Searcher
from psvit.search.trial import Trial


class Random(Searcher):
    """Draws uniformly from the candidates, never one twice."""

    def __init__(self, batch_size: int = 32) -> None:
        self.batch_size = batch_size

    def propose(
        self, n: int, history: list[Trial], candidates: Candidates, rng: np.random.Generator
    ) -> list[Architecture]:
        """Uniform draws without repetition."""
        return candidates.draw_unseen(n, {trial.arch for trial in history}, rng)
