"""One training of the truth table: from a network and a seed to its row."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import nn

import psvit
from psvit.data import Batches, Decoded, ImageData, Inputs, open_data, training_loader
from psvit.errors import InputError
from psvit.model import PSViT
from psvit.recipe import Recipe
from psvit.run_folder import RunFolder
from psvit.seeding import seeded
from psvit.training import Classification, train
from truth.networks import Network, stratum_of
from truth.rows import Row

EVALUATION_BATCH = 500
DIGITS = 4


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all trainings of one call have in common.

    Attributes:
        data: name of the images, as `psvit.data.open_data` takes it.
        images: train on so many of the training images; nothing means all.
        device: where to train.
        work: folder for what unfinished trainings need to go on.
    """

    data: str
    images: int | None
    device: str
    work: Path


@dataclass(frozen=True)
class Images:
    """Images in memory, with what rows say about them."""

    data: ImageData
    digest: str


@cache
def open_images(name: str) -> Images:
    """The images, kept for the trainings that follow in this process.

    Raises:
        InputError: they do not fit in memory, or differ in size.
    """
    data = open_data(name)
    hashed = hashlib.sha256(json.dumps(data.classes).encode())
    for part in (data.train, data.search, data.val):
        if not isinstance(part.pictures, Decoded):
            raise InputError(f"data {name!r}: the truth table needs images of one size that fit in memory")
        hashed.update(np.ascontiguousarray(part.pictures.pixels[part.rows]).tobytes())
        hashed.update(part.labels.tobytes())
    return Images(data, hashed.hexdigest()[:16])


@dataclass(frozen=True)
class Training:
    """A network, how it is trained, and with which seed.

    Attributes:
        network: from the list.
        recipe: how.
        seed: of everything random.
    """

    network: Network
    recipe: Recipe
    seed: int

    @property
    def key(self) -> tuple[str, str, int]:
        """What its row is found by."""
        return self.network.arch.digest, self.recipe.digest, self.seed

    @property
    def folder(self) -> str:
        """The name of what it needs to go on."""
        return f"{self.network.name}-{'-'.join(map(str, self.key))}"


def train_network(training: Training, setting: Setting) -> Row:
    """Train a network from scratch, or go on where an interrupted training of it stopped; returns its row.

    Raises:
        InputError: another process trains it in the same work folder, or the images cannot be used.
        DivergedError: the loss became NaN or infinite.
    """
    torch.set_num_threads(1)
    network, recipe, seed = training.network, training.recipe, training.seed
    images, device = open_images(setting.data), torch.device(setting.device)
    data = images.data
    # In this process: others would take the core that another training has.
    inputs = replace(Inputs.of(data, network.arch.image_size), workers=0)
    chosen = data.train
    if setting.images is not None:
        chosen = chosen.take(np.random.default_rng(0).permutation(len(chosen))[: setting.images])
    with seeded(seed):
        model = PSViT(network.arch, drop_path_rate=recipe.drop_path_rate)
    # As long as this object lives, no other process can train the network in this folder.
    about = {"network": network.to_dict(), "recipe": recipe.to_dict(), "images": len(chosen), "seed": seed}
    folder = RunFolder(setting.work / training.folder, "truth", about)
    log = train(
        Classification(model),
        training_loader(chosen, inputs, recipe),
        recipe,
        num_classes=len(data.classes),
        seed=seed,
        device=device,
        folder=folder.path,
        description=network.name,
        held_out=_looking(Batches(data.search, inputs, EVALUATION_BATCH, device)),
    ).log
    accuracy, loss = score(model, Batches(data.val, inputs, EVALUATION_BATCH, device))
    return Row(
        name=network.name,
        macs_budget=network.macs,
        origin=network.origin,
        stratum=stratum_of(network.arch),
        arch=json.dumps(network.arch.to_dict(), separators=(",", ":")),
        arch_digest=network.arch.digest,
        recipe_digest=recipe.digest,
        lr=recipe.lr,
        data=Path(data.name).name,
        data_digest=images.digest,
        images=len(chosen),
        epochs=recipe.epochs,
        seed=seed,
        initial="random",
        train_loss=tuple(round(epoch["loss"], DIGITS) for epoch in log),
        search_accuracy=tuple(round(epoch["search_accuracy"], DIGITS) for epoch in log),
        search_loss=tuple(round(epoch["search_loss"], DIGITS) for epoch in log),
        val_accuracy=round(accuracy, DIGITS),
        val_loss=round(loss, DIGITS),
        seconds=round(sum(epoch["seconds"] for epoch in log), 1),
        processor_seconds=round(sum(epoch["processor_seconds"] for epoch in log), 1),
        device=_device_name(device),
        threads=torch.get_num_threads(),
        versions=_versions(),
        commit=_commit(),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
    )


def forget(training: Training, setting: Setting) -> None:
    """Remove what a training needed to go on, once its row is written."""
    shutil.rmtree(setting.work / training.folder)


def _looking(batches: Batches) -> Callable[[nn.Module], dict[str, float]]:
    """What is said of every epoch; the times are since the last look, so that an interrupted run adds up."""
    clocks = [time.perf_counter(), time.process_time()]

    def look(model: nn.Module) -> dict[str, float]:
        accuracy, loss = score(model, batches)
        now = [time.perf_counter(), time.process_time()]
        seconds, processor = (after - before for after, before in zip(now, clocks, strict=True))
        clocks[:] = now
        return {
            "search_accuracy": accuracy,
            "search_loss": loss,
            "seconds": seconds,
            "processor_seconds": processor,
        }

    return look


@torch.inference_mode()
def score(model: nn.Module, batches: Batches) -> tuple[float, float]:
    """Top-1 accuracy in percent and mean cross entropy of a network; its mode stays as it was."""
    was_training = model.training
    model.eval()
    right, loss = 0, 0.0
    for images, labels in batches:
        logits = model(images)
        right += int((logits.argmax(dim=1) == labels).sum())
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
    model.train(was_training)
    return 100 * right / batches.num_images, loss / batches.num_images


def quiet() -> None:
    """Of many trainings in turn only warnings are told."""
    logging.getLogger("psvit").setLevel(logging.WARNING)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _versions() -> str:
    return (
        f"psvit {psvit.__version__}, torch {torch.__version__}, timm {timm.__version__}, numpy {np.__version__}, "
        f"python {platform.python_version()}"
    )


@cache
def _commit() -> str:
    """Of the working tree that this file lies in; `unknown` in a copy without history."""
    asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
