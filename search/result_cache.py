"""ResultCache: results besides scores, kept in a study: accuracies of trained finalists, and measured latencies.

Each is an attribute of the study. Its name holds all it depends on that the study's configuration does not say. Other
processes that work on the study find it, and so does the same search in another folder. Another study has its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna

from psvit.train.training_job import TrainingJob, TrainingResult


class ResultCache:
    """The results of one study, JSON-serialisable mappings by name.

    Args:
        study: where they are kept.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study

    def get(self, name: str) -> dict[str, Any] | None:
        """The result of this name, by whichever process; `None` if there is none yet."""
        value: dict[str, Any] | None = self._study.user_attrs.get(name)
        return value

    def get_or_compute(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of this name. If there is none yet, it is computed, and kept before it is returned.

        Two processes that look for the same result at the same time both compute it. The first to finish is believed.
        """
        known = self.get(name)
        if known is None:
            computed = compute()
            known = self.get(name)
            if known is None:
                self._study.set_user_attr(name, computed)
                known = computed
        return known


class StudyStore:
    """The result store of a study: accuracies on the search images, in its cache.

    Args:
        cache: the study's. Its configuration says which weights all jobs begin with, and what they are trained on.
    """

    def __init__(self, cache: ResultCache) -> None:
        self._cache = cache

    def get(self, job: TrainingJob) -> TrainingResult | None:
        """See `ResultStore`."""
        known = self._cache.get(self._name(job))
        return None if known is None else TrainingResult(accuracies={"search": known["accuracy"]})

    def put(self, job: TrainingJob, result: TrainingResult) -> None:
        """See `ResultStore`."""
        self._cache.get_or_compute(self._name(job), lambda: {"accuracy": result.accuracies["search"]})

    @staticmethod
    def _name(job: TrainingJob) -> str:
        # Not the job's digest: this is the name that version 0.1 gave, and its studies are continued.
        return f"training:{job.arch.digest}:{job.recipe.digest}:{job.seed}"
