"""Searchers: what to evaluate next, given what is known."""

from __future__ import annotations

from collections.abc import Callable

from optuna.samplers import BaseSampler

from psvit.errors import InputError
from psvit.search.searchers import optuna_samplers
from psvit.search.searchers.base import Searcher as Searcher
from psvit.search.searchers.enumerate import Enumerate
from psvit.search.searchers.evolution import Evolution
from psvit.search.searchers.random import Random
from psvit.search.searchers.stratified import Stratified

SEARCHERS: dict[str, Callable[[], Searcher]] = {
    "evolution": Evolution,
    "random": Random,
    "stratified": Stratified,
    "enumerate": Enumerate,
    "optuna-tpe": optuna_samplers.tpe,
    "optuna-nsga2": optuna_samplers.nsga2,
    "optuna-gp": optuna_samplers.gp,
}


def make_searcher(given: str | Searcher | BaseSampler, *, few: bool = False, predicts: bool = False) -> Searcher:
    """The searcher of a name, one of a user's own, or one that asks a sampler of Optuna's.

    Args:
        given: the name, the searcher or the sampler.
        few: whether candidates are few because scores cost much. Evolution then has small generations, and draws from
            every kind of network in turn.
        predicts: whether evolution then chooses candidates by `psvit.search.prediction`, which knows trainings from
            random weights.

    Raises:
        InputError: it is none of these.
    """
    if isinstance(given, BaseSampler):
        return optuna_samplers.of_sampler(given)
    if isinstance(given, Searcher):
        return given
    if given not in SEARCHERS:
        raise InputError(
            f"searcher {given!r}: unknown; permitted are {', '.join(SEARCHERS)}, and in Python a searcher of your own "
            "or a sampler of Optuna's"
        )
    if few and given == Evolution.name:
        return Evolution(batch_size=12, first=24, stratified=True, predicts=predicts)
    return SEARCHERS[given]()
