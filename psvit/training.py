"""The only training loop: supernets and single networks differ in the task they give it, not in how they train."""

from __future__ import annotations

import csv
import io
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from timm.data import Mixup
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader

from psvit.documents import replacing, write_atomic
from psvit.errors import DivergedError
from psvit.progress import progress_bar
from psvit.recipe import Recipe
from psvit.seeding import seeded

_logger = logging.getLogger(__name__)


class Task(Protocol):
    """What a step trains: from a batch to the loss whose gradient it follows."""

    @property
    def model(self) -> nn.Module:
        """The module whose parameters are trained."""
        ...

    def loss(self, images: Tensor, targets: Tensor, smoothing: float, step: int) -> Tensor:
        """The loss of one batch.

        Args:
            images: (B, C, height, width).
            targets: classes (B,), or probabilities (B, classes) where images were mixed.
            smoothing: label smoothing, 0 where `targets` are smoothed already.
            step: how many steps came before.
        """
        ...


@dataclass(frozen=True)
class Classification:
    """Train one network towards the labels."""

    model: nn.Module

    def loss(self, images: Tensor, targets: Tensor, smoothing: float, step: int) -> Tensor:
        """Cross entropy of the network."""
        return F.cross_entropy(self.model(images), targets, label_smoothing=smoothing)


@dataclass(frozen=True)
class Trained:
    """What training gives.

    Attributes:
        model: the trained module; the averaged weights where the recipe averages.
        log: one row for each epoch.
    """

    model: nn.Module
    log: list[dict[str, float]]


def train(
    task: Task,
    loader: DataLoader[Any],
    recipe: Recipe,
    *,
    num_classes: int,
    seed: int,
    device: torch.device,
    folder: Path,
    description: str,
    held_out: Callable[[nn.Module], dict[str, float]] | None = None,
) -> Trained:
    """Train to the end of the recipe, from the beginning or from where an interrupted run in `folder` stopped.

    Every epoch ends with a checkpoint that replaces the one before, and draws from generators seeded by (seed,
    epoch). An epoch therefore depends on the checkpoint alone, and a continued run on CPU ends with the same weights.

    Args:
        task: the module and its loss.
        loader: training batches.
        recipe: optimiser, schedule and regularisation.
        num_classes: classes of the labels, for mixing.
        seed: of everything random.
        device: where to train.
        folder: holds `checkpoint.safetensors` while training lasts, and `log.csv`.
        description: what the progress bar says.
        held_out: accuracies to log at the end of an epoch, by name.
    """
    model = task.model.to(device)
    optimizer = create_optimizer_v2(model, opt=recipe.opt, lr=recipe.lr, weight_decay=recipe.weight_decay)
    scheduler = _schedule(optimizer, recipe, steps_per_epoch=len(loader))
    averaged = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None
    mixup = _mixup(recipe, num_classes)
    checkpoint = folder / "checkpoint.safetensors"
    log = _restore(checkpoint, model, averaged, optimizer) if checkpoint.exists() else []
    if log:
        _logger.info("continuing after epoch %d of %d", len(log), recipe.epochs)
    with progress_bar(description, recipe.epochs * len(loader), "steps", done=len(log) * len(loader)) as advance:
        for epoch in range(len(log), recipe.epochs):
            began = time.perf_counter()
            with seeded(seed, epoch):
                loss = _epoch(task, loader, recipe, epoch, optimizer, scheduler, averaged, mixup, device, advance)
            seconds = time.perf_counter() - began
            result = averaged.module if averaged else model
            row = {
                "epoch": epoch + 1,
                "lr": optimizer.param_groups[0]["lr"],
                "loss": loss,
                "images_per_second": len(loader) * (loader.batch_size or 1) / seconds,
                **(held_out(result) if held_out else {}),
            }
            log.append(row)
            _logger.info("%s", ", ".join(f"{key} {value:.4g}" for key, value in row.items()))
            _save(checkpoint, model, averaged, optimizer, log)
            write_atomic(folder / "log.csv", _csv(log))
    return Trained(averaged.module if averaged else model, log)


def _epoch(
    task: Task,
    loader: DataLoader[Any],
    recipe: Recipe,
    epoch: int,
    optimizer: torch.optim.Optimizer,
    scheduler: CosineLRScheduler,
    averaged: ModelEmaV3 | None,
    mixup: Mixup | None,
    device: torch.device,
    advance: Callable[[int, str], None],
) -> float:
    """One pass over the training images; returns the mean loss."""
    task.model.train()
    total = torch.zeros((), device=device)
    for index, (images, targets) in enumerate(loader):
        step = epoch * len(loader) + index
        scheduler.step_update(step)
        images, targets = images.to(device), targets.to(device)
        smoothing = recipe.smoothing
        if mixup:
            images, targets = mixup(images, targets)
            smoothing = 0.0
        loss = task.loss(images, targets, smoothing, step)
        optimizer.zero_grad()
        loss.backward()
        if recipe.clip_grad:
            nn.utils.clip_grad_norm_(task.model.parameters(), recipe.clip_grad)
        optimizer.step()
        if averaged:
            averaged.update(task.model, step=step)
        total += loss.detach()
        advance(1, f"epoch {epoch + 1}/{recipe.epochs}, loss {total.item() / (index + 1):.3f}")
    mean = total.item() / len(loader)
    if not torch.isfinite(total):
        raise DivergedError(f"training diverged: the loss is {mean} in epoch {epoch + 1}; try a smaller lr")
    return mean


def _schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int) -> CosineLRScheduler:
    """Cosine with linear warm-up, by steps."""
    return CosineLRScheduler(
        optimizer,
        t_initial=recipe.epochs * steps_per_epoch,
        lr_min=min(recipe.min_lr, recipe.lr),
        warmup_t=recipe.warmup_epochs * steps_per_epoch,
        warmup_lr_init=min(recipe.min_lr, recipe.lr),
        t_in_epochs=False,
    )


def _mixup(recipe: Recipe, num_classes: int) -> Mixup | None:
    """Timm's mixup and cutmix, where the recipe has either."""
    if not recipe.mixes:
        return None
    return Mixup(
        mixup_alpha=recipe.mixup,
        cutmix_alpha=recipe.cutmix,
        prob=recipe.mixup_prob,
        label_smoothing=recipe.smoothing,
        num_classes=num_classes,
    )


def _save(
    path: Path,
    model: nn.Module,
    averaged: ModelEmaV3 | None,
    optimizer: torch.optim.Optimizer,
    log: list[dict[str, float]],
) -> None:
    """Write all that the next epoch depends on: tensors as safetensors, the log as JSON beside them."""
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    if averaged:
        tensors |= {f"averaged/{name}": tensor for name, tensor in averaged.module.state_dict().items()}
    # Optimisers keep numbers and tensors in both places: by parameter, and by group.
    saved = optimizer.state_dict()
    rest: dict[str, Any] = {"log": log}
    for part, entries in (("state", saved["state"]), ("group", dict(enumerate(saved["param_groups"])))):
        rest[part] = {}
        for index, values in entries.items():
            tensors |= {f"{part}/{index}/{key}": value for key, value in values.items() if torch.is_tensor(value)}
            rest[part][index] = {key: value for key, value in values.items() if not torch.is_tensor(value)}
    with replacing(path) as temporary:
        # Copies, because safetensors refuses tensors that share memory.
        copies = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        save_file(copies, temporary, {"training": json.dumps(rest)})


def _restore(
    path: Path, model: nn.Module, averaged: ModelEmaV3 | None, optimizer: torch.optim.Optimizer
) -> list[dict[str, float]]:
    """Read what `_save` wrote; returns the log."""
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "averaged": {}, "state": {}, "group": {}}
    with safe_open(path, framework="pt") as stream:
        rest = json.loads(stream.metadata()["training"])
        for name in stream.keys():  # noqa: SIM118
            part, _, name_within = name.partition("/")
            parts[part][name_within] = stream.get_tensor(name)
    model.load_state_dict(parts["model"])
    if averaged:
        averaged.module.load_state_dict(parts["averaged"])
    for part in ("state", "group"):
        for name, tensor in parts[part].items():
            index, _, key = name.partition("/")
            rest[part][index][key] = tensor
    state = {int(index): values for index, values in rest["state"].items()}
    optimizer.load_state_dict({"state": state, "param_groups": list(rest["group"].values())})
    log: list[dict[str, float]] = rest["log"]
    return log


def _csv(rows: list[dict[str, float]]) -> str:
    """Rows with the same keys as comma-separated values with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
