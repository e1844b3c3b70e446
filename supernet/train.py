"""Training a supernet: every step trains the slices of some architectures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psvit.arch.architecture import Architecture
from psvit.data import Batches, ImageData, Inputs, accuracy
from psvit.io.documents import dump_yaml, write_atomic
from psvit.nn.seeding import seeded
from psvit.nn.vit_weights import Vit
from psvit.space.search_space import SearchSpace
from psvit.supernet.keeping import Kept, keep
from psvit.supernet.provenance import FILE_NAME, finished_before
from psvit.supernet.sampling import BINS, architectures, macs_bin
from psvit.supernet.supernet import Supernet
from psvit.supernet.warm_start import begin_as, warm_start
from psvit.train.checkpoints import CheckpointConfig, Checkpoints
from psvit.train.distributed import World
from psvit.train.original import Original
from psvit.train.recipe import Recipe, SupernetRecipe
from psvit.train.teacher import Teacher, taught_loss
from psvit.train.training import train
from psvit.train.training_loader import training_loader

_logger = logging.getLogger(__name__)

WATCHED_IMAGES = 2000
"""Most search images on which accuracies are logged after an epoch, so that watching does not take long."""


@dataclass(frozen=True, kw_only=True)
class SupernetTask:
    """Train the slices of the architectures that a step draws; their mean loss is followed.

    The mean, where BigNAS (arXiv 2003.11142) takes the sum: gradients are then as large under every rule, and clipping
    them means the same.

    Attributes:
        model: the supernet.
        recipe: which architectures a step trains, and towards what.
        seed: with the step, decides which are drawn.
        teacher: learnt from, where the recipe says so.
        inputs: how the supernet's images are prepared, for the teacher.
    """

    model: Supernet
    recipe: SupernetRecipe
    seed: int
    teacher: Teacher | None = None
    inputs: Inputs | None = None

    def losses(self, images: Tensor, targets: Tensor, smoothing: float, step: int) -> Iterator[Tensor]:
        """The share of each architecture in the loss."""
        archs = architectures(self.model.space, self.recipe, self.seed, step)
        taught: Tensor | None = None
        if self.recipe.needs_teacher:
            assert self.teacher is not None
            assert self.inputs is not None
            taught = self.teacher.logits(images, self.inputs)
        for number, arch in enumerate(archs):
            logits = self.model(images, arch)
            if self.recipe.target == "inplace" and number:
                assert taught is not None
                loss = F.cross_entropy(logits, taught)
            else:
                loss = F.cross_entropy(logits, targets, label_smoothing=smoothing)
                if self.recipe.needs_teacher:
                    assert taught is not None
                    loss = taught_loss(loss, logits, taught, self.recipe)
            if self.recipe.target == "inplace" and not number:
                # The largest does not follow what it teaches.
                taught = logits.detach().float().softmax(dim=1)
            yield loss / len(archs)


def watched(space: SearchSpace) -> dict[str, Architecture]:
    """The architectures whose accuracies are logged: the smallest, the largest, and up to three between them.

    Those are drawn, with a fixed seed, where MACs are a quarter, a half and three quarters of the way.
    """
    rng = np.random.default_rng(0)
    bins = {f"macs_{percent}%": macs_bin(space, BINS * percent // 100) for percent in (25, 50, 75)}
    between = {name: members.sample(rng, 1)[0] for name, members in bins.items() if members.count}
    return {"smallest": space.smallest, **between, "largest": space.largest}


def _logits(supernet: Supernet, arch: Architecture, images: Tensor) -> Tensor:
    logits: Tensor = supernet(images, arch)
    return logits


def fit_supernet(
    space: SearchSpace,
    data: ImageData,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    folder: Path,
    init: Vit | Original | None = None,
    teacher: Teacher | None = None,
    checkpointing: CheckpointConfig | None = None,
    world: World | None = None,
) -> Path:
    """Train a supernet on the training images, or finish an interrupted training in `folder`.

    Logged after every epoch are the accuracies on search images of the `watched` architectures. A supernet that begins
    as a network keeps that network's accuracy on search images (`psvit.supernet.keeping`).

    Args:
        space: with the data's classes and channels.
        data: the images.
        recipe: how to train; one for networks trains one architecture a step, drawn uniformly.
        seed: of everything random.
        device: where to compute.
        folder: of the run.
        init: a network to begin with, which the space is around; or a vision transformer whose weights fill the
            supernet's leading slice, and what was filled is written to `warm_start.yaml`.
        teacher: what is learnt from, where the recipe says so.
        checkpointing: how often checkpoints are written and how many are kept.
        world: the processes that train together.

    Returns:
        The supernet's file. One that is there already is finished and returned as it is.

    Raises:
        InputError: the recipe wants a teacher and there is none, or the other way round; or see
            `psvit.train.training.train`.
    """
    world = world or World()
    if found := finished_before(folder, world):
        return found
    file = folder / FILE_NAME
    recipe = SupernetRecipe.of(recipe)
    recipe.check_teacher(teacher is not None)
    inputs = Inputs.of(data, space.image_size)
    model = _begun(space, recipe, seed, init, folder if world.is_first else None)
    begun = {name: weight.clone() for name, weight in model.state_dict().items()} if isinstance(init, Original) else {}
    trained = train(
        SupernetTask(
            model=model,
            recipe=recipe,
            seed=seed,
            teacher=teacher.to(device) if teacher else None,
            inputs=inputs,
        ),
        training_loader(data.train, inputs, recipe, device),
        recipe,
        num_classes=space.num_classes,
        seed=seed,
        device=device,
        folder=folder,
        description="supernet",
        held_out=_watching(space, data, inputs, recipe.batch_size, device, world),
        checkpointing=checkpointing,
        world=world,
    )
    assert isinstance(trained.model, Supernet)
    if world.is_first:
        provenance = _provenance(data, recipe, seed, init, teacher)
        if begun:
            kept = _keep(trained.model, begun, Batches(data.search, inputs, recipe.batch_size, device))
            _logger.info("%s", kept)
            provenance["kept"] = kept.to_dict()
        trained.model.save(file, provenance)
        Checkpoints(folder, CheckpointConfig()).clear()
    world.gather(None)  # nobody says that it is finished before it is
    return file


def _keep(supernet: Supernet, begun: Mapping[str, Tensor], batches: Batches) -> Kept:
    """Move weights back so far that the largest recognises what it did."""
    supernet.eval()
    logits_of = partial(_logits, supernet, supernet.space.largest)
    return keep(supernet, begun, lambda: accuracy(logits_of, batches), batches.num_images)


def begun_as(space: SearchSpace, original: Original, folder: Path) -> Path:
    """Write a supernet that is a network, not adapted to anything; the file is returned as it is if it is there."""
    file = folder / FILE_NAME
    if not file.exists():
        supernet = Supernet(space)
        begin_as(supernet, original.network)
        supernet.save(file, {"init": original.name})
    return file


def _begun(
    space: SearchSpace, recipe: SupernetRecipe, seed: int, init: Vit | Original | None, folder: Path | None
) -> Supernet:
    """The supernet as training begins with it; what it begins with is written to the folder, if one is given."""
    with seeded(seed):
        supernet = Supernet(space, drop_path_rate=recipe.drop_path_rate)
    if isinstance(init, Original):
        begin_as(supernet, init.network)
    elif init:
        transferred = warm_start(supernet, init.weights)
        head_dims = sorted({layout.head_dim for layout in space.layouts})
        here = head_dims[0] if len(head_dims) == 1 else head_dims
        about = {"init": init.name, "head_dim": {"there": init.head_dim, "here": here}}
        if folder:
            write_atomic(folder / "warm_start.yaml", dump_yaml({**about, **transferred.report()}))
    return supernet


def _watching(
    space: SearchSpace, data: ImageData, inputs: Inputs, batch_size: int, device: torch.device, world: World
) -> Callable[[nn.Module], dict[str, float]]:
    """A function that measures the accuracies of the `watched` architectures, each in one of the processes."""
    shown = np.linspace(0, len(data.search) - 1, min(WATCHED_IMAGES, len(data.search))).round().astype(np.int64)
    batches = Batches(data.search.take(shown), inputs, batch_size, device)
    archs = watched(space)

    def held_out(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, Supernet)
        model.eval()
        found = {}
        for name in list(archs)[world.rank :: world.size]:
            found[name] = accuracy(partial(_logits, model, archs[name]), batches)
        measured = {name: value for part in world.gather(found) for name, value in part.items()}
        return {name: measured[name] for name in archs}

    return held_out


def _provenance(
    data: ImageData, recipe: Recipe, seed: int, init: Vit | Original | None, teacher: Teacher | None
) -> dict[str, Any]:
    return {
        "data": data.name,
        "data_digest": data.digest,
        "verdict_images": len(data.verdict),
        "init": init.name if init else None,
        "teacher": {"name": teacher.name, "digest": teacher.digest} if teacher else None,
        "seed": seed,
        "recipe": recipe.to_dict(),
        "torch": torch.__version__,
    }
