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
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from psvit.errors import DivergedError, InputError, ShortMemoryError
from psvit.executors.failures import out_of_memory
from psvit.io.progress import progress_bar
from psvit.nn.precision import float32_products
from psvit.nn.seeding import seeded
from psvit.train.checkpoints import FOLDER, CheckpointConfig, Checkpoints
from psvit.train.device_checks import autocast, check_device, with_precision
from psvit.train.distributed import World
from psvit.train.recipe import Recipe, SupernetRecipe
from psvit.train.replay import Replay
from psvit.train.tasks import Classification, Task
from psvit.train.train_log import TrainLog
from psvit.train.training_loader import TrainingLoader
from psvit.train.training_state import TrainingState

_logger = logging.getLogger(__name__)

CHECKED_STEPS = 50
"""After so many steps it is made sure that loss and weights are numbers; looking makes a GPU wait."""


@dataclass(frozen=True)
class Trained:
    """The result of a training.

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
    until: int | None = None,
    held_out: Callable[[nn.Module], dict[str, float]] | None = None,
    checkpointing: CheckpointConfig | None = None,
    world: World | None = None,
) -> Trained:
    """Train by a recipe, from the beginning or from where a run in `folder` stopped or paused.

    Args:
        task: the module and its losses.
        loader: training batches.
        recipe: optimiser, schedule and regularisation.
        num_classes: classes of the labels, for mixing.
        seed: of everything random.
        device: where to train.
        folder: holds `checkpoints/`, `log.csv` and `tensorboard/`; all processes see the same one.
        description: what the progress bar says.
        until: the epoch at which to pause; `None` trains to the end of the recipe.
        held_out: accuracies to log at the end of an epoch, by name; called in every process.
        checkpointing: how often checkpoints are written and how many are kept.
        world: the processes that train together. The same run may be continued by another number of them.

    Raises:
        InputError: batches cannot be cut for so many processes and micro-batches, or the device cannot train by the
            recipe.
        DivergedError: the loss or a weight became NaN or infinite; the last checkpoint was written before that.
        ShortMemoryError: the device has too little memory for a step.
    """
    world = world or World()
    recipe = with_precision(recipe, device)
    loader.check(world.size * recipe.accumulate, recipe.mixes)
    check_device(device, recipe)
    if world.is_first and loader.batch_size < recipe.batch_size:
        _tell_of_few_images(recipe.batch_size, loader.batch_size)
    last = min(until or recipe.epochs, recipe.epochs)
    with _enough_memory(recipe):
        state = TrainingState.begun(task.model.to(device), recipe, loader.steps, num_classes, device)
    checkpoints = Checkpoints(folder, checkpointing or CheckpointConfig())
    found = checkpoints.latest()
    if found:
        try:
            state.restore(*found)
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError, IndexError):
            # Readable, and of another training: a folder that was copied, or a file put there.
            raise InputError(
                f"{folder}: its checkpoints are those of another training; remove {folder / FOLDER} to begin again, or "
                "name another folder"
            ) from None
        _logger.info("continuing after step %d of %d", state.step, last * loader.steps)
    if len(set(world.gather(state.step))) > 1:
        raise InputError(f"{folder}: the processes find different checkpoints in it; it must be the same for all")
    world.broadcast_([tensor for module in state.modules for tensor in module.state_dict().values()])
    with (
        _replaying(task, recipe, device) as replay,
        _log(folder, state, world) as log,
        _progress(description, state, last, loader, world) as advance,
    ):
        while state.step < last * loader.steps:
            with _enough_memory(recipe), float32_products("high", device.type):
                _epoch(state, task, loader, recipe, seed, world, log, checkpoints, advance, replay)
            row = state.row(recipe, loader)
            row |= held_out(state.modules[-1]) if held_out else {}
            state.rows.append(row)
            state.begin_epoch()
            if world.is_first and (checkpoints.due or state.step == last * loader.steps):
                checkpoints.save(state.step, *state.saved())
            if log:
                log.row(state.step)
    return Trained(state.modules[-1], state.rows)


@contextlib.contextmanager
def _replaying(task: Task, recipe: Recipe, device: torch.device) -> Iterator[Replay | None]:
    """Steps of one network on a GPU are replayed as CUDA graphs.

    Not in micro-batches: gradients of a graph lie in one place, where the next micro-batch would overwrite them.
    """
    if device.type != "cuda" or recipe.accumulate > 1 or not isinstance(task, Classification):
        yield None
        return
    replay = Replay(task.model, recipe.precision)
    try:
        yield replay
    finally:
        replay.end()


@contextlib.contextmanager
def _enough_memory(recipe: Recipe) -> Iterator[None]:
    """Say what helps where memory runs out."""
    try:
        yield
    except Exception as error:
        reason = out_of_memory(error)
        if not reason:
            raise
        setting = f"accumulate={2 * recipe.accumulate}"
        in_search = f" (in a search, --supernet-set {setting})" if isinstance(recipe, SupernetRecipe) else ""
        raise ShortMemoryError(
            f"{reason}; give --set {setting}{in_search}: a step then takes as many images in more parts"
        ) from None


@cache
def _tell_of_few_images(wanted: int, there: int) -> None:
    """Once, however many networks are trained."""
    _logger.warning("batch_size %d: there are fewer images; every step takes %d, at the same lr", wanted, there)


def _log(folder: Path, state: TrainingState, world: World) -> contextlib.AbstractContextManager[TrainLog | None]:
    """The log, in the process that speaks for all."""
    return TrainLog(folder, state.rows, state.step) if world.is_first else contextlib.nullcontext()


def _progress(
    description: str, state: TrainingState, epochs: int, loader: TrainingLoader, world: World
) -> contextlib.AbstractContextManager[Callable[[int, str], None]]:
    """The progress bar, in the process that speaks for all."""
    if not world.is_first:
        return contextlib.nullcontext(lambda _images, _note: None)
    total = epochs * loader.steps * loader.batch_size
    return progress_bar(description, total, "images", done=state.step * loader.batch_size)


def _epoch(
    state: TrainingState,
    task: Task,
    loader: TrainingLoader,
    recipe: Recipe,
    seed: int,
    world: World,
    log: TrainLog | None,
    checkpoints: Checkpoints,
    advance: Callable[[int, str], None],
    replay: Replay | None,
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
            if replay and not replay.is_decided:
                replay.begin(images.to(state.device))
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
    state: TrainingState, task: Task, images: Tensor, targets: Tensor, recipe: Recipe, key: tuple[int, int, int]
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
            with autocast(state.device, recipe.precision):
                loss = next(losses, None)
            if loss is None:
                return total
            share = loss / recipe.accumulate
            state.scaler.scale(share).backward()
            total += share.detach()


def _make_step(state: TrainingState, recipe: Recipe, loss: Tensor, world: World) -> None:
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


def _check_finite(state: TrainingState, steps: int, epoch: int) -> None:
    """Weights that are no numbers shall neither be kept nor trained on."""
    mean = state.loss.item() / steps
    if not torch.isfinite(state.loss):
        raise DivergedError(f"training diverged: the loss is {mean} in epoch {epoch + 1}; try a smaller lr")
    if not state.is_finite:
        # Gradients may be infinite although the loss is not.
        raise DivergedError(f"training diverged: weights are no numbers in epoch {epoch + 1}; try a smaller lr")
