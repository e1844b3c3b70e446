"""The interface of searchers."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np

from psvit.search.candidates import Candidates
from psvit.search.history import History
from psvit.search.proposal import Proposal


@runtime_checkable
class Searcher(Protocol):
    """Proposes architectures; keeps no state, so that a search can be continued from its history alone.

    One of your own has a `name`, a `batch_size` and `propose`. Its `parameters` hold what it proposes by: a study is
    continued only with the same ones.
    """

    name: str
    batch_size: int
    """How many architectures are proposed from the same history."""

    @property
    def parameters(self) -> dict[str, Any]:
        """What it searches with, JSON-serialisable; with other ones it may propose something else."""
        return {"batch_size": self.batch_size}

    def propose(self, n: int, history: History, candidates: Candidates, rng: np.random.Generator) -> list[Proposal]:
        """What to evaluate next.

        Args:
            n: how many architectures.
            history: all trials so far.
            candidates: what may be proposed.
            rng: the only source of randomness; equal arguments give equal proposals.

        Returns:
            Proposals of which at most `n` are feasible. Those are candidates, none of them in the history or held by
            another process and no two equal; fewer than `n` only where no more are left or, under limits on latency,
            found. The others tell the searcher later that they were not.
        """
        ...
