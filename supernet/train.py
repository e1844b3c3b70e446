"""Training a supernet: every step trains the slice of one drawn architecture."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psvit.data import Batches, ImageData, Inputs, accuracy, training_loader
from psvit.documents import dump_yaml, write_atomic
from psvit.recipe import Recipe
from psvit.search_space import SearchSpace
from psvit.seeding import seeded
from psvit.supernet.sampling import draw
from psvit.supernet.supernet import FILE_NAME, Supernet
from psvit.supernet.warm_start import warm_start
from psvit.training import train
from psvit.vit_weights import Weights

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class UniformPaths:
    """Train the slice of one architecture a step, each choice drawn uniformly, towards the labels.

    Attributes:
        model: the supernet.
        seed: with the step, decides which architecture is drawn.
    """

    model: Supernet
    seed: int

    def loss(self, images: Tensor, targets: Tensor, smoothing: float, step: int) -> Tensor:
        """Cross entropy of the drawn architecture."""
        arch = draw(self.model.space, self.seed, step)
        return F.cross_entropy(self.model(images, arch), targets, label_smoothing=smoothing)


def train_supernet(
    space: SearchSpace,
    data: ImageData,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    folder: Path,
    init: tuple[str, Weights] | None = None,
) -> Path:
    """Train a supernet on the training images, or finish an interrupted training in `folder`.

    Logged after every epoch is the accuracy on the search images of the smallest and the largest architecture.

    Args:
        space: with the data's classes and channels.
        data: the images.
        recipe: how to train.
        seed: of everything random.
        device: where to compute.
        folder: of the run.
        init: a vision transformer's name and weights to begin with; what was filled is written to `warm_start.yaml`.

    Returns:
        The supernet's file. One that is there already is finished and returned as it is.
    """
    file = folder / FILE_NAME
    if file.exists():
        return file
    inputs = Inputs.of(data, space.image_size)
    with seeded(seed):
        supernet = Supernet(space, drop_path_rate=recipe.drop_path_rate)
    if init:
        name, weights = init
        laid = warm_start(supernet, weights)
        write_atomic(folder / "warm_start.yaml", dump_yaml({"init": name, **laid.report()}))
    batches = Batches(data.search, inputs, recipe.batch_size, device)

    def held_out(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, Supernet)
        model.eval()
        return {
            "smallest": accuracy(lambda images: model(images, space.smallest), batches),
            "largest": accuracy(lambda images: model(images, space.largest), batches),
        }

    trained = train(
        UniformPaths(supernet, seed),
        training_loader(data.train, inputs, recipe),
        recipe,
        num_classes=space.num_classes,
        seed=seed,
        device=device,
        folder=folder,
        description="supernet",
        held_out=held_out,
    )
    assert isinstance(trained.model, Supernet)
    provenance = {
        "data": data.name,
        "init": init[0] if init else None,
        "seed": seed,
        "recipe": recipe.to_dict(),
        "torch": torch.__version__,
    }
    trained.model.save(file, provenance)
    (folder / "checkpoint.safetensors").unlink()
    return file
