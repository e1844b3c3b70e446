"""Evaluators: how good architectures seem, without training them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from psvit.arch.architecture import Architecture
from psvit.search.trial import Score


class Evaluator(Protocol):
    """Scores populations of architectures; more is better.

    Equal calls give equal scores, and so do equal architectures in different populations, unless they are raced.
    """

    def evaluate(self, archs: Sequence[Architecture], /, best: Sequence[float] = (), parts: int = 1) -> list[Score]:
        """The scores of a population.

        What goes wrong with one architecture (memory, outputs that are no numbers) is said in its score; all else is
        raised.

        Args:
            archs: the population, no two equal.
            best: the best scores that are known of others, on all images, best first. An evaluator that races gives
                up on those that cannot be among the best of these and the population; without any, none is given up.
            parts: where the population is only a part of one, into how many that was cut. An evaluator that races
                promises something of the whole, so the parts share its probability of error.

        Returns:
            Their scores, in their order.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """What a score is and what it rests on, JSON-serialisable; stands beside every score that is written down."""
        ...
