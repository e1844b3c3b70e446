"""What a supernet's step costs beside the same step of the architecture as a network of its own.

    python benchmarks/supernet_step.py --space psvit-2d-nano --batch-size 128
    python benchmarks/supernet_step.py --space psvit-2d-nano --batch-size 128 --data CIFAR10

A step is what training does: forward, backward, clipping, AdamW, gradients dropped. The two are timed in turn on the
same images, for architectures drawn as training draws them, so that what else the machine does falls on both; times are
the processor's, of all threads together. Every architecture is new to the supernet, as in training: the time to lay out
its structure counts. It is also given alone, beside that of one that was met before. Memory is what the
forward pass keeps for the backward pass, parameters not counted. With --data, the share of an epoch's time in which
training waits for images is measured too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from psvit.arch.architecture import Architecture
from psvit.data import Inputs, open_data
from psvit.nn.seeding import seeded
from psvit.space.search_space import SearchSpace
from psvit.supernet import supernet as supernet_module
from psvit.supernet.sampling import draw
from psvit.supernet.supernet import Supernet
from psvit.supernet.train import SupernetTask
from psvit.train.recipe import SupernetRecipe
from psvit.train.training_loader import training_loader


def make_step(
    model: nn.Module, forward: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor
) -> Callable[[], dict[str, float]]:
    """A function that makes one step and says how long its parts took, in seconds."""
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-4, weight_decay=0.05, fused=True)

    def step() -> dict[str, float]:
        began = time.process_time()
        loss = F.cross_entropy(forward(images), labels)
        forwarded = time.process_time()
        loss.backward()
        backwarded = time.process_time()
        used = [parameter for parameter in model.parameters() if parameter.grad is not None]
        nn.utils.clip_grad_norm_(used, 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad()
        ended = time.process_time()
        return {
            "forward": forwarded - began,
            "backward": backwarded - forwarded,
            "optimiser": ended - backwarded,
            "step": ended - began,
        }

    return step


def kept_bytes(model: nn.Module, forward: Callable[[Tensor], Tensor], images: Tensor) -> int:
    """Bytes of the storages that a forward pass keeps, without those of parameters."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = forward(images)
    del logits
    return sum(storages.values())


def layout_seconds(supernet: Supernet, arch: Architecture, repeats: int) -> tuple[float, float]:
    """How long structure and slices of an architecture take: new to the supernet, and met before."""
    times: list[list[float]] = [[], []]
    for repeat in range(2 * repeats):
        if repeat % 2 == 0:
            supernet_module._member.cache_clear()
        began = time.process_time()
        supernet.structure(arch)
        supernet.slices(arch)
        times[repeat % 2].append(time.process_time() - began)
    return median(times[0]), median(times[1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="psvit-2d-nano")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--archs", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", help="images whose preparation is waited for")
    parser.add_argument("--steps", type=int, default=40, help="steps that are made on them")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    space = SearchSpace.load(options.space).with_data(10, 3)
    if options.data:
        wait(options, space)
        return
    with seeded(options.seed):
        supernet = Supernet(space).train()
        images = torch.randn(options.batch_size, space.in_chans, *space.image_size)
        labels = torch.randint(space.num_classes, (options.batch_size,))
    ratios: dict[str, list[float]] = {}
    memory = []
    layouts = []
    for number in range(options.archs):
        arch = draw(space, options.seed, number)
        network = supernet.extract(arch)

        def sliced(batch: Tensor, arch: Architecture = arch) -> Tensor:
            supernet_module._member.cache_clear()
            return supernet(batch, arch)

        steps = [make_step(supernet, sliced, images, labels), make_step(network, network, images, labels)]
        times: list[list[dict[str, float]]] = [[], []]
        for repeat in range(options.repeats + 1):
            for which in (0, 1) if repeat % 2 else (1, 0):
                found = steps[which]()
                if repeat:  # the first one makes the optimiser's state
                    times[which].append(found)
        layouts.append(layout_seconds(supernet, arch, options.repeats))
        memory.append(kept_bytes(supernet, sliced, images) / kept_bytes(network, network, images))
        for part in times[0][0]:
            here, alone = (median(found[part] for found in side) for side in times)
            ratios.setdefault(part, []).append(here / alone)
        last = {part: f"{1e3 * median(found[part] for found in times[0]):.1f}" for part in times[0][0]}
        print(f"{number}: {ratios['step'][-1]:.3f} {last} ms, memory {memory[-1]:.3f}", flush=True)
    for part, values in ratios.items():
        ordered = sorted(values)
        print(f"{part}: median {median(values):.3f}, least {ordered[0]:.3f}, most {ordered[-1]:.3f}")
    new, met = (1e3 * median(values) for values in zip(*layouts, strict=True))
    print(f"structure and slices: {new:.2f} ms of a new architecture, {met:.2f} ms of one met before")
    print(f"memory kept for the backward pass: median {median(memory):.3f}, most {max(memory):.3f}")


def wait(options: argparse.Namespace, space: SearchSpace) -> None:
    """The share of time in which steps on real images wait for them."""
    data = open_data(options.data)
    recipe = SupernetRecipe.load("supernet-cifar").override({"batch_size": options.batch_size})
    inputs = Inputs.of(data, space.image_size)
    with seeded(options.seed):
        supernet = Supernet(space.with_data(len(data.classes), data.in_chans)).train()
    task = SupernetTask(model=supernet, recipe=recipe, seed=options.seed)
    optimizer = create_optimizer_v2(supernet, "adamw", lr=1e-4, weight_decay=0.05, fused=True)
    batches = training_loader(data.train, inputs, recipe).batches(options.seed, 0)
    waited = []
    steps = []
    for step in range(options.steps):
        began = time.perf_counter()
        images, labels = next(batches)
        waited.append(time.perf_counter() - began)
        for loss in task.losses(images, labels, recipe.smoothing, step):
            loss.backward()
        nn.utils.clip_grad_norm_(supernet.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad()
        steps.append(time.perf_counter() - began)
    # The first batch is waited for while processes start.
    share = sum(waited[1:]) / sum(steps[1:])
    print(f"{inputs.workers} processes prepare images; first batch after {waited[0]:.2f} s")
    rate = options.batch_size * (len(steps) - 1) / sum(steps[1:])
    print(f"{rate:.0f} images/s, median step {1e3 * median(steps[1:]):.0f} ms, waiting {share:.2%}")


if __name__ == "__main__":
    main()
