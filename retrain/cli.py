"""`psvit-retrain`: train found networks on their own and report what they are worth."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from psvit.cli import (
    DATA_HELP,
    read_keeping,
    read_settings,
    recipe_options,
    run,
    run_options,
    set_up_logging,
    show_table,
    training_options,
)
from psvit.errors import InputError, RunError

if TYPE_CHECKING:
    from psvit.arch.architecture import ArchitectureFile


@click.command(name="psvit-retrain", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("architectures", metavar="ARCHITECTURE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--data", required=True, help=DATA_HELP)
@click.option(
    "--inherit", is_flag=True, help="Start from the supernet's weights beside ARCHITECTURE, not from scratch."
)
@click.option(
    "--compare",
    is_flag=True,
    help="Train it the other way too, as long and with the same seed, to report inherited, fine-tuned and from-scratch "
    "accuracy side by side.",
)
@click.option("--workers", default=None, help="Train several networks at once on a Ray cluster: ray.")
@recipe_options("the network")
@training_options
@run_options
def command(
    architectures: tuple[Path, ...],
    data: str,
    inherit: bool,
    compare: bool,
    workers: str | None,
    recipe: str | None,
    settings: tuple[str, ...],
    teacher_name: str | None,
    teacher_weights: Path | None,
    checkpoint_every: str,
    number: int,
    seed: int,
    out: Path | None,
    device: str | None,
    verbose: bool,
) -> None:
    """Train the network of an architecture file, such as the best.yaml of a search, on all training images.

    Validation images are looked at once, after the last epoch. FLOPs are multiply-accumulates. Of several files, such
    as pareto/*.yaml, each is trained in a folder of its own within the run's, and none that is finished again. Several
    processes train together when torchrun starts them, see psvit-supernet.
    """
    set_up_logging(verbose)
    from psvit.arch.architecture import ArchitectureFile

    if workers not in (None, "ray"):
        raise InputError(
            f"--workers {workers!r}: permitted is ray, which joins the cluster of RAY_ADDRESS or starts one"
        )
    if workers and (target := os.environ.get("RAY_ADDRESS", "")).startswith("ray://"):
        raise InputError(f"--workers ray: RAY_ADDRESS is {target}; join the cluster on one of its nodes, as auto")
    if teacher_weights and not teacher_name:
        raise InputError(f"--teacher-weights {teacher_weights}: of which network? name it with --teacher")
    from psvit.train.choices import choose_device, choose_recipe

    values = read_settings(settings)
    found = [ArchitectureFile.load(file) for file in architectures]
    recipes = [
        choose_recipe(
            recipe,
            values,
            min(one.arch.image_size),
            supernet=False,
            teacher=bool(teacher_name),
            inherited=inherit,
        )
        for one in found
    ]
    keeping = read_keeping(checkpoint_every, number)
    from psvit.data import open_data
    from psvit.executors.choose_executor import executor_for
    from psvit.executors.executor import Portable
    from psvit.io.run_folder import RunFolder, default_folder
    from psvit.retrain.several import COMMAND, Network, Retraining, named, open_teacher
    from psvit.train.distributed import joined

    place = choose_device(device)
    with joined(place) as world:
        if workers and world.size > 1:
            raise InputError("--workers ray: give it to one process, not to those of torchrun")
        images = Portable(partial(open_data, data))
        teacher = None
        if teacher_name:
            size = found[0].arch.image_size
            teacher = Portable(partial(open_teacher, teacher_name, teacher_weights, images, size))
        retraining = Retraining(
            images=images,
            teacher=teacher,
            inherit=inherit,
            compare=compare,
            seed=seed,
            device=str(place),
            keeping=keeping,
            world=world,
        )
        single = len(architectures) == 1
        names = named(architectures)
        networks = [
            Network(name=name, file=file, found=one, recipe=chosen, folder=Path(name))
            for name, file, one, chosen in zip(names, architectures, found, recipes, strict=True)
        ]
        with world.first_goes_ahead():  # images and weights may have to be fetched
            configs = [retraining.config(network) for network in networks]
        config: dict[str, Any] = configs[0] if single else {"networks": dict(zip(names, configs, strict=True))}
        path = out or default_folder("retrain", config)
        networks = [
            replace(network, config=one, folder=path if single else path / network.name)
            for network, one in zip(networks, configs, strict=True)
        ]
        held = []

        def begin() -> None:
            # Held until the end, so that no other run is at work in it.
            held.append(RunFolder(path, COMMAND, config))
            click.echo(f"run: {path}")

        world.first_alone(begin)
        if single:
            result = retraining(networks[0])
            if world.is_first:
                _report(result, path)
            return
        # What is finished is returned as it is, for which nothing is begun on a cluster.
        wanted = [network for network in networks if network.result is None] if workers else networks
        outcomes = executor_for(workers, place).run(retraining, wanted)
        failures = {network.name: outcome.failure for network, outcome in outcomes if outcome.failure}
        if world.is_first:
            _report_several(networks, path, failures)
        elif failures:
            raise RunError("not all networks could be trained")


def _report(result: ArchitectureFile, folder: Path) -> None:
    """Print what a network is worth, and how to go on."""
    from psvit.arch.costs import cost
    from psvit.classifier import NETWORK_FILE
    from psvit.space.budget import format_cost
    from psvit.train.accuracies import LABELS, accuracies

    show_table(
        f"top-1 on {result.score['images']:,} validation images",
        [(LABELS[key], f"{value:.2f} %") for key, value in accuracies(result).items()],
    )
    price = cost(result.arch)
    click.echo(
        f"trained {format_cost('macs', price.macs)}, {format_cost('num_params', price.num_params)}, "
        f"top-1 {result.score['value']:.2f} %: {folder / NETWORK_FILE}; "
        f"next: psvit-export {quote(str(folder))} --to onnx"
    )


def _report_several(networks: list[Any], path: Path, failures: dict[str, str]) -> None:
    """Print what several networks cost and are worth.

    Raises:
        RunError: some could not be trained.
    """
    from psvit.retrain.several import TABLE_FILE, write_table
    from psvit.space.budget import format_cost
    from psvit.train.accuracies import LABELS

    rows = write_table(networks, path / TABLE_FILE)
    known = [key for key in LABELS if any(key in row for row in rows)]
    show_table(
        "top-1 on the validation images",
        [
            (
                row["network"],
                *(format_cost(key, row[key]) for key in ("macs", "num_params")),
                *(f"{row[key]:.2f} %" if key in row else "-" for key in known),
            )
            for row in rows
        ],
        ("network", "MACs", "parameters", *(key.replace("_", " ") for key in known)),
    )
    if failures:
        reasons = "; ".join(f"{name}: {why}" for name, why in failures.items())
        raise RunError(f"{len(failures)} of {len(networks)} networks were not trained: {reasons}")
    click.echo(
        f"trained {len(rows)} networks: {path / TABLE_FILE}; next: psvit-export {quote(str(path))}/NETWORK --to onnx"
    )


def main() -> None:
    """Entry point of `psvit-retrain`."""
    run(command)
