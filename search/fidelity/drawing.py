"""Draw the networks that a fidelity is measured on: some around the budget, some over the whole range of the space.

Both are the beginnings of sequences that seed and limits decide, so that asking for more keeps those that are there.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from psvit.arch.architecture import Architecture
from psvit.arch.costs import ADDITIVE
from psvit.errors import InputError
from psvit.space.budget import Budget, Limit, format_cost
from psvit.space.search_space import SearchSpace
from psvit.supernet.sampling import BINS, macs_bin

PERCENT = 5
"""How far around the budget networks are drawn."""

_WITHIN, _SPREAD = 1, 2
"""Keys that keep the generators of the two sequences apart."""

_ORDER = tuple(int(f"{number:0{(BINS - 1).bit_length()}b}"[::-1], 2) for number in range(BINS))
"""The parts of the reach of MACs in bit-reversed order: however many are taken, they lie evenly (van der Corput)."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The networks; one may be in both sets.

    Attributes:
        within: those around the budget.
        spread: those over the whole reach of MACs.
    """

    within: tuple[Architecture, ...]
    spread: tuple[Architecture, ...]

    @property
    def all(self) -> list[Architecture]:
        """Every network once, those around the budget first."""
        return list(dict.fromkeys([*self.within, *self.spread]))


def around(budget: Budget) -> Budget:
    """The same budget with its first limit on MACs or parameters replaced by `PERCENT` around it.

    A range that was given stays as it is, if it is no wider than that.

    Raises:
        InputError: latency is limited, which networks cannot be drawn by; neither MACs nor parameters are; or a range
            is wider, so that what costs more is mostly better in it.
    """
    if budget.latencies:
        raise InputError(f"budget {budget}: fidelity is measured within limits on costs; leave out those on latency")
    first = next((limit for limit in budget.limits if limit.metric in ADDITIVE), None)
    if first is None:
        raise InputError(
            f"budget {budget}: networks are drawn around a limit on multiply-accumulates or parameters; "
            "give one such as 2GFLOPs or 22Mparams"
        )
    if first.lower is not None:
        # In whole numbers: the upper end against so many percent of the middle, both times 200.
        if 200 * first.upper > (100 + PERCENT) * (first.lower + first.upper):
            middle = format_cost(first.metric, (first.lower + first.upper) // 2)
            raise InputError(
                f"budget {budget}: what counts is within {PERCENT} % of one cost, and this range reaches further from "
                f"its middle, so it would mostly measure costs; give {middle.replace(' ', '')}, or a range as narrow"
            )
        return budget
    lower, upper = -(-(100 - PERCENT) * first.upper // 100), (100 + PERCENT) * first.upper // 100
    near = Limit(metric=first.metric, lower=lower, upper=upper)
    return Budget(limits=tuple(near if limit is first else limit for limit in budget.limits))


def draw_within(space: SearchSpace, budget: Budget, n: int, seed: int) -> tuple[Architecture, ...]:
    """Different members within a budget, drawn exactly uniformly: `n`, or all if there are fewer.

    Raises:
        InputError: no member is within it.
    """
    rng = np.random.default_rng([seed, _WITHIN])
    space.check(budget)
    wanted = min(n, space.count(budget))
    found: dict[Architecture, None] = {}
    while len(found) < wanted:
        found[space.sample(rng, 1, budget)[0]] = None
    return tuple(found)


def draw_spread(space: SearchSpace, n: int, seed: int) -> tuple[Architecture, ...]:
    """Different members over the whole range of MACs: `n`, or all if there are fewer.

    The reach is cut into `BINS` parts of equal width, which are visited in turn, time after time; in each, a member is
    drawn exactly uniformly. Drawn from the whole space, nearly all would cost alike.
    """
    rng = np.random.default_rng([seed, _SPREAD])
    wanted = min(n, space.size)
    found: dict[Architecture, None] = {}
    seen: dict[int, set[Architecture]] = defaultdict(set)
    for number in itertools.cycle(_ORDER):
        if len(found) == wanted:
            break
        members = macs_bin(space, number)
        while len(seen[number]) < members.count:
            arch = members.sample(rng, 1)[0]
            seen[number].add(arch)
            # In a space with few different MACs, parts overlap.
            if arch not in found:
                found[arch] = None
                break
    return tuple(found)
