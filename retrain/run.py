"""`retrain_networks`: plan a retraining run before anything is written, train each network, return the networks."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from psvit.arch.architecture import Architecture, ArchitectureFile
from psvit.classifier import architecture_file
from psvit.data import ImageData, found_data
from psvit.errors import InputError
from psvit.executors.choose_executor import executor_for
from psvit.executors.executor import Portable
from psvit.executors.workers import Workers
from psvit.io.announcements import announce
from psvit.io.arguments import whole
from psvit.io.documents import Place, path_of, write_atomic
from psvit.io.run_folder import CONFIG, RunFolder, check_folder, default_folder
from psvit.retrain.result import RetrainedNetwork, RetrainedNetworks
from psvit.retrain.several import COMMAND, Network, Retraining, inherits, open_teacher
from psvit.train.accuracies import LABELS
from psvit.train.checkpoints import EVERY_SECONDS, CheckpointConfig
from psvit.train.choices import choose_devices, choose_recipe
from psvit.train.distributed import joined
from psvit.train.recipe import Begin, Recipe

TABLE_FILE = "networks.csv"

UNNAMED = "network"
"""The name of a network that has no file."""

Found = Architecture | ArchitectureFile | Place
"""A network to train: its architecture, a file that holds it, or what a search gave back."""


def retrain_network(
    network: Found,
    data: ImageData | str | Path,
    *,
    recipe: Recipe | str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    inherit: bool | None = None,
    compare: bool = False,
    other_classes: bool = False,
    teacher: str | None = None,
    teacher_weights: str | Path | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    checkpoint_seconds: float = EVERY_SECONDS,
    keep: int = 1,
) -> RetrainedNetwork:
    """Train one network on its own. `retrain_networks` explains the arguments.

    Raises:
        InputError: an argument cannot be used, or the folder belongs to another run; nothing is written.
        DivergedError: the loss became NaN or infinite.
    """
    return retrain_networks(
        [network],
        data,
        recipe=recipe,
        settings=settings,
        inherit=inherit,
        compare=compare,
        other_classes=other_classes,
        teacher=teacher,
        teacher_weights=teacher_weights,
        out=out,
        seed=seed,
        device=device,
        checkpoint_seconds=checkpoint_seconds,
        keep=keep,
    )[0]


def retrain_networks(
    networks: Sequence[Found],
    data: ImageData | str | Path,
    *,
    recipe: Recipe | str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    inherit: bool | None = None,
    compare: bool = False,
    other_classes: bool = False,
    teacher: str | None = None,
    teacher_weights: str | Path | None = None,
    workers: str | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    checkpoint_seconds: float = EVERY_SECONDS,
    keep: int = 1,
) -> RetrainedNetworks:
    """Train networks on all training images, each on its own, and look at the validation images once after that.

    The same call continues a run that was interrupted. A finished network is not trained again. If one network is
    given, its files lie in the run's folder; if several are, each has a folder in it. Processes that `torchrun` started
    train together.

    Args:
        networks: one or more networks: architectures, their files or shipped names, finalists or results of searches.
        data: images: an `ImageData`, or what `psvit.ImageData.open` takes.
        recipe: a recipe, the name of a shipped one, or a file. By default, it goes by the images.
        settings: values of the recipe to replace, such as `{"epochs": 10}`.
        inherit: whether to start from the weights that lie beside an architecture file. By default, only networks do
            that a search made of a trained one.
        compare: whether to train each network in the other way too (from scratch, or from the weights beside the file),
            as long and with the same seed.
        other_classes: whether the images may have other classes or channels than those that a network was found for.
        teacher: a network to learn from, if the recipe wants one: a model of timm, or a .yaml file.
        teacher_weights: the .safetensors or .pth file of the teacher's weights.
        workers: `ray` trains several networks at once on a Ray cluster; with `ray:gpus=0.25`, four on each GPU.
        out: the run's folder. By default, one below `runs/`, which is announced.
        seed: the seed of everything random, at least 0.
        device: where to compute. By default, a GPU if there is one.
        checkpoint_seconds: the least time between two checkpoints.
        keep: how many of the last checkpoints are kept during training.

    Returns:
        The trained networks. If several were given, `failures` says why some could not be trained.

    Raises:
        InputError: an argument cannot be used, or the folder belongs to another run; nothing is written.
        DivergedError: one network was given, and its loss became NaN or infinite.
    """
    _check(networks, workers, teacher, teacher_weights)
    read = [_read(network) for network in networks]
    checkpointing = CheckpointConfig(every_seconds=checkpoint_seconds, number=keep)
    here, there = choose_devices(device, workers)
    with joined(here) as world:
        if workers and world.size > 1:
            raise InputError("--workers ray: give it to one process, not to those of torchrun")
        with world.first_goes_ahead():  # images and weights may have to be fetched
            opened = found_data(data)
            for file, found in read:
                _check_classes(file, found, opened, other_classes)
            recipes = [
                choose_recipe(
                    recipe,
                    settings,
                    opened,
                    found.arch.image_size,
                    supernet=False,
                    device=there,
                    teacher=bool(teacher),
                    begin=_begin(found, inherits(found, inherit)),
                )
                for _, found in read
            ]
            images = Portable(opened.reopen, opened)
            taught = partial(open_teacher, teacher or "", teacher_weights, images)
            retraining = Retraining(
                images=images,
                teacher=Portable(taught) if teacher else None,
                inherit=inherit,
                compare=compare,
                seed=whole("seed", seed),
                device=str(there),
                checkpointing=checkpointing,
                world=world,
            )
            configs = [retraining.config(file, found, one) for (file, found), one in zip(read, recipes, strict=True)]
        names = _named([file for file, _ in read])
        config = configs[0] if len(read) == 1 else {"networks": dict(zip(names, configs, strict=True))}
        folder = Path(out) if out else default_folder("retrain", config)
        if not check_folder(folder, COMMAND, config):
            for (file, found), one in zip(read, recipes, strict=True):
                retraining.check(file, found, one)
        planned = [
            Network(
                name=name,
                file=file,
                found=found,
                recipe=chosen,
                folder=folder if len(read) == 1 else folder / name,
                config=own,
            )
            for name, (file, found), chosen, own in zip(names, read, recipes, configs, strict=True)
        ]
        return _run(planned, retraining, folder, config, workers)


def _check(
    networks: Sequence[Found], workers: str | None, teacher: str | None, teacher_weights: str | Path | None
) -> None:
    """Check what can be checked before anything is read."""
    if not networks:
        raise InputError("networks: none was given; give one or more")
    if workers and Workers.parse(workers).address != "ray":
        raise InputError(
            f"--workers {workers!r}: permitted is ray, which joins the cluster of RAY_ADDRESS or starts one"
        )
    if workers and (target := os.environ.get("RAY_ADDRESS", "")).startswith("ray://"):
        raise InputError(f"--workers ray: RAY_ADDRESS is {target}; join the cluster on one of its nodes, as auto")
    if teacher_weights and not teacher:
        raise InputError(f"--teacher-weights {teacher_weights}: of which network? name it with --teacher")


def _read(network: Found) -> tuple[Path | None, ArchitectureFile]:
    """The architecture file of a network, if it has one, and what is known about the network."""
    if isinstance(network, ArchitectureFile):
        return None, network
    if isinstance(network, Architecture):
        return None, ArchitectureFile(arch=network)
    file = path_of(network)
    if file.is_dir():
        file = architecture_file(file)
    return file, ArchitectureFile.load(file)


def _check_classes(file: Path | None, found: ArchitectureFile, data: ImageData, permitted: bool) -> None:
    """Refuse images of other classes or channels than those that a network was found for, if it was for any."""
    about = found.provenance.get("data")
    classes = about.get("classes") if isinstance(about, dict) else None
    if permitted or not isinstance(classes, list):
        return
    if sorted(map(str, classes)) != sorted(data.classes) or found.arch.in_chans != data.in_chans:
        theirs = f"{len(classes)} classes ({_some(classes)}) and {found.arch.in_chans} channels"
        raise InputError(
            f"{file or UNNAMED}: was found for {theirs}, but {data.name!r} has {len(data.classes)} "
            f"({_some(data.classes)}) and {data.in_chans}; name its images, or give --other-classes"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")


def _begin(found: ArchitectureFile, inherit: bool) -> Begin:
    """The weights that a training begins with."""
    if not inherit:
        return "random"
    return "original" if found.is_made_of_another else "inherited"


def _named(files: Sequence[Path | None]) -> list[str]:
    """The names of networks: those of their files, with a number in front if these would not do as folders of the run.

    Two may be equal, on some systems also if they differ in case. `..` is a folder elsewhere.
    """
    stems = [file.stem if file else UNNAMED for file in files]
    digits = len(str(len(stems) - 1))
    distinct = {stem.lower() for stem in stems} - {TABLE_FILE, CONFIG}
    if len(distinct) == len(stems) and not any(stem.startswith(".") for stem in stems):
        return stems
    return [f"{i:0{digits}}-{stem}" for i, stem in enumerate(stems)]


def _run(
    networks: list[Network], retraining: Retraining, folder: Path, config: dict[str, Any], workers: str | None
) -> RetrainedNetworks:
    held = []

    def begin() -> None:
        # Held until the end, so that no other run is at work in it.
        held.append(RunFolder(folder, COMMAND, config))
        announce(f"run: {folder}")

    retraining.world.first_alone(begin)
    if not all(network.is_finished() for network in networks):
        from psvit.nn.registration import registered  # it loads timm, which what is finished need not wait for

        retraining = replace(retraining, operators=registered())
    if len(networks) == 1:
        retraining(networks[0])
        return RetrainedNetworks(networks=(_trained(networks[0]),), folder=folder, file=None)
    # Finished networks are returned as they are. No cluster is started for them.
    wanted = [network for network in networks if not network.is_finished()] if workers else networks
    outcomes = executor_for(workers, torch.device(retraining.device)).run(retraining, wanted)
    failures = {network.name: outcome.failure for network, outcome in outcomes if outcome.failure}
    trained = tuple(_trained(network) for network in networks if network.is_finished())
    if retraining.world.is_first:
        _write_table(trained, folder / TABLE_FILE)
    return RetrainedNetworks(networks=trained, folder=folder, file=folder / TABLE_FILE, failures=failures)


def _trained(network: Network) -> RetrainedNetwork:
    return RetrainedNetwork.load(network.folder, network.name)


def _write_table(networks: Sequence[RetrainedNetwork], path: Path) -> None:
    """Write what networks cost and are worth as a CSV file: accuracies in percent, costs of one image."""
    text = io.StringIO()
    columns = ["network", "macs", "num_params", "activation_bytes", "how", *LABELS, "file"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for network in networks:
        known = {**network.cost.to_dict(), "how": network.how, **network.accuracies, "file": str(network.file)}
        writer.writerow({"network": network.name, **known})
    write_atomic(path, text.getvalue())
