"""Which choices the good candidates share: how often each choice of a space occurs among them, and among the others.

Counts only. Good candidates of an evolution descend from one another, so they are no independent sample, and a test of
significance would claim more than there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from psvit.architecture import Architecture, Stage
from psvit.search_space import SearchSpace

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
        """The share of a value in a group; nothing where none of the group has the choice."""
        return self.counts[group][value] / self.totals[group] if self.totals[group] else None


def shared_choices(space: SearchSpace, groups: Sequence[Group]) -> list[Choice]:
    """How often each choice of the space occurs in each group; choices with a single value are left out."""
    choices = []
    for name, values, answer in _questions(space):
        if len(values) < 2:
            continue
        answers = [[answer(arch) for arch in group.archs] for group in groups]
        counters = [Counter(given for given in each if given is not None) for each in answers]
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
    """Name, possible values, and what an architecture chose; nothing where it has no such stage."""
    questions: list[tuple[str, tuple[Answer, ...], Callable[[Architecture], Answer | None]]] = [
        ("number of stages", tuple(sorted(len(layout.stages) for layout in space.layouts)), lambda a: len(a.stages))
    ]
    for place in range(max(len(layout.stages) for layout in space.layouts)):
        layouts = [layout for layout in space.layouts if place < len(layout.stages)]
        stages = [layout.stages[place] for layout in layouts]
        if place:
            pools = dict.fromkeys(pool for layout in layouts for pool in layout.pools[place - 1])
            questions.append((f"pooling before stage {place + 1}", tuple(pools), _pool(place)))
        # The fewest maps that the groups permit, and as many as there are layers.
        maps = {n for stage in stages for depth in stage.depth for n in range(-(-depth // stage.max_group), depth + 1)}
        widths = sorted({width for stage in stages for width in stage.embed_dim})
        ratios = sorted({ratio for stage in stages for ratio in stage.mlp_ratio})
        depths = sorted({depth for stage in stages for depth in stage.depth})
        name = f"stage {place + 1}"
        questions += [
            (f"{name}: width", tuple(widths), _of_stage(place, lambda stage: stage.embed_dim)),
            (f"{name}: layers", tuple(depths), _of_stage(place, lambda stage: stage.depth)),
            (f"{name}: attention maps", tuple(sorted(maps)), _of_stage(place, lambda stage: len(stage.groups))),
            (f"{name}: MLP ratio", tuple(ratios), _of_stage(place, lambda stage: stage.mlp_ratio)),
        ]
    return questions


def _pool(place: int) -> Callable[[Architecture], Answer | None]:
    return lambda arch: arch.pools[place - 1] if place < len(arch.stages) else None


def _of_stage(place: int, answer: Callable[[Stage], Answer]) -> Callable[[Architecture], Answer | None]:
    return lambda arch: answer(arch.stages[place]) if place < len(arch.stages) else None
