"""What a step trains and towards what, against plain references: networks of their own, built one by one."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import nn

from psvit.arch.costs import cost
from psvit.data import Inputs
from psvit.nn.seeding import seeded
from psvit.supernet.sampling import BINS, architectures, draw, macs_bin
from psvit.supernet.train import SupernetTask, watched
from psvit.train.recipe import SupernetRecipe
from psvit.train.teacher import Teacher

SEED = 4


def recipe(**changes):
    return SupernetRecipe(epochs=2, batch_size=6, lr=0.01, **changes)


def scattered(supernet, arch, network):
    """The gradients of a network of its own, laid where its weights lie in the supernet."""
    found = {}
    for name, parameter in network.named_parameters():
        source, qkv, skip = supernet.source(arch, name)
        whole = torch.zeros_like(supernet.get_parameter(source))
        grad = parameter.grad
        if qkv is None and skip:
            # A network without a class token, whose position comes first.
            whole[:, 1:, : grad.shape[2]] = grad
        elif qkv is None:
            whole[tuple(slice(size) for size in grad.shape)] = grad
        else:
            parts = range(3)[qkv]
            rows = grad.shape[0] // len(parts)
            for position, part in enumerate(parts):
                begin = part * (whole.shape[0] // 3)
                piece = grad[position * rows : (position + 1) * rows]
                whole[(slice(begin, begin + rows), *(slice(size) for size in piece.shape[1:]))] = piece
        found[source] = found.get(source, 0) + whole
    return found


def taught_gradients(supernet, archs, losses_of):
    """The mean of the gradients of some architectures, each trained as a network of its own."""
    total = {}
    for arch in archs:
        network = supernet.extract(arch)
        losses_of(arch, network).backward()
        for name, grad in scattered(supernet, arch, network).items():
            total[name] = total.get(name, 0) + grad / len(archs)
    return total


def gradients(task, images, labels, smoothing, step):
    for loss in task.losses(images, labels, smoothing, step):
        loss.backward()
    return {name: parameter.grad for name, parameter in task.model.named_parameters() if parameter.grad is not None}


def assert_close(found, expected):
    # What a step does not use has no gradient at all, not one of zeros: the optimiser must leave it alone.
    assert set(found) == set(expected)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-6)
    assert sum(float(grad.abs().sum()) for grad in found.values()) > 0


def smoothed(logits, labels, smoothing):
    """Cross entropy with label smoothing by its formula."""
    log_p = logits.log_softmax(dim=1)
    hard = -log_p[torch.arange(len(labels)), labels]
    return ((1 - smoothing) * hard - smoothing * log_p.mean(dim=1)).mean()


def divergence(student, teacher):
    """Kullback-Leibler divergence of a student's probabilities from a teacher's, by its formula."""
    p = teacher.softmax(dim=1)
    return (p * (p.log() - student.log_softmax(dim=1))).sum(dim=1).mean()


LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("sampling", ["uniform", "anchored", "sandwich", "macs"])
@pytest.mark.parametrize("step", [0, 5])
def test_labels(space, trained_like, images, sampling, step):
    supernet, batch = trained_like(space), images(space, n=6)
    chosen = recipe(sampling=sampling)
    archs = architectures(space, chosen, SEED, step)
    expected = taught_gradients(supernet, archs, lambda arch, network: smoothed(network(batch), LABELS, 0.1))
    assert_close(gradients(SupernetTask(model=supernet, recipe=chosen, seed=SEED), batch, LABELS, 0.1, step), expected)


@pytest.mark.parametrize("sampling", ["uniform", "anchored", "sandwich", "macs"])
@pytest.mark.parametrize("step", [0, 5])
def test_in_place_distillation(space, trained_like, images, sampling, step):
    supernet, batch = trained_like(space), images(space, n=6)
    chosen = recipe(sampling=sampling, target="inplace")
    largest = supernet.extract(space.largest)(batch).detach()
    archs = architectures(space, chosen, SEED, step)
    assert archs.count(space.largest) == 1
    assert len(archs) == (4 if sampling == "sandwich" else 2)

    def loss(arch, network):
        logits = network(batch)
        return smoothed(logits, LABELS, 0.1) if arch == space.largest else divergence(logits, largest)

    expected = taught_gradients(supernet, archs, loss)
    assert_close(gradients(SupernetTask(model=supernet, recipe=chosen, seed=SEED), batch, LABELS, 0.1, step), expected)


class Fixed(nn.Module):
    """A teacher whose logits are a linear function of the images."""

    num_classes: ClassVar[int] = 5

    def __init__(self, pixels):
        super().__init__()
        with seeded(9):
            self.linear = nn.Linear(pixels, 5)

    def forward(self, x):
        return self.linear(x.flatten(1))


@pytest.mark.parametrize("sampling", ["uniform", "anchored", "sandwich", "macs"])
@pytest.mark.parametrize("target", ["soft", "hard"])
def test_an_external_teacher(space, trained_like, images, sampling, target):
    supernet, batch = trained_like(space), images(space, n=6)
    inputs = Inputs(image_size=space.image_size, in_chans=2, mean=(0.0, 0.0), std=(1.0, 1.0))
    teacher = Teacher(name="fixed", network=Fixed(batch[0].numel()), inputs=inputs)
    chosen = recipe(sampling=sampling, target=target, teacher_weight=0.3, temperature=2.0)
    taught = teacher.network(batch).detach()
    archs = architectures(space, chosen, SEED, 3)

    def loss(arch, network):
        logits = network(batch)
        if target == "soft":
            of_teacher = divergence(logits / 2, taught / 2) * 4
        else:
            of_teacher = smoothed(logits, taught.argmax(dim=1), 0.0)
        return 0.7 * smoothed(logits, LABELS, 0.1) + 0.3 * of_teacher

    expected = taught_gradients(supernet, archs, loss)
    task = SupernetTask(model=supernet, recipe=chosen, seed=SEED, teacher=teacher, inputs=inputs)
    assert_close(gradients(task, batch, LABELS, 0.1, 3), expected)
    assert all(parameter.grad is None for parameter in teacher.network.parameters())


def test_activations_of_one_architecture_at_a_time_are_kept(space_2d, trained_like, images):
    supernet, batch = trained_like(space_2d), images(space_2d, n=6)
    task = SupernetTask(model=supernet, recipe=recipe(sampling="sandwich", target="inplace"), seed=SEED)
    kept = []

    class Saved:
        """What the backward pass will need; it dies when that is done."""

        def __init__(self, tensor):
            self.tensor = tensor
            kept.append(weakref.ref(self))

    alive = []
    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        for loss in task.losses(batch, LABELS, 0.0, 0):
            before = sum(reference() is not None for reference in kept)
            loss.backward()
            del loss
            gc.collect()
            alive.append((before > 0, sum(reference() is not None for reference in kept)))
    assert alive == [(True, 0)] * 4


# --- which architectures


def test_the_largest_is_in_every_step_where_it_is_the_anchor(space):
    for step in range(30):
        first, *others = architectures(space, recipe(sampling="anchored"), SEED, step)
        assert first == space.largest
        assert others == [one for one in [draw(space, SEED, step)] if one != space.largest]


def test_the_sandwich_is_largest_smallest_and_some_drawn(space):
    chosen = recipe(sampling="sandwich", sandwich_random=3)
    steps = [architectures(space, chosen, 0, step) for step in range(50)]
    assert all(archs[:2] == [space.largest, space.smallest] for archs in steps)
    assert all(len(archs) == 5 for archs in steps)
    drawn = [arch for archs in steps for arch in archs[2:]]
    assert all(space.contains(arch) for arch in drawn)
    assert len(set(drawn)) > 75
    assert [archs[2] for archs in steps] == [draw(space, 0, step) for step in range(50)]


@pytest.mark.parametrize("sampling", ["uniform", "anchored", "sandwich", "macs"])
def test_seed_and_step_decide(space, sampling):
    chosen = recipe(sampling=sampling)
    assert architectures(space, chosen, 3, 7) == architectures(space, chosen, 3, 7)
    steps = {tuple(architectures(space, chosen, seed, step)) for seed in range(5) for step in range(5)}
    assert len(steps) > 15


def test_macs_are_drawn_uniformly(space):
    chosen = recipe(sampling="macs")
    macs = [cost(architectures(space, chosen, 0, step)[0]).macs for step in range(500)]
    least, most = space.reach("macs")
    held = [number for number in range(BINS) if macs_bin(space, number).count]
    counts = Counter(min(BINS - 1, int((value - least) * BINS / (most + 1 - least))) for value in macs)
    # Ends of bins are whole numbers, so one on the border may be counted beside its bin.
    assert set(counts) <= set(held) | {number + 1 for number in held}
    assert chisquare([counts[number] for number in held]).pvalue > 1e-4
    # Drawing choice by choice is far from that.
    plain = [cost(draw(space, 0, step)).macs for step in range(500)]
    others = Counter(min(BINS - 1, int((value - least) * BINS / (most + 1 - least))) for value in plain)
    assert chisquare([others[number] for number in held]).pvalue < 1e-10


def test_bins_hold_every_architecture_once(space_2d):
    assert sum(macs_bin(space_2d, number).count for number in range(BINS)) == space_2d.size
    assert macs_bin(space_2d, 0).count
    assert macs_bin(space_2d, BINS - 1).count


def test_watched_are_members_in_the_order_of_their_macs(space):
    archs = watched(space)
    assert next(iter(archs)) == "smallest"
    assert list(archs)[-1] == "largest"
    assert all(space.contains(arch) for arch in archs.values())
    macs = [cost(arch).macs for arch in archs.values()]
    assert macs == sorted(macs)
    assert archs == watched(space)


def test_stochastic_depth_grows_to_the_last_layer_that_a_drawn_network_has(space, trained_like):
    supernet = trained_like(space, drop_path_rate=0.3)
    for step in range(20):
        network = supernet.structure(draw(space, 0, step))
        rates = [
            getattr(layer.drop_path1, "drop_prob", 0.0)
            for stage in network.stages
            for group in stage.groups
            for layer in group.layers
        ]
        assert rates == pytest.approx(np.linspace(0, 0.3, len(rates)).tolist() if len(rates) > 1 else [0.0])
