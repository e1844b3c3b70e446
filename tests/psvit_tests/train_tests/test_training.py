"""The one training loop: its schedule, its log, and that an interruption changes nothing."""

from __future__ import annotations

import contextlib
import csv
import math
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from psvit.arch.architecture import Architecture, Stage
from psvit.data import Decoded, Inputs, Labelled
from psvit.errors import DivergedError, InputError, ShortMemoryError
from psvit.model import PSViT
from psvit.nn.seeding import seeded
from psvit.train import checkpoints as checkpoints_module
from psvit.train import training as training_module
from psvit.train import training_state as state_module
from psvit.train.checkpoints import CheckpointConfig, Checkpoints
from psvit.train.device_checks import check_device, check_precision
from psvit.train.recipe import Recipe
from psvit.train.tasks import Classification
from psvit.train.training import train
from psvit.train.training_loader import training_loader

CPU = torch.device("cpu")
CLASSES = 4
ARCH = Architecture(
    variant="2d",
    image_size=(8, 8),
    in_chans=1,
    num_classes=CLASSES,
    patch_size=2,
    patch_stride=2,
    head_dim=4,
    stages=(Stage(embed_dim=8, groups=(2,), mlp_ratio=2), Stage(embed_dim=12, groups=(1,), mlp_ratio=1)),
    pools=("conv",),
)
INPUTS = Inputs(image_size=(8, 8), in_chans=1, mean=(0.5,), std=(0.25,))
PLAIN = Recipe(epochs=4, batch_size=4, lr=0.003, warmup_epochs=1, drop_path_rate=0.2, crop_scale=(0.5, 1.0), hflip=0.5)


class ProcessEnds(Exception):
    """Stands for whatever may end one."""


class Interrupted(Classification):
    """A classification that is interrupted before a step."""

    def __init__(self, model, at):
        super().__init__(model)
        object.__setattr__(self, "at", at)  # the class is frozen

    def loss(self, images, targets, smoothing, step):
        if step == self.at:
            raise ProcessEnds
        return super().loss(images, targets, smoothing, step)


def images(n=20):
    rng = np.random.default_rng(0)
    return Labelled(Decoded(rng.integers(0, 256, (n, 8, 8), dtype=np.uint8)), np.arange(n) % CLASSES)


def network(seed=0):
    with seeded(seed):
        return PSViT(ARCH, drop_path_rate=0.2)


class Clock:
    """A clock that only the end of an epoch moves, so that checkpoints are those of whole epochs."""

    hours = 0

    @classmethod
    def monotonic(cls):
        return 3600.0 * cls.hours


@pytest.fixture(autouse=True)
def _checkpoints_by_the_clock(monkeypatch):
    monkeypatch.setattr(checkpoints_module, "time", Clock)


def run(folder, recipe, *, task=None, seed=7, held_out=None, n=20, checkpointing=None):
    def an_hour_later(model):
        Clock.hours += 1
        return held_out(model) if held_out else {}

    return train(
        task or Classification(network()),
        training_loader(images(n), INPUTS, recipe),
        recipe,
        num_classes=CLASSES,
        seed=seed,
        device=CPU,
        folder=folder,
        description="training",
        held_out=an_hour_later,
        checkpointing=checkpointing,
    )


def weights(trained):
    return {name: tensor.clone() for name, tensor in trained.model.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one) and set(one) == set(other)


def stable(log):
    """The log without what the clock says."""
    clocks = ("images_per_second", "waiting_for_data")
    return [{key: value for key, value in row.items() if key not in clocks} for row in log]


def interrupt_in_epoch(folder, recipe, epoch, where):
    """Train until something ends the process in this epoch: between two steps, or after the last."""
    if where == "between steps":
        # Two of an epoch's five steps are done and must not count.
        with pytest.raises(ProcessEnds):
            run(folder, recipe, task=Interrupted(network(), at=5 * (epoch - 1) + 2))
        return
    calls = []

    def held_out(model):
        calls.append(model)
        if len(calls) == epoch:
            raise ProcessEnds
        return {}

    with pytest.raises(ProcessEnds):
        run(folder, recipe, held_out=held_out)


RECIPES = {
    "plain": PLAIN,
    "averaged": PLAIN.override({"ema_decay": 0.9}),
    "mixed": PLAIN.override({"mixup": 0.8, "cutmix": 1.0, "smoothing": 0.1}),
    "averaged and mixed": PLAIN.override({"ema_decay": 0.9, "mixup": 0.8, "smoothing": 0.1, "clip_grad": 0.5}),
    "augmented": PLAIN.override({"auto_augment": "rand-m9-mstd0.5-inc1", "random_erasing": 0.5}),
    "sgd": PLAIN.override({"opt": "sgd", "clip_grad": 1.0}),
    # These keep numbers beside tensors, or count steps beside the parameters.
    "lamb": PLAIN.override({"opt": "lamb"}),
    "adan": PLAIN.override({"opt": "adan"}),
    "adafactor": PLAIN.override({"opt": "adafactor"}),
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """What trainings that nothing interrupts come to, each made once."""

    @cache
    def trained(recipe):
        return run(tmp_path_factory.mktemp("whole") / "run", recipe)

    return trained


@pytest.mark.parametrize("where", ["between steps", "after the last step"])
def test_an_interrupted_run_ends_with_the_same_weights(tmp_path, uninterrupted, where):
    """What each recipe keeps in its checkpoints is told by runs that continue in the middle of an epoch."""
    recipe = RECIPES["averaged and mixed"]
    whole = uninterrupted(recipe)
    interrupt_in_epoch(tmp_path / "parts", recipe, 3, where)
    # Another process begins with other weights, which the checkpoint must replace altogether.
    continued = run(tmp_path / "parts", recipe, task=Classification(network(seed=99)))
    assert same(weights(whole), weights(continued))
    assert stable(whole.log) == stable(continued.log)


# What averages and what mixes is in the one that does both.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in ("lamb", "adan", "adafactor") else [])
        for name in RECIPES
        if name not in ("averaged", "mixed")
    ],
)
def test_a_run_continued_in_the_middle_of_an_epoch_ends_with_the_same_weights(tmp_path, uninterrupted, name):
    recipe = RECIPES[name]
    whole = uninterrupted(recipe)
    for at in (3, 4, 17):
        task = Interrupted(network(seed=0 if at == 3 else 99), at=at)
        with pytest.raises(ProcessEnds):
            run(tmp_path / "parts", recipe, task=task, checkpointing=CheckpointConfig(every_seconds=0))
        # What was done before the interruption is not done again.
        assert [path.name for path in (tmp_path / "parts/checkpoints").iterdir()] == [f"{at:010}.safetensors"]
    continued = run(tmp_path / "parts", recipe, task=Classification(network(seed=99)))
    assert same(weights(whole), weights(continued))
    assert stable(whole.log) == stable(continued.log)


@pytest.mark.parametrize("foreign", ["weights", "names", "about"])
def test_a_checkpoint_of_another_training_is_refused(tmp_path, foreign):
    run(tmp_path, PLAIN)
    checkpoints = Checkpoints(tmp_path, CheckpointConfig())
    tensors, about = checkpoints.latest()
    if foreign == "weights":
        tensors = {name: torch.zeros(3) for name in tensors}
    elif foreign == "names":
        tensors = {"somewhere/else": torch.zeros(3)}
    else:
        about = {"step": 1}
    checkpoints.clear()
    checkpoints.save(1, tensors, about)
    with pytest.raises(InputError, match="another training"):
        run(tmp_path, PLAIN)


def test_checkpoints_are_written_by_time_and_at_the_end(tmp_path, monkeypatch):
    written = []
    save = Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda self, step, *rest: written.append(step) or save(self, step, *rest))
    recipe = PLAIN.override({"epochs": 6})
    run(tmp_path, recipe, checkpointing=CheckpointConfig(every_seconds=2 * 3600))
    assert written == [10, 20, 30]
    written.clear()
    run(tmp_path / "rarely", recipe, checkpointing=CheckpointConfig(every_seconds=10**6))
    assert written == [30]


def test_several_interruptions_change_nothing(tmp_path, uninterrupted):
    recipe = RECIPES["averaged and mixed"]
    whole = uninterrupted(recipe)
    for epoch in (1, 2, 4):
        # Until there is a checkpoint, the beginning is that of the whole run.
        task = Interrupted(network(seed=0 if epoch <= 2 else 99), at=5 * (epoch - 1) + 4)
        with pytest.raises(ProcessEnds):
            run(tmp_path / "parts", recipe, task=task)
    assert same(weights(whole), weights(run(tmp_path / "parts", recipe)))


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = run(tmp_path, PLAIN)
    steps = []

    class Counting(Classification):
        def loss(self, images, targets, smoothing, step):
            steps.append(step)
            return super().loss(images, targets, smoothing, step)

    again = run(tmp_path, PLAIN, task=Counting(network(seed=99)))
    assert not steps
    assert same(weights(first), weights(again))
    assert first.log == again.log


def test_the_same_seed_gives_the_same_weights_and_another_one_others(tmp_path):
    torch.manual_seed(1)
    one = weights(run(tmp_path / "a", PLAIN))
    torch.manual_seed(2)  # what was drawn before does not matter
    assert same(one, weights(run(tmp_path / "b", PLAIN)))
    assert not same(one, weights(run(tmp_path / "c", PLAIN, seed=8)))


def test_training_leaves_global_generators_alone(tmp_path):
    before = torch.random.get_rng_state(), str(np.random.get_state())
    run(tmp_path, RECIPES["mixed"])
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert str(np.random.get_state()) == before[1]


def test_losses_draw_under_the_seed_of_their_step_on_the_device_that_computes_them(tmp_path, monkeypatch):
    stack, inside = [], []

    @contextlib.contextmanager
    def recorded(*key, device=None):
        stack.append((key, device))
        with seeded(*key, device=device):
            yield
        stack.pop()

    class Watched(Classification):
        def loss(self, images, targets, smoothing, step):
            inside.append(stack[-1])
            return super().loss(images, targets, smoothing, step)

    monkeypatch.setattr(training_module, "seeded", recorded)
    run(tmp_path, PLAIN.override({"accumulate": 2}), task=Watched(network()))
    assert inside == [((7, step, part), CPU) for step in range(20) for part in range(2)]


def test_every_epoch_draws_anew(tmp_path):
    seen = []

    class Recording(Classification):
        def loss(self, images, targets, smoothing, step):
            seen.append(targets.tolist())
            return super().loss(images, targets, smoothing, step)

    run(tmp_path, PLAIN, task=Recording(network()))
    epochs = [str(seen[start : start + 5]) for start in range(0, 20, 5)]
    assert len(set(epochs)) == 4


# --- what is trained


def test_one_step_of_sgd_by_hand(tmp_path):
    # One epoch of one batch, where momentum has nothing to carry on yet: the new weights are the old ones less lr times
    # the gradient.
    recipe = Recipe(epochs=1, batch_size=8, opt="momentum", lr=0.1, min_lr=0.0, weight_decay=0.0, smoothing=0.1)
    model = network().eval()
    seen = []

    class Recording(Classification):
        def loss(self, images, targets, smoothing, step):
            seen.append((images, targets, smoothing, step))
            return super().loss(images, targets, smoothing, step)

    with seeded(0):
        plain = PSViT(ARCH)
    before = {name: parameter.detach().clone() for name, parameter in plain.named_parameters()}
    trained = run(tmp_path, recipe, task=Recording(plain), n=8)
    ((batch, targets, smoothing, step),) = seen
    assert (len(batch), smoothing, step) == (8, 0.1, 0)

    # Nothing random is left in the network, so its loss can be had again.
    model.load_state_dict(before)
    logits = model(batch)
    hard = -logits.log_softmax(dim=1)[torch.arange(8), targets]
    loss = (0.9 * hard - 0.1 * logits.log_softmax(dim=1).mean(dim=1)).mean()
    loss.backward()
    assert trained.log[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        expected = before[name] - 0.1 * parameter.grad
        torch.testing.assert_close(trained.model.state_dict()[name], expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("warmup_lr", "begin"), [(None, 0.0001), (0.0, 0.0), (1.0, 0.01)])
@pytest.mark.parametrize(("warmup_epochs", "steps"), [(2, 10), (1.4, 7), (0.4, 2)])
def test_the_learning_rate_warms_up_and_follows_a_cosine(tmp_path, warmup_epochs, steps, warmup_lr, begin):
    recipe = Recipe(epochs=5, batch_size=4, lr=0.01, min_lr=0.0001, warmup_epochs=warmup_epochs, warmup_lr=warmup_lr)
    log = run(tmp_path, recipe).log
    rates = []
    for epoch in range(5):
        last = 5 * epoch + 4  # the last of an epoch's five steps
        if last < steps:
            rates.append(begin + (0.01 - begin) * last / steps)
        else:
            rates.append(0.0001 + (0.01 - 0.0001) * (1 + math.cos(math.pi * last / 25)) / 2)
    assert [row["lr"] for row in log] == pytest.approx(rates, rel=1e-6)


def test_weight_decay_leaves_norms_biases_and_positions_alone(tmp_path):
    class Indifferent(Classification):
        """Gradients are zero, so that decay alone moves weights."""

        def loss(self, images, targets, smoothing, step):
            return 0.0 * super().loss(images, targets, smoothing, step)

    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    after = weights(run(tmp_path, PLAIN.override({"weight_decay": 0.5}), task=Indifferent(model)))
    decayed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert decayed == {name for name, tensor in before.items() if tensor.ndim > 1 and name != "pos_embed"}


def test_averaged_weights_are_the_result_and_are_held_out_tested(tmp_path):
    tested = []
    recipe = RECIPES["averaged"]
    task = Classification(network())
    trained = run(tmp_path, recipe, task=task, held_out=lambda model: tested.append(model) or {})
    assert all(model is trained.model for model in tested)
    assert len(tested) == 4
    assert trained.model is not task.model
    assert not same(trained.model.state_dict(), task.model.state_dict())
    # An average lies between what it averages, near the last weights after a few steps of a small rate.
    distance = max(
        (a - b).abs().max() for a, b in zip(trained.model.parameters(), task.model.parameters(), strict=True)
    )
    assert 0 < distance < 0.1


def test_averaging_leaves_the_first_weights_behind_soon(tmp_path):
    # With such a decay and no warm-up, twenty steps would leave the average at the weights it began with.
    task = Classification(network())
    first = [parameter.detach().clone() for parameter in task.model.parameters()]
    averaged = run(tmp_path, PLAIN.override({"ema_decay": 0.9999}), task=task).model
    last = list(task.model.parameters())

    def distance(one, other):
        return sum((a - b).square().sum() for a, b in zip(one, other, strict=True)).sqrt()

    assert distance(averaged.parameters(), last) < 0.5 * distance(first, last)


def test_without_averaging_the_trained_module_is_the_result(tmp_path):
    task = Classification(network())
    tested = []
    assert run(tmp_path, PLAIN, task=task, held_out=lambda model: tested.append(model) or {}).model is task.model
    assert all(model is task.model for model in tested)


def test_mixing_gives_the_task_probabilities(tmp_path):
    seen = []

    class Recording(Classification):
        def loss(self, images, targets, smoothing, step):
            seen.append((targets, smoothing))
            return super().loss(images, targets, smoothing, step)

    run(tmp_path, RECIPES["mixed"], task=Recording(network()))
    assert len(seen) == 4 * 5
    for targets, smoothing in seen:
        assert smoothing == 0.0  # already in the targets
        assert targets.shape == (4, CLASSES)
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(4))
    assert any(len(set(targets.flatten().tolist())) > 2 for targets, _ in seen)


def test_a_network_learns(tmp_path):
    # Bright left halves against bright right ones.
    pixels = np.zeros((64, 8, 8), dtype=np.uint8)
    labels = np.arange(64) % 2
    pixels[labels == 0, :, :4] = 255
    pixels[labels == 1, :, 4:] = 255
    recipe = Recipe(epochs=15, batch_size=16, lr=0.01, warmup_epochs=1)
    model = network()
    log = train(
        Classification(model),
        training_loader(Labelled(Decoded(pixels), labels), INPUTS, recipe),
        recipe,
        num_classes=CLASSES,
        seed=0,
        device=CPU,
        folder=tmp_path,
        description="",
    ).log
    assert log[-1]["loss"] < 0.3 < log[0]["loss"]


# --- the log


def test_the_log_has_a_row_for_every_epoch(tmp_path):
    calls = []

    def held_out(model):
        assert isinstance(model, nn.Module)
        calls.append(model)
        return {"accuracy": 10.0 * len(calls)}

    trained = run(tmp_path, PLAIN, held_out=held_out)
    with (tmp_path / "log.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["epoch", "lr", "loss", "images_per_second", "waiting_for_data", "accuracy"]
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    assert [float(row["accuracy"]) for row in rows] == [10.0, 20.0, 30.0, 40.0]
    assert [{key: float(value) for key, value in row.items()} for row in rows] == trained.log
    # Before anything is learnt, four classes cost about log 4.
    assert float(rows[0]["loss"]) == pytest.approx(math.log(CLASSES), abs=0.3)
    assert all(float(row["images_per_second"]) > 0 for row in rows)
    assert all(0 < float(row["waiting_for_data"]) < 1 for row in rows)


def test_the_log_is_continued(tmp_path):
    interrupt_in_epoch(tmp_path, PLAIN, 3, "after the last step")
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + 2
    run(tmp_path, PLAIN)
    with (tmp_path / "log.csv").open() as stream:
        assert [row["epoch"] for row in csv.DictReader(stream)] == ["1", "2", "3", "4"]


def test_only_the_last_checkpoint_and_the_log_are_left(tmp_path):
    run(tmp_path, RECIPES["averaged"], checkpointing=CheckpointConfig(every_seconds=0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "log.csv", "tensorboard"]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["0000000020.safetensors"]


def test_as_many_checkpoints_are_kept_as_are_wanted(tmp_path):
    run(tmp_path, PLAIN, checkpointing=CheckpointConfig(every_seconds=0, number=3))
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == [f"{step:010}.safetensors" for step in (18, 19, 20)]


def test_curves_are_shown_by_tensorboard(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr("psvit.train.train_log.EVERY_SECONDS", 0.0)
    with pytest.raises(ProcessEnds):
        run(tmp_path, PLAIN, task=Interrupted(network(), at=13), held_out=lambda model: {"accuracy": 5.0})
    log = run(tmp_path, PLAIN, held_out=lambda model: {"accuracy": 5.0}).log
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    # Each step once, although some were made twice.
    assert [event.step for event in events.Scalars("step/loss")] == list(range(1, 21))
    assert [event.step for event in events.Scalars("epoch/accuracy")] == [5, 10, 15, 20]
    shown = [event.value for event in events.Scalars("epoch/loss")]
    assert shown == pytest.approx([row["loss"] for row in log], rel=1e-6)
    steps = [event.value for event in events.Scalars("step/loss")]
    assert sum(steps[:5]) / 5 == pytest.approx(log[0]["loss"], rel=1e-5)


# --- what goes wrong


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_divergence_is_an_error_of_its_own(tmp_path, value):
    class Diverging(Classification):
        def loss(self, images, targets, smoothing, step):
            loss = super().loss(images, targets, smoothing, step)
            return loss * value if step == 14 else loss

    with pytest.raises(DivergedError, match=f"the loss is {value} in epoch 3; try a smaller lr") as error:
        run(tmp_path, PLAIN, task=Diverging(network()))
    assert "\n" not in str(error.value)
    # The checkpoint of the last epoch that went well is still there.
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + 2


def test_memory_that_runs_out_ends_with_what_to_give(tmp_path):
    class Large(Classification):
        def loss(self, images, targets, smoothing, step):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    with pytest.raises(ShortMemoryError, match=r"out of memory: CUDA out of memory.*; give --set accumulate=4"):
        run(tmp_path, PLAIN.override({"accumulate": 2}), task=Large(network()))


@pytest.mark.parametrize(("step", "changes"), [(13, {}), (14, {}), (14, {"clip_grad": 1.0}), (13, {"ema_decay": 0.9})])
def test_weights_that_are_no_numbers_are_never_kept_though_the_loss_is_one(tmp_path, uninterrupted, changes, step):
    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(ctx, loss):
            return loss.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * math.inf

    class Diverging(Classification):
        def loss(self, images, targets, smoothing, at):
            loss = super().loss(images, targets, smoothing, at)
            return Steep.apply(loss) if at == step else loss

    recipe = PLAIN.override(changes)
    # A checkpoint after every step, of which the last is kept.
    often = CheckpointConfig(every_seconds=0, number=1)
    found = "weights are no numbers" if step == 14 else "the loss is nan"
    with pytest.raises(DivergedError, match=f"{found} in epoch 3; try a smaller lr"):
        run(tmp_path / "run", recipe, task=Diverging(network()), checkpointing=often)
    (kept,) = (tmp_path / "run/checkpoints").iterdir()
    assert kept.stem == f"{step:010}"
    # What is there continues as if nothing had been.
    assert same(weights(run(tmp_path / "run", recipe)), weights(uninterrupted(recipe)))


def test_a_batch_beyond_the_images_is_told_once(tmp_path, caplog):
    recipe = PLAIN.override({"batch_size": 400, "epochs": 2, "lr": 0.0031})
    for name in "ab":
        run(tmp_path / name, recipe, n=25)
    assert [record.message for record in caplog.records if "batch_size" in record.message] == [
        "batch_size 400: there are fewer images; every step takes 24, at the same lr"
    ]


def test_parts_of_a_batch_beyond_the_images_are_told_with_both_sizes(tmp_path):
    with pytest.raises(InputError, match=r"times accumulate, 16; received 400, of which there are only 24"):
        run(tmp_path, PLAIN.override({"batch_size": 400, "accumulate": 16}), n=25)


def test_an_unknown_optimiser_is_an_input_error(tmp_path):
    # Where it is found out does not matter, as long as it is before training.
    with pytest.raises(InputError, match="adamz"):
        run(tmp_path, PLAIN.override({"opt": "adamz"}))


def test_loss_of_a_classification_is_cross_entropy():
    model = network().eval()
    batch, targets = torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 2, 3, 0, 1])
    loss = Classification(model).loss(batch, targets, smoothing=0.0, step=0)
    expected = -model(batch).softmax(dim=1)[torch.arange(6), targets].log().mean()
    torch.testing.assert_close(loss, expected)
    soft = F.one_hot(targets, CLASSES).float()
    torch.testing.assert_close(Classification(model).loss(batch, soft, 0.0, 0), expected)


# --- batches in parts, precision, and what belongs to networks only

STILL = PLAIN.override({"drop_path_rate": 0.0, "opt": "momentum", "lr": 0.05, "epochs": 2, "warmup_epochs": 0})
STILL = STILL.override({"batch_size": 8})
"""Nothing is random but the images, and what is learnt is proportional to gradients."""


def still():
    with seeded(0):
        return Classification(PSViT(ARCH))


@pytest.mark.parametrize(
    ("accumulate", "changes"),
    [(2, {}), (4, {}), (4, {"mixup": 0.8, "cutmix": 1.0}), (2, {"clip_grad": 0.1, "ema_decay": 0.9})],
)
def test_micro_batches_are_the_whole_batch(tmp_path, changes, accumulate):
    recipe = STILL.override(changes)
    whole = run(tmp_path / "whole", recipe, task=still())
    parts = run(tmp_path / "parts", recipe.override({"accumulate": accumulate}), task=still())
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)
    assert parts.log[-1]["loss"] == pytest.approx(whole.log[-1]["loss"], rel=1e-5)


def test_micro_batches_are_computed_one_after_the_other(tmp_path):
    sizes = []

    class Recording(Classification):
        def loss(self, images, targets, smoothing, step):
            sizes.append((step, len(images)))
            return super().loss(images, targets, smoothing, step)

    run(tmp_path, STILL.override({"accumulate": 4, "epochs": 1}), task=Recording(network()))
    assert sizes == [(step, 2) for step in range(2) for _ in range(4)]


def test_parts_that_cannot_be_equal_are_refused_before_anything_is_trained(tmp_path):
    recipe = STILL.override({"accumulate": 8, "mixup": 0.5})
    with pytest.raises(InputError, match="multiple of processes times accumulate, 8 and an even number in each"):
        run(tmp_path, recipe)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_low_precision_stays_near(tmp_path, precision):
    seen = []

    class Recording(Classification):
        def loss(self, images, targets, smoothing, step):
            seen.append(self.model(images).dtype)
            return super().loss(images, targets, smoothing, step)

    whole = run(tmp_path / "whole", STILL, task=still())
    low = run(tmp_path / "low", STILL.override({"precision": precision}), task=Recording(still().model))
    assert set(seen) == {getattr(torch, precision)}
    assert low.log[-1]["loss"] == pytest.approx(whole.log[-1]["loss"], abs=0.02)
    for name, tensor in whole.model.state_dict().items():
        assert low.model.state_dict()[name].dtype == torch.float32
        assert (low.model.state_dict()[name] - tensor).abs().max() < 0.02
    assert not same(weights(whole), weights(low))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_low_precision_is_continued_bit_for_bit(tmp_path, precision):
    recipe = PLAIN.override({"precision": precision})
    whole = run(tmp_path / "whole", recipe)
    with pytest.raises(ProcessEnds):
        run(
            tmp_path / "parts",
            recipe,
            task=Interrupted(network(), at=7),
            checkpointing=CheckpointConfig(every_seconds=0),
        )
    assert same(weights(whole), weights(run(tmp_path / "parts", recipe)))


def test_a_precision_that_the_device_has_not_is_refused(tmp_path):
    with pytest.raises(InputError, match="precision bfloat16: not available on meta: ") as error:
        check_precision(torch.device("meta"), "bfloat16")
    assert "\n" not in str(error.value)


def test_layers_learn_at_their_own_rates(tmp_path):
    recipe = PLAIN.override({"layer_decay": 0.5, "epochs": 1, "warmup_epochs": 0, "opt": "momentum", "lr": 0.01})
    recipe = recipe.override({"drop_path_rate": 0.0, "weight_decay": 0.0, "min_lr": 0.0, "batch_size": 8})
    task, plain = still(), still()
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    decayed = run(tmp_path / "decayed", recipe, task=task, n=8).model.state_dict()
    level = run(tmp_path / "level", recipe.override({"layer_decay": None}), task=plain, n=8).model.state_dict()
    # One step: each change is the level one times a power of the decay, 0 for the head and more towards the stem.
    for name, power in (("head.weight", 0), ("stages.1.groups.0.layers.0.mlp.fc1.weight", 1), ("pos_embed", 3)):
        expected = (level[name] - before[name]) * 0.5**power
        torch.testing.assert_close(decayed[name] - before[name], expected, rtol=1e-3, atol=1e-7)


def test_the_average_is_that_of_all_steps(tmp_path):
    # By hand: the decay warms up as 1 - (1 + step)**(-2/3), and the first steps replace the average.
    recipe = STILL.override({"ema_decay": 0.8})
    seen = []

    class Recording(Classification):
        def loss(self, images, targets, smoothing, step):
            seen.append(self.model.head.weight.detach().clone())
            return super().loss(images, targets, smoothing, step)

    task = Recording(still().model)
    averaged = run(tmp_path, recipe, task=task, n=40).model
    after = [*seen[1:], task.model.head.weight.detach()]
    expected = seen[0]
    for step, weight in enumerate(after):
        decay = min(0.8, 1 - step ** (-2 / 3)) if step > 1 else 0.0
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(averaged.head.weight, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("opt", ["fusedadam", "adahessian"])
def test_an_optimiser_that_cannot_make_a_step_is_refused_before_anything_is_trained(tmp_path, opt):
    with pytest.raises(InputError, match=f"opt {opt}: cannot be used on cpu here: .*; give adamw") as error:
        run(tmp_path, PLAIN.override({"opt": opt}))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_device_is_tried_without_drawing_from_global_generators():
    before = torch.get_rng_state()
    check_device(CPU, PLAIN.override({"layer_decay": 0.75}))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_optimiser_has_the_rates_of_the_recipe_or_its_own(tmp_path, monkeypatch):
    seen = []
    create = state_module.create_optimizer_v2

    def remember(*args, **kwargs):
        seen.append(create(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(state_module, "create_optimizer_v2", remember)
    own = torch.optim.AdamW(network().parameters())
    for changes, betas, eps in [
        ({}, own.defaults["betas"], own.defaults["eps"]),
        ({"opt_betas": [0.8, 0.95], "opt_eps": 1e-6}, (0.8, 0.95), 1e-6),
    ]:
        run(tmp_path / str(len(seen)), PLAIN.override({**changes, "epochs": 2}))
        assert all((group["betas"], group["eps"]) == (betas, eps) for group in seen[-1].param_groups)
