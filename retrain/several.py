"""Retraining networks, one after the other or at once: each in a folder of its own, and none that is finished again."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from psvit.accuracies import LABELS, accuracies, trained_as
from psvit.architecture import ArchitectureFile
from psvit.checkpoints import Keeping
from psvit.classifier import COMPARISON_FOLDER, NETWORK_FILE
from psvit.costs import cost
from psvit.data import ImageData, Inputs, open_data, training_loader
from psvit.distributed import World
from psvit.documents import digest_of_file, write_atomic
from psvit.errors import InputError, RunError
from psvit.recipe import Recipe
from psvit.retrain.train import inherited_network, retrain
from psvit.run_folder import RunFolder
from psvit.teacher import Teacher, load_teacher
from psvit.training import check_device

TABLE_FILE = "networks.csv"


@dataclass(frozen=True, kw_only=True)
class Network:
    """One network to train.

    Attributes:
        name: what its folder is called, and what it is called in tables.
        file: its architecture file, beside which inherited weights lie.
        found: what is in it.
        recipe: how it is trained.
        folder: where its run is, or shall be.
    """

    name: str
    file: Path
    found: ArchitectureFile
    recipe: Recipe
    folder: Path

    def within(self, path: Path, alone: bool) -> Network:
        """The same network, with its run in a run's folder; the folder itself is its own where it is alone."""
        return replace(self, folder=path if alone else path / self.name)

    @property
    def result(self) -> ArchitectureFile | None:
        """The finished network, if it is."""
        file = self.folder / NETWORK_FILE
        return ArchitectureFile.load(file) if file.exists() else None


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """How networks are trained, as a value that can travel to the processes that do it.

    Attributes:
        data: the name of the images.
        inherit: whether to start from the weights that a supernet left beside the architecture file.
        compare: whether to train the network the other way as well, so that both accuracies can be shown.
        seed: of everything random.
        device: where to train.
        teacher_name: a network to learn from.
        teacher_weights: its weights, where they are not its own.
        keeping: how often checkpoints are written and how many are kept.
    """

    data: str
    inherit: bool
    compare: bool
    seed: int
    device: str
    teacher_name: str | None = None
    teacher_weights: Path | None = None
    keeping: Keeping

    def open(self, inputs_of: ArchitectureFile) -> tuple[ImageData, Teacher | None]:
        """The images and the teacher.

        Raises:
            InputError: there are none such, or they do not fit.
        """
        images = open_data(self.data)
        teacher = None
        if self.teacher_name:
            inputs = Inputs.of(images, inputs_of.arch.image_size)
            teacher = load_teacher(self.teacher_name, self.teacher_weights, inputs, len(images.classes))
        return images, teacher

    def config(self, network: Network, images: ImageData, teacher: Teacher | None) -> dict[str, Any]:
        """All that decides what comes out for a network; it is made sure that it can be trained.

        Raises:
            InputError: weights are missing or not the network's, or the device cannot train by the recipe.
        """
        inherited = inherited_network(network.file, network.found, images, required=self.inherit)
        if self.compare and inherited is None:
            raise InputError(
                f"--compare: {network.file.with_suffix('.safetensors')} holds no weights of a supernet for these images"
            )
        check_device(torch.device(self.device), network.recipe)
        return {
            "arch": network.found.arch.to_dict(),
            "weights": digest_of_file(network.file.with_suffix(".safetensors")) if inherited else None,
            "data": self.data,
            "data_digest": images.digest,
            "inherit": self.inherit,
            # Only where it is asked for, so that runs from before the question was there go on.
            **({"compare": True} if self.compare else {}),
            "teacher": {"name": teacher.name, "digest": teacher.digest} if teacher else None,
            "recipe": network.recipe.to_dict(),
            "seed": self.seed,
            "device": torch.device(self.device).type,
        }

    def check_batches(self, network: Network, images: ImageData, parts: int) -> None:
        """Make sure that batches can be cut in parts, one for each process.

        Raises:
            InputError: they cannot.
        """
        recipe = network.recipe
        inputs = Inputs.of(images, network.found.arch.image_size)
        training_loader(images.all_train, inputs, recipe).check(parts * recipe.accumulate, recipe.mixes)

    def run(
        self, network: Network, images: ImageData, teacher: Teacher | None, world: World | None = None
    ) -> ArchitectureFile:
        """Train a network to the end, or return it as it is where that was done before.

        The comparison comes first, because the network's file says that all is finished.

        Raises:
            InputError: see `psvit.retrain.train.retrain`.
            DivergedError: the loss is no number any more.
        """
        known = {}
        if self.compare and network.result is None:
            other = self._begin(
                network, images, teacher, world, not self.inherit, network.folder / COMPARISON_FOLDER, known={}
            )
            known = {trained_as(other): other.score["value"]}
        return self._begin(network, images, teacher, world, self.inherit, network.folder, known)

    def _begin(
        self,
        network: Network,
        images: ImageData,
        teacher: Teacher | None,
        world: World | None,
        inherit: bool,
        folder: Path,
        known: dict[str, float],
    ) -> ArchitectureFile:
        recipe = network.recipe
        if not inherit and recipe.layer_decay is not None and self.inherit:
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
            teacher=teacher,
            known=known,
            keeping=self.keeping,
            world=world,
        )


def named(files: Sequence[Path]) -> list[str]:
    """What networks are called: as their files, with a number in front where two would be called alike."""
    stems = [file.stem for file in files]
    digits = len(str(len(stems) - 1))
    return stems if len(set(stems)) == len(stems) else [f"{i:0{digits}}-{stem}" for i, stem in enumerate(stems)]


def retrain_in_turn(
    retraining: Retraining,
    networks: Sequence[tuple[Network, dict[str, Any]]],
    images: ImageData,
    teacher: Teacher | None,
    world: World,
) -> dict[str, str]:
    """Train several networks one after the other, each as a run of its own.

    Args:
        retraining: how.
        networks: each with its run's configuration.
        images: the images.
        teacher: what is learnt from besides.
        world: the processes that train together.

    Returns:
        By name, why a network could not be trained; the others are.
    """
    failures = {}
    for network, config in networks:
        with world.first_goes_ahead():
            # Held until it is trained, so that no other run is at work in it.
            held = RunFolder(network.folder, "psvit-retrain", config) if world.is_first else None
        try:
            retraining.run(network, images, teacher, world)
        except RunError as error:
            failures[network.name] = str(error)
        del held
    return failures


def write_table(networks: Sequence[Network], path: Path) -> list[dict[str, Any]]:
    """Write what the finished ones of several networks cost and are worth as a CSV file.

    Returns:
        The rows: name, costs, `how` the network was trained, and the accuracies that are known, in percent.
    """
    columns = ["network", "macs", "num_params", "activation_bytes", "how", *LABELS, "file"]
    rows = []
    for network in networks:
        result = network.result
        if result is not None:
            rows.append(
                {
                    "network": network.name,
                    **cost(result.arch).to_dict(),
                    "how": trained_as(result),
                    **accuracies(result),
                    "file": str(network.folder / NETWORK_FILE),
                }
            )
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())
    return rows
