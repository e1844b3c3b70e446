"""Evolutionary search, after SPOS (arXiv 1904.00420) and AutoFormer (arXiv 2107.00651)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from psvit.arch.architecture import Architecture
from psvit.search.candidates import Candidates, Predict
from psvit.search.history import History, Seen
from psvit.search.prediction import VERSION, predictor
from psvit.search.proposal import CROSSOVER, MUTATION, PROMISING, REFERENCE, STRATIFIED, UNIFORM, Proposal
from psvit.search.searchers.base import Searcher

PARENTS = 1 / 3
"""The share of all architectures so far that breeds, while these are few."""

OFFSPRING = 20
"""Children for each that is wanted. Where they are ranked by a prediction, the best of so many are taken. Otherwise no
more are bred, and fresh draws take the places of those that repeat or are too slow."""


class Evolution(Searcher):
    """Breeds the best architectures so far: every other child is a mutant, every other has two parents.

    References are in the history before the first generation, and in a large space nothing that is drawn comes near a
    good one. So breeding begins with the best of them: at first half of a generation is bred and half is drawn, later
    all is bred. Without references the first generation is drawn. The best are found by non-dominated ranking, as in
    NSGA-II (Deb et al. 2002), which with one objective is sorting. Unlike AutoFormer's, which draws until a candidate
    happens to fit, variation here always ends: see `SearchSpace.mutate` and `SearchSpace.crossover`.

    Args:
        batch_size: architectures a generation.
        parents: how many of the best of all generations breed, at most; a third of all breed while that is fewer.
        rate: probability of changing a choice in a mutant.
        first: how many candidates there are, references not counted, before none is drawn.
        stratified: whether what is drawn comes from every layout and stem in turn instead of uniformly. With few
            candidates, the kinds of networks that few members belong to would otherwise be missing.
        predicts: whether candidates are chosen by `psvit.search.prediction`: of many children the best, and of each
            layout and stem once the best of many that are drawn, in at most a half of a batch. It is for a single
            score from trainings that begin with random weights, and goes with `stratified`.

    Raises:
        ValueError: `predicts` without `stratified`.
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
        predicts: bool = False,
    ) -> None:
        self.batch_size = batch_size
        self.parents = parents
        self.rate = rate
        self.first = first
        if predicts and not stratified:
            raise ValueError("predicts: goes with stratified")
        self.stratified = stratified
        self.predicts = predicts

    @property
    def parameters(self) -> dict[str, Any]:
        """The settings of a generation."""
        settings = {"batch_size": self.batch_size, "parents": self.parents, "rate": self.rate, "first": self.first}
        # Runs from before there were these settings have not got them.
        stratified = {"stratified": True} if self.stratified else {}
        return {**settings, **stratified, **({"prediction": VERSION} if self.predicts else {})}

    def propose(self, n: int, history: History, candidates: Candidates, rng: np.random.Generator) -> list[Proposal]:
        """A generation."""
        seen = Seen(history)
        predict = predictor(history.complete) if self.predicts else None
        draws = sum(trial.origin != REFERENCE for trial in history) < self.first
        best = history.best(min(self.parents, math.ceil(len(history) * PARENTS)))
        parents = [trial.arch for trial in best]
        bred = self._bred(n // 2 if draws else n, parents, seen, candidates, rng, predict)
        return [*bred, *self._drawn(n - len(bred), history, seen, candidates, rng, predict)]

    def _bred(
        self,
        n: int,
        parents: Sequence[Architecture],
        seen: Seen,
        candidates: Candidates,
        rng: np.random.Generator,
        predict: Predict | None,
    ) -> list[Proposal]:
        """Mutants and children of some; none without parents."""
        bred: dict[str, list[Architecture]] = {MUTATION: [], CROSSOVER: []}
        wanted = n * OFFSPRING if predict else n
        for attempt in range(n * OFFSPRING if parents else 0):
            if sum(map(len, bred.values())) == wanted:
                break
            one, other = (parents[i] for i in rng.integers(len(parents), size=2))
            if attempt % 2:
                origin, child = CROSSOVER, candidates.crossover(one, other, rng)
            else:
                origin, child = MUTATION, candidates.mutate(one, rng, self.rate)
            if child not in seen and candidates.permits(child):
                seen.add(child)
                bred[origin].append(child)
        if predict:
            bred = _leading(bred, n, predict)
        return [proposal for origin, some in bred.items() for proposal in candidates.propose(some, origin)]

    def _drawn(
        self,
        n: int,
        history: History,
        seen: Seen,
        candidates: Candidates,
        rng: np.random.Generator,
        predict: Predict | None,
    ) -> list[Proposal]:
        """What is not bred."""
        if not self.stratified:
            return candidates.propose(candidates.draw_unseen(n, seen, rng), UNIFORM)
        promising: list[Architecture] = []
        if predict:
            # What other processes hold may be promising too.
            known = [*(trial.arch for trial in history if trial.origin == PROMISING), *history.held]
            promising = candidates.draw_promising(min(n, math.ceil(self.batch_size / 2)), seen, rng, known, predict)
        others = candidates.draw_stratified(n - len(promising), seen, rng, last=promising)
        return [*candidates.propose(promising, PROMISING), *candidates.propose(others, STRATIFIED)]


def _leading(bred: Mapping[str, Sequence[Architecture]], n: int, predict: Predict) -> dict[str, list[Architecture]]:
    """Of architectures by origin those `n` that are predicted to be the best."""
    ranked = [(origin, child) for origin, some in bred.items() for child in some]
    if not ranked:
        return {origin: [] for origin in bred}
    order = np.argsort(-predict([child for _, child in ranked]), kind="stable")
    chosen = [ranked[int(place)] for place in order[:n]]
    return {origin: [child for other, child in chosen if other == origin] for origin in bred}
