"""The bootstrap: how sure one may be that trained networks differ.

Intervals come from the percentile bootstrap (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter
13). It resamples what another experiment would draw anew:

- the images. All networks get the same ones, so that a difference is that of two networks on equal images;
- the seeds of a network that was trained several times. A resample draws S - 1 of S seeds. With S draws, the mean
  would vary too little (McCarthy and Snowden, "The Bootstrap and Finite Population Sampling", 1985).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

RESAMPLES = 10_000
CONFIDENCE = 0.95

AT_ONCE = 2**22
"""Numbers that one piece of the resamples may have."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference in top-1 between a network and the first one.

    Attributes:
        points: the difference; negative if the first is better.
        interval: its bootstrap interval, in points.
        p: the two-sided bootstrap p-value of no difference; small if the networks differ.
    """

    points: float
    interval: tuple[float, float]
    p: float

    @property
    def is_told(self) -> bool:
        """Whether the interval leaves zero out, so that the two can be told apart."""
        return not self.interval[0] <= 0 <= self.interval[1]

    def in_words(self, name: str, first: str, confidence: float) -> str:
        """What the difference says, in sentences.

        Args:
            name: the network, as the subject of a sentence.
            first: the first network, in a sentence.
            confidence: of the interval.
        """
        (low, high), of = self.interval, f"{100 * confidence:g} %"
        if not self.is_told:
            difference = f"{self.points:+.2f} points ({of}: {low:+.2f} to {high:+.2f})"
            return f"{name} cannot be told from {first}. The difference of {difference} may be chance."
        if self.points > 0:
            return f"{name} gained {self.points:.2f} points ({of}: {low:.2f} to {high:.2f}) over {first}."
        return f"{name} lost {-self.points:.2f} points ({of}: {-high:.2f} to {-low:.2f}) to {first}."


@dataclass(frozen=True, kw_only=True)
class ComparedNetwork:
    """The accuracy of one network.

    Attributes:
        name: its name.
        seeds: how many trainings of it were compared; they differ in their seed.
        accuracy: top-1 on the validation images in percent, the mean over the seeds.
        interval: its bootstrap interval, in percent.
        difference: the difference from the first network; `None` for the first network itself.
    """

    name: str
    seeds: int
    accuracy: float
    interval: tuple[float, float]
    difference: Difference | None


def compared(
    names: Sequence[str], correct: Sequence[Bools], resamples: int, confidence: float, seed: int
) -> list[ComparedNetwork]:
    """The accuracies and differences of networks, given the images that each of their trainings recognises.

    Args:
        names: what they are called.
        correct: for each network, whether a training recognises an image, (seeds, images).
        resamples: how many.
        confidence: of the intervals.
        seed: of the resamples.
    """
    totals = resampled_totals(correct, resamples, seed)
    images = correct[0].shape[1]
    tail = 100 * (1 - confidence) / 2

    def interval(values: Floats) -> tuple[float, float]:
        low, high = np.percentile(values, [tail, 100 - tail])
        return float(low), float(high)

    first, of_first = correct[0], totals[0]
    found = []
    for number, (name, own, total) in enumerate(zip(names, correct, totals, strict=True)):
        difference = None
        if number:
            drawn = _points(total, of_first, _drawn(own), _drawn(first), images)
            observed = float(_points(own.sum(), first.sum(), len(own), len(first), images))
            # With the observed one among the resamples, so that no p is zero.
            beyond = 1 + min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
            p = min(1.0, 2 * beyond / (resamples + 1))
            difference = Difference(points=observed, interval=interval(drawn), p=p)
        found.append(
            ComparedNetwork(
                name=name,
                seeds=len(own),
                accuracy=100 * float(own.mean()),
                interval=interval(100 * total / (_drawn(own) * images)),
                difference=difference,
            )
        )
    return found


def _drawn(correct: Bools) -> int:
    """How many of the seeds of a network, (seeds, images), a resample draws."""
    return max(1, len(correct) - 1)


def _points(right: Any, of_first: Any, seeds: int, seeds_of_first: int, images: int) -> Any:
    """The difference of two shares in points: whole numbers first, so that what is equal differs by exactly zero."""
    return (right * seeds_of_first - of_first * seeds) * (100 / (seeds * seeds_of_first * images))


def resampled_totals(correct: Sequence[Bools], resamples: int, seed: int) -> list[Floats]:
    """The number of right answers of each network in each resample, summed over the seeds that are drawn.

    Images with the same pattern of right and wrong answers are counted together: how often each pattern is drawn is
    multinomial. This is faster and gives the same distribution.

    Args:
        correct: for each network, whether a training recognises an image, (seeds, images).
        resamples: how many.
        seed: of the resamples.

    Returns:
        For each network whole numbers, (resamples,).
    """
    rng = np.random.default_rng(seed)
    kinds, counts = np.unique(np.concatenate(correct), axis=1, return_counts=True)
    images = int(counts.sum())
    ends = np.cumsum([len(own) for own in correct])
    totals = [np.empty(resamples) for _ in correct]
    step = max(1, AT_ONCE // len(counts))
    for begin in range(0, resamples, step):
        piece = slice(begin, min(begin + step, resamples))
        size = piece.stop - piece.start
        drawn = rng.multinomial(images, counts / images, size=size).astype(np.float64)
        right = drawn @ kinds.T.astype(np.float64)  # by training of every network
        for total, own, end in zip(totals, correct, ends, strict=True):
            seeds = len(own)
            chosen = rng.multinomial(_drawn(own), np.full(seeds, 1 / seeds), size=size)
            total[piece] = (chosen * right[:, end - seeds : end]).sum(axis=1)
    return totals
