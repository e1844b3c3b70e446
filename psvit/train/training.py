"""The only training loop: supernets and single networks differ in the task they give it, not in how they train.

Every step depends on the weights before it and on (seed, step) alone: images come from a `TrainingLoader`, whatever
else is random is drawn from generators seeded for the step. So a run continues from any step as if nothing had
happened, on a CPU bit for bit, and the processes of a distributed run agree without talking.

A parameter that a step does not use has no gradient: the optimiser then neither moves nor decays it.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from psvit.data import Inputs
from psvit.errors import DivergedError, InputError
from psvit.io.progress import progress_bar
from psvit.nn.seeding import seeded
from psvit.train.checkpoints import Checkpoints, Keeping
from psvit.train.distributed import World
from psvit.train.recipe import Precision, Recipe
from psvit.train.teacher import Teacher, taught_loss
from psvit.train.train_log import TrainLog
from psvit.train.training_loader import TrainingLoader

_logger = logging.getLogger(__name__)

CHECKED_STEPS = 50
"""After so many steps it is made sure that loss and weights are numbers; looking makes a GPU wait."""


class Task(Protocol):
    """What a step trains: from a batch to the losses whose gradients it follows."""

    @property
    def model(self) -> nn.Module:
        """The module whose parameters are trained."""
        ...

    def losses(self, images: Tensor, targets: Tensor, smoothing: float, step: int) -> Iterator[Tensor]:
        """The losses of one batch, whose sum is followed.

        Each is taken back through its network before the next is asked for, so that the activations of one network at
        a time are in memory.

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

    def losses(self, images: Tensor, targets: Tensor, smoothing: float, step: int) -> Iterator[Tensor]:
        """One loss."""
        yield self.loss(images, targets, smoothing, step)

    def loss(self, images: Tensor, targets: Tensor, smoothing: float, step: int) -> Tensor:
        """Cross entropy of the network."""
        return F.cross_entropy(self.model(images), targets, label_smoothing=smoothing)


@dataclass(frozen=True)
class TaughtClassification(Classification):
    """Train one network towards the labels and a teacher.

    Attributes:
        teacher: on the network's device.
        inputs: how the network's images are prepared.
        recipe: how the two are weighed.
    """

    teacher: Teacher
    inputs: Inputs
    recipe: Recipe

    def loss(self, images: Tensor, targets: Tensor, smoothing: float, step: int) -> Tensor:
        """Cross entropy with labels and teacher."""
        taught = self.teacher.logits(images, self.inputs)
        logits = self.model(images)
        return taught_loss(F.cross_entropy(logits, targets, label_smoothing=smoothing), logits, taught, self.recipe)


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
    loader: TrainingLoader,
    recipe: Recipe,
    *,
    num_classes: int,
    seed: int,
    device: torch.device,
    folder: Path,
    description: str,
    held_out: Callable[[nn.Module], dict[str, float]] | None = None,
    keeping: Keeping | None = None,
    world: World | None = None,
) -> Trained:
    """Train to the end of the recipe, from the beginning or from where an interrupted run in `folder` stopped.

    Args:
        task: the module and its losses.
        loader: training batches.
        recipe: optimiser, schedule and regularisation.
        num_classes: classes of the labels, for mixing.
        seed: of everything random.
        device: where to train.
        folder: holds `checkpoints/`, `log.csv` and `tensorboard/`; all processes see the same one.
        description: what the progress bar says.
        held_out: accuracies to log at the end of an epoch, by name; called in every process.
        keeping: how often checkpoints are written and how many are kept.
        world: the processes that train together. The same run may be continued by another number of them.

    Raises:
        InputError: batches cannot be cut for so many processes and micro-batches, or the device cannot train by the
            recipe.
        DivergedError: the loss or a weight is no number any more; the last checkpoint is of before.
    """
    world = world or World()
    loader.check(world.size * recipe.accumulate, recipe.mixes)
    check_device(device, recipe)
    if world.is_first and loader.batch_size < recipe.batch_size:
        _tell_of_few_images(recipe.batch_size, loader.batch_size)
    state = _State.begun(task.model.to(device), recipe, loader.steps, num_classes, device)
    checkpoints = Checkpoints(folder, keeping or Keeping())
    found = checkpoints.latest()
    if found:
        state.restore(*found)
        _logger.info("continuing after step %d of %d", state.step, recipe.epochs * loader.steps)
    if len(set(world.gather(state.step))) > 1:
        raise InputError(f"{folder}: the processes find different checkpoints in it; it must be the same for all")
    world.spread_([tensor for module in state.modules for tensor in module.state_dict().values()])
    with (
        _log(folder, state, world) as log,
        _progress(description, state, recipe, loader, world) as advance,
    ):
        while state.step < recipe.epochs * loader.steps:
            _epoch(state, task, loader, recipe, seed, world, log, checkpoints, advance)
            row = state.row(recipe, loader)
            row |= held_out(state.modules[-1]) if held_out else {}
            state.rows.append(row)
            state.begin_epoch()
            if world.is_first:
                checkpoints.save(state.step, *state.saved())
            if log:
                log.row(state.step)
    return Trained(state.modules[-1], state.rows)


@cache
def _tell_of_few_images(wanted: int, there: int) -> None:
    """Once, however many networks are trained."""
    _logger.warning("batch_size %d: there are fewer images; every step takes %d, at the same lr", wanted, there)


@dataclass
class _State:
    """All that training changes, and so all that a checkpoint holds."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: CosineLRScheduler
    averaged: ModelEmaV3 | None
    mixup: Mixup | None
    scaler: torch.amp.GradScaler
    device: torch.device
    step: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)
    # Of the epoch so far: the sum of the losses, seconds in all, and those in which batches were waited for.
    loss: Tensor = field(default_factory=lambda: torch.zeros(()))
    seconds: float = 0.0
    waited: float = 0.0

    @classmethod
    def begun(cls, model: nn.Module, recipe: Recipe, steps: int, num_classes: int, device: torch.device) -> _State:
        """Before the first step."""
        optimizer = _optimizer(model, recipe)
        state = cls(
            model=model,
            optimizer=optimizer,
            scheduler=_schedule(optimizer, recipe, steps),
            averaged=ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None,
            mixup=_mixup(recipe, num_classes),
            scaler=torch.amp.GradScaler(device.type, enabled=recipe.precision == "float16"),
            device=device,
        )
        state.begin_epoch()
        return state

    @property
    def modules(self) -> list[nn.Module]:
        """What is trained, and its average where there is one; the last is what comes out."""
        return [self.model, *([self.averaged.module] if self.averaged else [])]

    @property
    def lr(self) -> float:
        """The learning rate; where layers have rates of their own, that of the last one, which is the recipe's."""
        return float(max(group["lr"] for group in self.optimizer.param_groups))

    @property
    def is_finite(self) -> bool:
        """Whether the loss and all weights are numbers; looking makes a GPU wait."""
        weights = [weight.detach() for module in self.modules for weight in module.parameters()]
        return bool(torch.isfinite(self.loss) & torch.isfinite(nn.utils.get_total_norm(weights)))

    def begin_epoch(self) -> None:
        """Set back what is of an epoch."""
        self.loss = torch.zeros((), device=self.device)
        self.seconds = self.waited = 0.0

    def row(self, recipe: Recipe, loader: TrainingLoader) -> dict[str, float]:
        """What the log says of the epoch that ends here."""
        return {
            "epoch": self.step // loader.steps,
            "lr": self.lr,
            "loss": self.loss.item() / loader.steps,
            "images_per_second": loader.steps * loader.batch_size / self.seconds,
            "waiting_for_data": self.waited / self.seconds,
        }

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The state as tensors and as what JSON can hold."""
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        if self.averaged:
            tensors |= {f"averaged/{name}": tensor for name, tensor in self.averaged.module.state_dict().items()}
        tensors["epoch/loss"] = self.loss
        about: dict[str, Any] = {
            "step": self.step,
            "log": self.rows,
            "seconds": self.seconds,
            "waited": self.waited,
            "scaler": self.scaler.state_dict(),
        }
        # Optimisers keep numbers and tensors in both places: by parameter, and by group.
        saved = self.optimizer.state_dict()
        for part, entries in (("state", saved["state"]), ("group", dict(enumerate(saved["param_groups"])))):
            about[part] = {}
            for index, values in entries.items():
                tensors |= {f"{part}/{index}/{key}": value for key, value in values.items() if torch.is_tensor(value)}
                about[part][index] = {key: value for key, value in values.items() if not torch.is_tensor(value)}
        return tensors, about

    def restore(self, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        """Take the state that was saved."""
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "averaged": {}, "epoch": {}, "state": {}, "group": {}}
        for name, tensor in tensors.items():
            part, _, name_within = name.partition("/")
            parts[part][name_within] = tensor
        self.model.load_state_dict(parts["model"])
        if self.averaged:
            self.averaged.module.load_state_dict(parts["averaged"])
        for part in ("state", "group"):
            for name, tensor in parts[part].items():
                index, _, key = name.partition("/")
                about[part][index][key] = tensor
        state = {int(index): values for index, values in about["state"].items()}
        self.optimizer.load_state_dict({"state": state, "param_groups": list(about["group"].values())})
        self.scaler.load_state_dict(about["scaler"])
        self.loss = parts["epoch"]["loss"].to(self.device)
        self.step, self.rows = about["step"], about["log"]
        self.seconds, self.waited = about["seconds"], about["waited"]


def _log(folder: Path, state: _State, world: World) -> contextlib.AbstractContextManager[TrainLog | None]:
    """The log, in the process that speaks for all."""
    return TrainLog(folder, state.rows, state.step) if world.is_first else contextlib.nullcontext()


def _progress(
    description: str, state: _State, recipe: Recipe, loader: TrainingLoader, world: World
) -> contextlib.AbstractContextManager[Callable[[int, str], None]]:
    """The progress bar, in the process that speaks for all."""
    if not world.is_first:
        return contextlib.nullcontext(lambda _images, _note: None)
    total = recipe.epochs * loader.steps * loader.batch_size
    return progress_bar(description, total, "images", done=state.step * loader.batch_size)


def _epoch(
    state: _State,
    task: Task,
    loader: TrainingLoader,
    recipe: Recipe,
    seed: int,
    world: World,
    log: TrainLog | None,
    checkpoints: Checkpoints,
    advance: Callable[[int, str], None],
) -> None:
    """The steps that are left of an epoch."""
    epoch, begin = divmod(state.step, loader.steps)
    state.model.train()
    batches = loader.batches(
        seed, epoch, begin, world.rank * recipe.accumulate, recipe.accumulate, world.size * recipe.accumulate
    )
    clock = time.perf_counter()
    note = ""
    for index in range(begin, loader.steps):
        state.scheduler.step_update(state.step)
        loss = torch.zeros((), device=state.device)
        for part in range(recipe.accumulate):
            asked = time.perf_counter()
            images, targets = _next(batches)
            state.waited += time.perf_counter() - asked
            key = (seed, state.step, world.rank * recipe.accumulate + part)
            loss += _accumulate(state, task, images, targets, recipe, key)
        _make_step(state, recipe, loss, world)
        now = time.perf_counter()
        state.seconds, clock = state.seconds + now - clock, now
        if log and log.due:
            mean = state.loss.item() / (index + 1)
            note = f"epoch {epoch + 1}/{recipe.epochs}, loss {mean:.3f}"
            log.point(state.step, {"loss": loss.item(), "lr": state.lr})
        advance(loader.batch_size, note)
        if (index + 1) % CHECKED_STEPS == 0 or index + 1 == loader.steps:
            # In every process, and all find the same, because losses are averaged.
            _check_finite(state, index + 1, epoch)
        if index + 1 < loader.steps and world.is_first and checkpoints.due and state.is_finite:
            checkpoints.save(state.step, *state.saved())


def _next(batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The next batch; what is wrong with an image, only the process that reads it knows."""
    try:
        return next(batches)
    except InputError as error:
        error.is_shared = False
        raise


def _accumulate(
    state: _State, task: Task, images: Tensor, targets: Tensor, recipe: Recipe, key: tuple[int, int, int]
) -> Tensor:
    """Add the gradients of a part of a batch; returns its share of the loss.

    Args:
        state: with the model.
        task: gives the losses.
        images: (B, C, height, width).
        targets: classes (B,).
        recipe: says what is done to them.
        key: seed, step, and number of the part among all parts of all processes.
    """
    images = images.to(state.device, non_blocking=True)
    targets = targets.to(state.device, non_blocking=True)
    smoothing = recipe.smoothing
    if state.mixup:
        # Seeded without the part: all parts of a batch are mixed alike, as if they were one.
        with seeded(*key[:2]):
            images, targets = state.mixup(images, targets)
        smoothing = 0.0
    total = torch.zeros((), device=state.device)
    with seeded(*key, device=state.device):
        losses = task.losses(images, targets, smoothing, key[1])
        while True:
            with _autocast(state.device, recipe.precision):
                loss = next(losses, None)
            if loss is None:
                return total
            share = loss / recipe.accumulate
            state.scaler.scale(share).backward()
            total += share.detach()


def _make_step(state: _State, recipe: Recipe, loss: Tensor, world: World) -> None:
    """Average gradients over the processes and follow them."""
    parameters = [parameter for parameter in state.model.parameters() if parameter.grad is not None]
    world.average_([loss, *(parameter.grad for parameter in parameters if parameter.grad is not None)])
    if recipe.clip_grad:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(parameters, recipe.clip_grad, foreach=True)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad()
    if state.averaged:
        state.averaged.update(state.model, step=state.step)
    state.loss += loss
    state.step += 1


def _check_finite(state: _State, steps: int, epoch: int) -> None:
    """Weights that are no numbers shall neither be kept nor trained on."""
    mean = state.loss.item() / steps
    if not torch.isfinite(state.loss):
        raise DivergedError(f"training diverged: the loss is {mean} in epoch {epoch + 1}; try a smaller lr")
    if not state.is_finite:
        # Gradients may be infinite where the loss is not.
        raise DivergedError(f"training diverged: weights are no numbers in epoch {epoch + 1}; try a smaller lr")


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Timm's optimiser; AdamW in the form that passes over the weights once."""
    given: dict[str, Any] = {"betas": recipe.opt_betas, "eps": recipe.opt_eps}
    given = {name: value for name, value in given.items() if value is not None}
    if recipe.opt in ("adam", "adamw"):
        given["fused"] = True
    return create_optimizer_v2(
        model,
        opt=recipe.opt,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        layer_decay=recipe.layer_decay,
        **given,
    )


def _schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int) -> CosineLRScheduler:
    """Cosine with linear warm-up, by steps."""
    warmup_lr = recipe.min_lr if recipe.warmup_lr is None else recipe.warmup_lr
    return CosineLRScheduler(
        optimizer,
        t_initial=recipe.epochs * steps_per_epoch,
        lr_min=min(recipe.min_lr, recipe.lr),
        warmup_t=recipe.warmup_epochs * steps_per_epoch,
        warmup_lr_init=min(warmup_lr, recipe.lr),
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


def _autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Matrix products in the precision."""
    return torch.autocast(device.type, getattr(torch, precision), enabled=precision != "float32")


def check_device(device: torch.device, recipe: Recipe) -> None:
    """Make sure that a device can train by a recipe: that it computes in its precision, and its optimiser makes a step.

    Raises:
        InputError: it cannot.
    """
    check_precision(device, recipe.precision)
    try:
        with seeded(0, device=device):
            layer = nn.Linear(8, 8, device=device)
            optimizer = _optimizer(layer, recipe.override({"layer_decay": None}))
            layer(torch.ones(2, 8, device=device)).sum().backward()
            optimizer.step()
    except Exception as error:  # they ask for libraries, devices and ways of training that are not here
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"opt {recipe.opt}: cannot be used on {device.type} here: {reason}; give adamw") from None


def check_precision(device: torch.device, precision: Precision) -> None:
    """Make sure that a device computes in a precision.

    Raises:
        InputError: it does not.
    """
    if precision == "float32":
        return
    reason = ""
    if (
        device.type == "cuda"
        and precision == "bfloat16"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        reason = "this GPU has no such type"
    elif not torch.amp.is_autocast_available(device.type):
        reason = "PyTorch has no autocast for it"
    else:
        try:
            with _autocast(device, precision):
                layer = nn.Linear(8, 8, device=device)
                output = layer(torch.ones(2, 8, device=device))
            output.float().sum().backward()
            if output.dtype != getattr(torch, precision):
                reason = f"products stay in {str(output.dtype).removeprefix('torch.')}"
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
    if reason:
        raise InputError(f"precision {precision}: not available on {device.type}: {reason}; give float32")
