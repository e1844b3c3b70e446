"""What `versus_baselines.py` compares: families of networks within 2 % of one number of multiply-accumulates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from baselines import BOTH, SHARING, TOLERANCE, fit
from versus_results import FOUND, RANDOM

from psvit import Architecture, Budget, SearchSpace
from psvit.errors import InputError
from psvit.space.references import DEIT, HVT, PIT, Proportions

HAND_MADE = (DEIT, PIT, HVT, SHARING, BOTH)


@dataclass(frozen=True, kw_only=True)
class Family:
    """Networks of one kind within one budget.

    Attributes:
        name: of the kind.
        budget: as given.
        candidates: by seed, the networks among which one is chosen by tuning.
    """

    name: str
    budget: str
    candidates: Callable[[int], Sequence[Architecture]]


def families_of(budget: str, space: SearchSpace, found: Architecture, depths: Sequence[float]) -> list[Family]:
    """All families within a budget.

    Args:
        budget: as given.
        space: of random networks, and whose images and patches all have.
        found: what a search found.
        depths: layers of networks made by hand, relative to the papers'.

    Raises:
        InputError: there is no such network within the budget.
    """
    macs, limits = around(budget, space)
    space.check(Budget.parse(limits))

    def by_hand(proportions: Proportions) -> Family:
        # Two depths may lead to one network.
        archs = tuple(dict.fromkeys(fit(proportions, space, macs, depth) for depth in depths))
        return Family(name=proportions.name, budget=budget, candidates=lambda seed: archs)

    @cache
    def drawn(seed: int) -> tuple[Architecture, ...]:
        return (space.sample(np.random.default_rng([seed, macs]), 1, Budget.parse(limits))[0],)

    return [
        *map(by_hand, HAND_MADE),
        Family(name=RANDOM, budget=budget, candidates=drawn),
        Family(name=FOUND, budget=budget, candidates=lambda seed: (found,)),
    ]


def around(budget: str, space: SearchSpace) -> tuple[int, str]:
    """A budget in multiply-accumulates, and the range around it that all networks keep.

    Raises:
        InputError: it is not a single limit on multiply-accumulates.
    """
    limits = Budget.parse(budget, space=space)
    limit = limits.limit("macs")
    if limit is None or limit.lower is not None or limits.latencies:
        raise InputError(f"--budget {budget!r}: give one number of multiply-accumulates, such as 10MFLOPs")
    low, high = ((1 + sign * TOLERANCE) * limit.upper / 1e6 for sign in (-1, 1))
    return limit.upper, f"{low:.10g}..{high:.10g}MFLOPs"
