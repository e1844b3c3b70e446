"""`train_supernet`: plan a supernet run before anything is written, train, and return the trained supernet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from psvit.data import ImageData, Inputs, describe_images, found_data
from psvit.io.announcements import announce
from psvit.io.arguments import read_image_size, whole
from psvit.io.run_folder import RunFolder, check_folder, default_folder
from psvit.io.tables import html_table
from psvit.space.budget import Budget
from psvit.space.search_space import SearchSpace
from psvit.supernet.provenance import finished_before, read_provenance, supernet_digest
from psvit.train.checkpoints import EVERY_SECONDS, CheckpointConfig
from psvit.train.choices import choose_device, choose_recipe, fit_space
from psvit.train.device_checks import check_device
from psvit.train.distributed import World, joined
from psvit.train.recipe import Recipe

if TYPE_CHECKING:
    from psvit.nn.vit_weights import Vit
    from psvit.supernet.supernet import Supernet
    from psvit.train.teacher import Teacher

COMMAND = "psvit-supernet"


@dataclass(frozen=True, kw_only=True)
class TrainedSupernet:
    """A supernet whose training is finished.

    Attributes:
        folder: the folder of the run.
        file: the file of its weights.
        space: the space of the architectures that it has weights for.
        digest: a hash of the weights.
        provenance: what the weights were trained with: data, recipe, seed, versions.
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
        from psvit.supernet.supernet import Supernet  # it loads timm, which who finds a finished run need not wait for

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
        space: the space, with the data's classes and channels.
        data: the images.
        recipe: how the supernet is trained.
        init: a vision transformer whose weights it begins with; `None` if it begins with random ones.
        teacher: a network to learn from; `None` if the recipe wants none.
        seed: the seed of everything random.
        device: where to compute.
    """

    space: SearchSpace
    data: ImageData
    recipe: Recipe
    init: Vit | None
    teacher: Teacher | None
    seed: int
    device: torch.device

    @property
    def config(self) -> dict[str, Any]:
        """All that decides what comes out, JSON-serialisable."""
        return {
            "data": self.data.name,
            "data_digest": self.data.digest,
            "space": self.space.name,
            "space_digest": self.space.digest,
            "init": {"weights": self.init.name, "digest": self.init.digest} if self.init else None,
            "teacher": {"name": self.teacher.name, "digest": self.teacher.digest} if self.teacher else None,
            "recipe": self.recipe.to_dict(),
            "seed": self.seed,
            "device": self.device.type,
        }

    def check(self, world: World) -> None:
        """Read the images, and make sure that batches of them can be made, and that the device can train on them.

        Raises:
            InputError: an image is corrupt, or batches cannot be cut into a part for each of the processes that train
                together; or the device cannot train by the recipe.
        """
        from psvit.train.training_loader import training_loader

        check_device(self.device, self.recipe)
        inputs = Inputs.of(self.data.read(), self.space.image_size)
        loader = training_loader(self.data.train, inputs, self.recipe)
        loader.check(world.size * self.recipe.accumulate, self.recipe.mixes)

    def announce(self, folder: Path) -> None:
        """Announce the folder of the run, the images and the weights that it begins with."""
        announce(f"run: {folder}")
        for line in describe_images(self.data, self.space.image_size):
            announce(line)
        if not self.init:
            return
        from psvit.supernet.warm_start import plan

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
    image_size: int | str | tuple[int, int] | None = None,
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

    The same call continues a run that was interrupted. A finished run is not repeated. Processes that `torchrun`
    started train together. Validation images are not looked at.

    Args:
        space: a space, the name of a shipped one, or a file. By default, the smallest shipped 2d space for images of
            just this size, or one that is made for the images (`SearchSpace.for_images`), for 40,000
            multiply-accumulates a pixel.
        data: images: an `ImageData`, or what `psvit.ImageData.open` takes.
        recipe: a recipe, the name of a shipped one, or a file. By default, it goes by the images.
        settings: values of the recipe to replace, such as `{"epochs": 10}`.
        image_size: height and width at which networks see the images: a pair, a text such as `96x64`, or one number for
            both. By default, the space's; a space that is made is made for the images' own size, or a smaller one if
            they are larger than 512 pixels (`psvit.data.seen_size`).
        init: a vision transformer whose weights training begins with: a name that timm knows, or a .safetensors or
            .pth file.
        teacher: a network to learn from, if the recipe wants one: a model of timm, or a .yaml file.
        teacher_weights: the .safetensors or .pth file of the teacher's weights.
        out: the run's folder. By default, one below `runs/`, which is announced.
        seed: the seed of everything random, at least 0.
        device: where to compute. By default, a GPU if there is one.
        checkpoint_seconds: the least time between two checkpoints.
        keep: how many of the last checkpoints are kept during training.

    Raises:
        InputError: an argument cannot be used, or the folder belongs to another run; nothing is written.
        DivergedError: the loss became NaN or infinite.
    """
    space = space if isinstance(space, SearchSpace) or space is None else SearchSpace.load(space)
    size = None if image_size is None else read_image_size(image_size)
    place = choose_device(device)
    with joined(place) as world:
        with world.first_goes_ahead():  # images and weights may have to be fetched
            images = found_data(data)
            images.check_search()
            begin_with = _read_vit(init) if isinstance(init, str | Path) else init
            space = fit_space(space, images, size, Budget(), prefers_shipped=True)
            chosen = choose_recipe(
                recipe,
                settings,
                images,
                space.image_size,
                supernet=True,
                device=place,
                teacher=bool(teacher),
            )
            taught_by = _read_teacher(teacher, teacher_weights, images)
        made = SupernetPlan(
            space=space,
            data=images,
            recipe=chosen,
            init=begin_with,
            teacher=taught_by,
            seed=whole("seed", seed),
            device=place,
        )
        folder = Path(out) if out else default_folder(f"supernet-{space.name}", made.config)
        if not check_folder(folder, COMMAND, made.config):
            made.check(world)
        return _run(made, folder, CheckpointConfig(every_seconds=checkpoint_seconds, number=keep), world)


def _run(made: SupernetPlan, folder: Path, checkpointing: CheckpointConfig, world: World) -> TrainedSupernet:
    held = []

    def begin() -> None:
        # Held until the end, so that no other run is at work in it.
        held.append(RunFolder(folder, COMMAND, made.config))
        made.announce(folder)

    world.first_alone(begin)
    file = finished_before(folder, world)
    if file is None:
        from psvit.supernet.train import fit_supernet

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


def _read_vit(init: str | Path) -> Vit:
    """The vision transformer that training begins with. Only then timm has to be loaded for a plan."""
    from psvit.nn.vit_weights import read_vit

    return read_vit(str(init))


def _read_teacher(name: str | None, weights: str | Path | None, images: ImageData) -> Teacher | None:
    """The network to learn from; `None` if none is named.

    Raises:
        InputError: it cannot be had or does not fit, or weights are given without a name.
    """
    if not name and not weights:
        return None
    from psvit.train.teacher import choose_teacher

    return choose_teacher(name, weights, images)
