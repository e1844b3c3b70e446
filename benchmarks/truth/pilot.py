"""The pilot, which chooses the learning rate of the truth table's recipe before its first row.

Four networks, one of every (variant, stem) at the smaller budget, are trained with three rates for a quarter of the
epochs; then with the two rates that did best and a second seed. The rate with the highest mean accuracy on the search
images over both seeds is taken; validation images decide nothing. Shorter trainings tend to prefer higher rates than
longer ones do, which the pilot cannot tell.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from psvit.train.recipe import Recipe
from psvit.train.training_job import TrainingJob
from truth.networks import Network, job_of
from truth.rows import Row, key_of

RATES = (0.001, 0.002, 0.004)
SEEDS = (0, 1)
EPOCHS = 3
FINALISTS = 2
"""Rates that are tried with the second seed."""
NETWORKS = ("5M-1d-patch-0", "5M-1d-conv-0", "5M-2d-patch-0", "5M-2d-conv-0")


def trainings(networks: Sequence[Network], recipe: Recipe, rows: Sequence[Row]) -> list[TrainingJob]:
    """All trainings of the pilot as far as they are known: the second seed's once the first one's have rows."""
    chosen = [network for network in networks if network.name in NETWORKS]

    def with_rates(rates: Sequence[float], seed: int) -> list[TrainingJob]:
        recipes = [recipe.override({"lr": lr, "epochs": EPOCHS}) for lr in rates]
        return [job_of(network, one, seed) for network in chosen for one in recipes]

    first = with_rates(RATES, SEEDS[0])
    done = {row.job_key for row in rows}
    if not {key_of(job) for job in first} <= done:
        return first
    means = mean_accuracies([row for row in rows if row.seed == SEEDS[0]])
    return first + with_rates(sorted(RATES, key=lambda lr: -means[lr])[:FINALISTS], SEEDS[1])


def mean_accuracies(rows: Sequence[Row]) -> dict[float, float]:
    """By rate, the mean accuracy on the search images after the last epoch."""
    rates = sorted({row.lr for row in rows})
    return {lr: statistics.mean(row.search_accuracy[-1] for row in rows if row.lr == lr) for lr in rates}


def best_rate(rows: Sequence[Row]) -> float:
    """The rate that the recipe has: of those with both seeds the best."""
    means = mean_accuracies([row for row in rows if row.lr in {row.lr for row in rows if row.seed == SEEDS[1]}])
    return max(means, key=lambda lr: means[lr])
