"""Facts: results of a search besides its scores, kept in its study: accuracies of finalists, measured latencies.

A fact is an attribute of the study. Its name contains everything that the fact depends on and that the study's
configuration does not say. All processes that work on the study find its facts; another study has facts of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna

from psvit.train.training_job import TrainingJob, TrainingResult


class Facts:
    """The facts of one study, JSON-serialisable mappings by name.

    Args:
        study: the study that keeps them.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study

    def get(self, name: str) -> dict[str, Any] | None:
        """The fact of a name, from whichever process; `None` if there is none yet."""
        value: dict[str, Any] | None = self._study.user_attrs.get(name)
        return value

    def learn(self, name: str, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The fact of a name. If there is none yet, `find` is called, and its result is stored before it is returned.

        If two processes look for one fact at the same time, both call `find`, and the first result is kept.
        """
        known = self.get(name)
        if known is None:
            found = find()
            known = self.get(name)
            if known is None:
                self._study.set_user_attr(name, found)
                known = found
        return known


class StudyStore:
    """The result store of a study: accuracies on the search images, as facts.

    Args:
        facts: the study's. Its configuration says which weights all jobs begin with, and what they are trained on.
    """

    def __init__(self, facts: Facts) -> None:
        self._facts = facts

    def get(self, job: TrainingJob) -> TrainingResult | None:
        """See `ResultStore`."""
        fact = self._facts.get(self._name(job))
        return None if fact is None else TrainingResult(accuracies={"search": fact["accuracy"]})

    def put(self, job: TrainingJob, result: TrainingResult) -> None:
        """See `ResultStore`."""
        self._facts.learn(self._name(job), lambda: {"accuracy": result.accuracies["search"]})

    @staticmethod
    def _name(job: TrainingJob) -> str:
        # Not the job's digest: this is the name that version 0.1 gave, and its studies are continued.
        return f"training:{job.arch.digest}:{job.recipe.digest}:{job.seed}"
