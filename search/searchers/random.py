"""Random search: the control that every other searcher has to beat."""

from __future__ import annotations

import numpy as np

from psvit.search.candidates import Candidates
from psvit.search.history import History, Seen
from psvit.search.proposal import UNIFORM, Proposal
from psvit.search.searchers.base import Searcher


class Random(Searcher):
    """Draws uniformly from the candidates, never one twice."""

    name = "random"

    def __init__(self, batch_size: int = 32) -> None:
        self.batch_size = batch_size

    def propose(self, n: int, history: History, candidates: Candidates, rng: np.random.Generator) -> list[Proposal]:
        """Uniform draws without repetition."""
        return candidates.propose(candidates.draw_unseen(n, Seen(history), rng), UNIFORM)
