"""Racing: find the candidates of a population that cannot be among its best any more, after some of the images.

The images are a finite set, looked at in a random order without replacement, so what is unknown after m of N of them
is which answers the other N - m get, and numbers of right answers are hypergeometric. Nothing is approximated:

- Two candidates of a population have seen the same images. One is called better on all of them when the images that
  only it got right, among those that only one of both got right, are too many for chance: the exact conditional test
  (McNemar's, here without replacement), which needs far fewer images than comparing two accuracies does.
- Of a candidate that was scored earlier only the accuracy on all images is known. It is called better when a candidate
  with as many right answers would have had more of them so far.

Both are certain if the remaining images cannot change the order. A candidate is given up when `keep` others
are called better than it.

The bounds of Bardenet and Maillard for sampling without replacement (arXiv 1309.4029), which know only mean, range or
variance, would be sound here as well, but wider: right answers are counts, of which the exact distribution is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Race:
    """When candidates are given up.

    The guarantee: with probability at least 1 - `delta` over the order of the images, a race gives up no candidate
    that belongs to the best `keep` on all images, of the population and the known best together. Who ties for the
    last place among these belongs to them. One race is one population: of a search whose next population depends on
    its best `keep` alone, g populations go as they would without racing with probability at least 1 - g * `delta`.
    A population that is raced in parts has one race a part, which share `delta`: whoever belongs to the best of all
    belongs to the best of its part.
    The share of `delta` is equal for all looks, and at each look half of it for ordered pairs of candidates, half for
    comparisons of candidates with the known best.

    Attributes:
        keep: how many of the best shall not be given up.
        delta: probability of giving up one of them all the same.
        first_look: images after which the first candidates may leave.
        growth: images at a look, relative to the look before; looks are taken at the ends of batches.
    """

    keep: int = 10
    delta: float = 0.05
    first_look: int = 128
    growth: float = 1.5

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"keep must be at least 1, received {self.keep}")
        if not 0 < self.delta < 1:
            raise ValueError(f"delta must be between 0 and 1, received {self.delta}")
        if self.first_look < 1:
            raise ValueError(f"first_look must be at least 1, received {self.first_look}")
        if not self.growth > 1:
            raise ValueError(f"growth must be greater than 1, received {self.growth}")

    def looks(self, ends: Sequence[int]) -> tuple[int, ...]:
        """The numbers of images after which candidates may leave.

        Args:
            ends: the numbers of images at the ends of the batches, ascending; the last is all of them, after which
                nobody has to leave.
        """
        looks: list[int] = []
        for end in ends[:-1]:
            if end >= (looks[-1] * self.growth if looks else self.first_look):
                looks.append(end)
        return tuple(looks)

    def of_parts(self, parts: int) -> Race:
        """The race of each of several parts of a population, so that the guarantee is that of the population.

        Args:
            parts: into how many the population was cut, at least 1.
        """
        return replace(self, delta=self.delta / parts)

    def describe(self) -> str:
        """The guarantee in words."""
        return (
            f"given up early where {self.keep} others are better on all images; with probability at least "
            f"{1 - self.delta:g} for every population, over the order of the images, none of the best {self.keep} is"
        )


class Field:
    """The candidates of one race, and which are called better than which.

    Args:
        race: when candidates are given up.
        num_candidates: the population's size n.
        num_images: all images N.
        num_looks: how often candidates may leave.
        best: how many of all images the best of earlier populations got right.

    Attributes:
        keep: how many of the best shall not be given up.
    """

    def __init__(self, race: Race, num_candidates: int, num_images: int, num_looks: int, best: Sequence[int]) -> None:
        self.keep = race.keep
        self._num_images = num_images
        self._best = np.asarray(best, dtype=np.int64)
        share = race.delta / max(1, num_looks) / 2
        self._alpha_pair = share / max(1, num_candidates * (num_candidates - 1))
        self._alpha_known = share / max(1, num_candidates)
        self._better = np.zeros((num_candidates, num_candidates), dtype=np.bool_)
        self._known_better = np.zeros(num_candidates, dtype=np.int64)

    def look(self, correct: Flags, running: Sequence[int]) -> None:
        """Compare the candidates that are still running.

        Args:
            correct: which of the images so far each of them got right, (running, m).
            running: their positions in the population.
        """
        _, seen = correct.shape
        rows = np.asarray(running, dtype=np.int64)
        counts = correct.astype(np.float32)  # exact up to 2**24 images, and a product of such matrices is fast
        right = counts.sum(axis=1, dtype=np.float64).astype(np.int64)
        both = np.rint(counts @ counts.T).astype(np.int64)
        wins = right[:, None] - both
        better = chance_of_wins(wins, wins.T, seen, self._num_images) <= self._alpha_pair
        self._better[np.ix_(rows, rows)] |= better
        chances = chance_of_so_few(right[:, None], seen, self._num_images, self._best[None, :])
        known = (chances <= self._alpha_known).sum(axis=1)
        self._known_better[rows] = np.maximum(self._known_better[rows], known)

    def beaten(self, failed: Flags) -> Flags:
        """Which candidates at least `keep` others are called better than, (n,).

        Args:
            failed: which candidates have no score, and so are no rivals to any, (n,).
        """
        beaten: Flags = self._better[~failed].sum(axis=0) + self._known_better >= self.keep
        return beaten


def chance_of_wins(wins: Counts, losses: Counts, seen: int, total: int) -> NDArray[np.float64]:
    """At most how probable so many wins are of one candidate over another that is at least as good on all images.

    Wins and losses are images that only the one, and only the other, got right. Given their number s = wins + losses,
    and D of them among all images, wins are hypergeometric: s draws from D of which at most D / 2 are wins. The tail
    grows with D, so the largest possible D = s + `total` - `seen` bounds it, an odd one the next even one: from 2 j to
    2 j + 2, the probability of w wins is multiplied by a constant over (j + 1 - w)(j + 1 - s + w), which is a factor
    that grows with |w - s / 2|, and adding one win to an odd D makes wins more probable.

    Args:
        wins: so far.
        losses: so far, of the same shape.
        seen: images so far.
        total: all images.

    Returns:
        A bound on the probability; 1 if there are no more wins than losses.
    """
    from scipy.stats import hypergeom  # half a second, which a search without races need not wait for

    discordant = wins + losses
    half = (discordant + total - seen + 1) // 2
    # Of no draws from nothing, which SciPy does not know, there is nothing to be said either.
    chance = hypergeom.sf(wins - 1, np.maximum(2 * half, 1), half, discordant)
    certain = wins - losses > total - seen
    return np.where(wins <= losses, 1.0, np.where(certain, 0.0, chance))


def chance_of_so_few(correct: Counts, seen: int, total: int, target: Counts) -> NDArray[np.float64]:
    """At most how probable so few right answers are of a candidate that gets at least `target` right of all images.

    Args:
        correct: right answers so far.
        seen: images so far.
        total: all images.
        target: right answers on all images, of a shape that broadcasts with `correct`.
    """
    from scipy.stats import hypergeom

    possible = correct + total - seen
    chance = hypergeom.cdf(correct, total, np.clip(target, 0, total), seen)
    return np.where(target > possible, 0.0, np.where(target <= correct, 1.0, chance))


def ties(scores: Sequence[float], place: int) -> int:
    """How many candidates tie for a place, if not all of them find room up to it; 0 if they do.

    Args:
        scores: on all images.
        place: the last that counts, from 1.
    """
    ranked = sorted(scores, reverse=True)
    if len(ranked) <= place or ranked[place - 1] != ranked[place]:
        return 0
    return ranked.count(ranked[place])


def right_answers(accuracy: float, num_images: int) -> int:
    """How many of the images an accuracy in percent says were right; one that was rounded is forgiven its rounding."""
    return math.floor(accuracy * num_images / 100 + 0.01)
