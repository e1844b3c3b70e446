"""Result stores: keep the results of trainings, so that no training is done twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from psvit.io.journal import Journal
from psvit.train.training_job import ScoredOn, TrainingJob, TrainingResult


class ResultStore(Protocol):
    """Keeps the results of jobs.

    Everything that decides a result and is not part of a job, such as the images, is fixed when the store is opened. So
    equal jobs have one result.
    """

    def get(self, job: TrainingJob, /) -> TrainingResult | None:
        """The result of a job, from whichever process; `None` if there is none yet."""
        ...

    def put(self, job: TrainingJob, result: TrainingResult, /) -> None:
        """Store a result before returning. Accuracies on other images that are stored already stay."""
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
