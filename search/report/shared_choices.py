"""Shared choices of the good candidates: how often each choice of a space occurs among them, and among the others.

Counts only. Good candidates of an evolution descend from one another, so they are no independent sample, and a test of
significance would claim more than there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from psvit.arch.architecture import Architecture
from psvit.space.dimensions import DIMENSIONS, Dimension, Question
from psvit.space.search_space import SearchSpace

Answer = str | int | float


@dataclass(frozen=True, kw_only=True)
class Group:
    """Architectures that are counted together.

    Attributes:
        name: for people.
        archs: the architectures.
    """

    name: str
    archs: Sequence[Architecture]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One choice that a space leaves open.

    Attributes:
        name: what is chosen, such as `stage 2: width`.
        values: what may be chosen, in the space's order.
        counts: by group, how often each value occurs, (groups, values).
        totals: by group, in how many of its architectures there is this choice at all, (groups,).
    """

    name: str
    values: tuple[Answer, ...]
    counts: tuple[tuple[int, ...], ...]
    totals: tuple[int, ...]

    def share(self, group: int, value: int) -> float | None:
        """The share of a value in a group; `None` if no architecture of the group has the choice."""
        return self.counts[group][value] / self.totals[group] if self.totals[group] else None


def shared_choices(space: SearchSpace, groups: Sequence[Group]) -> list[Choice]:
    """How often each choice of the space occurs in each group.

    Values that no architecture has are left out, and choices of which there is no other value then.
    """
    choices = []
    for name, values, answer in _questions(space):
        answers = [[answer(arch) for arch in group.archs] for group in groups]
        counters = [Counter(given for given in each if given is not None) for each in answers]
        values = tuple(value for value in values if any(counter[value] for counter in counters))
        if len(values) < 2:
            continue
        choices.append(
            Choice(
                name=name,
                values=values,
                counts=tuple(tuple(counter[value] for value in values) for counter in counters),
                totals=tuple(counter.total() for counter in counters),
            )
        )
    return choices


def _questions(
    space: SearchSpace,
) -> list[tuple[str, tuple[Answer, ...], Callable[[Architecture], Answer | None]]]:
    """Name, possible values, and what an architecture chose; `None` if it has no such stage."""
    layouts = space.layouts
    questions: list[tuple[str, tuple[Answer, ...], Callable[[Architecture], Answer | None]]] = [
        ("variant", space.variants, lambda arch: arch.variant),
        ("head width", tuple(sorted({layout.head_dim for layout in layouts})), lambda arch: arch.head_dim),
        ("number of stages", tuple(sorted({len(layout.stages) for layout in layouts})), lambda arch: len(arch.stages)),
    ]
    for place in range(max(len(layout.stages) for layout in layouts)):
        here = [layout for layout in layouts if place < len(layout.stages)]
        for dimension in DIMENSIONS:
            for question in dimension.questions(place):
                choices = [dimension.choices(layout, place) for layout in here]
                answers = dict.fromkeys(answer for each in choices for answer in question.answers(each))
                values = tuple(sorted(answers) if question.is_number else answers)
                questions.append((question.name, values, _answer(dimension, place, question)))
    return questions


def _answer(dimension: Dimension, place: int, question: Question) -> Callable[[Architecture], Answer | None]:
    return lambda arch: question.answer(dimension.value(arch, place)) if place < len(arch.stages) else None
