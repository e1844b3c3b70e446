"""Stratified random search: draws from every kind of network in turn."""

from __future__ import annotations

import numpy as np

from psvit.search.candidates import Candidates
from psvit.search.history import History, Seen
from psvit.search.proposal import STRATIFIED, Proposal
from psvit.search.searchers.base import Searcher


class Stratified(Searcher):
    """Draws from every layout and stem in turn, uniformly within each, never one twice."""

    name = "stratified"

    def __init__(self, batch_size: int = 12) -> None:
        self.batch_size = batch_size

    def propose(self, n: int, history: History, candidates: Candidates, rng: np.random.Generator) -> list[Proposal]:
        """Draws without repetition."""
        return candidates.propose(candidates.draw_stratified(n, Seen(history), rng), STRATIFIED)
