"""Trained accuracy: how well architectures classify held-out images after a short training of their own.

The training is the beginning of the one that the selection compares finalists by, up to its first rung. So a candidate
that enters the selection goes on where it paused, and scores cost nothing twice.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from psvit.arch.architecture import Architecture
from psvit.executors.executor import Executor
from psvit.io.progress import progress_bar
from psvit.report.formatting import count
from psvit.search.selection.halving import Trainings
from psvit.search.time_limit import TimeIsUpError, TimeLimit
from psvit.search.trial import Score
from psvit.train.job_runner import JobRunner, is_done, run_jobs
from psvit.train.result_store import ResultStore
from psvit.train.training_job import RANDOM, TrainingJob


class TrainedAccuracy:
    """Top-1 accuracy in percent on the search images at the first rung of the selection.

    Unlike inherited accuracy, it does not depend on how well a supernet serves each kind of network. Candidates of a
    population are trained one after the other, or at once on a cluster.

    Args:
        trainings: how candidates are trained.
        runner: trains them.
        executor: decides where.
        store: keeps the results.
        images: how many search images there are.
        keep: how many of the best go on from the rung; besides, the best reference and the best of the others do. What
            the trainings of all others need to go on is removed. 0: none goes on.
        references: those among the candidates.
        limit: says which trainings may still begin; without one, all may.
        share: of the time, for all scores.
    """

    def __init__(
        self,
        trainings: Trainings,
        runner: JobRunner,
        executor: Executor,
        store: ResultStore,
        *,
        images: int,
        keep: int,
        references: Collection[Architecture] = (),
        limit: TimeLimit | None = None,
        share: float = 1.0,
    ) -> None:
        self._trainings = trainings
        self._runner = runner
        self._executor = executor
        self._store = store
        self._images = images
        self._keep = keep
        self._references = references
        self._limit = limit or TimeLimit()
        self._share = share
        self._paused: list[tuple[float, TrainingJob]] = []

    def apart(self) -> TrainedAccuracy:
        """The same scores for architectures that only serve for comparison: none goes on."""
        return TrainedAccuracy(
            self._trainings,
            self._runner,
            self._executor,
            self._store,
            images=self._images,
            keep=0,
            limit=self._limit,
            share=self._share,
        )

    def job(self, arch: Architecture) -> TrainingJob:
        """The training that scores an architecture."""
        return self._trainings.jobs(arch, self._trainings.rungs[0], "score")[0]

    def evaluate(self, archs: Sequence[Architecture], best: Sequence[float] = (), parts: int = 1) -> list[Score]:
        """The accuracies of a population; nothing is raced. Failed are those whose training failed.

        Raises:
            TimeIsUpError: there is no time for all of them.
        """
        jobs: list[TrainingJob] = []
        limit, epochs = self._limit, self._trainings.rungs[0].epoch

        def permitted() -> Iterator[TrainingJob]:
            for job in map(self.job, archs):
                if not is_done(job, self._store, self._runner.parts):
                    # Of fewer than two nothing can be selected, so that is what comes first.
                    is_needed = self._keep and len(best) + len(jobs) < 2
                    share = 1.0 if is_needed else self._share
                    if not limit.permits(epochs, share=share):
                        return
                    limit.begins(job, epochs)
                jobs.append(job)
                yield job

        failures: dict[TrainingJob, str] = {}
        limit.begin(self._executor.at_once())
        with progress_bar("scoring", len(archs), "candidates") as advance:
            for job, outcome in run_jobs(permitted(), self._runner, self._executor, self._store, keep=self._keep > 0):
                advance(1, "")
                limit.ended(job, failed=bool(outcome.failure))
                if outcome.failure:
                    failures[job] = outcome.failure
        scores = [self._score(job, failures.get(job, "")) for job in jobs]
        if self._paused:
            self._tidy(best)
        if len(scores) < len(archs):
            raise TimeIsUpError(scores)
        return scores

    def _score(self, job: TrainingJob, failure: str) -> Score:
        known = None if failure else self._store.get(job)
        if known is None:
            self._runner.forget([job])
            return Score(value=None, state="failed", reason=failure or "its result was lost")
        value = known.accuracies["search"]
        if self._keep:
            self._paused.append((value, job))
        return Score(value=value, images=self._images)

    def _tidy(self, best: Sequence[float]) -> None:
        """Remove what is needed to go on with those that cannot be among the best any more."""
        known = {value for value, _ in self._paused}
        others = [value for value in best if value not in known]
        ranked = sorted([*others, *(value for value, _ in self._paused)], reverse=True)
        # Of references and of the others the best goes on whatever its rank.
        least = dict.fromkeys((False, True), ranked[self._keep - 1] if len(ranked) >= self._keep else -math.inf)
        for kind in least:
            of_kind = [value for value, job in self._paused if self._is_reference(job) == kind]
            least[kind] = min(least[kind], max(of_kind, default=math.inf))
        going_on = [(value, job) for value, job in self._paused if value >= least[self._is_reference(job)]]
        self._runner.forget(job for value, job in self._paused if (value, job) not in going_on)
        self._paused = going_on

    def _is_reference(self, job: TrainingJob) -> bool:
        return job.arch in self._references

    def describe(self) -> dict[str, Any]:
        """What the training is."""
        recipe, rung = self._trainings.recipe, self._trainings.rungs[0]
        begun = "random weights" if self._trainings.init == RANDOM else "the supernet's weights"
        return {
            "kind": f"accuracy after {count(rung.epoch, 'epoch')}",
            "meaning": f"top-1 on the search images after {rung.epoch} of {recipe.epochs} epochs from {begun}",
            "unit": "%",
            "images": self._images,
        }
