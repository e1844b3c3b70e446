"""Searchers: what to evaluate next, given what is known."""

from __future__ import annotations

from psvit.errors import InputError
from psvit.search.searchers.base import Searcher as Searcher
from psvit.search.searchers.evolution import Evolution
from psvit.search.searchers.random import Random

SEARCHERS: dict[str, type[Searcher]] = {"evolution": Evolution, "random": Random}


def make_searcher(name: str) -> Searcher:
    """The searcher of this name.

    Raises:
        InputError: there is none.
    """
    if name not in SEARCHERS:
        raise InputError(f"searcher {name!r}: unknown; permitted are {', '.join(SEARCHERS)}")
    return SEARCHERS[name]()
