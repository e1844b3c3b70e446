"""Retraining networks as work for an executor: each in a folder of its own, and none that is finished again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from psvit.arch.architecture import ArchitectureFile
from psvit.classifier import COMPARISON_FOLDER, NETWORK_FILE
from psvit.data import ImageData, Inputs
from psvit.errors import InputError
from psvit.executors.executor import Portable
from psvit.io.documents import digest_of_file
from psvit.io.run_folder import RunFolder
from psvit.retrain.files import finished_before, weights_beside
from psvit.train.accuracies import trained_as
from psvit.train.checkpoints import CheckpointConfig
from psvit.train.device_checks import check_device, check_memory
from psvit.train.distributed import World
from psvit.train.recipe import Recipe

if TYPE_CHECKING:
    from psvit.nn.registration import Registration
    from psvit.train.teacher import Teacher

COMMAND = "psvit-retrain"


@dataclass(frozen=True, kw_only=True)
class Network:
    """One network to train.

    Attributes:
        name: what its folder is called, and what it is called in tables.
        file: its architecture file, beside which inherited weights lie; `None` if it has none.
        found: what is known about it.
        recipe: how it is trained.
        folder: where its run is, or shall be.
        config: of its run, see `Retraining.config`.
    """

    name: str
    file: Path | None
    found: ArchitectureFile
    recipe: Recipe
    folder: Path
    config: dict[str, Any]

    def is_finished(self) -> bool:
        """Whether it was trained before."""
        return (self.folder / NETWORK_FILE).exists()


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """Trains networks, each as a run of its own; it travels to the processes that do it.

    Attributes:
        images: the images.
        teacher: a network to learn from besides the labels; `None` if there is none.
        inherit: whether to start from the weights that a search left beside the architecture file; `None`: where a
            search made the network of a trained one.
        compare: whether to train the network the other way as well, so that both accuracies can be shown.
        seed: of everything random.
        device: where to train.
        checkpointing: how often checkpoints are written and how many are kept.
        world: the processes that train together.
        operators: of a user's own, which networks may have; they are made known where a network is trained.
    """

    images: Portable[ImageData]
    teacher: Portable[Teacher] | None = None
    inherit: bool | None
    compare: bool
    seed: int
    device: str
    checkpointing: CheckpointConfig
    world: World
    operators: Mapping[str, Registration] = field(default_factory=dict)

    def config(self, file: Path | None, found: ArchitectureFile, recipe: Recipe) -> dict[str, Any]:
        """All that decides what comes out for a network.

        Args:
            file: its architecture file, if it has one.
            found: what is known about it.
            recipe: how it is trained.

        Raises:
            InputError: weights are missing.
        """
        images = self.images.get()
        teacher = self.teacher.get() if self.teacher else None
        inherit = inherits(found, self.inherit)
        inherited = weights_beside(file, found, images, required=inherit)
        if self.compare and inherited is None:
            where = file.with_suffix(".safetensors") if file else "an architecture without a file"
            raise InputError(f"--compare: {where} holds no weights of a supernet for these images")
        return {
            "arch": found.arch.to_dict(),
            "weights": digest_of_file(inherited) if inherited else None,
            "data": images.name,
            "data_digest": images.digest,
            "inherit": inherit,
            # Only where it is asked for, so that runs from before the question was there go on.
            **({"compare": True} if self.compare else {}),
            "teacher": {"name": teacher.name, "digest": teacher.digest} if teacher else None,
            "recipe": recipe.to_dict(),
            "seed": self.seed,
            "device": torch.device(self.device).type,
        }

    def check(self, file: Path | None, found: ArchitectureFile, recipe: Recipe) -> None:
        """Check what needs networks and images, before anything is written.

        Args:
            file: the network's architecture file, if it has one.
            found: what is known about it.
            recipe: how it is trained.

        Raises:
            InputError: weights are not the network's, memory or device cannot train it by the recipe, an image is
                corrupt, or batches cannot be cut into a part for each of the processes that train together.
        """
        from psvit.retrain.train import inherited_network
        from psvit.train.training_loader import training_loader

        check_memory(found.arch)
        check_device(torch.device(self.device), recipe)
        inherited_network(file, found, self.images.get(), required=inherits(found, self.inherit))
        images = self.images.get().read()
        inputs = Inputs.of(images, found.arch.image_size)
        training_loader(images.all_train, inputs, recipe).check(self.world.size * recipe.accumulate, recipe.mixes)

    def __call__(self, network: Network) -> ArchitectureFile:
        """Train a network to the end, or return it as it is if that was done before.

        The comparison comes first, because the network's file says that all is finished.

        Raises:
            InputError: another process is at work in its folder; or see `psvit.retrain.train.retrain`.
            DivergedError: the loss became NaN or infinite.
        """
        with self.world.first_goes_ahead():
            # Held until it is trained, so that no other run is at work in it.
            held = RunFolder(network.folder, COMMAND, network.config) if self.world.is_first else None
        if found := finished_before(network.folder, self.world):
            return found
        from psvit.nn.registration import register_missing  # it loads timm, as all that trains does

        register_missing(self.operators)
        known, inherit = {}, inherits(network.found, self.inherit)
        if self.compare:
            other = self._train(network, not inherit, network.folder / COMPARISON_FOLDER, known={})
            known = {trained_as(other): other.score["value"]}
        result = self._train(network, inherit, network.folder, known)
        del held
        return result

    def _train(self, network: Network, inherit: bool, folder: Path, known: dict[str, float]) -> ArchitectureFile:
        from psvit.retrain.train import inherited_network, retrain
        from psvit.train.original import original_of

        recipe, images = network.recipe, self.images.get()
        if not inherit and recipe.layer_decay is not None and inherits(network.found, self.inherit):
            # Of the two, only what is inherited has early layers that shall change less.
            recipe = recipe.override({"layer_decay": None})
        return retrain(
            network.found,
            inherited_network(network.file, network.found, images, required=inherit),
            images,
            recipe,
            inherit=inherit,
            seed=self.seed,
            device=torch.device(self.device),
            folder=folder,
            original=original_of(network.file, network.found, images),
            teacher=self.teacher.get() if self.teacher else None,
            known=known,
            checkpointing=self.checkpointing,
            world=self.world,
        )


def inherits(found: ArchitectureFile, asked: bool | None) -> bool:
    """Whether a network begins with the weights beside its file: as asked, or else if it was made of another."""
    return found.is_made_of_another if asked is None else asked


def open_teacher(name: str, weights: str | Path | None, images: Portable[ImageData]) -> Teacher:
    """A teacher of networks for these images; see `psvit.train.teacher.load_teacher`."""
    from psvit.train import teacher

    return teacher.open_teacher(name, weights, images.get())
