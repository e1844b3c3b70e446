"""Evolutionary search, after SPOS (arXiv 1904.00420) and AutoFormer (arXiv 2107.00651)."""

from __future__ import annotations

import numpy as np

from psvit.architecture import Architecture
from psvit.search.candidates import Candidates
from psvit.search.searchers.base import Searcher
from psvit.search.trial import Trial, best

ATTEMPTS = 20
"""Children bred for each that is wanted before fresh draws take the places of those that repeat or are too slow."""


class Evolution(Searcher):
    """Breeds the best architectures so far: half of a generation are mutants, half children of two parents.

    The first generation is drawn uniformly. Unlike AutoFormer's, which draws until a candidate
    happens to fit, variation here always ends: see `SearchSpace.mutate` and `SearchSpace.crossover`.

    Args:
        batch_size: architectures a generation.
        parents: how many of the best of all generations breed.
        rate: probability of changing a choice in a mutant.
    """

    def __init__(self, batch_size: int = 32, parents: int = 10, rate: float = 0.2) -> None:
        self.batch_size = batch_size
        self.parents = parents
        self.rate = rate

    def propose(
        self, n: int, history: list[Trial], candidates: Candidates, rng: np.random.Generator
    ) -> list[Architecture]:
        """A generation."""
        seen = {trial.arch for trial in history}
        generation: list[Architecture] = []
        parents = [trial.arch for trial in best(history, self.parents)]
        for _ in range(ATTEMPTS * n if parents else 0):
            if len(generation) == n:
                break
            one, other = (parents[i] for i in rng.integers(len(parents), size=2))
            if len(generation) % 2:
                child = candidates.crossover(one, other, rng)
            else:
                child = candidates.mutate(one, rng, self.rate)
            if child not in seen and candidates.permits(child):
                seen.add(child)
                generation.append(child)
        return generation + candidates.draw_unseen(n - len(generation), seen, rng)
