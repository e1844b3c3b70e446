"""Images a second in training one network: as it was, with images on the device, with CUDA graphs, several at once."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from truth import networks

from gpu_stages.stage import Cell, Measured
from psvit.arch.costs import cost
from psvit.data import ImageData, Inputs, open_data
from psvit.train.job_runner import initial_network
from psvit.train.recipe import Recipe
from psvit.train.tasks import Classification
from psvit.train.training import train
from psvit.train.training_job import TrainingJob
from psvit.train.training_loader import training_loader

Way = Literal["one by one", "whole batches", "whole batches, CUDA graphs"]
"""How images are augmented, and whether passes are replayed."""

WAYS: tuple[Way, ...] = ("one by one", "whole batches", "whole batches, CUDA graphs")
BATCH_SIZES = (128, 1024)
AT_ONCE = (4, 8)


@dataclass(frozen=True)
class WithoutGraphs:
    """A task that is no single network to the training loop, so that nothing is replayed."""

    task: Classification

    @property
    def model(self) -> nn.Module:
        """See `psvit.train.tasks.Task`."""
        return self.task.model

    def losses(self, images: Tensor, targets: Tensor, smoothing: float, step: int) -> Iterator[Tensor]:
        """See `psvit.train.tasks.Task`."""
        return self.task.losses(images, targets, smoothing, step)


def cells(options: argparse.Namespace) -> Iterator[Cell]:
    """Every way at two batch sizes, then several trainings at once."""
    for batch_size in BATCH_SIZES:
        for way in WAYS:
            yield Cell(f"batch {batch_size}, {way}", partial(_alone, options, way, batch_size))
    for number in AT_ONCE:
        yield Cell(f"batch {BATCH_SIZES[-1]}, {WAYS[-1]}, {number} at once", partial(_together, options, number))


def _alone(options: argparse.Namespace, way: Way, batch_size: int, left: float) -> Measured:
    return {"images_per_second": images_per_second(options, way, batch_size)}


def images_per_second(options: argparse.Namespace, way: Way, batch_size: int) -> float:
    """In the last of three epochs; before it, images are read and passes recorded."""
    data = part_of(open_data(options.data), options.images)
    network = next(one for one in networks.load() if one.macs == 10_000_000 and "1d-conv" in one.name)
    recipe = Recipe.load("cifar").override(
        {
            "epochs": 3,
            "warmup_epochs": 0,
            "batch_size": batch_size,
            "augment_batches": way != "one by one",
            "auto_augment": None,
            "precision": "auto",
        }
    )
    device = torch.device(options.device)
    model = initial_network(TrainingJob(arch=network.arch, recipe=recipe, seed=0, label=network.name))
    assert cost(network.arch).macs < 11_000_000
    task = Classification(model.train())
    with tempfile.TemporaryDirectory(prefix="psvit-") as folder:
        trained = train(
            task if "graphs" in way else WithoutGraphs(task),
            training_loader(data.train, Inputs.of(data, network.arch.image_size), recipe, device),
            recipe,
            num_classes=len(data.classes),
            seed=0,
            device=device,
            folder=Path(folder),
            description=way,
        )
    return trained.log[-1]["images_per_second"]


def part_of(data: ImageData, images: int | None) -> ImageData:
    """So many training images of all classes, if no more are wanted."""
    if images is None or images >= len(data.train):
        return data
    return replace(data, train=data.train.take(np.linspace(0, len(data.train) - 1, images).astype(np.int64)))


def _together(options: argparse.Namespace, number: int, left: float) -> Measured:
    """The sum of what processes train that begin their last epoch at about the same time."""
    with get_context("spawn").Pool(number) as pool:
        rates = pool.starmap(images_per_second, [(options, WAYS[-1], BATCH_SIZES[-1])] * number)
    return {"images_per_second": sum(rates)}
