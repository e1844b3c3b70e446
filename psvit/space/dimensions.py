"""Dimensions: what can be chosen about a network, each declared once.

Numbering, encoding, drawing, mutation, crossover and the report go through `DIMENSIONS` and ask each of them; none of
them knows a dimension by name. A dimension has a value at every *place*, which is a stage's position from 0 on. What
stands before a stage is its *entry*: the stem before the first, a pooling before each other.

One rule ties places together: `embed_dim` never shrinks from a stage to the next. All else is chosen independently.

Drawing order matters for nothing but repeatability: with equal seeds, equal networks are drawn as in version 0.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from psvit.arch.architecture import Architecture, Stage
from psvit.arch.operators import POOLINGS
from psvit.space import compositions
from psvit.space.compositions import Groupings
from psvit.space.layout import Layout


class Question(NamedTuple):
    """What a report asks about a dimension at one place.

    Attributes:
        name: what is asked, for people.
        answers: what may be answered, of the choices at a place in one layout.
        answer: what a value answers.
        is_number: whether answers are numbers, which are listed in their order.
    """

    name: str
    answers: Callable[[Any], Sequence[Any]]
    answer: Callable[[Any], Any]
    is_number: bool = True


class Dimension:
    """One thing that can be chosen at every place of a network, from a list of values.

    Args:
        name: the field of `Stage` that holds the value, and of `StageChoices` that holds the choices.
        label: what it is called in reports.

    Attributes:
        genes: the names of the integers that encode a value.
    """

    def __init__(self, name: str, label: str) -> None:
        self.name = name
        self.label = label
        self.genes: tuple[str, ...] = (name,)

    # --- where values and choices stand

    def choices(self, layout: Layout, place: int) -> Any:
        """What may be chosen at a place: values in order, which can be indexed."""
        return getattr(layout.stages[place], self.name)

    def value(self, arch: Architecture, place: int) -> Any:
        """What an architecture has at a place."""
        return getattr(arch.stages[place], self.name)

    def is_open(self, layout: Layout, place: int) -> bool:
        """Whether a value is drawn at a place; where not, there is one value."""
        return True

    def why_not(self, choices: Any, value: Any, place: int) -> str:
        """Why a value cannot be chosen; empty where it can."""
        return "" if value in choices else f"stages.{place}: {self.name} is {value}, must be one of {_listed(choices)}"

    # --- numbers

    def size(self, choices: Any) -> int:
        """The number of values."""
        return len(choices)

    def bounds(self, choices: Any) -> tuple[int, ...]:
        """For each gene the number of its values."""
        return (len(choices),)

    def encode(self, choices: Any, value: Any) -> tuple[int, ...]:
        """A value's genes."""
        return (choices.index(value),)

    def decode(self, choices: Any, genes: Sequence[int]) -> Any:
        """The value of some genes.

        Raises:
            IndexError: there is none.
        """
        return choices[genes[0]]

    # --- chance

    def draw(self, choices: Any, rng: np.random.Generator) -> Any:
        """A value, drawn uniformly."""
        return choices[int(rng.integers(len(choices)))]

    def mutate(self, choices: Any, value: Any, rng: np.random.Generator, rate: float) -> Any:
        """The value, or with probability `rate` one drawn anew."""
        return self.draw(choices, rng) if rng.random() < rate else value

    def extreme(self, choices: Any, largest: bool) -> Any:
        """The value with the most, or the fewest, multiply-accumulates and parameters."""
        return max(choices) if largest else min(choices)

    # --- words

    def questions(self, place: int) -> tuple[Question, ...]:
        """What a report asks about it."""
        return (Question(f"stage {place + 1}: {self.label}", list, lambda value: value),)


class Entry(Dimension):
    """What stands before a stage: the stem before the first, a pooling operator before each other."""

    def choices(self, layout: Layout, place: int) -> Any:
        """The stems at place 0, the pooling operators at others."""
        return layout.pools[place - 1] if place else layout.stem

    def value(self, arch: Architecture, place: int) -> Any:
        """The stem at place 0, the pooling operator at others."""
        return arch.pools[place - 1] if place else arch.stem

    def is_open(self, layout: Layout, place: int) -> bool:
        """A stem is drawn only where there are several: in version 0.1 there was but one."""
        return place > 0 or len(layout.stem) > 1

    def why_not(self, choices: Any, value: Any, place: int) -> str:
        """Why an operator cannot stand there; empty where it can."""
        where = f"pools.{place - 1}:" if place else "stem is"
        return "" if value in choices else f"{where} {value}, must be one of {_listed(choices)}"

    def extreme(self, choices: Any, largest: bool) -> Any:
        """The operator with the most, or the fewest, multiply-accumulates on tokens of some size."""
        pick: Any = max if largest else min
        return pick(choices, key=lambda pool: POOLINGS[pool].terms("2d", (8, 8), 64))

    def questions(self, place: int) -> tuple[Question, ...]:
        """Which operator it is."""
        name = f"pooling before stage {place + 1}" if place else "stem"
        return (Question(name, list, lambda value: value, is_number=False),)


class Groups(Dimension):
    """The layers of a stage, by attention groups: its depth, and a composition of it."""

    def __init__(self, name: str, label: str) -> None:
        super().__init__(name, label)
        self.genes = ("depth", "grouping")

    def why_not(self, choices: Groupings, value: tuple[int, ...], place: int) -> str:
        """Why a stage cannot have these groups; empty where it can."""
        if sum(value) not in choices.depths:
            return f"stages.{place}: depth is {sum(value)}, must be one of {_listed(choices.depths)}"
        if max(value) > choices.max_group:
            return f"stages.{place}: a group of {max(value)}, must be at most {choices.max_group}"
        return ""

    def size(self, choices: Groupings) -> int:
        """The number of groupings of all depths."""
        return choices.size

    def bounds(self, choices: Groupings) -> tuple[int, ...]:
        """Of depths, and of groupings of the deepest."""
        return len(choices.depths), compositions.size(max(choices.depths), choices.max_group)

    def encode(self, choices: Groupings, value: tuple[int, ...]) -> tuple[int, ...]:
        """The depth's position, and the composition's number among those of the depth."""
        return choices.depths.index(sum(value)), compositions.rank_any(value, choices.max_group)

    def decode(self, choices: Groupings, genes: Sequence[int]) -> tuple[int, ...]:
        """The composition with this number."""
        depth, grouping = genes
        return compositions.unrank_any(grouping, choices.depths[depth], choices.max_group)

    def draw(self, choices: Groupings, rng: np.random.Generator) -> tuple[int, ...]:
        """As `Groupings.draw`: of all groupings alike, nearly all would be of the deepest stages."""
        return choices.draw(rng)

    def mutate(
        self, choices: Groupings, value: tuple[int, ...], rng: np.random.Generator, rate: float
    ) -> tuple[int, ...]:
        """With probability `rate` another depth; and every layer opens a group where it did not, or the reverse."""
        opens = [index == 0 for length in value for index in range(length)]
        depth = choices.depths[int(rng.integers(len(choices.depths)))] if rng.random() < rate else sum(value)
        opens = opens[:depth] + [bool(rng.integers(2)) for _ in range(depth - len(opens))]
        opens = [opening != (rng.random() < rate) for opening in opens]
        groups: list[int] = []
        for opening in opens:
            # The first layer always opens a group, and a full group is followed by another.
            if not groups or opening or groups[-1] == choices.max_group:
                groups.append(1)
            else:
                groups[-1] += 1
        return tuple(groups)

    def extreme(self, choices: Groupings, largest: bool) -> tuple[int, ...]:
        """The deepest without sharing, or the shallowest with the largest groups."""
        depth = max(choices.depths) if largest else min(choices.depths)
        parts = depth if largest else -(-depth // choices.max_group)
        return compositions.unrank(0, depth, parts, choices.max_group)

    def questions(self, place: int) -> tuple[Question, ...]:
        """How many layers, and how many maps they use."""
        return (
            Question(f"stage {place + 1}: layers", lambda choices: choices.depths, sum),
            Question(f"stage {place + 1}: attention maps", _numbers_of_maps, len),
        )


ENTRY = Entry("entry", "entry")
EMBED_DIM = Dimension("embed_dim", "width")
GROUPS = Groups("groups", "layers")
MLP_RATIO = Dimension("mlp_ratio", "MLP ratio")

DIMENSIONS: tuple[Dimension, ...] = (ENTRY, EMBED_DIM, GROUPS, MLP_RATIO)
"""All of them, in the order in which they are drawn."""

Chosen = Mapping[tuple[Dimension, int], Any]
"""Values by dimension and place."""


def places(layout: Layout) -> Iterator[tuple[Dimension, int, Any]]:
    """Every dimension at every place of a layout, with its choices there."""
    for place in range(len(layout.stages)):
        for dimension in DIMENSIONS:
            yield dimension, place, dimension.choices(layout, place)


def chosen_by(arch: Architecture) -> dict[tuple[Dimension, int], Any]:
    """What an architecture has chosen, by dimension and place."""
    return {(d, place): d.value(arch, place) for place in range(len(arch.stages)) for d in DIMENSIONS}


def fields_of(chosen: Chosen, num_stages: int) -> dict[str, Any]:
    """The fields of an `Architecture` that hold these values."""
    entries = [chosen[ENTRY, place] for place in range(num_stages)]
    stages = tuple(
        Stage(**{d.name: chosen[d, place] for d in DIMENSIONS if d is not ENTRY}) for place in range(num_stages)
    )
    return {"stem": entries[0], "stages": stages, "pools": tuple(entries[1:])}


def _listed(choices: Sequence[Any]) -> str:
    return ", ".join(map(str, choices))


def _numbers_of_maps(choices: Groupings) -> list[int]:
    """The fewest maps that the groups permit, up to as many as there are layers."""
    return sorted({n for depth in choices.depths for n in range(-(-depth // choices.max_group), depth + 1)})
