"""Finalists: the best of a search, trained briefly, because inherited scores cannot tell near-ties apart."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from psvit.architecture import Architecture
from psvit.data import Batches, ImageData, accuracy, open_data, training_loader
from psvit.model import PSViT
from psvit.recipe import Recipe
from psvit.search.facts import Facts
from psvit.search.failures import score_of
from psvit.search.fidelity.training import alone_inputs
from psvit.search.scoring import load_unchanged
from psvit.search.trial import Score, Trial
from psvit.supernet.supernet import Supernet
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


@dataclass(frozen=True, kw_only=True)
class BriefTraining:
    """One training of a finalist.

    Attributes:
        arch: the finalist's.
        seed: of everything random.
        description: what a progress bar says.
    """

    arch: Architecture
    seed: int
    description: str

    def place(self, folder: Path) -> Path:
        """Where it keeps what it needs meanwhile."""
        return folder / f"{self.arch.digest}-{self.seed}"


class BriefAccuracy:
    """Top-1 in percent on the search images after brief trainings; an evaluator of `BriefTraining`s.

    Args:
        data: the images; those for validation are not looked at.
        network_of: makes a network with the weights that it inherits.
        recipe: how to train, see `brief`.
        device: where to train.
        folder: for what trainings need meanwhile; one that was interrupted continues from there.
    """

    def __init__(
        self,
        data: ImageData,
        network_of: Callable[[Architecture], PSViT],
        recipe: Recipe,
        *,
        device: torch.device,
        folder: Path,
    ) -> None:
        self._data = data
        self._network_of = network_of
        self._recipe = recipe
        self._device = device
        self._folder = folder

    def evaluate(self, trainings: Sequence[BriefTraining], best: Sequence[float] = (), parts: int = 1) -> list[Score]:
        """The accuracies after trainings; failed are those that diverged or ran out of memory.

        Args:
            trainings: the trainings.
            best: of no use here.
            parts: likewise.
        """
        return [score_of(partial(self._train, training), len(self._data.search)) for training in trainings]

    def _train(self, training: BriefTraining) -> float:
        inputs = alone_inputs(self._data, training.arch)
        trained = train(
            Classification(self._network_of(training.arch)),
            training_loader(self._data.train, inputs, self._recipe),
            self._recipe,
            num_classes=len(self._data.classes),
            seed=training.seed,
            device=self._device,
            folder=training.place(self._folder),
            description=training.description,
        )
        batches = Batches(self._data.search, inputs, self._recipe.batch_size, self._device)
        return accuracy(trained.model.eval(), batches)

    def describe(self) -> dict[str, Any]:
        """Says what the accuracy is of."""
        return {"kind": "accuracy after brief training"}


@dataclass(frozen=True, kw_only=True)
class Briefly:
    """Makes evaluators of brief trainings; picklable.

    Attributes:
        data: the name of the images.
        supernet: the file whose weights are inherited.
        digest: of the weights in it.
        recipe: how to train.
        device: where to train.
        folder: for what trainings need meanwhile; where it is not the same to all workers, what one of them began is
            begun anew by another.
    """

    data: str
    supernet: str
    digest: str
    recipe: Recipe
    device: str
    folder: str

    def __call__(self, data: ImageData | None = None, supernet: Supernet | None = None) -> BriefAccuracy:
        """An evaluator.

        Args:
            data: the images, where they are open already.
            supernet: the supernet, where it is loaded already.

        Raises:
            InputError: the file holds other weights.
        """
        device = torch.device(self.device)
        supernet = supernet or load_unchanged(self.supernet, self.digest, device)
        images = data or open_data(self.data)
        return BriefAccuracy(images, supernet.extract, self.recipe, device=device, folder=Path(self.folder))


Trainer = Callable[[Iterable[BriefTraining]], Iterator[tuple[BriefTraining, Score]]]
"""Does trainings, and gives each with its score when that is known."""


def train_here(evaluator: BriefAccuracy) -> Trainer:
    """A trainer that is this process: one training after the other, looked for when the one before is done."""
    return lambda trainings: ((training, evaluator.evaluate([training])[0]) for training in trainings)


def train_finalists(
    finalists: Sequence[Finalist], trainer: Trainer, *, recipe: Recipe, seed: int, facts: Facts, folder: Path
) -> list[Finalist]:
    """Train every finalist briefly on the training images, compare them on the search images.

    Accuracies are kept among the facts, and a training that was interrupted continues. A search that goes on for
    longer may have other finalists; those that stay are not trained again. One whose training diverges or runs out of
    memory is out; what a trainer looks for afterwards leaves it out as well.

    Args:
        finalists: the best trials.
        trainer: trains them.
        recipe: how it does, see `brief`.
        seed: of the first training of each; the others have the next ones.
        facts: of the trials' study.
        folder: for what the trainings need meanwhile, removed in the end.

    Returns:
        The finalists with their accuracies, best mean first; of equal ones the one that was better before. Those that
        failed come last, in their order.
    """
    seeds = range(seed, seed + SEEDS)

    def known(arch: Architecture) -> list[dict[str, Any]]:
        found = (facts.get(_fact(arch, recipe, one)) for one in seeds)
        return [outcome for outcome in found if outcome is not None]

    def missing() -> Iterator[BriefTraining]:
        for position, finalist in enumerate(finalists):
            arch = finalist.trial.arch
            for number, one in enumerate(seeds, start=position * SEEDS + 1):
                # Asked as late as this, because other processes may have trained it meanwhile.
                if facts.get(_fact(arch, recipe, one)) is None and not _failure(known(arch)):
                    description = f"finalists, training {number} of {len(finalists) * SEEDS}"
                    yield BriefTraining(arch=arch, seed=one, description=description)

    for training, score in trainer(missing()):
        outcome = {"failed": score.reason} if score.value is None else {"accuracy": score.value}
        facts.learn(_fact(training.arch, recipe, training.seed), partial(dict, outcome))
        shutil.rmtree(training.place(folder), ignore_errors=True)
    told = []
    for finalist in finalists:
        outcomes = known(finalist.trial.arch)
        if failure := _failure(outcomes):
            _logger.warning("finalist %d is out: %s", finalist.trial.number, failure)
        accuracies = () if failure else tuple(outcome["accuracy"] for outcome in outcomes)
        told.append(replace(finalist, accuracies=accuracies, failure=failure))
    shutil.rmtree(folder, ignore_errors=True)  # with what was begun of those that are no finalists any more
    return sorted(told, key=lambda finalist: -mean(finalist.accuracies or [-1.0]))


def _fact(arch: Architecture, recipe: Recipe, seed: int) -> str:
    """Under which name the outcome of a training is known."""
    return f"training:{arch.digest}:{recipe.digest}:{seed}"


def _failure(outcomes: Iterable[dict[str, Any]]) -> str:
    """Why the first training that failed did; empty where none has."""
    return next((outcome["failed"] for outcome in outcomes if "failed" in outcome), "")
