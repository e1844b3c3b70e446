"""Evaluators: how good architectures seem, without training them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Protocol, runtime_checkable

from psvit.arch.architecture import Architecture
from psvit.errors import InputError
from psvit.search.trial import Score


@runtime_checkable
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


@dataclass(frozen=True)
class ScoringFunction:
    """An evaluator of a user's own: a function from architectures to numbers.

    A study is continued only with the name and the version that it was begun with.

    Attributes:
        function: the scores of some architectures, in their order; more is better. `None`, or what is no finite
            number, says that one could not be scored. Equal architectures have equal scores.
        name: what a score is, in files and reports.
        version: to be changed when the function gives other scores.
        meaning: what a score says, in a sentence.
        unit: of a score, such as `%`.
    """

    function: Callable[[Sequence[Architecture]], Sequence[float | None]]
    _: KW_ONLY
    name: str
    version: str = "1"
    meaning: str = ""
    unit: str = ""

    def evaluate(self, archs: Sequence[Architecture], best: Sequence[float] = (), parts: int = 1) -> list[Score]:
        """See `Evaluator`; nothing is raced.

        Raises:
            InputError: the function does not return one number for each architecture.
        """
        values = list(self.function(list(archs)))
        if len(values) != len(archs):
            raise InputError(
                f"scoring function {self.name!r}: must return one score for each architecture, received {len(values)} "
                f"for {len(archs)}"
            )
        return [self._score(value) for value in values]

    def _score(self, value: float | None) -> Score:
        try:
            number = math.nan if value is None else float(value)
        except (TypeError, ValueError):
            raise InputError(f"scoring function {self.name!r}: must return numbers, received {value!r}") from None
        if not math.isfinite(number):
            return Score(value=None, state="failed", reason=f"{self.name} gave {value}")
        return Score(value=number)

    def describe(self) -> dict[str, Any]:
        """See `Evaluator`."""
        said = {"kind": self.name, "version": self.version, "meaning": self.meaning, "unit": self.unit}
        return {key: value for key, value in said.items() if value}


def read_evaluator(given: Any) -> Evaluator | None:
    """An evaluator of a user's own: one already, or a function with a name.

    Raises:
        InputError: it is neither, or what it says of itself is not JSON.
    """
    if given is None:
        return None
    found = given
    if not isinstance(given, Evaluator):
        name = getattr(given, "__name__", "<lambda>")
        if not callable(given) or name == "<lambda>":
            raise InputError(
                f"evaluator {given!r}: must be an evaluator, a function with a name, or "
                "psvit.ScoringFunction(function, name=..., version=...)"
            )
        found = ScoringFunction(given, name=name)
    try:
        json.dumps(found.describe())
    except TypeError as error:
        raise InputError(f"evaluator {given!r}: describe() must return what JSON can say: {error}") from None
    return found
