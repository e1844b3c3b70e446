"""Objectives: what a search improves, said once and turned so that more is always better."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from numbers import Real
from typing import Any, Literal

from psvit.arch.architecture import Architecture
from psvit.arch.costs import Cost
from psvit.errors import InputError

Direction = Literal["minimize", "maximize"]

ACCURACY, SCORE, LATENCY = "accuracy", "score", "latency"
"""Two names for the score that the evaluator gives, and one for the latency that a model predicts."""

COSTS = {"macs": "macs", "params": "num_params", "memory": "activation_bytes"}
"""Names of objectives that are costs, and which cost each is."""

OF_TRIALS = ("number", "state", "images", "hypervolume", "origin", "index", "arch", f"{LATENCY}_ms", "space")
"""What else is said of a trial, mostly in a column of that name, so that no objective may be called so."""


@dataclass(frozen=True)
class Objective:
    """A number that every architecture has, to be improved, kept within limits, or both.

    Among the `objectives` of a search, it is improved. If it has an end (`lower` or `upper`), the search proposes only
    architectures within its ends, whether it is given among the `objectives` or in the `budget`.

    Attributes:
        name: an identifier, such as `energy_mj`. It appears in files and reports.
        function: from an architecture to its number. It gives equal architectures equal numbers. It is called once for
            each architecture, in the process that searches.
        direction: whether less or more of the number is better.
        lower: the least permitted number, inclusive.
        upper: the greatest permitted number, inclusive.
        version: of the function. Change it whenever the function changes: a study is continued only with the version
            that it was begun with.
        unit: of the number, for people.
    """

    name: str
    function: Callable[[Architecture], float]
    _: KW_ONLY
    direction: Direction = "minimize"
    lower: float | None = None
    upper: float | None = None
    version: str = "1"
    unit: str = ""
    _known: dict[Architecture, float] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __call__(self, arch: Architecture) -> float:
        """The number of an architecture."""
        if arch not in self._known:
            value = self.function(arch)
            try:
                self._known[arch] = float(value)
            except (TypeError, ValueError):
                raise InputError(f"objective {self.name!r}: must return a number, received {value!r}") from None
        return self._known[arch]

    @property
    def is_limited(self) -> bool:
        """Whether it has an end."""
        return self.lower is not None or self.upper is not None

    def check(self) -> None:
        """Check the name, the direction and the ends.

        Raises:
            InputError: the name is no identifier or is taken, the direction is unknown, or the ends do not ascend.
        """
        what = f"objective {self.name!r}"
        taken = dict.fromkeys((ACCURACY, SCORE, LATENCY, *COSTS, *COSTS.values(), *OF_TRIALS))
        if not isinstance(self.name, str) or not self.name.isidentifier() or self.name in taken:
            raise InputError(f"{what}: its name must be an identifier, and none of {', '.join(taken)}")
        if not callable(self.function):
            raise InputError(
                f"{what}: must have a function from an architecture to a number, received {self.function!r}"
            )
        if self.direction not in ("minimize", "maximize"):
            raise InputError(f"{what}: direction {self.direction!r}: permitted are minimize and maximize")
        ends: list[Any] = [end for end in (self.lower, self.upper) if end is not None]
        if not all(isinstance(end, Real) and math.isfinite(end) for end in ends) or ends != sorted(ends):
            raise InputError(f"{what}: its ends must be numbers that ascend, received {self.lower} and {self.upper}")

    def to_dict(self) -> dict[str, Any]:
        """What has to be equal when a study is continued, JSON-serialisable."""
        return {"direction": self.direction, "lower": self.lower, "upper": self.upper, "version": str(self.version)}


@dataclass(frozen=True, kw_only=True)
class Objectives:
    """One or several objectives, the first of them the evaluator's score.

    Attributes:
        names: `accuracy` or `score` (whatever the evaluator gives), and any of `macs`, `params`, `memory` and those of
            `others`.
        others: what is neither the score nor a cost: latency as predicted, and a user's own.
    """

    names: tuple[str, ...] = (ACCURACY,)
    others: tuple[Objective, ...] = ()

    @property
    def directions(self) -> list[Direction]:
        """For Optuna: whether more or less is better of what `raw` gives."""
        others = {other.name: other.direction for other in self.others}
        return ["maximize", *(others.get(name, "minimize") for name in self.names[1:])]

    def values(self, arch: Architecture, cost: Cost, score: float) -> tuple[float, ...]:
        """The objectives of a scored architecture, each turned so that more is better."""
        others = {other.name: other for other in self.others}
        found = [
            score,
            *(others[name](arch) if name in others else float(getattr(cost, COSTS[name])) for name in self.names[1:]),
        ]
        return tuple(self.raw(found))

    def raw(self, values: Sequence[float]) -> list[float]:
        """Turned values as people read them, and back: what is minimised with its own sign."""
        pairs = zip(values, self.directions, strict=True)
        return [value if direction == "maximize" else -value for value, direction in pairs]


def read_objectives(given: Sequence[str | Objective], score: str) -> tuple[tuple[str, ...], tuple[Objective, ...]]:
    """The names of objectives, and those objectives that are a user's own.

    Args:
        given: names such as `accuracy` or `macs`, and objectives of a user's own.
        score: the name that the score has in this search, whichever of its two names is given.

    Raises:
        InputError: a name is unknown or given twice, or the first is not the score.
    """
    own = tuple(one for one in given if isinstance(one, Objective))
    for one in own:
        one.check()
    permitted = (score, *COSTS, LATENCY)
    names = [one.name if isinstance(one, Objective) else one.strip() for one in given]
    names = [score if name in (ACCURACY, SCORE) else name for name in names]
    said = ",".join(names)
    for name in names:
        if name not in permitted and name not in [one.name for one in own]:
            raise InputError(f"--objectives {said!r}: unknown {name!r}; permitted are {', '.join(permitted)}")
    if len(set(names)) != len(names):
        raise InputError(f"--objectives {said!r}: names an objective twice")
    if not names or names[0] != score:
        raise InputError(f"--objectives {said!r}: must begin with {score}")
    return tuple(names), own
