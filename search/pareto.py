"""Find the best of several results if there is more than one objective.

Objectives are (n, objectives), each turned so that more is better. With a single objective ranking is sorting, so one
and several objectives need no code of their own.
"""

from __future__ import annotations

import moocore
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def ranks(objectives: Floats) -> Ints:
    """The front of each result, (n,): 0 if no result is better, 1 if only those of front 0 are, and so on.

    A result is better than another if it is worse in no objective and better in at least one. Equal results share a
    front.
    """
    if not len(objectives):
        return np.zeros(0, dtype=np.int64)
    return np.asarray(moocore.pareto_rank(objectives, maximise=True), dtype=np.int64)


def crowding(objectives: Floats, fronts: Ints) -> Floats:
    """How far each result is from its neighbours on its front, (n,); infinite at the ends of a front.

    The crowding distance of NSGA-II (Deb et al. 2002, section III.B), each objective scaled to its range on the front.
    """
    distance = np.zeros(len(objectives))
    if not len(objectives):
        return distance
    for values in objectives.T:
        # All fronts at once, one after another, because there may be as many as results.
        order = np.lexsort((values, fronts))
        sorted_values, sorted_fronts = values[order], fronts[order]
        first = np.flatnonzero(np.diff(sorted_fronts, prepend=sorted_fronts[0] - 1))
        last = np.append(first[1:], len(order)) - 1
        extent = np.repeat(sorted_values[last] - sorted_values[first], last - first + 1)
        gaps = np.zeros(len(order))
        gaps[1:-1] = sorted_values[2:] - sorted_values[:-2]
        distance[order] += np.divide(gaps, extent, out=np.zeros(len(order)), where=extent > 0)
        distance[order[first]] = distance[order[last]] = np.inf
    return distance


def ordered(objectives: Floats) -> Ints:
    """Positions from the best result to the worst: by front, then the least crowded first, then the earliest."""
    if objectives.shape[1] == 1:
        # The same order, except that equal results are not told apart by who happens to stand at the end of them.
        return np.argsort(-objectives[:, 0], kind="stable")
    fronts = ranks(objectives)
    return np.lexsort((-crowding(objectives, fronts), fronts))


def front(objectives: Floats) -> Ints:
    """Positions of the results that nothing is better than, of equal ones the first, by their first objective."""
    if not len(objectives):
        return np.zeros(0, dtype=np.int64)
    found = np.flatnonzero(moocore.is_nondominated(objectives, maximise=True))
    return found[np.argsort(-objectives[found, 0], kind="stable")]


def hypervolume(objectives: Floats, reference: Floats) -> float:
    """The volume of what is worse than some result and better than the reference (objectives,).

    Results that are not better than the reference everywhere add nothing.
    """
    better = objectives[(objectives > reference).all(axis=1)]
    if not len(better):
        return 0.0
    if len(reference) == 1:
        # moocore before 0.3.0 crashes there.
        return float(better.max() - reference[0])
    return float(moocore.hypervolume(better, ref=reference, maximise=True))


def hypervolumes(objectives: Floats, reference: Floats) -> list[float]:
    """The hypervolume of the first result, of the first two, and so on, (n,)."""
    volumes: list[float] = []
    best = objectives[:0]
    for result in objectives:
        # Most results change nothing, and those that others are better than need not be looked at again.
        if not (best >= result).all(axis=1).any():
            best = np.concatenate([best[~(best <= result).all(axis=1)], result[None]])
            volumes.append(hypervolume(best, reference))
        else:
            volumes.append(volumes[-1])
    return volumes
