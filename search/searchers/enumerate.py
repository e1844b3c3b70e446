"""Enumeration: every candidate, in the order of their numbers; for small spaces and narrow budgets."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np

from psvit.arch.architecture import Architecture
from psvit.errors import InputError
from psvit.search.candidates import Candidates
from psvit.search.history import History, Seen
from psvit.search.proposal import Proposal
from psvit.search.searchers.base import Searcher

MOST = 2**20
"""Candidates beyond which enumerating is refused, because nobody would see its end."""


class Enumerate(Searcher):
    """Proposes every candidate once."""

    name = "enumerate"

    def __init__(self, batch_size: int = 64) -> None:
        self.batch_size = batch_size
        # Where the search for new ones may begin: not a state, because without it the same ones are found.
        self._passed: WeakKeyDictionary[History, int] = WeakKeyDictionary()

    def propose(self, n: int, history: History, candidates: Candidates, rng: np.random.Generator) -> list[Proposal]:
        """The next ones."""
        members = candidates.members
        seen, found = Seen(history), list[Architecture]()
        passed = position = self._passed.get(history, 0)
        while len(found) < n and position < members.count:
            numbers = np.arange(position, min(position + 4 * n, members.count))
            for arch in candidates.within(members.take(numbers)):
                if arch not in seen and len(found) < n:
                    found.append(arch)
            position += len(numbers)
            if not found and not history.held:
                passed = position
        self._passed[history] = passed
        return candidates.propose(found, self.name)


def check_enumerable(count: int) -> None:
    """Refuse to enumerate what nobody would see the end of.

    Raises:
        InputError: there are too many.
    """
    if count > MOST:
        raise InputError(
            f"searcher enumerate: {count:,} architectures are within the budget, at most {MOST:,} can be; "
            "name a narrower budget or another searcher"
        )
