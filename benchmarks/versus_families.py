"""What `versus_baselines.py` compares: families of networks within 2 % of one number of multiply-accumulates."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from baselines import BOTH, SHARING, TOLERANCE, fit
from versus_results import FOUND, RANDOM

from psvit import Architecture, Budget, SearchSpace
from psvit.errors import InputError
from psvit.space.references import DEIT, HVT, PIT, Proportions

HAND_MADE = (DEIT, PIT, HVT)
ABLATION = (SHARING, BOTH)


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


def families_of(
    budget: str, space: SearchSpace, found: Architecture, depths: Sequence[float], ablation: bool
) -> list[Family]:
    """All families within a budget.

    Args:
        budget: as given.
        space: of random networks, and whose images and patches all have.
        found: what a search found.
        depths: layers of networks made by hand, relative to the papers'.
        ablation: whether those that tell what pooling and sharing do take part.

    Raises:
        InputError: there is no such network within the budget.
    """
    macs, limits = around(budget)
    space.check(Budget.parse(limits))

    def by_hand(proportions: Proportions) -> Family:
        archs: dict[Architecture, None] = {}  # two depths may lead to one network
        for stem, depth in itertools.product(("patch", "conv"), depths):
            try:
                archs[fit(proportions, space, macs, depth, stem=stem)] = None
            except InputError as error:
                none_fits = error
        if not archs:
            raise none_fits
        return Family(name=proportions.name, budget=budget, candidates=lambda seed: tuple(archs))

    @cache
    def drawn(seed: int) -> tuple[Architecture, ...]:
        return (space.sample(np.random.default_rng([seed, macs]), 1, Budget.parse(limits))[0],)

    return [
        *map(by_hand, HAND_MADE + ABLATION if ablation else HAND_MADE),
        Family(name=RANDOM, budget=budget, candidates=drawn),
        Family(name=FOUND, budget=budget, candidates=lambda seed: (found,)),
    ]


def around(budget: str) -> tuple[int, str]:
    """A budget in multiply-accumulates, and the range around it that all networks keep.

    Raises:
        InputError: it is not a single limit on multiply-accumulates.
    """
    limits = Budget.parse(budget)
    limit = limits.limit("macs")
    if limit is None or limit.lower is not None or limits.latencies:
        raise InputError(f"--budget {budget!r}: give one number of multiply-accumulates, such as 10MFLOPs")
    low, high = ((1 + sign * TOLERANCE) * limit.upper / 1e6 for sign in (-1, 1))
    return limit.upper, f"{low:.10g}..{high:.10g}MFLOPs"
