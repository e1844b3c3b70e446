"""Successive halving: train what may be delivered, compare it, and let the better ones advance."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from psvit.arch.architecture import Architecture
from psvit.executors.executor import Executor
from psvit.search.selection.finalist import Finalist, Look
from psvit.search.selection.rungs import Rung, going_on, leading, rungs_of
from psvit.train.job_runner import JobRunner, run_jobs
from psvit.train.recipe import Recipe
from psvit.train.result_store import ResultStore
from psvit.train.training_job import TrainingJob

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Trainings:
    """How the networks of a search are trained, all alike.

    Attributes:
        recipe: their schedule and everything else, see `rungs.selection_recipe`.
        init: the weights that they begin with, see `TrainingJob`.
        seed: of the first training of each network; the others have the next seeds.
    """

    recipe: Recipe
    init: str
    seed: int

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """The rungs of the schedule."""
        return rungs_of(self.recipe.epochs)

    def jobs(self, arch: Architecture, rung: Rung, label: str = "") -> list[TrainingJob]:
        """The trainings of a network up to a rung."""
        return [
            TrainingJob(
                arch=arch,
                recipe=self.recipe,
                seed=self.seed + number,
                init=self.init,
                until=rung.epoch if rung.epoch < self.recipe.epochs else None,
                label=label + (f", training {number + 1}" if rung.seeds > 1 else ""),
            )
            for number in range(rung.seeds)
        ]


def select(
    finalists: Sequence[Finalist], trainings: Trainings, runner: JobRunner, executor: Executor, store: ResultStore
) -> list[Finalist]:
    """Train the finalists on the training images, and compare them on the search images at the rungs of a schedule.

    A third advances from each rung, at least two, and at most three to the last. The best reference and the best of the
    others advance in any case, so that the last rung can tell by how much one is ahead of the other; there may be four.
    If a training of a finalist diverges or runs out of memory, the finalist cannot win, and its other trainings are
    left out.

    An interrupted selection is continued. What the store knows is not trained again. The winner's checkpoints stay in
    the runner's folder.

    Args:
        finalists: what enters, best score first. Those that have a look at the first rung begin with the second; if
            there is only one rung, with that.
        trainings: how they are trained.
        runner: trains them. They are scored on the search images, and in the last rung on all of its `parts`.
        executor: decides where they are trained.
        store: keeps the results; of the trials' study.

    Returns:
        All finalists, the winner first: by the last rung that they came to, then by their mean accuracy there, then by
        their score. Those that failed come last.
    """
    remaining: list[Finalist] = list(finalists)
    left_behind: list[Finalist] = []
    failed: list[Finalist] = []
    rungs = trainings.rungs
    done = min(len(remaining[0].looks), len(rungs) - 1)
    early = replace(runner, parts=("search",))
    for number, rung in enumerate(rungs[done:], start=done + 1):
        is_last = rung is rungs[-1]
        label = f"selection, rung {number} of {len(rungs)}, "
        jobs = {one.trial.number: trainings.jobs(one.arch, rung, label + one.name) for one in remaining}
        told = _compared(remaining, jobs, rung, runner if is_last else early, executor, store)
        failed += [one for one in told if one.failure]
        # Sorting keeps the order of equal ones, in which better scores come first.
        alive = sorted((one for one in told if not one.failure), key=lambda one: -one.looks[-1].mean)
        wanted = going_on(len(alive), to_last=number == len(rungs) - 1)
        remaining = alive if is_last else leading(alive, wanted, lambda one: one.is_reference)
        left_behind = [*(one for one in alive if one not in remaining), *left_behind]
        needed = remaining[:1] if is_last else remaining
        runner.forget(job for one in told if one not in needed for job in jobs[one.trial.number])
    return [*remaining, *left_behind, *failed]


def _compared(
    finalists: Sequence[Finalist],
    jobs: dict[int, list[TrainingJob]],
    rung: Rung,
    runner: JobRunner,
    executor: Executor,
    store: ResultStore,
) -> list[Finalist]:
    """The finalists with what they have at a rung."""
    failures: dict[int, str] = {}
    number_of = {job: number for number, some in jobs.items() for job in some}
    hopeful = (job for some in jobs.values() for job in some if number_of[job] not in failures)
    for job, outcome in run_jobs(hopeful, runner, executor, store, keep=True):
        if outcome.failure:
            failures.setdefault(number_of[job], outcome.failure)
    told = []
    for finalist in finalists:
        if failure := failures.get(finalist.trial.number, ""):
            _logger.warning("%s cannot win, because a training of it failed: %s", finalist.name, failure)
            told.append(replace(finalist, failure=failure))
            continue
        known = [store.get(job) for job in jobs[finalist.trial.number]]
        look = Look(epoch=rung.epoch, accuracies=tuple(one.accuracies["search"] for one in known if one))
        told.append(replace(finalist, looks=(*finalist.looks, look)))
    return told
