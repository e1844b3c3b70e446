"""Standalone accuracy: networks trained from scratch on the training images, compared on the search images.

Those are the images that inherited accuracy is measured on; neither supernets nor these networks were trained on them,
and validation images are not looked at.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from psvit.architecture import Architecture
from psvit.data import Batches, ImageData, Inputs, Labelled, accuracy, open_data, training_loader
from psvit.nn.network import PSViT
from psvit.recipe import Recipe
from psvit.search.failures import score_of
from psvit.search.scoring import BATCH_SIZE
from psvit.search.trial import Score
from psvit.seeding import seeded
from psvit.training import Classification, train


def training_images(data: ImageData, number: int | None) -> Labelled:
    """The training images, or so many of them, drawn once and for all; the search images are not among them."""
    if number is None or number >= len(data.train):
        return data.train
    return data.train.take(np.sort(np.random.default_rng(0).permutation(len(data.train))[:number]))


def alone_inputs(data: ImageData, arch: Architecture, device: torch.device) -> Inputs:
    """How images are prepared; a worker on a cluster computes with a thread, and leaves cores to other workers.

    Not where a GPU computes, which would wait for a single process that prepares its images.
    """
    inputs = Inputs.of(data, arch.image_size)
    if device.type != "cpu":
        return inputs
    return replace(inputs, workers=min(inputs.workers, torch.get_num_threads()))


def initial_network(arch: Architecture, recipe: Recipe, seed: int) -> PSViT:
    """A network as training from scratch begins with it."""
    with seeded(seed):
        return PSViT(arch, drop_path_rate=recipe.drop_path_rate)


def train_network(
    network: PSViT,
    data: ImageData,
    images: Labelled,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    folder: Path,
    description: str,
) -> PSViT:
    """Train a network from the weights it has, or from where an interrupted training in `folder` stopped.

    Args:
        network: the network.
        data: the images.
        images: those of them that are trained on, without augmentation.
        recipe: how to train.
        seed: of everything random.
        device: where to train.
        folder: for checkpoints and log; one in which it was trained before gives the network back.
        description: what the progress bar says.

    Returns:
        The network, ready to be evaluated.

    Raises:
        DivergedError: the loss is no number any more.
    """
    trained = train(
        Classification(network),
        training_loader(images, alone_inputs(data, network.arch, device), recipe),
        recipe,
        num_classes=len(data.classes),
        seed=seed,
        device=device,
        folder=folder,
        description=description,
    )
    assert isinstance(trained.model, PSViT)
    return trained.model.eval()


@dataclass(frozen=True, kw_only=True)
class Standalone:
    """Makes evaluators that train; picklable.

    Attributes:
        data: the name of the images.
        images: how many of the training images; all where not given.
        recipe: how to train.
        seed: of everything random in a training.
        device: where to compute.
        folder: for what trainings need meanwhile; one that was interrupted continues from there.
    """

    data: str
    images: int | None
    recipe: Recipe
    seed: int
    device: str
    folder: str

    def __call__(self, data: ImageData | None = None) -> StandaloneAccuracy:
        """An evaluator.

        Args:
            data: the images, where they are open already.
        """
        return StandaloneAccuracy(
            data or open_data(self.data),
            self.recipe,
            images=self.images,
            seed=self.seed,
            device=torch.device(self.device),
            folder=Path(self.folder),
        )


class StandaloneAccuracy:
    """Top-1 accuracy in percent on the search images, after training from scratch; an evaluator that takes its time.

    Args:
        data: the images.
        recipe: how to train.
        images: how many of the training images; all where not given.
        seed: of everything random in a training.
        device: where to compute.
        folder: for what trainings need meanwhile.
    """

    def __init__(
        self, data: ImageData, recipe: Recipe, *, images: int | None, seed: int, device: torch.device, folder: Path
    ) -> None:
        self._data = data
        self._recipe = recipe
        self._images = training_images(data, images)
        self._seed = seed
        self._device = device
        self._folder = folder
        self._batches: Batches | None = None

    def evaluate(self, archs: Sequence[Architecture], best: Sequence[float] = (), parts: int = 1) -> list[Score]:
        """The accuracies of networks; nothing is raced. Failed are those whose training diverged or ran out of memory.

        Args:
            archs: the networks, no two equal.
            best: of no use here.
            parts: likewise.
        """
        return [score for _, score in self.arrivals(archs)]

    def arrivals(self, archs: Sequence[Architecture]) -> Iterator[tuple[int, Score]]:
        """As `evaluate`, each with its position when it is known."""
        for position, arch in enumerate(archs):
            description = f"training {position + 1} of {len(archs)}, seed {self._seed}"
            score = score_of(partial(self._trained, arch, description), len(self._data.search))
            yield position, score
            # By now whoever asked has written the score down.
            if score.value is not None:
                shutil.rmtree(self._place(arch))

    def _place(self, arch: Architecture) -> Path:
        return self._folder / f"{arch.digest}-{self._seed}"

    def _trained(self, arch: Architecture, description: str) -> float:
        """The accuracy of one network."""
        network = train_network(
            initial_network(arch, self._recipe, self._seed),
            self._data,
            self._images,
            self._recipe,
            seed=self._seed,
            device=self._device,
            folder=self._place(arch),
            description=description,
        )
        if self._batches is None:
            inputs = alone_inputs(self._data, arch, self._device)
            self._batches = Batches(self._data.search, inputs, BATCH_SIZE, self._device)
        return accuracy(network, self._batches)

    def describe(self) -> dict[str, Any]:
        """Says what the accuracy is of, and how networks were trained."""
        return {
            "kind": "standalone accuracy",
            "meaning": "top-1 in percent after training from scratch, on images held out from training",
            "images": len(self._data.search),
            "recipe": self._recipe.to_dict(),
        }
