"""Takes trainings that have no row yet, several at a time, and adds a row as each ends."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context, parent_process
from pathlib import Path

from psvit.errors import InputError
from psvit.executors.executor import Item, Outcome, Result, attempt
from psvit.train.job_runner import run_jobs
from psvit.train.training_job import TrainingJob
from truth import rows
from truth.training import TableStore, TruthRunner, network_of, quiet

NICENESS = 5
"""The truth table waits for whoever else needs the machine."""


class ProcessExecutor:
    """Works in processes of this machine; the next item is asked for when one of them is free.

    Args:
        processes: how many.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes

    def at_once(self) -> int:
        """One in each process."""
        return self._processes

    def run(self, work: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[tuple[Item, Outcome[Result]]]:
        """See `psvit.executors.executor.Executor`; folders that other processes are at work in are outcomes as well."""
        waiting = iter(items)
        running: dict[Future[Outcome[Result]], Item] = {}
        with ProcessPoolExecutor(self._processes, get_context("spawn"), initializer=_begin) as pool:
            while True:
                while len(running) < self._processes and (item := next(waiting, None)) is not None:
                    running[pool.submit(_attempt, work, item)] = item
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()


def missing(jobs: Sequence[TrainingJob], table: Path) -> list[TrainingJob]:
    """The jobs that have no row, in order."""
    known = {row.job_key for row in rows.read(table)}
    return [job for job in jobs if rows.key_of(job) not in known]


def run(jobs: Sequence[TrainingJob], runner: TruthRunner, table: Path, processes: int, hours: float) -> int:
    """Train what is missing, in order; returns how many trainings are still missing afterwards.

    No training is begun that would not end in time, by what those before it took. A runner that is killed loses at
    most an epoch of each training at hand: the same call goes on with what they left in the work folder.

    Args:
        jobs: all of the table.
        runner: runs them.
        table: the file that rows are added to.
        processes: trainings at a time, one thread each.
        hours: how long this may take.
    """
    end = time.monotonic() + 3600 * hours
    waiting = missing(jobs, table)
    print(f"{len(jobs) - len(waiting)} of {len(jobs)} trainings have rows", flush=True)
    if not waiting:
        return 0
    # Images that cannot be used are refused here, before any process begins.
    runner.data.get()
    begun: dict[TrainingJob, float] = {}
    durations: list[float] = []

    def in_time() -> Iterator[TrainingJob]:
        for job in waiting:
            if time.monotonic() + (statistics.mean(durations) if durations else 0.0) > end:
                return
            begun[job] = time.monotonic()
            yield job

    for job, outcome in run_jobs(in_time(), runner, ProcessExecutor(processes), TableStore(table, runner)):
        durations.append(time.monotonic() - begun[job])
        _tell(job, outcome.failure, runner, table)
    return len(missing(jobs, table))


def _begin() -> None:
    """What every process that trains does first."""
    os.nice(NICENESS)
    quiet()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A runner that is killed cannot tell its processes; they would train on and keep the work folder locked."""
    parent = parent_process()
    assert parent
    parent.join()
    os._exit(1)


def _attempt(work: Callable[[Item], Result], item: Item) -> Outcome[Result]:
    try:
        return attempt(work, item)
    except InputError as error:
        return Outcome(failure=str(error))


def _tell(job: TrainingJob, failure: str, runner: TruthRunner, table: Path) -> None:
    """Say what came of a training; one that failed has no row, and is tried again by the next call."""
    if failure:
        print(f"{network_of(job, runner.networks).name} seed {job.seed}: no row: {failure}", flush=True)
        return
    row = next(row for row in rows.read(table) if row.job_key == rows.key_of(job))
    print(
        f"{row.date} {row.name} seed {row.seed} lr {row.lr:g}: search {row.search_accuracy[-1]:.2f} %, validation "
        f"{row.val_accuracy:.2f} %, {row.processor_seconds:.0f} processor seconds, {row.seconds:.0f} s",
        flush=True,
    )
