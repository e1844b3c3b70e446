"""Evolutionary search, after SPOS (arXiv 1904.00420) and AutoFormer (arXiv 2107.00651)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from psvit.arch.architecture import Architecture
from psvit.search.candidates import Candidates
from psvit.search.history import History, Seen
from psvit.search.prior import VERSION
from psvit.search.proposal import CROSSOVER, MUTATION, PROMISING, STRATIFIED, UNIFORM, Proposal
from psvit.search.searchers.base import Searcher

ATTEMPTS = 20
"""Children bred for each that is wanted before fresh draws take the places of those that repeat or are too slow."""


class Evolution(Searcher):
    """Breeds the best architectures so far: half of a generation are mutants, half children of two parents.

    The first generation is drawn uniformly, or from every layout and stem in turn. References are in the history before
    it, so they breed as well if they are among the best. The best are found by non-dominated ranking, as in NSGA-II
    (Deb et al. 2002), which with one objective is sorting. Unlike AutoFormer's, which draws until a candidate happens
    to fit, variation here always ends: see `SearchSpace.mutate` and `SearchSpace.crossover`.

    Args:
        batch_size: architectures a generation.
        parents: how many of the best of all generations breed.
        rate: probability of changing a choice in a mutant.
        first: how many are drawn before any are bred.
        stratified: whether what is drawn comes from every layout and stem in turn. With few candidates, the kinds of
            networks that few members belong to would otherwise be missing.
        prior: whether one of each layout and stem is what the prior (`psvit.search.prior`) calls promising: at most a
            half of a batch. Goes with `stratified`.

    Raises:
        ValueError: `prior` without `stratified`.
    """

    name = "evolution"

    def __init__(
        self,
        batch_size: int = 32,
        parents: int = 10,
        rate: float = 0.2,
        first: int = 32,
        *,
        stratified: bool = False,
        prior: bool = False,
    ) -> None:
        self.batch_size = batch_size
        self.parents = parents
        self.rate = rate
        self.first = first
        if prior and not stratified:
            raise ValueError("prior: goes with stratified")
        self.stratified = stratified
        self.prior = prior

    @property
    def parameters(self) -> dict[str, Any]:
        """The settings of a generation."""
        settings = {"batch_size": self.batch_size, "parents": self.parents, "rate": self.rate, "first": self.first}
        # Runs from before there were these settings have not got them.
        stratified = {"stratified": True} if self.stratified else {}
        return {**settings, **stratified, **({"prior": VERSION} if self.prior else {})}

    def propose(self, n: int, history: History, candidates: Candidates, rng: np.random.Generator) -> list[Proposal]:
        """A generation."""
        seen = Seen(history)
        parents = [trial.arch for trial in history.best(self.parents)] if len(history) >= self.first else []
        mutants: list[Architecture] = []
        children: list[Architecture] = []
        for attempt in range(ATTEMPTS * n if parents else 0):
            if len(mutants) + len(children) == n:
                break
            one, other = (parents[i] for i in rng.integers(len(parents), size=2))
            if attempt % 2:
                child, kind = candidates.crossover(one, other, rng), children
            else:
                child, kind = candidates.mutate(one, rng, self.rate), mutants
            if child not in seen and candidates.permits(child):
                seen.add(child)
                kind.append(child)
        return [
            *candidates.propose(mutants, MUTATION),
            *candidates.propose(children, CROSSOVER),
            *self._drawn(n - len(mutants) - len(children), history, seen, candidates, rng),
        ]

    def _drawn(
        self, n: int, history: History, seen: Seen, candidates: Candidates, rng: np.random.Generator
    ) -> list[Proposal]:
        """What is not bred."""
        if not self.stratified:
            return candidates.propose(candidates.draw_unseen(n, seen, rng), UNIFORM)
        promising: list[Architecture] = []
        if self.prior:
            # What other processes hold may be promising too.
            known = [*(trial.arch for trial in history if trial.origin == PROMISING), *history.held]
            promising = candidates.draw_promising(math.ceil(n / 2), seen, rng, known)
        others = candidates.draw_stratified(n - len(promising), seen, rng, last=promising)
        return [*candidates.propose(promising, PROMISING), *candidates.propose(others, STRATIFIED)]
