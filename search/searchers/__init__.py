"""Searchers: what to evaluate next, given what is known."""

from __future__ import annotations

from collections.abc import Callable

from psvit.errors import InputError
from psvit.search.searchers import optuna_samplers
from psvit.search.searchers.base import Searcher as Searcher
from psvit.search.searchers.enumerate import Enumerate
from psvit.search.searchers.evolution import Evolution
from psvit.search.searchers.random import Random

SEARCHERS: dict[str, Callable[[], Searcher]] = {
    "evolution": Evolution,
    "random": Random,
    "enumerate": Enumerate,
    "optuna-tpe": optuna_samplers.tpe,
    "optuna-nsga2": optuna_samplers.nsga2,
    "optuna-gp": optuna_samplers.gp,
}


def make_searcher(name: str) -> Searcher:
    """The searcher of this name.

    Raises:
        InputError: there is none.
    """
    if name not in SEARCHERS:
        raise InputError(f"searcher {name!r}: unknown; permitted are {', '.join(SEARCHERS)}")
    return SEARCHERS[name]()
