"""SearchSpace: which architectures are candidates, counted, sampled and varied under a budget."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from psvit.arch.architecture import Architecture
from psvit.arch.costs import ADDITIVE, cost
from psvit.errors import InputError
from psvit.io.shipped import shipped
from psvit.space import feasible, variation
from psvit.space.budget import Budget, format_cost
from psvit.space.feasible import feasible_set
from psvit.space.layout import PATCH_STEM
from psvit.space.layout import Layout as Layout
from psvit.space.layout import StageChoices as StageChoices
from psvit.space.members import Members
from psvit.space.pricing import Batch

MUTATION_ATTEMPTS = 50
"""Variations tried before one is replaced by a fresh draw from the feasible set; bounds every loop of a search."""


class SearchSpace(Members):
    """A set of architectures; `space[i]` and `space.index(arch)` number its members from 0 to `size - 1`.

    Attributes:
        name: for people and files.
        image_size, in_chans, num_classes, patch_size, patch_stride: as in `Architecture`, the same in all members.
        layouts: the choices; no two can hold the same network.
    """

    def price(self, rows: NDArray[np.int64]) -> Batch:
        """Members in encoded form, (n, genes), with their costs: a million takes a fraction of a second.

        Raises:
            ValueError: a row encodes a network whose width shrinks.
        """
        return Batch(self, rows)

    # --- budgets

    def count(self, budget: Budget) -> int:
        """The exact number of members within a budget's limits on costs."""
        for limit in budget.limits:
            least, greatest = self.reach(limit.metric)
            if limit.upper < least or (limit.lower or 0) > greatest:
                return 0  # known without listing anything
        return feasible_set(self, budget).count

    def sample(self, rng: np.random.Generator, n: int, budget: Budget | None = None) -> Batch:
        """Draw `n` members within the budget, exactly uniformly and with replacement.

        Raises:
            InputError: no member is within the budget; names the reachable range and the nearest member's costs.
        """
        self.check(budget or Budget())
        return feasible_set(self, budget or Budget()).sample(rng, n)

    def reach(self, metric: str) -> tuple[int, int]:
        """The smallest and the largest value of a cost in the space."""
        return feasible.reach(self)[metric]

    def nearest(self, budget: Budget) -> Architecture:
        """A member that deviates least from a budget, by `Budget.deviation`: one within it, if there is any."""
        return feasible.nearest(self, budget)

    def check(self, budget: Budget) -> None:
        """Make sure that a member is within the budget's limits on costs.

        Raises:
            InputError: none is; names the reachable range and what the nearest member costs.
        """
        if self.count(budget) == 0:
            metrics = [limit.metric for limit in budget.limits]
            reach = ", ".join(
                " to ".join(format_cost(metric, value) for value in self.reach(metric)) for metric in metrics
            )
            together = " (each alone)" if len(metrics) > 1 else ""
            closest = cost(self.nearest(budget))
            costs = [format_cost(metric, getattr(closest, metric)) for metric in metrics]
            # Where four digits do not tell them apart, all do.
            exactly = "".join(
                f"; {getattr(closest, limit.metric):,} is not between {limit.lower or 0:,} and {limit.upper:,}"
                for limit, shown in zip(budget.limits, costs, strict=True)
                if shown in str(limit) and limit.deviation(getattr(closest, limit.metric)) > 0
            )
            raise InputError(
                f"budget: no architecture of {self.name} costs {Budget(limits=budget.limits)}; "
                f"the space reaches {reach}{together}, and the nearest costs {', '.join(costs)}{exactly}"
            )

    # --- variation

    def mutate(
        self, arch: Architecture, rng: np.random.Generator, budget: Budget | None = None, rate: float = 0.2
    ) -> Architecture:
        """A member within the budget that differs from `arch` in a few choices.

        Every choice of every stage is drawn anew with probability `rate`; every layer changes with that probability
        between opening an attention group and joining the one before. With probability `rate` / 4 the layout changes,
        which draws the whole network anew.

        Raises:
            InputError: no member is within the budget.
        """
        budget = budget or Budget()
        for _ in range(MUTATION_ATTEMPTS):
            if len(self.layouts) > 1 and rng.random() < rate / 4:
                return self.sample(rng, 1, budget)[0]
            mutant = variation.mutant(self, arch, rng, rate)
            if mutant != arch and budget.satisfied_by(cost(mutant)):
                return mutant
        return self.sample(rng, 1, budget)[0]

    def crossover(
        self, one: Architecture, other: Architecture, rng: np.random.Generator, budget: Budget | None = None
    ) -> Architecture:
        """A member within the budget that takes each stage's choices from one of two parents.

        Where the parents have different numbers of stages, the child has the first one's.

        Raises:
            InputError: no member is within the budget.
        """
        budget = budget or Budget()
        for _ in range(MUTATION_ATTEMPTS):
            child = variation.child(self, one, other, rng)
            if budget.satisfied_by(cost(child)):
                return child
        return self.sample(rng, 1, budget)[0]


def shipped_spaces() -> list[str]:
    """The names of the spaces that come with the package."""
    return shipped("space")


def default_space(budget: Budget, image_size: int) -> SearchSpace:
    """The smallest shipped space of 2d networks with a patch stem for such images that holds the budget.

    A space holds a budget when it has members within it and reaches up to its upper limits on MACs and parameters;
    where none reaches so far, the largest has to do.

    Raises:
        InputError: no space for this image size has a member within the budget; names the ranges.
    """
    spaces = [
        space
        for name in shipped_spaces()
        for space in [SearchSpace.load(name)]
        if all((layout.variant, layout.stem) == ("2d", PATCH_STEM) for layout in space.layouts)
    ]
    distances = [abs(math.log(min(space.image_size) / image_size)) for space in spaces]
    nearest = [space for space, distance in zip(spaces, distances, strict=True) if distance == min(distances)]
    nearest.sort(key=lambda space: space.reach("macs")[1])
    holding = [
        space
        for space in nearest
        if all(limit.upper <= space.reach(limit.metric)[1] for limit in budget.limits if limit.metric in ADDITIVE)
    ]
    for space in [*holding, *reversed(nearest)]:
        if space.count(budget):
            return space
    metrics = [limit.metric for limit in budget.limits]
    ranges = "; ".join(
        f"{space.name} reaches "
        + ", ".join(" to ".join(format_cost(metric, value) for value in space.reach(metric)) for metric in metrics)
        for space in nearest
    )
    raise InputError(f"budget: no architecture costs {budget}; {ranges}")
