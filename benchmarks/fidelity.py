"""Compares supernets by how truly they rank: the same networks, trained alone once, against the scores of each.

    python benchmarks/fidelity.py runs/uniform runs/sandwich --data torch/cifar10 --budget 23MFLOPs --out runs/rules

The supernets are of one space and were trained on the same images, each by a rule of its own, for equal time. Networks
are drawn and trained as by `psvit-fidelity`, whose fidelity.yaml this leaves beside every supernet; --images and
--epochs make that shorter. Differences from the first supernet's tau come from a paired bootstrap: the same resamples
of the same networks for both. Name the simplest rule first; one whose interval holds zero cannot be told from it.

The same line continues an interrupted run; larger numbers of networks, and further supernets, add to it. It ends with
Markdown tables.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

import numpy as np
from command_line import at_least, chosen_recipe, run_script

from psvit.data import open_data
from psvit.errors import InputError
from psvit.executors.choose_executor import check_workers
from psvit.io.run_folder import RunFolder
from psvit.search.fidelity.formatting import name_of, row, value_and_interval
from psvit.search.fidelity.measures import MeasuredNetwork, advantage
from psvit.search.fidelity.record import INHERITED, Fidelity
from psvit.search.fidelity.run import train_and_compare
from psvit.search.fidelity.trainings import Trainings, check_numbers
from psvit.search.spaces import choose_space
from psvit.supernet.provenance import read_provenance, supernet_digest
from psvit.train.choices import choose_device


def taus(names: list[str], fidelities: list[Fidelity]) -> None:
    """Print what each supernet's scores are worth."""
    print("| supernet | tau | 95 % | rho | 95 % | regret | inherited minus standalone | tau over the range |")
    print("|---|---|---|---|---|---|---|---|")
    for name, fidelity in zip(names, fidelities, strict=True):
        one = fidelity.within.agreement(INHERITED)
        far = fidelity.spread.agreement(INHERITED).kendall_tau if fidelity.spread else None
        gap, _ = value_and_interval(fidelity.within.gap)
        print(f"| {name} | {' | '.join(row(one)[1:])} | {gap} | {value_and_interval(far)[0]} |")


def without_supernets(fidelity: Fidelity) -> None:
    """Print what the ceiling is, and what can be had without a supernet; the same for all of them."""
    print("\n| without a supernet | networks | tau | 95 % | above MACs | 95 % |\n|---|---|---|---|---|---|")
    within = fidelity.within
    for one in (*within.agreements[1:], *([within.ceiling] if within.ceiling else [])):
        cells = (*value_and_interval(one.kendall_tau), *value_and_interval(one.above_macs))
        print(f"| {name_of(one.score)} | {one.networks} | {' | '.join(cells)} |")
    if within.seed_std is not None:
        print(f"\nstandard deviation of a training over seeds: {within.seed_std:.2f} points")


def differences(names: list[str], measured: list[list[MeasuredNetwork]]) -> None:
    """Print by how much each supernet's tau exceeds the first's, on the networks around the budget."""
    print(f"\n| tau within the budget, minus that of {names[0]} | difference | 95 % |\n|---|---|---|")
    near = [[network for network in networks if network.is_within] for networks in measured]
    accuracies = floats([network.standalone for network in near[0]])
    scores = [floats([network.scores[INHERITED] for network in networks]) for networks in near]
    known = np.isfinite(accuracies) & np.isfinite(scores).all(axis=0)
    for name, score in zip(names[1:], scores[1:], strict=True):
        difference = advantage(score[known], scores[0][known], accuracies[known])
        print(f"| {name} | {' | '.join(value_and_interval(difference))} |")


def floats(values: list[float | None]) -> np.ndarray:
    """Numbers, not a number where there is none."""
    return np.array([np.nan if value is None else value for value in values])


def rule(supernet: str) -> str:
    """How a supernet was trained, for a table."""
    recipe = read_provenance(supernet)["recipe"]
    return f"{recipe.get('sampling', 'uniform')}, {recipe['target']}, {recipe['epochs']} epochs ({supernet})"


def main() -> None:
    """Train and score what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("supernets", nargs="+", help="run folders of psvit-supernet, the simplest rule's first")
    parser.add_argument("--data", required=True, help="the images that they were trained on")
    parser.add_argument("--budget", action="append", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--within", type=at_least(2), default=30)
    parser.add_argument("--spread", type=at_least(0), default=15)
    parser.add_argument("--second-seeds", type=at_least(0), help="default: 10, all where there are fewer")
    parser.add_argument("--images", type=at_least(2), help="train on so many of the training images; default: all")
    parser.add_argument("--recipe", help="of each network; default: by the size of the images")
    parser.add_argument(
        "--epochs", type=at_least(1), help="in place of the recipe's; with less warm-up where that is as long"
    )
    parser.add_argument("--workers", help="train on a Ray cluster: ray, or ray://host:port")
    parser.add_argument("--device", help="where to compute; default: cuda where there is one")
    parser.add_argument("--seed", type=at_least(0), default=0)
    options = parser.parse_args()
    run_script(parser, run, options)


def run(options: argparse.Namespace) -> None:
    """Everything, as the options say."""
    trainings = read_trainings(options)
    folder = RunFolder(options.out, "fidelity", trainings.config)
    command = shlex.join(["python", *sys.argv])
    measured = [
        train_and_compare(trainings, supernet, folder / supernet_digest(supernet), command, trained_in=folder.path)
        for supernet in options.supernets
    ]
    names = [rule(supernet) for supernet in options.supernets]
    fidelities = [one.fidelity for one in measured]
    print(
        f"\n{len(trainings.networks.within)} networks within {trainings.limits}, "
        f"trained for {trainings.recipe.epochs} epochs\n"
    )
    taus(names, fidelities)
    without_supernets(fidelities[0])
    if len(names) > 1:
        differences(names, [one.networks for one in measured])


def read_trainings(options: argparse.Namespace) -> Trainings:
    """The trainings that all supernets are compared on; whatever can be wrong with them is found out here.

    Raises:
        InputError: something is.
    """
    device = choose_device(options.device)
    check_workers(options.workers)
    second_seeds = check_numbers(options.within, options.spread, options.second_seeds)
    data = open_data(options.data)
    budget = tuple(options.budget)
    spaces = [choose_space(None, supernet, data, budget) for supernet in options.supernets]
    if any(space != spaces[0] for space in spaces):
        raise InputError("the supernets are of different spaces; only those of one can be compared")
    space = spaces[0]
    recipe = chosen_recipe(options.recipe, options.epochs, space)
    return Trainings(
        space=space,
        data=data,
        budget=budget,
        recipe=recipe,
        images=options.images,
        seed=options.seed,
        device=device,
        within=options.within,
        spread=options.spread,
        second_seeds=second_seeds,
        workers=options.workers,
    )


if __name__ == "__main__":
    main()
