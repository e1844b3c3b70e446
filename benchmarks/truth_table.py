"""The truth table: small networks trained alone on CIFAR-10, in a CSV file that grows with every call.

    python benchmarks/truth_table.py train --data CIFAR10 --hours 2      trains what has no row yet
    python benchmarks/truth_table.py supernet --data CIFAR10 --drawn budget --epochs 24
                                                                         trains a supernet, scores networks with it
    python benchmarks/truth_table.py tune --data CIFAR10 --supernet runs/truth/supernet-budget-5000000-0-24
                                                                         trains them shortly from its weights
    python benchmarks/truth_table.py look --data CIFAR10                 trains all for an epoch with less warm-up
    python benchmarks/truth_table.py figures                             says what the rows so far say
    python benchmarks/truth_table.py prior                               fits the prior of searches on the rows so far
    python benchmarks/truth_table.py favourite --data CIFAR10            trains what a fit on 5 MFLOPs prefers at 10
    python benchmarks/truth_table.py pilot --data CIFAR10                chose the learning rate, before the first row
    python benchmarks/truth_table.py draw                                drew the networks, before the first row

CIFAR10 is a folder with `train/<class>/` and `val/<class>/`, or `torch/cifar10`. Two networks are trained at a time,
with one thread each. Calls may be killed and repeated, and rows of different machines add up.
`benchmarks/truth/README.md` says what was decided beforehand.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import Any

from command_line import at_least, run_script
from truth import networks, pilot, rows
from truth.networks import FOLDER, Network

from psvit.train.recipe import Recipe
from psvit.train.training_job import TrainingJob

ROWS_FILE = FOLDER / "rows.csv"
PILOT_FILE = FOLDER / "pilot.csv"
FAVOURITES_FILE = FOLDER / "favourites.csv"
LOOKS_FILE = FOLDER / "looks.csv"
RECIPE_FILE = FOLDER / "recipe.yaml"


def main() -> None:
    """Do what the first word says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    trainings = {"train": train, "pilot": run_pilot, "tune": tune, "favourite": train_favourite, "look": look}
    for name, action in trainings.items():
        one = actions.add_parser(name, help=(action.__doc__ or "").splitlines()[0])
        one.set_defaults(action=action)
        one.add_argument("--data", required=True, help="the images")
        one.add_argument("--hours", type=float, default=2.0, help="begin no training that would end later")
        one.add_argument("--jobs", type=at_least(1), default=2, help="trainings at a time")
        one.add_argument("--device", default="cpu")
        one.add_argument("--work", type=Path, default=Path("runs/truth"), help="what unfinished trainings need")
        one.add_argument("--table", type=Path, help="file of the rows; default: the committed one")
        if action in (train, look):
            one.add_argument("--macs", type=int, help="only networks of this budget; default: all, in order")
        if action is train_favourite:
            one.add_argument("--macs", type=int, default=10_000_000, help="the budget")
            one.add_argument("--seeds", type=at_least(1), default=1, help="trainings with other seeds")
        if action is tune:
            one.add_argument("--supernet", type=Path, required=True, help="folder of a supernet of the table")
            one.add_argument("--epochs", type=at_least(1), default=3)
    shared = actions.add_parser("supernet", help=(run_supernet.__doc__ or "").splitlines()[0])
    shared.set_defaults(action=run_supernet)
    shared.add_argument("--data", required=True, help="the images")
    shared.add_argument("--drawn", default="uniform", choices=("uniform", "budget"), help="what its training draws")
    shared.add_argument("--macs", type=int, default=5_000_000, help="the budget")
    shared.add_argument("--seed", type=int, default=0)
    shared.add_argument("--epochs", type=at_least(1), required=True)
    shared.add_argument("--work", type=Path, default=Path("runs/truth"), help="folder of the supernet")
    shared.add_argument("--inherited", type=Path, help="file of the scores; default: the committed one")
    shown = actions.add_parser("figures", help=(figures.__doc__ or "").splitlines()[0])
    shown.set_defaults(action=figures)
    shown.add_argument("--table", type=Path, help="file of the rows; default: the committed one")
    shown.add_argument("--inherited", type=Path, help="file of inherited scores; default: the committed one")
    fitted = actions.add_parser("prior", help=(prior.__doc__ or "").splitlines()[0])
    fitted.set_defaults(action=prior)
    fitted.add_argument("--table", type=Path, help="file of the rows; default: the committed one")
    actions.add_parser("draw", help=(draw.__doc__ or "").splitlines()[0]).set_defaults(action=draw)
    options = parser.parse_args()
    run_script(parser, options.action, options)


def train(options: argparse.Namespace) -> None:
    """Train networks that have no row yet, and add their rows."""
    recipe = Recipe.load(RECIPE_FILE)
    wanted = [
        networks.job_of(network, recipe, seed)
        for network, seed in networks.trainings(networks.load())
        if options.macs in (None, network.macs)
    ]
    _run(wanted, options, options.table or ROWS_FILE)


def tune(options: argparse.Namespace) -> None:
    """Train networks shortly from a supernet's weights, and add their rows."""
    from truth import supernets

    wanted = supernets.tunings(networks.load(), Recipe.load(RECIPE_FILE), options.supernet, options.epochs)
    _run(wanted, options, options.table or ROWS_FILE, initial=partial(supernets.inherited, options.supernet))


def train_favourite(options: argparse.Namespace) -> None:
    """Train the network that a fit on the rows of the other budgets prefers, and add its rows."""
    from truth import regression
    from truth.entries import entries

    recipe = Recipe.load(RECIPE_FILE)
    network = regression.favourite(entries(rows.read(ROWS_FILE), recipe.digest), options.macs)
    wanted = [networks.job_of(network, recipe, seed) for seed in range(options.seeds)]
    _run(wanted, options, options.table or FAVOURITES_FILE, [network])


def look(options: argparse.Namespace) -> None:
    """Train all networks for an epoch, with a shorter warm-up than the table's recipe has."""
    from truth import looks

    listed = [network for network in networks.load() if options.macs in (None, network.macs)]
    for warmup in looks.WARMUPS:
        _run(looks.jobs(listed, Recipe.load(RECIPE_FILE), warmup), options, options.table or LOOKS_FILE)


def run_pilot(options: argparse.Namespace) -> None:
    """Train the networks of the pilot, and say which learning rate is best."""
    table = options.table or PILOT_FILE
    listed, recipe = networks.load(), Recipe.load(RECIPE_FILE)
    for _ in pilot.SEEDS:
        _run(pilot.trainings(listed, recipe, rows.read(table)), options, table)
    found = rows.read(table)
    for lr, accuracy in pilot.mean_accuracies(found).items():
        print(f"lr {lr:g}: {accuracy:.2f} % on the search images")
    print(f"best: {pilot.best_rate(found):g}")


def run_supernet(options: argparse.Namespace) -> None:
    """Train a supernet, and score the table's networks of a budget with its weights."""
    os.environ["OMP_NUM_THREADS"] = "1"
    from truth import supernets

    supernets.measure(
        networks.load(),
        options.data,
        drawn=options.drawn,
        macs=options.macs,
        seed=options.seed,
        epochs=options.epochs,
        work=options.work,
        path=options.inherited or supernets.FILE,
    )


def figures(options: argparse.Namespace) -> None:
    """Print what the rows so far say, as Markdown."""
    from truth import supernets
    from truth.figures import report

    scores, table = options.inherited or supernets.FILE, options.table or ROWS_FILE
    print(report(rows.read(table), Recipe.load(RECIPE_FILE), scores, rows.read(LOOKS_FILE)))


def prior(options: argparse.Namespace) -> None:
    """Print the weights of `psvit.search.prior`, fitted on the rows so far."""
    from truth import regression
    from truth.entries import entries

    known = rows.read(options.table or ROWS_FILE)
    weights = regression.prior(entries(known, Recipe.load(RECIPE_FILE).digest))
    print(f"ROWS = {len(known)}")
    for name, weight in weights.items():
        print(f'    "{name}": {weight:g},')


def draw(options: argparse.Namespace) -> None:
    """Draw the networks anew; the same at every call."""
    networks.save(networks.draw())


def _run(
    wanted: list[TrainingJob],
    options: argparse.Namespace,
    table: Path,
    listed: list[Network] | None = None,
    **how: Any,
) -> None:
    """Train what has no row; `listed` are its networks, by default those of the table, and `how` is for the runner."""
    # One thread a training: before PyTorch is loaded, here and in the processes that train.
    os.environ["OMP_NUM_THREADS"] = "1"
    from truth.runner import run
    from truth.training import runner_of

    runner = runner_of(options.data, options.device, options.work, listed or networks.load(), **how)
    left = run(wanted, runner, table, options.jobs, options.hours)
    print(f"{left} trainings are still without rows")


if __name__ == "__main__":
    main()
