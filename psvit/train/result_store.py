"""Result stores: what is known of trainings, so that none is done twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from psvit.io.journal import Journal
from psvit.train.training_job import ScoredOn, TrainingJob, TrainingResult


class ResultStore(Protocol):
    """Remembers results of jobs.

    What a store has in common for all its jobs, such as the images, is settled when it is opened: equal jobs have one
    result in it.
    """

    def get(self, job: TrainingJob, /) -> TrainingResult | None:
        """What is known of a job by now, by any process; `None` if nothing is."""
        ...

    def put(self, job: TrainingJob, result: TrainingResult, /) -> None:
        """Remember a result; it is kept before this returns. What is known of other images already is kept too."""
        ...


class JournalStore:
    """Results in a journal of a run's folder, one line for each job and each part of the images.

    Args:
        path: of the journal.
        config: what all jobs have in common.
        name_of: the fields of a line by which a job is found again, JSON-serialisable.

    Raises:
        InputError: the journal is of something else, or another process writes to it; see `Journal`.
    """

    def __init__(self, path: Path, config: dict[str, Any], name_of: Callable[[TrainingJob], dict[str, Any]]) -> None:
        self._journal = Journal(path, config)
        self._name_of = name_of

    def get(self, job: TrainingJob) -> TrainingResult | None:
        """See `ResultStore`."""
        name = self._name_of(job)
        found = [record for record in self._journal.records if name.items() <= record.items()]
        if not found:
            return None
        # Lines of psvit-fidelity that version 0.1 wrote say neither part nor seconds.
        accuracies: dict[ScoredOn, float] = {record.get("part", "search"): record["accuracy"] for record in found}
        return TrainingResult(accuracies=accuracies, seconds=found[-1].get("seconds"))

    def put(self, job: TrainingJob, result: TrainingResult) -> None:
        """See `ResultStore`."""
        for part, accuracy in result.accuracies.items():
            self._journal.add({**self._name_of(job), "part": part, "accuracy": accuracy, "seconds": result.seconds})
