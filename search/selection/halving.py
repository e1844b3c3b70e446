"""Successive halving: train what may be delivered, compare it, and let the better ones advance."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace

from psvit.arch.architecture import Architecture
from psvit.executors.executor import Executor
from psvit.io.progress import progress_bar
from psvit.report.formatting import count
from psvit.search.selection.finalist import Finalist, Look
from psvit.search.selection.rungs import Rung, going_on, leading, rungs_of
from psvit.search.time_limit import TimeLimit
from psvit.train.job_runner import JobRunner, is_done, run_jobs
from psvit.train.recipe import Recipe
from psvit.train.result_store import ResultStore
from psvit.train.training_job import TrainingJob

_logger = logging.getLogger(__name__)

LEAST = 2
"""For so many networks there shall be time in the last rung: the best reference and the best of the others."""


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
    finalists: Sequence[Finalist],
    trainings: Trainings,
    runner: JobRunner,
    executor: Executor,
    store: ResultStore,
    limit: TimeLimit | None = None,
) -> list[Finalist]:
    """Train the finalists on the training images, and compare them on the search images at the rungs of a schedule.

    A third advances from each rung, at least two, and at most three to the last. The best reference and the best of the
    others advance in any case, so that the last rung can tell by how much one is ahead of the other; there may be four.
    If a training of a finalist diverges or runs out of memory, the finalist cannot win, and its other trainings are
    left out.

    An interrupted selection is continued. What the store knows is not trained again. The winner's checkpoints stay in
    the runner's folder, and with them those of finalists that had no time.

    Args:
        finalists: what enters, best score first. Those that have a look at the first rung begin with the second; if
            there is only one rung, with that.
        trainings: how they are trained.
        runner: trains them. They are scored on the search images, and in the last rung on all of its `parts`.
        executor: decides where they are trained.
        store: keeps the results; of the trials' study.
        limit: says which trainings may still begin; without one, all may. Left out are, as far as needed, the second
            and third trainings in the last rung, and finalists at a rung, the best reference and the best of the others
            last.

    Returns:
        All finalists, the winner first: by the last rung that they came to, then by their mean accuracy there, then by
        their score. Those that failed come last.
    """
    limit = limit or TimeLimit()
    remaining: list[Finalist] = list(finalists)
    left_behind: list[Finalist] = []
    failed: list[Finalist] = []
    rungs = trainings.rungs
    done = min(len(remaining[0].looks), len(rungs) - 1)
    early = replace(runner, parts=("search",))
    for number, rung in enumerate(rungs[done:], start=done + 1):
        is_last = rung is rungs[-1]
        stage = _Stage(
            rung=rung,
            jobs={
                one.trial.number: trainings.jobs(
                    one.arch, rung, f"selection, rung {number} of {len(rungs)}, {one.name}"
                )
                for one in remaining
            },
            epochs=rung.epoch - (rungs[number - 2].epoch if number > 1 else 0),
            reserve=() if is_last else LEAST * (rungs[-1].epoch - rung.epoch,),
        )
        told = _compared(remaining, stage, runner if is_last else early, executor, store, limit)
        failed += [one for one in told if one.failure]
        # Sorting keeps the order of equal ones, in which better scores come first.
        alive = sorted((one for one in told if _came_to(one, rung)), key=lambda one: -one.looks[-1].mean)
        late = [one for one in told if not one.failure and not _came_to(one, rung)]
        wanted = going_on(len(alive), to_last=number == len(rungs) - 1)
        remaining = alive if is_last else leading(alive, wanted, lambda one: one.is_reference)
        left_behind = [*(one for one in alive if one not in remaining), *late, *left_behind]
        needed = [*(remaining[:1] if is_last else remaining), *late]
        runner.forget(job for one in told if one not in needed for job in stage.jobs[one.trial.number])
        if late:
            limit.left_out.append(f"{len(late)} of {len(told)} finalists were not trained to epoch {rung.epoch}")
        if alive and (trainings_each := len(alive[0].looks[-1].accuracies)) < rung.seeds:
            limit.left_out.append(f"finalists were trained {count(trainings_each, 'time')} instead of {rung.seeds}")
        if not remaining:
            break
    return [*remaining, *left_behind, *failed]


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """What is trained for one comparison.

    Attributes:
        rung: the rung.
        jobs: the trainings of each finalist, by the number of its trial.
        epochs: that the first training of each takes; others take all of the rung.
        reserve: the epochs of trainings for which there shall be time afterwards.
    """

    rung: Rung
    jobs: dict[int, list[TrainingJob]]
    epochs: int
    reserve: tuple[int, ...]

    def epochs_of(self, job: TrainingJob, number: int) -> int:
        """The epochs that a training of a finalist takes."""
        return self.epochs if job is self.jobs[number][0] else self.rung.epoch

    def permitted(
        self, finalists: Sequence[Finalist], failures: Container[int], limit: TimeLimit
    ) -> Iterator[TrainingJob]:
        """The trainings for which there is time: of all finalists the first, then of all the second, and so on."""
        # For the best reference and the best of the others there is time first, so that there can be a verdict.
        waiting = leading(finalists, 0, lambda one: one.is_reference)
        for one in finalists:
            if one in waiting:
                waiting.remove(one)
                needed: tuple[int, ...] = (self.epochs,)
            else:
                needed = (1 + len(waiting)) * (self.epochs,) + self.reserve
            if limit.permits(*needed):
                yield self.jobs[one.trial.number][0]
        for seed in range(1, self.rung.seeds):
            if not limit.permits(*(self.rung.epoch for one in finalists if one.trial.number not in failures)):
                return
            for one in finalists:
                # Whether a training has failed, and how long the first takes, shows meanwhile.
                if one.trial.number not in failures:
                    if not limit.permits(self.rung.epoch):
                        return
                    yield self.jobs[one.trial.number][seed]


def _compared(
    finalists: Sequence[Finalist],
    stage: _Stage,
    runner: JobRunner,
    executor: Executor,
    store: ResultStore,
    limit: TimeLimit,
) -> list[Finalist]:
    """The finalists with what they have at a rung."""
    failures: dict[int, str] = {}
    number_of = {job: number for number, some in stage.jobs.items() for job in some}
    epochs = {job: stage.epochs_of(job, number) for job, number in number_of.items()}
    before = sum(epochs[job] for job in epochs if is_done(job, store, runner.parts))
    limit.begin(executor.at_once())

    def begun() -> Iterator[TrainingJob]:
        for job in stage.permitted(finalists, failures, limit):
            if not is_done(job, store, runner.parts):
                limit.begins(job, epochs[job])
            yield job

    with progress_bar(f"training to epoch {stage.rung.epoch}", sum(epochs.values()), "epochs", before) as advance:
        for job, outcome in run_jobs(begun(), runner, executor, store, keep=True):
            advance(epochs[job], "")
            limit.ended(job, failed=bool(outcome.failure))
            if outcome.failure:
                failures.setdefault(number_of[job], outcome.failure)
    known = {number: [result for job in some if (result := store.get(job))] for number, some in stage.jobs.items()}
    # All are compared after equally many trainings.
    seeds = min((len(some) for number, some in known.items() if some and number not in failures), default=0)
    told = []
    for finalist in finalists:
        number = finalist.trial.number
        if failure := failures.get(number, ""):
            _logger.warning("%s cannot win, because a training of it failed: %s", finalist.name, failure)
            told.append(replace(finalist, failure=failure))
        elif not known[number]:
            told.append(finalist)
        else:
            accuracies = tuple(one.accuracies["search"] for one in known[number][:seeds])
            told.append(replace(finalist, looks=(*finalist.looks, Look(epoch=stage.rung.epoch, accuracies=accuracies))))
    return told


def _came_to(finalist: Finalist, rung: Rung) -> bool:
    """Whether a finalist was compared at a rung."""
    return not finalist.failure and bool(finalist.looks) and finalist.looks[-1].epoch == rung.epoch
