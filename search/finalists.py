"""Finalists: the best of a search, trained briefly, because inherited scores cannot tell near-ties apart."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from psvit.data import Batches, ImageData, Inputs, accuracy, training_loader
from psvit.model import PSViT
from psvit.recipe import Recipe
from psvit.search.facts import Facts
from psvit.search.failures import score_of
from psvit.search.trial import Trial
from psvit.training import Classification, train

_logger = logging.getLogger(__name__)

SEEDS = 3
"""Trainings of every finalist, which differ in the order of the images, in augmentation and in stochastic depth."""

SHARE = 0.05
"""Epochs of a finalist's training relative to the recipe's."""


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """One of the best trials of a search.

    Attributes:
        trial: the trial.
        latencies: by the limit's setting, what was predicted and what was measured.
        accuracies: top-1 in percent on the search images after brief trainings; empty where there were none.
        failure: why a training of it gave no network; then it has no accuracies.
    """

    trial: Trial
    latencies: dict[str, Any] = field(default_factory=dict)
    accuracies: tuple[float, ...] = ()
    failure: str = ""

    @property
    def accuracy(self) -> float | None:
        """The mean over the trainings."""
        return mean(self.accuracies) if self.accuracies else None

    @property
    def spread(self) -> float | None:
        """The standard deviation over the trainings."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """What the report and the winner's file say of it, JSON-serialisable."""
        return {
            "trial": self.trial.number,
            "inherited": self.trial.score.value,
            "accuracies": list(self.accuracies),
            "macs": self.trial.cost.macs,
            "num_params": self.trial.cost.num_params,
            **({"failed": self.failure} if self.failure else {}),
        }


def brief(recipe: Recipe) -> Recipe:
    """The recipe of a finalist's training: a network's, for a twentieth of its epochs.

    It begins with the weights that the network inherits, so it needs less time to show what they can become, and
    neither averages weights over longer than it lasts nor warms up for most of it.
    """
    epochs = max(1, round(SHARE * recipe.epochs))
    return recipe.override({"epochs": epochs, "warmup_epochs": 0, "ema_decay": None})


def train_finalists(
    finalists: Sequence[Finalist],
    network_of: Callable[[Trial], PSViT],
    data: ImageData,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    facts: Facts,
    folder: Path,
) -> list[Finalist]:
    """Train every finalist briefly on the training images, compare them on the search images.

    Accuracies are kept among the facts, and a training that was interrupted continues. A search that goes on for
    longer may have other finalists; those that stay are not trained again. One whose training diverges or runs out of
    memory is not trained further.

    Args:
        finalists: the best trials.
        network_of: makes the network of a trial with the weights that it inherits.
        data: the images; those for validation are not looked at.
        recipe: how to train, see `brief`.
        seed: of everything random.
        device: where to train.
        facts: of the trials' study.
        folder: for what the trainings need meanwhile.

    Returns:
        The finalists with their accuracies, best mean first; of equal ones the one that was better before. Those that
        failed come last, in their order.
    """
    inputs = Inputs.of(data, finalists[0].trial.arch.image_size)
    batches = Batches(data.search, inputs, recipe.batch_size, device)

    def accuracy_of(trial: Trial, seed: int, place: Path, description: str) -> float:
        trained = train(
            Classification(network_of(trial)),
            training_loader(data.train, inputs, recipe),
            recipe,
            num_classes=len(data.classes),
            seed=seed,
            device=device,
            folder=place,
            description=description,
        )
        return accuracy(trained.model.eval(), batches)

    told = []
    for position, finalist in enumerate(finalists):
        arch, accuracies, failure = finalist.trial.arch, [], ""
        for number in range(SEEDS):
            place = folder / f"{arch.digest}-{seed + number}"
            training = f"finalists, training {position * SEEDS + number + 1} of {len(finalists) * SEEDS}"
            measure = partial(accuracy_of, finalist.trial, seed + number, place, training)
            found = facts.learn(
                f"training:{arch.digest}:{recipe.digest}:{seed + number}",
                partial(_outcome, measure, len(data.search)),
            )
            shutil.rmtree(place, ignore_errors=True)
            if failure := found.get("failed", ""):
                _logger.warning("finalist %d is out: %s", finalist.trial.number, failure)
                break
            accuracies.append(found["accuracy"])
        told.append(replace(finalist, accuracies=() if failure else tuple(accuracies), failure=failure))
    shutil.rmtree(folder, ignore_errors=True)  # with what was begun of those that are no finalists any more
    return sorted(told, key=lambda finalist: -mean(finalist.accuracies or [-1.0]))


def _outcome(measure: Callable[[], float], images: int) -> dict[str, Any]:
    """What is known after a training: the accuracy, or why there is none."""
    score = score_of(measure, images)
    return {"failed": score.reason} if score.value is None else {"accuracy": score.value}
