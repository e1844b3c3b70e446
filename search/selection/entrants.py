"""Entrants: which trials of a search are trained to choose what is delivered."""

from __future__ import annotations

from collections.abc import Sequence

from psvit.search.proposal import REFERENCE
from psvit.search.trial import Trial


def entrants(ranked: Sequence[Trial], wanted: int) -> list[Trial]:
    """The trials that enter the selection, in the order in which they are given.

    These are the best of every variant and stem, because the weights of a supernet may favour one of them; after these
    the best of all, until there are as many as wanted; and every reference.

    Args:
        ranked: the trials with a score, best first.
        wanted: how many besides the references; there are more if there are more variants and stems.
    """
    found = [trial for trial in ranked if trial.origin != REFERENCE]
    first: dict[tuple[str, str], Trial] = {}
    for trial in found:
        first.setdefault((trial.arch.variant, trial.arch.stem), trial)
    chosen = list(first.values())
    chosen += [trial for trial in found if trial not in chosen][: max(0, wanted - len(chosen))]
    numbers = {trial.number for trial in chosen}
    return [trial for trial in ranked if trial.origin == REFERENCE or trial.number in numbers]
