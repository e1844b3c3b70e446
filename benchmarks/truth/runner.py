"""Takes trainings that have no row yet, several at a time, and adds a row as each ends."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context, parent_process
from pathlib import Path

from psvit.errors import InputError, RunError
from truth import rows
from truth.rows import Row
from truth.training import Setting, Training, forget, open_images, quiet, train_network

NICENESS = 5
"""The truth table waits for whoever else needs the machine."""


def missing(trainings: Sequence[Training], table: Path) -> list[Training]:
    """The trainings that have no row, in order."""
    known = {(row.arch_digest, row.recipe_digest, row.seed) for row in rows.read(table)}
    return [training for training in trainings if training.key not in known]


def run(trainings: Sequence[Training], setting: Setting, table: Path, jobs: int, hours: float) -> int:
    """Train what is missing, in order; returns how many trainings are still missing afterwards.

    No training is begun that would not end in time, by what those before it took. A runner that is killed loses at
    most an epoch of each training at hand: the same call goes on with what they left in the work folder.

    Args:
        trainings: all of the table.
        setting: what they have in common.
        table: the file that rows are added to.
        jobs: trainings at a time, one thread each.
        hours: how long this may take.
    """
    end = time.monotonic() + 3600 * hours
    waiting = missing(trainings, table)
    print(f"{len(trainings) - len(waiting)} of {len(trainings)} trainings have rows", flush=True)
    if not waiting:
        return 0
    # Images that cannot be used are refused here, before any process begins.
    open_images(setting.data)
    durations: list[float] = []
    running: dict[Future[Row], tuple[Training, float]] = {}
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_begin) as pool:
        while waiting or running:
            typical = statistics.mean(durations) if durations else 0.0
            if time.monotonic() + typical > end:
                waiting.clear()
            while waiting and len(running) < jobs:
                training = waiting.pop(0)
                running[pool.submit(train_network, training, setting)] = training, time.monotonic()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                training, begun = running.pop(future)
                durations.append(time.monotonic() - begun)
                _add(future, training, setting, table)
    return len(missing(trainings, table))


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


def _add(future: Future[Row], training: Training, setting: Setting, table: Path) -> None:
    """Write the row of a training that ended; one that failed has none, and is tried again by the next call."""
    try:
        row = future.result()
    except (InputError, RunError) as error:
        print(f"{training.network.name} seed {training.seed}: no row: {error}", flush=True)
        return
    rows.append(table, row)
    forget(training, setting)
    print(
        f"{row.date} {row.name} seed {row.seed} lr {row.lr:g}: search {row.search_accuracy[-1]:.2f} %, validation "
        f"{row.val_accuracy:.2f} %, {row.processor_seconds:.0f} processor seconds, {row.seconds:.0f} s",
        flush=True,
    )
