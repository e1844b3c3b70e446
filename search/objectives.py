"""Objectives: what a search improves, said once and turned so that more is always better."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal

from psvit.arch.architecture import Architecture
from psvit.arch.costs import Cost
from psvit.errors import InputError

Direction = Literal["minimize", "maximize"]

ACCURACY, SCORE, LATENCY = "accuracy", "score", "latency"
"""Two names of what the evaluator gives, and one of what a latency model does."""

COSTS = {"macs": "macs", "params": "num_params", "memory": "activation_bytes"}
"""Names of objectives that are costs, and which cost each is."""


@dataclass(frozen=True)
class Objective:
    """A number that every architecture has, to be improved, kept within limits, or both.

    A search improves it where it is given among the `objectives`. Where it has an end, the search keeps to that, as it
    does where it is given in the `budget`.

    Attributes:
        name: an identifier, such as `energy_mj`; appears in files and reports.
        function: the number of an architecture; always the same for the same one. It is called once for each, in the
            process that searches.
        direction: whether less or more of it is better.
        lower: the least that is permitted.
        upper: the most that is permitted.
        version: of the function. A study is continued only with the version that it was begun with.
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
            self._known[arch] = float(self.function(arch))
        return self._known[arch]

    @property
    def is_limited(self) -> bool:
        """Whether it has an end."""
        return self.lower is not None or self.upper is not None

    def check(self) -> None:
        """Make sure that it can be told from others and that something is within its ends.

        Raises:
            InputError: it is otherwise.
        """
        what = f"objective {self.name!r}"
        taken = (ACCURACY, SCORE, LATENCY, *COSTS, *COSTS.values())
        if not self.name.isidentifier() or self.name in taken:
            raise InputError(f"{what}: its name must be an identifier, and none of {', '.join(taken)}")
        if self.direction not in ("minimize", "maximize"):
            raise InputError(f"{what}: direction {self.direction!r}: permitted are minimize and maximize")
        ends = [end for end in (self.lower, self.upper) if end is not None]
        if not all(map(math.isfinite, ends)) or ends != sorted(ends):
            raise InputError(f"{what}: its ends must be numbers that ascend, received {self.lower} and {self.upper}")

    def to_dict(self) -> dict[str, Any]:
        """What a study has to agree on, JSON-serialisable."""
        return {"direction": self.direction, "lower": self.lower, "upper": self.upper, "version": self.version}


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
    """Names of objectives, and which of them are a user's own.

    Args:
        given: names such as `accuracy` or `macs`, and objectives of a user's own.
        score: what the score is called here, whichever of its names is given.

    Raises:
        InputError: a name that there is not, one given twice, or not the score first.
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
