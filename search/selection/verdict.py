"""The verdict: by how much what a search found is ahead of the best hand-made network, on images it has not used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from psvit.search.selection.finalist import Finalist
from psvit.search.selection.halving import Trainings
from psvit.train.bootstrap import CONFIDENCE, RESAMPLES, compared
from psvit.train.result_store import ResultStore


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The comparison of the delivered network with its best rival of the other kind, on the verdict images.

    If a found network is delivered, the rival is the best reference. If a reference is delivered, the rival is the best
    network that was found. Intervals are those of `psvit.compare`: a paired bootstrap over images and seeds.

    Attributes:
        winner: the name of the delivered network.
        rival: the name of the other.
        is_found: whether the delivered network is one that the search found, not a reference.
        points: by how many points of top-1 the delivered network is ahead; negative if it is behind.
        interval: the interval of these points.
        confidence: of the interval.
        images: how many verdict images there are.
        seeds: how many trainings of each network were compared.
        accuracies: top-1 in percent of the delivered network and of the rival.
    """

    winner: str
    rival: str
    is_found: bool
    points: float
    interval: tuple[float, float]
    confidence: float
    images: int
    seeds: int
    accuracies: tuple[float, float]

    @property
    def is_told(self) -> bool:
        """Whether the interval leaves zero out, so that the two can be told apart."""
        return not self.interval[0] <= 0 <= self.interval[1]

    def __str__(self) -> str:
        low, high = self.interval
        rival = f"the best {'reference' if self.is_found else 'network that was found'} ({self.rival})"
        on = f"on {self.images:,} verdict images, {self.seeds} trainings each"
        interval = f"{100 * self.confidence:g} %: {low:+.2f} to {high:+.2f}"
        if not self.is_told:
            return f"cannot tell {self.winner} from {rival}: {self.points:+.2f} points ({interval}) {on}"
        if self.points > 0:
            return f"{self.winner} gained {self.points:.2f} points ({interval}) over {rival} {on}"
        return f"{self.winner} is {-self.points:.2f} points ({interval}) behind {rival} {on}"

    def to_dict(self) -> dict[str, Any]:
        """The verdict, JSON-serialisable."""
        return {
            "text": str(self),
            **{name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()},
        }


def judge(finalists: Sequence[Finalist], trainings: Trainings, store: ResultStore) -> Verdict | None:
    """The verdict on the winner.

    Args:
        finalists: the winner first.
        trainings: how they were trained.
        store: has the results of the last rung.

    Returns:
        The verdict; `None` if there is no rival of the other kind, or there are no verdict images.
    """
    last = trainings.rungs[-1]
    trained = [one for one in finalists if one.looks and one.looks[-1].epoch == last.epoch and not one.failure]
    winner = trained[0] if trained else None
    rival = next((one for one in trained if winner and one.is_reference != winner.is_reference), None)
    if winner is None or rival is None:
        return None
    answers = []
    for one in (rival, winner):
        known = [store.get(job) for job in trainings.jobs(one.arch, last)]
        found = [result.right["verdict"] for result in known if result and "verdict" in result.right]
        if len(found) < len(known) or not len(found[0]):
            return None
        answers.append(np.stack(found))
    of_rival, of_winner = compared([rival.name, winner.name], answers, RESAMPLES, CONFIDENCE, trainings.seed)
    assert of_winner.difference
    return Verdict(
        winner=winner.name,
        rival=rival.name,
        is_found=not winner.is_reference,
        points=of_winner.difference.points,
        interval=of_winner.difference.interval,
        confidence=CONFIDENCE,
        images=answers[0].shape[1],
        seeds=len(answers[1]),
        accuracies=(of_winner.accuracy, of_rival.accuracy),
    )
