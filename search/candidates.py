"""Candidates: what a search may propose, in a space, under limits on costs and on what is looked up for each candidate.

Limits on costs are kept exactly and without rejection. Predicted latency and a user's own numbers are looked up, so
architectures beyond such a bound are drawn and left out; `DRAWS` limits how often, and limits on MACs that follow from
those on latency keep what has to be left out small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psvit.arch.architecture import Architecture
from psvit.errors import InputError
from psvit.search.bounds import Bound, includes, includes_all
from psvit.search.history import History, Seen
from psvit.search.proposal import Proposal
from psvit.space.budget import Budget, Limit
from psvit.space.feasible import FeasibleSet, feasible_set
from psvit.space.pricing import Batch
from psvit.space.search_space import SearchSpace

OUTSIDE = "space"
"""The name of the constraint that a row of genes encodes a member of the space."""

DRAWS = 2**20
"""Architectures drawn before it counts as settled that no more can be found within the bounds."""

LISTED = 2**17
"""Sets of at most this many architectures are looked through one by one instead."""


BEYOND = 1e6
"""The greatest share by which it is said that a value is beyond a range."""

TURNS, TURN = 8, 64
"""Before it counts as settled that a kind holds no more, so many groups of so many members are drawn from it."""

PROMISING = 128
"""Of so many candidates of a kind the most promising one is taken, where that is asked for."""

Predict = Callable[[Sequence[Architecture]], NDArray[np.float64]]
"""From architectures to numbers that rank them, (n,); more is better."""


class Candidates:
    """The members of a space that a search may propose.

    Args:
        space: the space.
        budget: the limits; those on costs are kept, of others `bounds` knows.
        bounds: limits on what is looked up for each candidate.

    Attributes:
        members: what keeps the limits on costs, and those on MACs that follow from the bounds.

    Raises:
        InputError: nothing is within a limit; names the reachable range.
    """

    def __init__(self, space: SearchSpace, budget: Budget, bounds: Sequence[Bound] = ()) -> None:
        space.check(budget)
        for bound in bounds:
            bound.check(space)
        self.space = space
        self.budget = _narrowed(space, budget, bounds)
        self._bounds = bounds
        few = [bound.draws for bound in bounds if bound.draws is not None]
        self._draws, self._listed = min([DRAWS, *few]), min([LISTED, *few])
        self.members: FeasibleSet = feasible_set(space, self.budget)
        if not self.members.count or not self._may_hold_any():
            raise InputError(
                f"budget: no architecture of {space.name} is predicted to keep {_in_words(budget, bounds)}; "
                f"{'; '.join(bound.reach(space) for bound in bounds)}, without the other limits"
            )

    def _may_hold_any(self) -> bool:
        """Whether any member keeps the bounds. If there are too many to look through, the answer is yes."""
        if not self._bounds or self.members.count > self._listed:
            return True
        return bool(self._within(self.members.take(np.arange(self.members.count))).any())

    def permits(self, arch: Architecture) -> bool:
        """Whether an architecture within the limits on costs keeps those on latency and on a user's own numbers."""
        return all(includes(bound, bound.value(arch)) for bound in self._bounds)

    def propose(
        self, archs: Sequence[Architecture], origin: str, attrs: dict[str, Any] | None = None
    ) -> list[Proposal]:
        """Proposals of members, each with how far it is inside or beyond every limit."""
        rows = np.array([self.space.encode(arch) for arch in archs], dtype=np.int64)
        costs = self.space.price(rows.reshape(len(archs), -1)) if len(archs) else None
        proposals = []
        for position, arch in enumerate(archs):
            constraints = {OUTSIDE: 0.0}
            for limit in self.budget.limits:
                constraints[limit.subject] = _excess(float(getattr(costs, limit.metric)[position]), *limit.ends)
            for bound in self._bounds:
                constraints[bound.subject] = _excess(bound.value(arch), *bound.ends)
            row = tuple(rows[position].tolist())
            proposals.append(Proposal(row=row, origin=origin, constraints=constraints, attrs=attrs or {}))
        return proposals

    def outside(self, row: tuple[int, ...], origin: str, attrs: dict[str, Any]) -> Proposal:
        """A row of genes that encodes no member; nothing is known of its costs."""
        limits = [*(limit.subject for limit in self.budget.limits), *(bound.subject for bound in self._bounds)]
        return Proposal(row=row, origin=origin, constraints={OUTSIDE: 1.0, **dict.fromkeys(limits, 0.0)}, attrs=attrs)

    def mutate(self, arch: Architecture, rng: np.random.Generator, rate: float) -> Architecture:
        """A member within the limits on costs that differs from another in few choices, see `SearchSpace.mutate`."""
        return self.space.mutate(arch, rng, self.budget, rate)

    def crossover(self, one: Architecture, other: Architecture, rng: np.random.Generator) -> Architecture:
        """A member within the limits on costs with choices of both parents, see `SearchSpace.crossover`."""
        return self.space.crossover(one, other, rng, self.budget)

    def draw_unseen(self, n: int, seen: Seen | History, rng: np.random.Generator) -> list[Architecture]:
        """Draw candidates uniformly from those not seen. If `seen` is a `Seen`, they are added to it.

        Returns:
            `n` architectures, or all that are left; under bounds, or all that `DRAWS` draws found.
        """
        seen = Seen(seen) if isinstance(seen, History) else seen
        drawn: list[Architecture] = []
        spent = 0
        while len(drawn) < n and spent < self._draws:
            few = 2 * len(seen) >= self.members.count or (bool(self._bounds) and self.members.count <= self._listed)
            if few:
                # Most may have been seen, so drawing would mostly repeat; what is left is few enough to list.
                batch = self.members.take(rng.permutation(self.members.count))
            else:
                # Under bounds at least as many again as were drawn in vain.
                batch = self.members.sample(rng, max(n - len(drawn), min(spent, self._listed)))
            spent += len(batch) if self._bounds else 0
            for arch in self.within(batch):
                if arch not in seen:
                    seen.add(arch)
                    drawn.append(arch)
                if len(drawn) == n:
                    break
            if few:
                break
        return drawn

    @cached_property
    def _kinds(self) -> list[tuple[SearchSpace, FeasibleSet]]:
        """The parts of the space of one layout and stem each that hold any members within the limits on costs."""
        found = [(part, FeasibleSet(part, self.budget)) for part in self.space.strata()]
        return [(part, members) for part, members in found if members.count]

    def draw_stratified(
        self, n: int, seen: Seen | History, rng: np.random.Generator, *, last: Sequence[Architecture] = ()
    ) -> list[Architecture]:
        """Draw candidates not seen, from every layout and stem in turn, uniformly within each.

        Drawing uniformly from all of them instead would nearly always give networks of the layout that has the most
        attention groupings. If `seen` is a `Seen`, they are added to it.

        Args:
            n: how many.
            seen: those that are not wanted.
            rng: of the draw.
            last: architectures whose kinds have had their turn.

        Returns:
            As `draw_unseen`.
        """
        seen = Seen(seen) if isinstance(seen, History) else seen
        drawn: list[Architecture] = []
        left = self._in_turn(rng, last)
        while left and len(drawn) < n:
            for kind in left.copy()[: n - len(drawn)]:
                if arch := next(self._fitting(kind[1], seen, rng), None):
                    seen.add(arch)
                    drawn.append(arch)
                else:
                    left.remove(kind)
        return [*drawn, *self.draw_unseen(n - len(drawn), seen, rng)]

    def draw_promising(
        self, n: int, seen: Seen, rng: np.random.Generator, known: Sequence[Architecture], predict: Predict
    ) -> list[Architecture]:
        """Draw `PROMISING` members of a kind (layout and stem), and take the one that is predicted to be the best.

        Args:
            n: of how many kinds, at most.
            seen: those that are not wanted; what is drawn is added.
            rng: of the draw.
            known: architectures whose kinds have had their turn.
            predict: ranks architectures, see `psvit.search.prediction`.

        Returns:
            One of each kind; fewer than `n` if no more kinds are left.
        """
        drawn: list[Architecture] = []
        for part, members in self._in_turn(rng):
            if len(drawn) == n:
                break
            if any(part.contains(arch) for arch in known):
                continue
            if some := [*islice(self._fitting(members, seen, rng), PROMISING)]:
                best = some[int(np.argmax(predict(some)))]
                seen.add(best)
                drawn.append(best)
        return drawn

    def _in_turn(
        self, rng: np.random.Generator, last: Sequence[Architecture] = ()
    ) -> list[tuple[SearchSpace, FeasibleSet]]:
        """All kinds in a random order, those of some architectures last."""
        order = [self._kinds[int(number)] for number in rng.permutation(len(self._kinds))]
        return sorted(order, key=lambda kind: any(kind[0].contains(arch) for arch in last))

    def _fitting(self, members: FeasibleSet, seen: Seen, rng: np.random.Generator) -> Iterator[Architecture]:
        """Some random members of a kind that keep the bounds and were not seen."""
        turns = (members.sample(rng, min(TURN, members.count)) for _ in range(TURNS))
        # One by one: a kind is a space of its own, and tables of latencies are for rows of the whole space.
        return (arch for turn in turns for arch in turn if arch not in seen and self.permits(arch))

    def within(self, batch: Batch) -> Iterator[Architecture]:
        """Those of some members that keep the bounds, decoded one by one."""
        return (batch[int(position)] for position in np.flatnonzero(self._within(batch)))

    def _within(self, batch: Batch) -> NDArray[np.bool_]:
        """Which of some members keep the bounds, (n,)."""
        within = np.ones(len(batch), dtype=np.bool_)
        for bound in self._bounds:
            within &= includes_all(bound, bound.values(batch))
        return within


def _excess(value: float, lower: float | None, upper: float) -> float:
    """By which share a value is beyond the nearer end of a range, to four digits; at most 0 inside.

    A value that is no number is beyond every range, and one that is infinite where the range has an end there.
    """
    if not math.isfinite(value):
        return -1.0 if (lower is None or lower <= value) and value <= upper else BEYOND
    above = value / upper - 1 if upper > 0 else (value - upper) / (-upper or 1)
    below = -1.0
    if lower:
        below = 1 - value / lower if lower > 0 else (lower - value) / -lower
    elif lower is not None:
        below = -value if value < 0 else -1.0
    excess = min(max(above, below), BEYOND)
    # Rounded away from the limit, so that a limit that is exceeded never seems to be kept.
    return math.ceil(1e4 * excess) / 1e4 if excess > 0 else math.floor(1e4 * excess) / 1e4


def _narrowed(space: SearchSpace, budget: Budget, bounds: Sequence[Bound]) -> Budget:
    """The budget with the limits on MACs that follow from the bounds."""
    if not bounds:
        return budget
    given = budget.limit("macs")
    least, greatest = space.reach("macs")
    lower = max(given.lower or 0, least) if given else least
    upper = min(given.upper, greatest) if given else greatest
    for bound in bounds:
        low, high = bound.macs(space)
        lower, upper = max(lower, low), min(upper, high)
    if lower > upper:
        # Nothing keeps both; a budget that nothing can keep says so in the same way as any other.
        lower = upper = least - 1
    others = tuple(limit for limit in budget.limits if limit.metric != "macs")
    return Budget(limits=(Limit(metric="macs", lower=lower, upper=upper), *others))


def _in_words(budget: Budget, bounds: Sequence[Bound]) -> str:
    """All limits, each once."""
    return " and ".join(map(str, (*budget.limits, *bounds)))
