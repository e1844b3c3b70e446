"""`psvit-retrain`: train found networks on their own and report what they are worth."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import click

from psvit.cli import (
    DATA_HELP,
    Command,
    is_first_process,
    read_duration,
    read_settings,
    recipe_options,
    run,
    run_options,
    set_up_logging,
    show_table,
    training_options,
)
from psvit.errors import RunError

if TYPE_CHECKING:
    from psvit.retrain.result import RetrainedNetwork


@click.command(
    cls=Command,
    name="psvit-retrain",
    groups={
        "What is trained, and on what": ("data", "inherit", "compare", "other_classes"),
        "How it is trained": ("recipe", "settings", "teacher_name", "teacher_weights"),
    },
    examples=(
        "psvit-retrain runs/search/best.yaml --data images",
        "psvit-retrain runs/search/pareto/*.yaml --data images --set epochs=100",
    ),
)
@click.argument("architectures", metavar="ARCHITECTURE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--data", required=True, help=DATA_HELP)
@click.option(
    "--inherit/--from-scratch",
    "inherit",
    default=None,
    help="Begin with the weights beside ARCHITECTURE, or with random weights.  [default: from scratch; if a search "
    "with --init found the network, inherit]",
)
@click.option(
    "--compare",
    is_flag=True,
    help="Train it both ways, as long and with the same seed, to compare the inherited, fine-tuned and from-scratch "
    "accuracies.",
)
@click.option(
    "--other-classes",
    is_flag=True,
    help="Permit images of other classes or channels than those that ARCHITECTURE was found for.",
)
@click.option(
    "--workers",
    default=None,
    help="Train several networks at once on a Ray cluster: ray. With ray:gpus=0.25, four networks share a GPU.",
)
@recipe_options("the network")
@training_options
@run_options
def command(
    architectures: tuple[Path, ...],
    data: str,
    inherit: bool | None,
    compare: bool,
    other_classes: bool,
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
    """Train a network on all training images.

    ARCHITECTURE is a file such as the best.yaml of a search, or the run of a search. Several files, such as
    pareto/*.yaml, are trained one after the other, each in a folder of its own within the run; finished ones are not
    trained again.

    Validation images are used once, after the last epoch. report.html shows which classes the network confuses. FLOPs
    are multiply-accumulates. Several processes train one network together if torchrun starts them, see psvit-supernet.
    """
    set_up_logging(verbose)
    from psvit.retrain.run import retrain_networks

    trained = retrain_networks(
        architectures,
        data,
        recipe=recipe,
        settings=read_settings(settings),
        inherit=inherit,
        compare=compare,
        other_classes=other_classes,
        teacher=teacher_name,
        teacher_weights=teacher_weights,
        workers=workers,
        out=out,
        seed=seed,
        device=device,
        checkpoint_seconds=read_duration("--checkpoint-every", checkpoint_every),
        keep=number,
    )
    if is_first_process() and len(architectures) == 1:
        _report(trained[0])
    elif is_first_process():
        show_table("top-1 on the validation images", trained.rows, trained.header)
    if trained.failures:
        reasons = "; ".join(f"{name}: {why}" for name, why in trained.failures.items())
        raise RunError(f"{len(trained.failures)} of {len(architectures)} networks were not trained: {reasons}")
    if is_first_process() and len(architectures) > 1:
        click.echo(f"trained {len(trained)} networks: wrote {trained.file}")
        click.echo(f"next: psvit-export {quote(str(trained.folder))}/NETWORK --to onnx")


def _report(network: RetrainedNetwork) -> None:
    """Print what a network is worth, and how to go on."""
    from psvit.retrain.report.document import REPORT_FILE
    from psvit.space.budget import format_cost
    from psvit.train.accuracies import caution, label_of

    show_table(
        f"top-1 on {network.images:,} validation images",
        [(label_of(key, network.about), f"{value:.2f} %") for key, value in network.accuracies.items()],
    )
    if warning := caution(network.accuracies):
        click.echo(warning)
    click.echo(
        f"trained a network of {format_cost('macs', network.cost.macs)} and "
        f"{format_cost('num_params', network.cost.num_params)}: top-1 {network.accuracy:.2f} % on {network.images:,} "
        "validation images"
    )
    report = network.folder / REPORT_FILE  # version 0.1 wrote none
    click.echo(f"wrote {network.file}{f' and {report}' if report.is_file() else ''}")
    click.echo(f"next: {network.next_command}")


def main() -> None:
    """Entry point of `psvit-retrain`."""
    run(command)
