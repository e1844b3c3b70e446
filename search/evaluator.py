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

INHERITED = "inherited accuracy"
"""What a score is called that rests on a supernet's weights."""


@runtime_checkable
class Evaluator(Protocol):
    """Scores populations of architectures; more is better.

    An architecture gets the same score in every population, unless it is given up early.
    """

    def evaluate(self, archs: Sequence[Architecture], /, best: Sequence[float] = (), parts: int = 1) -> list[Score]:
        """The scores of a population.

        If one architecture cannot be scored (too little memory, outputs that are no numbers), its score says so, with
        the state `failed`. Other errors are raised.

        Args:
            archs: the population, no two equal.
            best: only for evaluators that *race*, that is, give up early on hopeless architectures: the best complete
                scores so far, best first. An architecture is hopeless if it cannot be among the best of these and of
                the population. If `best` is empty, none is given up.
            parts: only for evaluators that race: into how many parts the whole population was cut, if `archs` is one
                of these. The parts share the probability of error that the evaluator promises for the whole.

        Returns:
            The scores, in the order of `archs`.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """What a score is and what it rests on, JSON-serialisable.

        `kind` is its name, `version`, `meaning` and `unit` are optional. It is written beside every score, and a study
        is continued only with an equal description.
        """
        ...


@dataclass(frozen=True)
class ScoringFunction:
    """An evaluator of a user's own: a function from architectures to numbers.

    A study is continued only with the name, version, meaning and unit that it was begun with.

    Attributes:
        function: from a list of architectures to a list of their scores, in the same order; more is better. `None`, or
            a number that is not finite, says that an architecture could not be scored. Equal architectures get equal
            scores.
        name: the name of the score, in files and reports.
        version: change it whenever the function gives other scores.
        meaning: what a score says, in a sentence.
        unit: of a score, such as `%`.
    """

    function: Callable[[Sequence[Architecture]], Sequence[float | None]]
    _: KW_ONLY
    name: str
    version: str = "1"
    meaning: str = ""
    unit: str = ""

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise InputError(f"scoring function {self.name!r}: must be a function, received {self.function!r}")

    def evaluate(self, archs: Sequence[Architecture], best: Sequence[float] = (), parts: int = 1) -> list[Score]:
        """See `Evaluator`; nothing is raced.

        Raises:
            InputError: the function does not return one number for each architecture.
        """
        found = self.function(list(archs))
        try:
            values = list(found)
        except TypeError:
            raise InputError(
                f"scoring function {self.name!r}: must return a list of scores, one for each architecture, received "
                f"{found!r}"
            ) from None
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
        said = {"kind": self.name, "version": str(self.version), "meaning": self.meaning, "unit": self.unit}
        return {key: value for key, value in said.items() if value}


def read_evaluator(given: Any) -> Evaluator | None:
    """The evaluator that a user gave. A function becomes a `ScoringFunction` of its name.

    Raises:
        InputError: it is no evaluator and no function with a name, or its description is not JSON.
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
