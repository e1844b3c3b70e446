"""What scoring a search's candidates takes: one at a time, along the prefix tree, and raced as well.

    python benchmarks/scoring.py --supernet runs/supernet --data CIFAR10 --budget 23MFLOPs --out runs/scoring

The candidates are those of an evolution: generations of 32, the first drawn uniformly, in the others half mutants and
half children of the ten best so far, by their accuracy on all images. Every generation is scored three times over, on
the same images in the same batches, by the three sides in turn, and which side begins changes from generation to
generation. "One at a time" is the same code with sharing switched off, with slices taken once a generation too.

The same line continues an interrupted run. It ends with a Markdown table, and with status 1 where the sides disagree:
scores with sharing have to be equal to the last digit, and winner and ten best of all candidates the same three times.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from psvit import Budget, SearchSpace
from psvit.arch.architecture import Architecture
from psvit.data import Batches, Inputs, open_data
from psvit.io.journal import Journal
from psvit.search.inherited import InheritedAccuracy
from psvit.search.prefix_tree import PrefixTree
from psvit.search.racing import Race
from psvit.supernet.provenance import read_space, supernet_digest
from psvit.supernet.supernet import Supernet

GENERATION = 32
PARENTS = 10
SPENT = 0.9
"""Candidates cost at least this part of the budget, as in a search."""

SIDES = ("alone", "shared", "raced")
NAMES = {"alone": "one at a time", "shared": "prefixes shared", "raced": "prefixes shared, raced"}


def generation(
    space: SearchSpace, budget: Budget, scored: list[tuple[float, Architecture]], seed: int
) -> list[Architecture]:
    """The next generation: like the search's evolution, from all that was scored so far."""
    rng = np.random.default_rng([seed, len(scored)])
    seen = {arch for _, arch in scored}
    parents = [arch for _, arch in sorted(scored, key=lambda pair: -pair[0])[:PARENTS]]
    bred: list[Architecture] = []
    attempts = 0
    while len(bred) < GENERATION:
        attempts += 1
        if not parents or attempts > 20 * GENERATION:
            child = space.sample(rng, 1, budget)[0]
        else:
            one, other = (parents[i] for i in rng.integers(len(parents), size=2))
            is_mutant = len(bred) % 2 == 0
            child = space.mutate(one, rng, budget) if is_mutant else space.crossover(one, other, rng, budget)
        if child not in seen:
            seen.add(child)
            bred.append(child)
    return bred


def best_of(records: list[dict[str, Any]], side: str, n: int) -> list[tuple[float, int]]:
    """The `n` best of those that a side scored on all images: values, and numbers of the candidates."""
    scores = [score for record in records for score in record["scores"][side]]
    numbered = [(value, number) for number, (value, _, state) in enumerate(scores) if state == "complete"]
    return sorted(numbered, key=lambda pair: (-pair[0], pair[1]))[:n]


def spread(values: list[float]) -> str:
    """Median and quartiles."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def report(records: list[dict[str, Any]], num_images: int) -> bool:
    """Print the table; returns whether the three sides agree."""
    alone = [record["seconds"]["alone"] for record in records]
    print(f"\n{len(records)} generations of {GENERATION} candidates on {num_images} images\n")
    print("| scoring | seconds a candidate | time, of one at a time: all | by generation | images a candidate | left |")
    print("|---|---|---|---|---|---|")
    for side in SIDES:
        seconds = [record["seconds"][side] for record in records]
        ratios = [mine / theirs for mine, theirs in zip(seconds, alone, strict=True)]
        scores = [score for record in records for score in record["scores"][side]]
        images = np.mean([images for _, images, _ in scores])
        left = np.mean([state == "raced" for _, _, state in scores])
        print(
            f"| {NAMES[side]} | {sum(seconds) / len(scores):.3f} | {sum(seconds) / sum(alone):.3f} "
            f"| {spread(ratios)} | {images:.0f} | {left:.0%} |"
        )
    macs = [record["macs"] / record["total_macs"] for record in records]
    print(f"\ndistinct steps' share of multiply-accumulates, by generation: {spread(macs)}")
    is_equal = all(record["scores"]["alone"] == record["scores"]["shared"] for record in records)
    bests = {side: best_of(records, side, PARENTS) for side in SIDES}
    is_same_winner = len({bests[side][0] for side in SIDES}) == 1
    is_same_ten = bests["alone"] == bests["shared"] == bests["raced"]
    print(f"scores with and without sharing equal to the last digit: {'yes' if is_equal else 'NO'}")
    print(f"same winner: {'yes' if is_same_winner else 'NO'}; same ten best: {'yes' if is_same_ten else 'NO'}")
    print("ten best: " + ", ".join(f"{value:.2f}" for value, _ in bests["alone"]))
    return is_equal and is_same_winner and is_same_ten


def main() -> None:
    """Score what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--supernet", required=True, help="run folder of psvit-supernet")
    parser.add_argument("--data", required=True, help="the images that it was trained on")
    parser.add_argument("--budget", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, help="so many of the held-out images, drawn by the seed; default: all")
    parser.add_argument("--candidates", type=int, default=1000, help="rounded up to whole generations")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--delta", type=float, default=0.05, help="of the race")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    space = read_space(options.supernet)
    budget = Budget.parse(options.budget, space=space).spent(SPENT)
    data = open_data(options.data)
    rows = np.random.default_rng([options.seed, 1]).permutation(len(data.search))[: options.images]
    batches = Batches(
        data.search.take(np.sort(rows)), Inputs.of(data, space.image_size), options.batch_size,
        torch.device("cpu"), order_seed=options.seed,
    )  # fmt: skip
    supernet = Supernet.load(options.supernet)
    race = Race(keep=PARENTS, delta=options.delta)
    sides = {
        "alone": InheritedAccuracy(supernet, batches, share_prefixes=False),
        "shared": InheritedAccuracy(supernet, batches),
        "raced": InheritedAccuracy(supernet, batches, race=race),
    }
    config = {
        "supernet": supernet_digest(options.supernet), "budget": options.budget, "images": batches.num_images,
        "batch_size": options.batch_size, "delta": options.delta, "seed": options.seed,
        "threads": torch.get_num_threads(), "torch": torch.__version__,
    }  # fmt: skip
    journal = Journal(options.out / "scoring.journal", config)
    for evaluator in sides.values():
        # Images are decoded, and kernels chosen, when they are first needed.
        evaluator.evaluate([space.smallest, space.largest])
    scored: list[tuple[float, Architecture]] = []
    for number in range(-(-options.candidates // GENERATION)):
        if number < len(journal.records):
            archs = [space[index] for index in journal.records[number]["archs"]]
        else:
            archs = generation(space, budget, scored, options.seed)
            best = sorted((value for value, _ in scored), reverse=True)[:PARENTS]
            record: dict[str, Any] = {"archs": [space.index(arch) for arch in archs], "seconds": {}, "scores": {}}
            for turn in range(len(SIDES)):
                side = SIDES[(number + turn) % len(SIDES)]
                began = time.perf_counter()
                scores = sides[side].evaluate(archs, best)
                record["seconds"][side] = time.perf_counter() - began
                record["scores"][side] = [[score.value, score.images, score.state] for score in scores]
            tree = PrefixTree(space, archs)
            record |= {"macs": tree.macs, "total_macs": tree.total_macs}
            journal.add(record)
            seconds = ", ".join(f"{side} {record['seconds'][side]:.2f} s" for side in SIDES)
            print(f"generation {number + 1}: {seconds}; best {max(best, default=0):.2f}", flush=True)
        values = [value for value, _, _ in journal.records[number]["scores"]["alone"]]
        scored += [(value, arch) for value, arch in zip(values, archs, strict=True) if value is not None]
    sys.exit(0 if report(journal.records, batches.num_images) else 1)


if __name__ == "__main__":
    main()
