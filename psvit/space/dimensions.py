"""Dimensions: the choices that make up a network. Each dimension is declared once, here.

Numbering, encoding, drawing, mutation, crossover and the report loop over `DIMENSIONS` and call the methods below. They
know no dimension by name, so a new dimension needs no change there.

A dimension has a value at every *place*. Places are the positions of the stages, from 0 on. The *entry* of a stage is
the operator before it: the stem before the first stage, a pooling before each other stage.

Values are chosen independently of each other, with one exception: `embed_dim` never shrinks from a stage to the next.

The order in which dimensions are drawn must not change. Otherwise the same seed would draw other networks than in
version 0.1.
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
    """One property of a network that the report counts, such as the number of layers of a stage.

    Attributes:
        name: the property, for people.
        answers: from the choices of a dimension at a place to the possible values of the property.
        answer: from the value of a dimension to the value of the property.
        is_number: whether the property is a number. Numbers are listed in ascending order.
    """

    name: str
    answers: Callable[[Any], Sequence[Any]]
    answer: Callable[[Any], Any]
    is_number: bool = True


class Dimension:
    """One thing that can be chosen at every place of a network, from a list of values.

    Args:
        name: the field of `Stage` that holds the value, and of `StageChoices` that holds the choices.
        label: the name of the dimension in reports.

    Attributes:
        genes: the names of the integers that encode a value.
    """

    def __init__(self, name: str, label: str) -> None:
        self.name = name
        self.label = label
        self.genes: tuple[str, ...] = (name,)

    # --- values and choices

    def choices(self, layout: Layout, place: int) -> Any:
        """The values that can be chosen at a place: a sequence, or something else that has a length and an index."""
        return getattr(layout.stages[place], self.name)

    def value(self, arch: Architecture, place: int) -> Any:
        """The value that an architecture has at a place."""
        return getattr(arch.stages[place], self.name)

    def is_open(self, layout: Layout, place: int) -> bool:
        """Whether a value is drawn at a place. If not, there is only one value to take."""
        return True

    def why_not(self, choices: Any, value: Any, place: int) -> str:
        """Why a value cannot be chosen at a place; empty if it can."""
        return "" if value in choices else f"stages.{place}: {self.name} is {value}, must be one of {_listed(choices)}"

    # --- numbers

    def size(self, choices: Any) -> int:
        """The number of values."""
        return len(choices)

    def bounds(self, choices: Any) -> tuple[int, ...]:
        """The number of values of each gene."""
        return (len(choices),)

    def encode(self, choices: Any, value: Any) -> tuple[int, ...]:
        """The genes of a value."""
        return (choices.index(value),)

    def decode(self, choices: Any, genes: Sequence[int]) -> Any:
        """The value that genes encode.

        Raises:
            IndexError: the genes encode no value.
        """
        return choices[genes[0]]

    # --- drawing

    def draw(self, choices: Any, rng: np.random.Generator) -> Any:
        """A value, drawn uniformly."""
        return choices[int(rng.integers(len(choices)))]

    def mutate(self, choices: Any, value: Any, rng: np.random.Generator, rate: float) -> Any:
        """The value itself, or with probability `rate` a newly drawn one."""
        return self.draw(choices, rng) if rng.random() < rate else value

    def extreme(self, choices: Any, largest: bool) -> Any:
        """The value with the most multiply-accumulates and parameters, or the fewest if `largest` is false."""
        return max(choices) if largest else min(choices)

    # --- the report

    def questions(self, place: int) -> tuple[Question, ...]:
        """The properties that the report counts for this dimension."""
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
        """A stem is drawn only if there are several. Version 0.1 had one stem and drew none, and seeds still agree."""
        return place > 0 or len(layout.stem) > 1

    def why_not(self, choices: Any, value: Any, place: int) -> str:
        """Why an operator cannot be chosen at a place; empty if it can."""
        where = f"pools.{place - 1}:" if place else "stem is"
        return "" if value in choices else f"{where} {value}, must be one of {_listed(choices)}"

    def extreme(self, choices: Any, largest: bool) -> Any:
        """The pooling with the most multiply-accumulates on an 8 x 8 grid, or the fewest if `largest` is false."""
        pick: Any = max if largest else min
        return pick(choices, key=lambda pool: POOLINGS[pool].terms("2d", (8, 8), 64))

    def questions(self, place: int) -> tuple[Question, ...]:
        """The name of the operator."""
        name = f"pooling before stage {place + 1}" if place else "stem"
        return (Question(name, list, lambda value: value, is_number=False),)


class Groups(Dimension):
    """The attention groups of a stage: their lengths add up to its depth."""

    def __init__(self, name: str, label: str) -> None:
        super().__init__(name, label)
        self.genes = ("depth", "grouping")

    def why_not(self, choices: Groupings, value: tuple[int, ...], place: int) -> str:
        """Why a stage cannot have these groups; empty if it can."""
        if sum(value) not in choices.depths:
            return f"stages.{place}: depth is {sum(value)}, must be one of {_listed(choices.depths)}"
        if max(value) > choices.max_group:
            return f"stages.{place}: a group of {max(value)}, must be at most {choices.max_group}"
        return ""

    def size(self, choices: Groupings) -> int:
        """The number of groupings of all depths."""
        return choices.size

    def bounds(self, choices: Groupings) -> tuple[int, ...]:
        """The number of depths, and the number of groupings of the greatest depth."""
        return len(choices.depths), compositions.size(max(choices.depths), choices.max_group)

    def encode(self, choices: Groupings, value: tuple[int, ...]) -> tuple[int, ...]:
        """The position of the depth among the choices, and the number of the grouping among those of that depth."""
        return choices.depths.index(sum(value)), compositions.rank_any(value, choices.max_group)

    def decode(self, choices: Groupings, genes: Sequence[int]) -> tuple[int, ...]:
        """The groups that the two genes encode."""
        depth, grouping = genes
        return compositions.unrank_any(grouping, choices.depths[depth], choices.max_group)

    def draw(self, choices: Groupings, rng: np.random.Generator) -> tuple[int, ...]:
        """Draw a depth first and then a grouping of it, see `Groupings.draw`.

        If all groupings were equally likely, nearly all would have the greatest depth.
        """
        return choices.draw(rng)

    def mutate(
        self, choices: Groupings, value: tuple[int, ...], rng: np.random.Generator, rate: float
    ) -> tuple[int, ...]:
        """Change the depth with probability `rate`. Then, with probability `rate` for each layer, split or join groups.

        A layer that opened a group joins the one before it, and a layer that did not opens one.
        """
        opens = [index == 0 for length in value for index in range(length)]
        depth = choices.depths[int(rng.integers(len(choices.depths)))] if rng.random() < rate else sum(value)
        opens = opens[:depth] + [bool(rng.integers(2)) for _ in range(depth - len(opens))]
        opens = [opening != (rng.random() < rate) for opening in opens]
        groups: list[int] = []
        for opening in opens:
            # The first layer always opens a group, and so does the layer after a full group.
            if not groups or opening or groups[-1] == choices.max_group:
                groups.append(1)
            else:
                groups[-1] += 1
        return tuple(groups)

    def extreme(self, choices: Groupings, largest: bool) -> tuple[int, ...]:
        """The greatest depth without sharing, or the least depth with the largest groups if `largest` is false."""
        depth = max(choices.depths) if largest else min(choices.depths)
        parts = depth if largest else -(-depth // choices.max_group)
        return compositions.unrank(0, depth, parts, choices.max_group)

    def questions(self, place: int) -> tuple[Question, ...]:
        """The number of layers, and the number of attention maps that they use."""
        return (
            Question(f"stage {place + 1}: layers", lambda choices: choices.depths, sum),
            Question(f"stage {place + 1}: attention maps", _numbers_of_maps, len),
        )


ENTRY = Entry("entry", "entry")
EMBED_DIM = Dimension("embed_dim", "width")
GROUPS = Groups("groups", "layers")
MLP_RATIO = Dimension("mlp_ratio", "MLP ratio")

DIMENSIONS: tuple[Dimension, ...] = (ENTRY, EMBED_DIM, GROUPS, MLP_RATIO)
"""All dimensions, in the order in which they are drawn."""

Chosen = Mapping[tuple[Dimension, int], Any]
"""Values by dimension and place."""


def places(layout: Layout) -> Iterator[tuple[Dimension, int, Any]]:
    """Every dimension at every place of a layout, with its choices there."""
    for place in range(len(layout.stages)):
        for dimension in DIMENSIONS:
            yield dimension, place, dimension.choices(layout, place)


def chosen_by(arch: Architecture) -> dict[tuple[Dimension, int], Any]:
    """The values of an architecture, by dimension and place."""
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
    """The possible numbers of attention maps, from the fewest that full groups permit to one for each layer."""
    return sorted({n for depth in choices.depths for n in range(-(-depth // choices.max_group), depth + 1)})
