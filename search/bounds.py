"""Bounds: limits on what is not a cost, so that it has to be looked up for every candidate."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from psvit.arch.architecture import Architecture
from psvit.search.objectives import Objective
from psvit.space.pricing import Batch
from psvit.space.search_space import SearchSpace


class Bound(Protocol):
    """A limit on a number that an architecture has."""

    @property
    def subject(self) -> str:
        """The name of the limited number."""
        ...

    @property
    def ends(self) -> tuple[float | None, float]:
        """The lower end, if there is one, and the upper."""
        ...

    @property
    def draws(self) -> int | None:
        """How many architectures may be looked at for one batch, if the number takes long; `None` if it does not."""
        ...

    def value(self, arch: Architecture) -> float:
        """The number of a member."""
        ...

    def values(self, batch: Batch) -> NDArray[np.float64]:
        """The numbers of some members, (n,)."""
        ...

    def macs(self, space: SearchSpace) -> tuple[int, int]:
        """Limits on MACs that follow from this one."""
        ...

    def check(self, space: SearchSpace) -> None:
        """Make sure, as far as can be told, that a member keeps the limit.

        Raises:
            InputError: none does; names the reachable range.
        """
        ...

    def reach(self, space: SearchSpace) -> str:
        """The reachable range in words."""
        ...


def includes(bound: Bound, value: float) -> bool:
    """Whether a number is within a bound's ends."""
    lower, upper = bound.ends
    return (lower is None or lower <= value) and value <= upper


def includes_all(bound: Bound, values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which numbers are within a bound's ends."""
    lower, upper = bound.ends
    return (values <= upper) if lower is None else (lower <= values) & (values <= upper)


class ObjectiveBound:
    """The ends of an objective of a user's own.

    Args:
        objective: one that has an end.
    """

    draws: int | None = 2**13

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    @property
    def subject(self) -> str:
        """See `Bound`."""
        return self.objective.name

    @property
    def ends(self) -> tuple[float | None, float]:
        """See `Bound`."""
        return self.objective.lower, math.inf if self.objective.upper is None else self.objective.upper

    def value(self, arch: Architecture) -> float:
        """See `Bound`."""
        return self.objective(arch)

    def values(self, batch: Batch) -> NDArray[np.float64]:
        """See `Bound`."""
        return np.array([self.value(arch) for arch in batch], dtype=np.float64)

    def macs(self, space: SearchSpace) -> tuple[int, int]:
        """The whole range of MACs, because it is not known how the number depends on MACs."""
        return space.reach("macs")

    def check(self, space: SearchSpace) -> None:
        """Checks nothing, because the reachable range of the number is not known."""

    def reach(self, space: SearchSpace) -> str:
        """See `Bound`."""
        smallest, largest = (f"{self.value(arch):.4g}" for arch in (space.smallest, space.largest))
        return f"{self.subject} is {smallest} for the smallest architecture and {largest} for the largest"

    def __str__(self) -> str:
        lower, upper = self.ends
        ends = [f"at least {lower:g}"] if lower is not None else []
        ends += [f"at most {upper:g}"] if upper < math.inf else []
        return f"{' and '.join(ends)} {self.objective.unit}".rstrip() + f" of {self.subject}"
