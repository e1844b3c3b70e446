"""Rows of the truth table, many at once on one GPU. The first networks are some that have rows of a CPU."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

from truth import networks, rows
from truth.networks import FOLDER
from truth.rows import Row

from gpu_stages.stage import Cell, Measured, finishes
from psvit.train.recipe import Recipe
from psvit.train.training_job import TrainingJob

COMPARED = 4
"""Networks that are trained although they have rows: they say whether rows of a GPU count beside those of a CPU."""

SPREAD = 0.6
"""Points by which trainings with two seeds differ, as a standard deviation of one (docs/benchmarks.md)."""

COMMITTED = FOLDER / "rows.csv"
RECIPE_FILE = FOLDER / "recipe.yaml"
TABLE = "rows.csv"


def cells(options: argparse.Namespace) -> Iterator[Cell]:
    """One cell, which adds rows until its time is over."""

    def measure(left: float) -> Measured:
        table = options.out / TABLE
        # What is unfinished goes on from its checkpoints.
        finishes(_train, (options, table, left), left)
        return {"rows": len(rows.read(table)), **agreement(rows.read(table), rows.read(COMMITTED))}

    yield Cell("trainings of the truth table", measure, is_kept=False)


def wanted(known: list[Row]) -> list[TrainingJob]:
    """All trainings of the table: some that have rows of a CPU, then those without, then the others."""
    recipe = Recipe.load(RECIPE_FILE)
    jobs = [networks.job_of(network, recipe, seed) for network, seed in networks.trainings(networks.load())]
    have = {row.job_key for row in known}
    again = [job for job in jobs if rows.key_of(job) in have]
    return [*again[:COMPARED], *(job for job in jobs if rows.key_of(job) not in have), *again[COMPARED:]]


def agreement(found: list[Row], known: list[Row]) -> Measured:
    """Whether networks that were trained on both kinds of devices agree within seeds; empty if there are too few.

    Each may be apart by twice what two seeds are, and their mean by twice what that of so many would be.
    """
    of_cpu = {row.job_key: row.val_accuracy for row in known}
    apart = [row.val_accuracy - of_cpu[row.job_key] for row in found if row.job_key in of_cpu]
    if len(apart) < COMPARED:
        return {}
    most = 2 * 2**0.5 * SPREAD
    agree = max(map(abs, apart)) <= most and abs(mean(apart)) <= most / len(apart) ** 0.5
    return {"compared": len(apart), "mean_difference": mean(apart), "agree": agree}


def merge(table: Path, into: Path) -> int:
    """Add rows to the committed ones if those of both devices agree; returns how many were added."""
    found, known = rows.read(table), rows.read(into)
    if not agreement(found, known).get("agree"):
        return 0
    have = {row.job_key for row in known}
    fresh = [row for row in found if row.job_key not in have]
    for row in fresh:
        rows.append(into, row)
    return len(fresh)


def _train(options: argparse.Namespace, table: Path, seconds: float) -> None:
    """Train in processes of this one, with one thread each."""
    os.environ["OMP_NUM_THREADS"] = "1"
    from truth.runner import run
    from truth.training import runner_of

    began = time.monotonic()
    runner = runner_of(options.data, options.device, options.out / "truth", networks.load())
    jobs = wanted(rows.read(COMMITTED))
    run(jobs[: options.cells], runner, table, options.jobs, (seconds - (time.monotonic() - began)) / 3600)
