"""Objectives: what a search improves, said once and turned so that more is always better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from psvit.arch.architecture import Architecture
from psvit.arch.costs import Cost
from psvit.errors import InputError

ACCURACY, LATENCY = "accuracy", "latency"
COSTS = {"macs": "macs", "params": "num_params", "memory": "activation_bytes"}
"""Names of objectives that are costs, and which cost each is."""


class Predicts(Protocol):
    """A latency model."""

    def predict(self, arch: Architecture) -> float:
        """The latency of an architecture in milliseconds."""
        ...


@dataclass(frozen=True, kw_only=True)
class Objectives:
    """One or several objectives, the first of them the evaluator's score.

    Attributes:
        names: `accuracy` (whatever the evaluator gives), and any of `macs`, `params`, `memory` and `latency`.
        latency: predicts the latency, where that is an objective.
    """

    names: tuple[str, ...] = (ACCURACY,)
    latency: Predicts | None = None

    @classmethod
    def parse(cls, text: str) -> tuple[str, ...]:
        """The names in a list such as `accuracy,macs`.

        Raises:
            InputError: a name that there is not, one given twice, or not accuracy first.
        """
        permitted = (ACCURACY, *COSTS, LATENCY)
        names = tuple(name.strip() for name in text.split(","))
        for name in names:
            if name not in permitted:
                raise InputError(f"--objectives {text!r}: unknown {name!r}; permitted are {', '.join(permitted)}")
        if len(set(names)) != len(names):
            raise InputError(f"--objectives {text!r}: names an objective twice")
        if names[0] != ACCURACY:
            raise InputError(f"--objectives {text!r}: must begin with {ACCURACY}")
        return names

    @property
    def directions(self) -> list[Literal["maximize", "minimize"]]:
        """For Optuna: whether more or less is better of what `raw` gives."""
        return ["maximize" if name == ACCURACY else "minimize" for name in self.names]

    def values(self, arch: Architecture, cost: Cost, score: float) -> tuple[float, ...]:
        """The objectives of a scored architecture, each turned so that more is better."""
        return tuple(score if name == ACCURACY else -self._less_is_better(name, arch, cost) for name in self.names)

    def raw(self, values: Sequence[float]) -> list[float]:
        """Turned values as people read them, and back: costs and latency with their own sign."""
        return [value if name == ACCURACY else -value for name, value in zip(self.names, values, strict=True)]

    def _less_is_better(self, name: str, arch: Architecture, cost: Cost) -> float:
        if name == LATENCY:
            assert self.latency is not None
            return self.latency.predict(arch)
        return float(getattr(cost, COSTS[name]))
