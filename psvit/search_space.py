"""SearchSpace: which architectures are candidates, as a set with an exact size in which every member has a number.

A space fixes what all its members have in common (variant, patches, head width, images, classes) and lists
*layouts*: for every stage the choices of width, depth, grouping and MLP ratio, and between stages the choices of
pooling operator. Layouts differ in their number of stages, so an architecture belongs to at most one, and nothing is
described twice. `psvit.feasible` counts and samples a space under a budget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from psvit import compositions
from psvit.architecture import Architecture, Pool, Stage, Variant, stage_grids
from psvit.budget import Budget, format_cost
from psvit.costs import ADDITIVE, cost
from psvit.documents import Value, dump_yaml, read_yaml, write_atomic
from psvit.errors import InputError
from psvit.shipped import find, shipped

if TYPE_CHECKING:
    from psvit.pricing import Batch

SCHEMA = "psvit/space/1"

GENES_PER_STAGE = ("pool", "embed_dim", "depth", "mlp_ratio", "grouping")
"""What an encoded architecture says about each stage: positions in the layout's choices, and the grouping's number."""

MUTATION_ATTEMPTS = 50
"""Variations tried before one is replaced by a fresh draw from the feasible set; bounds every loop of a search."""

Choices = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


class StageChoices(Value):
    """The choices for one stage of a layout.

    Attributes:
        begin: place of the stage's first layer in the supernet's list of layers.
        embed_dim: widths, ascending.
        depth: numbers of layers, ascending.
        max_group: most layers that may use one attention map.
        mlp_ratio: hidden widths of the MLPs relative to `embed_dim`, ascending.
    """

    begin: Annotated[int, Field(ge=0)]
    embed_dim: Choices
    depth: Choices
    max_group: PositiveInt
    mlp_ratio: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        for name in ("embed_dim", "depth", "mlp_ratio"):
            values = getattr(self, name)
            if list(values) != sorted(set(values)):
                raise ValueError(f"{name} must be ascending without repeats, received {list(values)}")
        if self.max_group > max(self.depth):
            raise ValueError(
                f"max_group must be at most the largest depth {max(self.depth)}, received {self.max_group}"
            )
        for embed_dim in self.embed_dim:
            for mlp_ratio in self.mlp_ratio:
                Stage(embed_dim=embed_dim, groups=(1,), mlp_ratio=mlp_ratio)
        return self

    @property
    def end(self) -> int:
        """The place after the deepest choice's last layer in the supernet's list."""
        return self.begin + max(self.depth)

    @cached_property
    def groupings(self) -> int:
        """Number of pairs of a depth and a grouping of it."""
        return sum(compositions.size(depth, self.max_group) for depth in self.depth)


class Layout(Value):
    """The choices for networks of one number of stages.

    Attributes:
        stages: the choices of each stage; their places in the supernet's list follow one another without overlap.
        pools: the choices of operator before each stage but the first.
    """

    stages: Annotated[tuple[StageChoices, ...], Field(min_length=1)]
    pools: tuple[Annotated[tuple[Pool, ...], Field(min_length=1)], ...] = ()

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if len(self.pools) != len(self.stages) - 1:
            raise ValueError(
                f"pools must be one fewer than stages, received {len(self.pools)} pools, {len(self.stages)} stages"
            )
        for choices in self.pools:
            if len(set(choices)) != len(choices):
                raise ValueError(f"pools must not repeat an operator, received {list(choices)}")
        for before, after in zip(self.stages, self.stages[1:], strict=False):
            if after.begin < before.end:
                raise ValueError(
                    f"stages must not overlap: one with begin {before.begin} and depth up to {max(before.depth)} "
                    f"reaches to {before.end}, but the next has begin {after.begin}"
                )
            if max(after.embed_dim) < max(before.embed_dim) or min(after.embed_dim) < min(before.embed_dim):
                raise ValueError(
                    "embed_dim never shrinks, so neither the smallest nor the largest choice may: "
                    f"received {list(before.embed_dim)}, then {list(after.embed_dim)}"
                )
        return self


class SearchSpace(Value):
    """A set of architectures; `space[i]` and `space.index(arch)` number its members from 0 to `size - 1`.

    Attributes are those of `Architecture`, with `layouts` in place of stages and pools, and a `name`.
    """

    name: str
    variant: Variant
    image_size: tuple[PositiveInt, PositiveInt]
    in_chans: PositiveInt
    num_classes: PositiveInt
    patch_size: PositiveInt
    patch_stride: PositiveInt
    head_dim: PositiveInt
    layouts: Annotated[tuple[Layout, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        numbers = [len(layout.stages) for layout in self.layouts]
        if len(set(numbers)) != len(numbers):
            raise ValueError(f"layouts must differ in their number of stages, received {numbers}")
        for layout in self.layouts:
            stage_grids(self.variant, self.image_size, self.patch_size, self.patch_stride, len(layout.stages))
            for stage in layout.stages:
                for embed_dim in stage.embed_dim:
                    if embed_dim % self.head_dim:
                        raise ValueError(
                            f"embed_dim must be a multiple of head_dim {self.head_dim}, received {embed_dim}"
                        )
        # Indices and cumulative counts are 64-bit integers throughout.
        if self.size >= 2**63:
            raise ValueError(f"a space may hold at most 2**63 - 1 architectures, this one holds {self.size}")
        return self

    # --- files

    @classmethod
    def load(cls, name_or_path: str | Path) -> Self:
        """Read a shipped space by name, or a space file.

        Raises:
            InputError: no such space, or the file breaks a rule.
        """
        path = find("space", name_or_path)
        return cls.from_dict(read_yaml(path, SCHEMA), source=str(path))

    def save(self, path: str | Path) -> None:
        """Write a space file."""
        write_atomic(Path(path), dump_yaml({"schema": SCHEMA, **self.to_dict()}))

    def with_data(self, num_classes: int, in_chans: int, image_size: tuple[int, int] | None = None) -> SearchSpace:
        """The same space for other images and classes, which the data decide."""
        changed = {"num_classes": num_classes, "in_chans": in_chans, "image_size": list(image_size or self.image_size)}
        return type(self).from_dict({**self.to_dict(), **changed}, source=self.name)

    def differs_in_data_only(self, other: SearchSpace) -> bool:
        """Whether two spaces are the same but for classes, channels and size of the images."""
        of_data = {"num_classes", "in_chans", "image_size"}
        return self.model_dump(exclude=of_data) == other.model_dump(exclude=of_data)

    # --- the set and its numbering

    @cached_property
    def size(self) -> int:
        """The exact number of architectures."""
        return sum(self._completions(layout)[0] for layout in range(len(self.layouts)))

    def __getitem__(self, number: int) -> Architecture:
        """The architecture with this number.

        Raises:
            IndexError: not in 0 .. size - 1.
        """
        if not 0 <= number < self.size:
            raise IndexError(f"architectures of {self.name} are numbered 0 to {self.size - 1}, received {number}")
        number = int(number)
        for layout in range(len(self.layouts)):
            if number < self._completions(layout)[0]:
                return self._unrank(layout, number)
            number -= self._completions(layout)[0]
        raise AssertionError("sizes of the layouts do not add up to the size of the space")

    def index(self, arch: Architecture) -> int:
        """The number of an architecture.

        Raises:
            ValueError: not a member; says why.
        """
        layout = self.check_member(arch)
        number = sum(self._completions(before)[0] for before in range(layout))
        floor = 0
        for position, (choices, stage) in enumerate(zip(self.layouts[layout].stages, arch.stages, strict=True)):
            pools, after = self._pools(layout, position), self._completions(layout, position)
            per_width = len(pools) * len(choices.mlp_ratio) * choices.groupings
            smaller = [width for width in choices.embed_dim if floor <= width < stage.embed_dim]
            number += per_width * sum(after[width] for width in smaller)
            pool = pools.index(arch.pools[position - 1]) if position else 0
            within = pool * len(choices.mlp_ratio) + choices.mlp_ratio.index(stage.mlp_ratio)
            within *= choices.groupings
            shallower = [depth for depth in choices.depth if depth < stage.depth]
            within += sum(compositions.size(depth, choices.max_group) for depth in shallower)
            within += compositions.rank_any(stage.groups, choices.max_group)
            number += within * after[stage.embed_dim]
            floor = stage.embed_dim
        return number

    def contains(self, arch: Architecture) -> bool:
        """Whether an architecture is a member."""
        return not self.why_not(arch)

    def why_not(self, arch: Architecture) -> str:
        """Why an architecture is no member; empty for a member."""
        for name in ("variant", "image_size", "in_chans", "num_classes", "patch_size", "patch_stride", "head_dim"):
            if getattr(arch, name) != getattr(self, name):
                return f"{name} is {getattr(arch, name)}, must be {getattr(self, name)}"
        if arch.stem != "patch":
            return f"stem is {arch.stem}, must be patch"
        layout = self.layout_of(arch)
        if layout is None:
            numbers = ", ".join(str(len(layout.stages)) for layout in self.layouts)
            return f"it has {len(arch.stages)} stages, must be one of {numbers}"
        for position, (choices, stage) in enumerate(zip(self.layouts[layout].stages, arch.stages, strict=True)):
            for name in ("embed_dim", "depth", "mlp_ratio"):
                if getattr(stage, name) not in getattr(choices, name):
                    permitted = ", ".join(str(value) for value in getattr(choices, name))
                    return f"stages.{position}: {name} is {getattr(stage, name)}, must be one of {permitted}"
            if max(stage.groups) > choices.max_group:
                return f"stages.{position}: a group of {max(stage.groups)}, must be at most {choices.max_group}"
            if position and arch.pools[position - 1] not in self._pools(layout, position):
                permitted = ", ".join(map(str, self._pools(layout, position)))
                return f"pools.{position - 1}: {arch.pools[position - 1]}, must be one of {permitted}"
        return ""

    def layout_of(self, arch: Architecture) -> int | None:
        """The position of the only layout that can hold an architecture: the one with as many stages."""
        numbers = [len(layout.stages) for layout in self.layouts]
        return numbers.index(len(arch.stages)) if len(arch.stages) in numbers else None

    def check_member(self, arch: Architecture) -> int:
        """The position of a member's layout.

        Raises:
            ValueError: not a member; says why.
        """
        reason = self.why_not(arch)
        if reason:
            raise ValueError(f"not a member of {self.name}: {reason}")
        layout = self.layout_of(arch)
        assert layout is not None
        return layout

    def _pools(self, layout: int, position: int) -> tuple[Pool | None, ...]:
        """The choices of pooling before a stage; before the first stands none."""
        return self.layouts[layout].pools[position - 1] if position else (None,)

    @cached_property
    def _completion_tables(self) -> list[list[dict[int, int]]]:
        """For each layout and each position from -1 on: by width there, the number of ways to choose what follows."""
        tables = []
        for layout in self.layouts:
            after = [dict.fromkeys(layout.stages[-1].embed_dim, 1)]
            for position in range(len(layout.stages) - 1, -1, -1):
                choices = layout.stages[position]
                pools = len(layout.pools[position - 1]) if position else 1
                per_width = pools * len(choices.mlp_ratio) * choices.groupings
                before = layout.stages[position - 1].embed_dim if position else (0,)
                after.insert(
                    0,
                    {floor: per_width * sum(n for width, n in after[0].items() if width >= floor) for floor in before},
                )
            tables.append(after)
        return tables

    def _completions(self, layout: int, position: int | None = None) -> dict[int, int]:
        """By width chosen at a stage, the ways to choose all later stages; without a position, key 0 counts all."""
        return self._completion_tables[layout][0 if position is None else position + 1]

    def _unrank(self, layout: int, number: int) -> Architecture:
        """The architecture with this number among those of a layout; the inverse of `index`."""
        stages: list[Stage] = []
        pools: list[Pool] = []
        floor = 0
        for position, choices in enumerate(self.layouts[layout].stages):
            operators, after = self._pools(layout, position), self._completions(layout, position)
            per_width = len(operators) * len(choices.mlp_ratio) * choices.groupings
            for width in choices.embed_dim:
                if width < floor:
                    continue
                if number < per_width * after[width]:
                    break
                number -= per_width * after[width]
            within, number = divmod(number, after[width])
            rest, grouping = divmod(within, choices.groupings)
            pool, mlp_ratio = divmod(rest, len(choices.mlp_ratio))
            for depth in choices.depth:
                if grouping < compositions.size(depth, choices.max_group):
                    break
                grouping -= compositions.size(depth, choices.max_group)
            groups = compositions.unrank_any(grouping, depth, choices.max_group)
            stages.append(Stage(embed_dim=width, groups=groups, mlp_ratio=choices.mlp_ratio[mlp_ratio]))
            operator = operators[pool]
            if operator is not None:
                pools.append(operator)
            floor = width
        return self.build(stages, pools)

    def build(self, stages: Sequence[Stage], pools: Sequence[Pool]) -> Architecture:
        """An architecture of these stages and pools, with what all members have in common."""
        return Architecture(
            variant=self.variant,
            image_size=self.image_size,
            in_chans=self.in_chans,
            num_classes=self.num_classes,
            patch_size=self.patch_size,
            patch_stride=self.patch_stride,
            head_dim=self.head_dim,
            stages=tuple(stages),
            pools=tuple(pools),
        )

    # --- encoded architectures

    @property
    def genes(self) -> dict[str, int]:
        """The names of an encoded architecture's positions, in order, with the number of values of each."""
        slots = max(len(layout.stages) for layout in self.layouts)
        bounds = {"layout": len(self.layouts)}
        for position in range(slots):
            layouts = [layout for layout in self.layouts if position < len(layout.stages)]
            stages = [layout.stages[position] for layout in layouts]
            pools = [len(layout.pools[position - 1]) if position else 1 for layout in layouts]
            most = (
                max(pools),
                max(len(stage.embed_dim) for stage in stages),
                max(len(stage.depth) for stage in stages),
                max(len(stage.mlp_ratio) for stage in stages),
                max(compositions.size(max(stage.depth), stage.max_group) for stage in stages),
            )
            bounds |= {f"stage{position}.{gene}": n for gene, n in zip(GENES_PER_STAGE, most, strict=True)}
        return bounds

    def encode(self, arch: Architecture) -> NDArray[np.int64]:
        """The positions of a member's choices, in the order of `genes`; stages that it lacks are zero.

        Raises:
            ValueError: not a member.
        """
        layout = self.check_member(arch)
        row = np.zeros(len(self.genes), dtype=np.int64)
        row[0] = layout
        for position, (choices, stage) in enumerate(zip(self.layouts[layout].stages, arch.stages, strict=True)):
            start = 1 + position * len(GENES_PER_STAGE)
            row[start : start + len(GENES_PER_STAGE)] = (
                self._pools(layout, position).index(arch.pools[position - 1]) if position else 0,
                choices.embed_dim.index(stage.embed_dim),
                choices.depth.index(stage.depth),
                choices.mlp_ratio.index(stage.mlp_ratio),
                compositions.rank_any(stage.groups, choices.max_group),
            )
        return row

    def decode(self, row: Sequence[int] | NDArray[np.int64]) -> Architecture:
        """The architecture of an encoded row; the inverse of `encode`.

        Raises:
            IndexError: a gene is beyond the choices that its stage has.
            ValueError: the genes together describe nothing possible, such as a width that shrinks.
        """
        layout = self.layouts[int(row[0])]
        stages: list[Stage] = []
        pools: list[Pool] = []
        for position, choices in enumerate(layout.stages):
            start = 1 + position * len(GENES_PER_STAGE)
            pool, embed_dim, depth, mlp_ratio, grouping = map(int, row[start : start + len(GENES_PER_STAGE)])
            stages.append(
                Stage(
                    embed_dim=choices.embed_dim[embed_dim],
                    groups=compositions.unrank_any(grouping, choices.depth[depth], choices.max_group),
                    mlp_ratio=choices.mlp_ratio[mlp_ratio],
                )
            )
            if position:
                pools.append(layout.pools[position - 1][pool])
        return self.build(stages, pools)

    def price(self, rows: NDArray[np.int64]) -> Batch:
        """Members in encoded form, (n, genes), with their costs: a million takes a fraction of a second.

        Raises:
            ValueError: a row encodes a network whose width shrinks.
        """
        from psvit.pricing import Batch

        return Batch(self, rows)

    # --- budgets

    def count(self, budget: Budget) -> int:
        """The exact number of members within a budget's limits on costs."""
        from psvit.feasible import feasible_set

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
        from psvit.feasible import feasible_set

        self.check(budget or Budget())
        return feasible_set(self, budget or Budget()).sample(rng, n)

    def reach(self, metric: str) -> tuple[int, int]:
        """The smallest and the largest value of a cost in the space."""
        from psvit.feasible import reach

        return reach(self)[metric]

    def nearest(self, budget: Budget) -> Architecture:
        """A member that deviates least from a budget, by `Budget.deviation`; one within it where there is one."""
        from psvit.feasible import nearest

        return nearest(self, budget)

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

    # --- extremes and variation

    @cached_property
    def smallest(self) -> Architecture:
        """Every choice at its least, the largest groups, pooling without weights; of the layouts' the fewest MACs."""
        members = [self._extreme(layout, largest=False) for layout in self.layouts]
        return min(members, key=lambda arch: cost(arch).macs)

    @cached_property
    def largest(self) -> Architecture:
        """Every choice at its greatest, no sharing, pooling by convolution; of the layouts' the most MACs."""
        members = [self._extreme(layout, largest=True) for layout in self.layouts]
        return max(members, key=lambda arch: cost(arch).macs)

    def _extreme(self, layout: Layout, largest: bool) -> Architecture:
        """The member of a layout with every choice at its greatest or least."""
        pick: Any = max if largest else min
        stages = []
        for choices in layout.stages:
            depth = pick(choices.depth)
            parts = depth if largest else -(-depth // choices.max_group)
            groups = compositions.unrank(0, depth, parts, choices.max_group)
            stages.append(Stage(embed_dim=pick(choices.embed_dim), groups=groups, mlp_ratio=pick(choices.mlp_ratio)))
        pools = [pick(operators, key=lambda operator: operator == "conv") for operators in layout.pools]
        return self.build(stages, pools)

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
        from psvit import variation

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
        from psvit import variation

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
    """The smallest shipped 2d space for images of about this size that holds the budget.

    A space holds a budget when it has members within it and reaches up to its upper limits on MACs and parameters;
    where none reaches so far, the largest has to do.

    Raises:
        InputError: no space for this image size has a member within the budget; names the ranges.
    """
    spaces = [space for name in shipped_spaces() if (space := SearchSpace.load(name)).variant == "2d"]
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
