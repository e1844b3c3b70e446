"""The rungs of successive halving (arXiv 1502.07943): at which epochs networks are compared, and how many go on.

All networks train on one schedule, so that a network which goes on continues where it paused. What a network has at a
rung is therefore an early look at the training that it would have in full. The last rung is the end of the schedule.
There, three trainings of each network that is left are compared, because the trainings of one network differ by as
much as the best networks do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from psvit.train.recipe import Recipe

T = TypeVar("T")

KEPT = 3
"""One of so many goes on from a rung."""

SEEDS = 3
"""Trainings of each network in the last rung. They differ in the initial weights, in the order of the images, in
augmentation and in stochastic depth."""

LAST = 3
"""The most networks that go on to the last rung, because it takes most of the time."""

SHARE = 1 / 4
"""Epochs of the schedule relative to the recipe's."""


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One comparison.

    Attributes:
        epoch: the epoch of the schedule after which networks are compared.
        seeds: how many trainings of each network are compared.
    """

    epoch: int
    seeds: int


def rungs_of(epochs: int) -> tuple[Rung, ...]:
    """The rungs of a schedule: after a ninth of its epochs, after a third, and at its end; fewer if it is short."""
    looks = sorted({max(1, round(epochs / KEPT**2)), max(1, round(epochs / KEPT)), epochs})
    return tuple(Rung(epoch=epoch, seeds=SEEDS if epoch == epochs else 1) for epoch in looks)


def after_scores(epochs: int) -> tuple[Rung, ...]:
    """The rungs that are left where candidates were scored at the first with a single training each.

    If it is the only one it stays, because it compares several trainings of each.
    """
    first, *others = rungs_of(epochs)
    return tuple(others) or (first,)


def going_on(networks: int, *, to_last: bool) -> int:
    """How many networks go on from a rung: a third, but at least two, because one alone has no rival.

    Args:
        networks: how many were compared.
        to_last: whether the next rung is the last.
    """
    third = max(2, math.ceil(networks / KEPT))
    return min(networks, third, LAST) if to_last else min(networks, third)


def leading(ranked: Sequence[T], wanted: int, is_reference: Callable[[T], bool]) -> list[T]:
    """The first of a ranking, in its order, and in any case the best reference and the best of the others.

    With these two, the last rung can tell by how much one is ahead of the other.
    """
    first = {is_reference(one): place for place, one in reversed(list(enumerate(ranked)))}
    return [one for place, one in enumerate(ranked) if place < wanted or place in first.values()]


def selection_recipe(recipe: Recipe) -> Recipe:
    """The recipe by which networks are compared, from that of the delivered network."""
    return recipe.with_epochs(max(1, round(SHARE * recipe.epochs)))
