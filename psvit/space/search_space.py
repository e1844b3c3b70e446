"""SearchSpace: which architectures are candidates, counted, sampled and varied under a budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from psvit.arch.architecture import Architecture
from psvit.arch.bounds import MOST_CHANNELS, MOST_CLASSES
from psvit.arch.costs import ADDITIVE, METRICS, cost
from psvit.errors import InputError
from psvit.io.arguments import read_image_size, whole
from psvit.io.shipped import shipped
from psvit.space import feasible, variation
from psvit.space.around import space_around
from psvit.space.budget import Budget, Limits, format_cost
from psvit.space.feasible import feasible_set
from psvit.space.for_images import space_for
from psvit.space.layout import PATCH_STEM
from psvit.space.layout import Layout as Layout
from psvit.space.layout import StageChoices as StageChoices
from psvit.space.listing import check_countable
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

    @classmethod
    def for_images(
        cls, image_size: int | str | tuple[int, int], in_chans: int, num_classes: int, budget: Limits
    ) -> Self:
        """A space for images and a budget; the same for equal arguments, on every machine.

        It holds networks of both variants, of one, two and three stages, behind either stem, with widths and depths
        around those that the budget buys. A half of the budget and one and a half times the budget are within its
        reach, and but for the very smallest budgets it has references (`psvit.space.references`) of all kinds.

        Patches do not overlap, and both stems can make tokens of them: so their side is a product of factors 2 and 3,
        from 2 on. They give 7 to 16 tokens a side, more with a larger budget, and 4 to 6 where a side has less than 14
        pixels. Where one side is so much longer that no patch does, the number of tokens comes as near to 49 to 256 as
        it can, with four or more on the short side. If no such patch divides the sides, the space is for the nearest
        size that one divides: see its `image_size`.

        Args:
            image_size: height and width in pixels, 8 to 512 each: a pair, a text such as `96x64`, or one number for
                both.
            in_chans: channels of the images.
            num_classes: outputs of the classifier.
            budget: a `Budget`, or limits as it reads them. Limits on multiply-accumulates and parameters decide; with
                several, the tightest. Without any, it is 40,000 multiply-accumulates a pixel: 2 GFLOPs for 224 x 224.

        Raises:
            InputError: no sensible network for such images can meet the budget, or spend it; says what is possible.
        """
        budget = Budget.of(budget)
        space = space_for(
            cls,
            read_image_size(image_size),
            whole("in_chans", in_chans, 1, MOST_CHANNELS),
            whole("num_classes", num_classes, 1, MOST_CLASSES),
            budget,
        )
        space.check(budget)
        return space

    @classmethod
    def around(cls, arch: Architecture, depths: Sequence[int] | None = None) -> Self:
        """The poolings and sharings of a network: what it can become without new weights.

        Members have its stem, widths, heads and MLPs. They are pooled at up to two places more than the network, by
        maximum or average, and up to four layers use one attention map; fewer where there are so many
        layers that members could not be counted: two or three of about 27 layers or more, and one of about 35 or more.
        The largest member is the network itself. One of 12 layers and one stage has 1 + 11 + 55 layouts.

        Args:
            arch: the network; none of its layers share a map.
            depths: numbers of layers that members may have; the last layers are left out. The network's own is always
                among them. By default, members have all layers.

        Raises:
            InputError: the network shares maps already or has more than 44 layers, or a depth cannot be.
        """
        return space_around(cls, arch, depths)

    def price(self, rows: NDArray[np.int64]) -> Batch:
        """Members in encoded form, (n, genes), with their costs: a million takes a fraction of a second.

        Raises:
            ValueError: a row encodes a network whose width shrinks, or a gene is out of its range.
        """
        if ((rows < 0) | (rows >= np.array(list(self.genes.values())))).any():
            raise ValueError(f"rows: a gene is out of its range; see genes of {self.name}")
        return Batch(self, rows)

    # --- budgets

    def count(self, budget: Limits) -> int:
        """The exact number of members within a budget's limits on costs.

        Raises:
            InputError: it is no budget; or the space has so many choices that counting would fill the memory: says
                what to make smaller.
        """
        budget = Budget.of(budget)
        for limit in budget.limits:
            least, greatest = self.reach(limit.metric)
            if limit.upper < least or (limit.lower or 0) > greatest:
                return 0  # known without listing anything
        return feasible_set(self, budget).count

    def sample(self, rng: np.random.Generator, n: int, budget: Limits | None = None) -> Batch:
        """Draw `n` members within the budget, exactly uniformly and with replacement.

        Raises:
            InputError: an argument cannot be used, or no member is within the budget: names the reachable range and
                the nearest member's costs.
        """
        if not isinstance(rng, np.random.Generator):
            raise InputError(f"rng: must be a NumPy generator, such as np.random.default_rng(0); received {rng!r}")
        budget, n = Budget.of(budget or ()), whole("n", n)
        self._check_met(budget)
        return feasible_set(self, budget).sample(rng, n)

    def reach(self, metric: str) -> tuple[int, int]:
        """The smallest and the largest value of a cost in the space.

        Raises:
            InputError: there is no such cost.
        """
        if metric not in METRICS:
            raise InputError(f"metric {metric!r}: permitted are {', '.join(METRICS)}")
        return feasible.reach(self)[metric]

    def nearest(self, budget: Limits) -> Architecture:
        """A member that deviates least from a budget, by `Budget.deviation`: one within it, if there is any.

        Raises:
            InputError: it is no budget.
        """
        return feasible.nearest(self, Budget.of(budget))

    def check(self, budget: Limits) -> None:
        """Make sure that a member is within the budget's limits on costs, and that these limit anything.

        Raises:
            InputError: no member is within; names the reachable range and what the nearest member costs. Or no
                limit has a lower end and all upper ends are beyond what any member costs, so that the budget cannot be
                spent. Or the space has too many choices to be counted.
        """
        budget = Budget.of(budget)
        check_countable(self, sorts_params=budget.limit("num_params") is not None)
        if not budget.limits:
            return
        self._check_met(budget)
        ends = [(limit, self.reach(limit.metric)[1]) for limit in budget.limits]
        # Who gives a range asks for whatever is in it.
        is_beyond = all(limit.upper > greatest and limit.lower is None for limit, greatest in ends)
        # What latency or memory may limit is not known to be too much, and memory alone is not meant to be spent.
        if is_beyond and not budget.latencies and any(limit.metric in ADDITIVE for limit, _ in ends):
            most = ", ".join(format_cost(limit.metric, greatest) for limit, greatest in ends)
            raise InputError(
                f"budget: no architecture of {self.name} can spend {Budget(limits=budget.limits)}, because they have "
                f"at most {most}; give no more than that; if no space is named, one is made for the budget"
            )

    def _check_met(self, budget: Budget) -> None:
        if len(budget.limits) == 1 and not budget.limits[0].lower:
            (limit,) = budget.limits
            if self.reach(limit.metric)[0] <= limit.upper:
                return  # known without counting
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
        self, arch: Architecture, rng: np.random.Generator, budget: Limits | None = None, rate: float = 0.2
    ) -> Architecture:
        """A member within the budget that differs from `arch` in a few choices.

        Every choice of every stage is drawn anew with probability `rate`; every layer changes with that probability
        between opening an attention group and joining the one before. With probability `rate` / 4 the layout changes,
        which draws the whole network anew. A uniform draw also stands in where 50 mutants in a row miss the budget, as
        they often do where it is narrow.

        Raises:
            InputError: no member is within the budget.
        """
        budget = Budget.of(budget or ())
        for _ in range(MUTATION_ATTEMPTS):
            if len(self.layouts) > 1 and rng.random() < rate / 4:
                return self.sample(rng, 1, budget)[0]
            mutant = variation.mutant(self, arch, rng, rate)
            if mutant != arch and budget.satisfied_by(cost(mutant)):
                return mutant
        return self.sample(rng, 1, budget)[0]

    def crossover(
        self, one: Architecture, other: Architecture, rng: np.random.Generator, budget: Limits | None = None
    ) -> Architecture:
        """A member within the budget that takes each stage's choices from one of two parents.

        Where the parents have different numbers of stages, the child has the first one's. If 50 children in a row miss
        the budget, it is a uniform draw instead.

        Raises:
            InputError: no member is within the budget.
        """
        budget = Budget.of(budget or ())
        for _ in range(MUTATION_ATTEMPTS):
            child = variation.child(self, one, other, rng)
            if budget.satisfied_by(cost(child)):
                return child
        return self.sample(rng, 1, budget)[0]


def shipped_spaces() -> list[str]:
    """The names of the spaces that come with the package."""
    return shipped("space")


def shipped_for(image_size: tuple[int, int], budget: Budget) -> SearchSpace | None:
    """The smallest shipped space of 2d networks behind a patch stem for images of this size that holds the budget.

    A space holds a budget if it has members within it, and reaches up to its upper limits on MACs and parameters. If
    only latency is limited, this cannot be known, and the middle one of the spaces is taken.

    Returns:
        The space; `None` if no shipped space is for this size, or none of them holds the budget.
    """
    spaces = [
        space
        for name in shipped_spaces()
        if (space := SearchSpace.load(name)).image_size == image_size
        and all((layout.variant, layout.stem) == ("2d", PATCH_STEM) for layout in space.layouts)
    ]
    spaces.sort(key=lambda space: space.reach("macs")[1])
    limits = [limit for limit in budget.limits if limit.metric in ADDITIVE]
    if spaces and budget.latencies and not limits:
        return spaces[len(spaces) // 2]
    return next(
        (
            space
            for space in spaces
            if all(limit.upper <= space.reach(limit.metric)[1] for limit in limits) and space.count(budget)
        ),
        None,
    )
