"""The pilot, which chooses the learning rate of the truth table's recipe before its first row.

Four networks, one of every (variant, stem) at the smaller budget, are trained with three rates and two seeds each, for
a quarter of the epochs. The rate with the highest mean accuracy on the search images is taken; validation images decide
nothing. Shorter trainings tend to prefer higher rates than longer ones do, which the pilot cannot tell.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from psvit.recipe import Recipe
from truth.networks import Network
from truth.rows import Row
from truth.training import Training

RATES = (0.001, 0.002, 0.004)
SEEDS = (0, 1)
EPOCHS = 3
NETWORKS = ("5M-1d-patch-0", "5M-1d-conv-0", "5M-2d-patch-0", "5M-2d-conv-0")


def trainings(networks: Sequence[Network], recipe: Recipe) -> list[Training]:
    """All trainings of the pilot, rates in turn."""
    chosen = [network for network in networks if network.name in NETWORKS]
    return [
        Training(network, recipe.override({"lr": lr, "epochs": EPOCHS}), seed)
        for seed in SEEDS
        for network in chosen
        for lr in RATES
    ]


def mean_accuracies(rows: Sequence[Row]) -> dict[float, float]:
    """By rate, the mean accuracy on the search images after the last epoch."""
    return {lr: statistics.mean(row.search_accuracy[-1] for row in rows if row.lr == lr) for lr in RATES}


def best_rate(rows: Sequence[Row]) -> float:
    """The rate that the recipe has; there must be a row for every training of the pilot."""
    means = mean_accuracies(rows)
    return max(means, key=lambda lr: means[lr])
