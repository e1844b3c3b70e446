"""How much faster two Ray workers evaluate than one, each with one thread.

    python benchmarks/ray_workers.py                                    random weights, random images
    python benchmarks/ray_workers.py --supernet RUN --data DATA         a supernet, on images held out from its training

Both sides evaluate the same populations in turns, and which one begins changes. The populations are 32 architectures
within a budget, half of them drawn uniformly and half mutants of these, so that there is something to share. Timed is
the whole of `RayEvaluator.evaluate`: cutting, sending, evaluating, collecting. Starting the workers, once a search, is
not. Beside the ratios stands what they could be at best: two workers compute twice what their parts have in common.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import ray
import torch

from psvit import Architecture, Budget, SearchSpace
from psvit.data import Batches, Decoded, Inputs, Labelled, open_data
from psvit.nn.seeding import seeded
from psvit.search.evaluator import Evaluator
from psvit.search.inherited import InheritedAccuracy
from psvit.search.prefix_tree import PrefixTree, cut
from psvit.search.ray_backend import PARTS_PER_WORKER, RayEvaluator
from psvit.supernet.provenance import read_space
from psvit.supernet.supernet import Supernet

POPULATION = 32

CPUS_PER_WORKER = 0.5
"""As resources: the worker of one side waits while those of the other work, and a machine of two cores holds all."""


def noise(space: SearchSpace, images: int, seed: int) -> tuple[Labelled, Inputs]:
    """Random images, and how they become tensors."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(256, size=(images, *space.image_size, 3), dtype=np.uint8)
    labels = rng.integers(space.num_classes, size=images)
    inputs = Inputs(image_size=space.image_size, in_chans=3, mean=(0.5,) * 3, std=(0.25,) * 3)
    return Labelled(Decoded(pixels), labels), inputs


@dataclass(frozen=True)
class Maker:
    """Makes the evaluator of a worker."""

    space: SearchSpace
    supernet: str | None
    data: str | None
    images: int | None
    batch_size: int
    seed: int

    def __call__(self) -> Evaluator:
        """An evaluator that shares prefixes and does not race."""
        if self.supernet is None or self.data is None:
            with seeded(self.seed):
                supernet = Supernet(self.space)
            images, inputs = noise(self.space, self.images or 1024, self.seed)
        else:
            supernet, data = Supernet.load(self.supernet), open_data(self.data)
            rows = np.random.default_rng([self.seed, 1]).permutation(len(data.search))[: self.images]
            images, inputs = data.search.take(np.sort(rows)), Inputs.of(data, self.space.image_size)
        return InheritedAccuracy(
            supernet, Batches(images, inputs, self.batch_size, torch.device("cpu"), order_seed=self.seed)
        )


def population(space: SearchSpace, budget: Budget, rng: np.random.Generator) -> list[Architecture]:
    """Distinct architectures, half of them mutants of the others."""
    batch = space.sample(rng, POPULATION // 2, budget)
    archs = dict.fromkeys(batch[i] for i in range(len(batch)))
    drawn = list(archs)
    while len(archs) < POPULATION:
        archs[space.mutate(drawn[int(rng.integers(len(drawn)))], rng, budget)] = None
    return list(archs)


def at_best(space: SearchSpace, archs: list[Architecture]) -> float:
    """The ratio of one worker's multiply-accumulates to those that each of two workers has at the least."""
    parts = cut(space, archs, 2 * PARTS_PER_WORKER)
    return 2 * PrefixTree(space, archs).macs / sum(PrefixTree(space, [archs[i] for i in part]).macs for part in parts)


def shown(values: list[float]) -> str:
    """Median, quartiles and range."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.3f} (quartiles {low:.3f} to {high:.3f}, from {min(values):.3f} to {max(values):.3f})"


def main() -> None:
    """Time both sides and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--supernet", help="run folder of psvit-supernet")
    parser.add_argument("--data", help="the images that it was trained on")
    parser.add_argument("--budget", default="0..30MFLOPs")
    parser.add_argument("--images", type=int, help="so many images; default: all, or 1,024 random ones")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if (options.supernet is None) != (options.data is None):
        parser.error("--supernet and --data belong together")
    space = read_space(options.supernet) if options.supernet else SearchSpace.load("psvit-2d-nano")
    budget = Budget.parse(options.budget, space=space)
    supernet = str(Path(options.supernet).resolve()) if options.supernet else None
    maker = Maker(space, supernet, options.data, options.images, options.batch_size, options.seed)
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, Ray {ray.__version__}, {os.cpu_count()} CPUs, "
        f"{space.name}, populations of {POPULATION}"
    )
    rng = np.random.default_rng(options.seed)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    bounds = []
    evaluators = {
        workers: RayEvaluator(
            maker, cut=partial(cut, space), address="ray", workers=workers, cpus_per_worker=CPUS_PER_WORKER
        )
        for workers in seconds
    }  # fmt: skip
    with evaluators[1], evaluators[2]:
        for evaluator in evaluators.values():
            # All workers load what they need; one that starts late would miss a single population.
            for _ in range(3):
                evaluator.evaluate(population(space, budget, rng))
        for number in range(options.rounds):
            archs = population(space, budget, rng)
            scores = {}
            for workers in (1, 2) if number % 2 else (2, 1):
                began = time.perf_counter()
                scores[workers] = evaluators[workers].evaluate(archs)
                seconds[workers].append(time.perf_counter() - began)
            assert scores[1] == scores[2], "scores differ between one worker and two"
            bounds.append(at_best(space, archs))
            ratio = seconds[1][-1] / seconds[2][-1]
            print(f"{seconds[1][-1]:.2f} s with one, {seconds[2][-1]:.2f} s with two: {ratio:.3f}", flush=True)
    ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
    print(f"\ntwo workers are {shown(ratios)} times as fast as one, in {options.rounds} rounds")
    print(f"by multiply-accumulates it could be {shown(bounds)}")
    sys.exit(0 if np.median(ratios) >= 1.7 else 1)


if __name__ == "__main__":
    main()
