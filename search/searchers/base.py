"""The interface of searchers."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from psvit.architecture import Architecture
from psvit.search.candidates import Candidates
from psvit.search.trial import Trial


class Searcher(Protocol):
    """Proposes architectures; keeps no state, so that a search can be continued from its history alone."""

    batch_size: int
    """How many architectures are proposed from the same history."""

    def propose(
        self, n: int, history: list[Trial], candidates: Candidates, rng: np.random.Generator
    ) -> list[Architecture]:
        """What to evaluate next.

        Args:
            n: how many architectures.
            history: all trials so far.
            candidates: what may be proposed.
            rng: the only source of randomness; equal arguments give equal proposals.

        Returns:
            Candidates, none of them in the history and no two equal; fewer than `n` only where no more are left or,
            under limits on latency, found.
        """
        ...
