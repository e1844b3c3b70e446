"""The verdict: by how much what a search found is ahead of the best hand-made network, on images it has not used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from psvit.report.formatting import count
from psvit.search.selection.finalist import Finalist
from psvit.train.bootstrap import CONFIDENCE, RESAMPLES, Difference, compared

if TYPE_CHECKING:
    from psvit.search.selection.halving import Trainings
    from psvit.train.result_store import ResultStore


@dataclass(frozen=True, kw_only=True)
class Verdict(Difference):
    """The comparison of the delivered network with its best rival of the other kind, on the verdict images.

    If a found network is delivered, the rival is the best reference. If a reference is delivered, the rival is the best
    network that was found. The difference is that of `psvit.compare`, a paired bootstrap over images and seeds. It is
    positive if the delivered network is ahead.

    Attributes:
        winner: the name of the delivered network.
        rival: the name of the other.
        is_found: whether the delivered network is one that the search found, not a reference.
        confidence: of the interval.
        images: how many verdict images there are.
        seeds: how many trainings of each network were compared.
        accuracies: top-1 in percent of the delivered network and of the rival.
    """

    winner: str
    rival: str
    is_found: bool
    confidence: float
    images: int
    seeds: int
    accuracies: tuple[float, float]

    def __str__(self) -> str:
        found, by_hand = "found network ({})", "hand-made network ({})"
        one, other = (found, by_hand) if self.is_found else (by_hand, found)
        said = self.in_words(f"The {one.format(self.winner)}", f"the best {other.format(self.rival)}", self.confidence)
        return f"{said} Each was trained with {count(self.seeds, 'seed')} and tested on {self.images:,} verdict images."

    def to_dict(self) -> dict[str, Any]:
        """The verdict, JSON-serialisable."""
        return {
            "text": str(self),
            **{
                name: [round(one, 4) for one in value] if isinstance(value, tuple) else value
                for name, value in vars(self).items()
            },
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
        # If there was little time, there are fewer trainings than the rung has.
        known = [store.get(job) for job in trainings.jobs(one.arch, last)[: len(one.accuracies)]]
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
        **vars(of_winner.difference),
        confidence=CONFIDENCE,
        images=answers[0].shape[1],
        seeds=len(answers[1]),
        accuracies=(of_winner.accuracy, of_rival.accuracy),
    )
