"""The interface of searchers."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np

from psvit.search.candidates import Candidates
from psvit.search.history import History
from psvit.search.proposal import Proposal


@runtime_checkable
class Searcher(Protocol):
    """Proposes architectures. It keeps no state, so that a search can be continued from its history alone.

    A searcher of your own has a `name`, a `batch_size` and the method `propose`. If it has settings, its `parameters`
    contain them: a run is continued only with equal parameters.
    """

    name: str
    batch_size: int
    """How many architectures are proposed from the same history."""

    @property
    def parameters(self) -> dict[str, Any]:
        """The settings that decide what it proposes, JSON-serialisable."""
        return {"batch_size": self.batch_size}

    def propose(self, n: int, history: History, candidates: Candidates, rng: np.random.Generator) -> list[Proposal]:
        """Propose what to evaluate next.

        Args:
            n: how many architectures are wanted.
            history: all trials so far.
            candidates: the architectures that may be proposed.
            rng: the only source of randomness. Equal arguments give equal proposals.

        Returns:
            Proposals, at most `n` of them feasible. The feasible ones are different candidates, and none is in the
            history or held by another process (`Seen` knows both). There may be fewer than `n` if no more are left or,
            under limits on latency or on numbers of a user's own, found. Proposals that are not feasible are not
            evaluated; the searcher finds them again in `history.rejected`.
        """
        ...
