"""A supernet run: what it trains, decided before anything is written, and the trained supernet that it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from psvit.data import ImageData, Inputs, open_data
from psvit.io.announcements import announce
from psvit.io.run_folder import RunFolder, default_folder
from psvit.io.tables import html_table
from psvit.nn.vit_weights import Vit, read_vit
from psvit.space.budget import Budget
from psvit.space.search_space import SearchSpace, default_space
from psvit.supernet.supernet import Supernet, read_provenance, supernet_digest
from psvit.supernet.train import fit_supernet
from psvit.supernet.warm_start import plan
from psvit.train.checkpoints import EVERY_SECONDS, CheckpointConfig
from psvit.train.choices import choose_device, choose_recipe, choose_teacher
from psvit.train.device_checks import check_device
from psvit.train.distributed import World, joined
from psvit.train.recipe import Recipe
from psvit.train.teacher import Teacher
from psvit.train.training_loader import training_loader

COMMAND = "psvit-supernet"


@dataclass(frozen=True, kw_only=True)
class TrainedSupernet:
    """A supernet whose training is finished.

    Attributes:
        folder: of the run.
        file: its weights.
        space: the architectures that it has weights for.
        digest: of the weights.
        provenance: where they come from: data, recipe, seed, versions.
    """

    folder: Path
    file: Path
    space: SearchSpace
    digest: str
    provenance: Mapping[str, Any] = field(repr=False)

    def load(self, device: torch.device | str = "cpu") -> Supernet:
        """Read the weights.

        Raises:
            InputError: they are gone or damaged.
        """
        return Supernet.load(self.file, device)

    def _repr_html_(self) -> str:
        rows = [
            ("space", f"{self.space.name}, {self.space.size:,} architectures"),
            ("trained on", str(self.provenance["data"])),
            ("epochs", str(self.provenance["recipe"]["epochs"])),
            ("seed", str(self.provenance["seed"])),
            ("weights", str(self.file)),
        ]
        return html_table(rows, title="supernet")


@dataclass(frozen=True, kw_only=True)
class SupernetPlan:
    """All that a supernet run decides before it begins.

    Attributes:
        space: with the data's classes and channels.
        data: the images.
        recipe: how it is trained.
        init: a vision transformer to begin with.
        teacher: what is learnt from, where the recipe says so.
        seed: of everything random.
        device: where to compute.
        config: all that decides what comes out, JSON-serialisable.
    """

    space: SearchSpace
    data: ImageData
    recipe: Recipe
    init: Vit | None
    teacher: Teacher | None
    seed: int
    device: torch.device
    config: dict[str, Any]

    def announce(self, folder: Path) -> None:
        """Say where the run is, and what it begins with."""
        announce(f"run: {folder}")
        if not self.init:
            return
        filled = plan(self.space, self.init.weights)
        announce(f"warm start from {self.init.name}: {filled}; all names: {folder}/warm_start.yaml")
        head_dims = sorted({layout.head_dim for layout in self.space.layouts})
        if self.init.head_dim is not None and head_dims != [self.init.head_dim]:
            into = " or ".join(map(str, head_dims))
            announce(f"its heads of {self.init.head_dim} channels are divided anew into heads of {into}")


def train_supernet(
    space: SearchSpace | str | Path | None,
    data: ImageData | str | Path,
    *,
    recipe: Recipe | str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    init: Vit | str | Path | None = None,
    teacher: str | None = None,
    teacher_weights: str | Path | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    checkpoint_seconds: float = EVERY_SECONDS,
    keep: int = 1,
) -> TrainedSupernet:
    """Train a supernet: one set of weights from which every architecture of a space takes its slice.

    The same call continues a run that was interrupted, and finds a finished one finished. Processes that `torchrun`
    started train together. Validation images are not looked at.

    Args:
        space: it, a shipped one's name or a file; without one, the smallest shipped 2d space for the images' size.
        data: the images, or what `psvit.ImageData.open` takes.
        recipe: how to train: it, a shipped one's name or a file; by default it goes by the size of the images.
        settings: values of the recipe to replace, by key, such as `{"epochs": 10}`.
        init: a vision transformer to begin with: a name that timm knows, or a .safetensors or .pth file.
        teacher: a network to learn from, where the recipe says so: a model of timm, or a .yaml file.
        teacher_weights: its .safetensors or .pth file.
        out: the run's folder; one below `runs/` by default, which is announced.
        seed: of everything random, at least 0.
        device: where to compute; by default a GPU where there is one.
        checkpoint_seconds: least time between two checkpoints; every epoch ends with one besides.
        keep: how many of the last checkpoints are kept while training lasts.

    Raises:
        InputError: something that was given cannot be used, or the folder is another run's; nothing is written.
        DivergedError: the loss became NaN or infinite.
    """
    space = space if isinstance(space, SearchSpace) or space is None else SearchSpace.load(space)
    place = choose_device(device)
    with joined(place) as world:
        with world.first_goes_ahead():  # images and weights may have to be fetched
            images = open_data(data)
            begin_with = init if isinstance(init, Vit) or init is None else read_vit(str(init))
            space = space or default_space(Budget(), images.image_size)
            space = space.with_data(len(images.classes), images.in_chans)
            chosen = choose_recipe(recipe, settings, min(space.image_size), supernet=True, teacher=bool(teacher))
            check_device(place, chosen)
            inputs = Inputs.of(images, space.image_size)
            training_loader(images.train, inputs, chosen).check(world.size * chosen.accumulate, chosen.mixes)
            taught_by = choose_teacher(teacher, teacher_weights, inputs, len(images.classes))
        made = _plan(space, images, chosen, begin_with, taught_by, seed, place)
        folder = Path(out) if out else default_folder(f"supernet-{space.name}", made.config)
        return _run(made, folder, CheckpointConfig(every_seconds=checkpoint_seconds, number=keep), world)


def _plan(
    space: SearchSpace,
    data: ImageData,
    recipe: Recipe,
    init: Vit | None,
    teacher: Teacher | None,
    seed: int,
    device: torch.device,
) -> SupernetPlan:
    config = {
        "data": data.name,
        "data_digest": data.digest,
        "space": space.name,
        "space_digest": space.digest,
        "init": {"weights": init.name, "digest": init.digest} if init else None,
        "teacher": {"name": teacher.name, "digest": teacher.digest} if teacher else None,
        "recipe": recipe.to_dict(),
        "seed": seed,
        "device": device.type,
    }
    return SupernetPlan(
        space=space, data=data, recipe=recipe, init=init, teacher=teacher, seed=seed, device=device, config=config
    )


def _run(made: SupernetPlan, folder: Path, checkpointing: CheckpointConfig, world: World) -> TrainedSupernet:
    held = []

    def begin() -> None:
        # Held until the end, so that no other run is at work in it.
        held.append(RunFolder(folder, COMMAND, made.config))
        made.announce(folder)

    world.first_alone(begin)
    file = fit_supernet(
        made.space,
        made.data,
        made.recipe,
        seed=made.seed,
        device=made.device,
        folder=folder,
        init=made.init,
        teacher=made.teacher,
        checkpointing=checkpointing,
        world=world,
    )
    return TrainedSupernet(
        folder=folder,
        file=file,
        space=made.space,
        digest=supernet_digest(file),
        provenance=read_provenance(file),
    )
