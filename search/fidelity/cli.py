"""`psvit-fidelity`: measure how far the scores that a supernet gives can be trusted."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from psvit.cli import (
    DATA_HELP,
    read_settings,
    recipe_options,
    run,
    run_options,
    set_up_logging,
    show_table,
)

if TYPE_CHECKING:
    from psvit.search.fidelity.record import SetFidelity

SECOND_SEEDS = 10


@click.command(name="psvit-fidelity", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--supernet", required=True, help="The run of psvit-supernet whose scores are looked into.")
@click.option("--data", default=None, help=f"{DATA_HELP} [default: the supernet's]")
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    required=True,
    help="Where networks are compared: within 5 % of 2GFLOPs (multiply-accumulates) or 22Mparams, or in a range no "
    "wider, such as 1.3..1.4GFLOPs; other limits, such as 300MB, may be added.",
)
@click.option(
    "--within",
    type=click.IntRange(min=2),
    default=30,
    show_default=True,
    help="Networks to train around the budget; more than before add to those that are there.",
)
@click.option(
    "--spread",
    type=click.IntRange(min=0),
    default=15,
    show_default=True,
    help="Networks to train over the whole range of multiply-accumulates; more than "
    "before add to those that are there.",
)
@click.option(
    "--second-seeds",
    type=click.IntRange(min=0),
    default=None,
    help="How many of those around the budget are trained a second time, with another seed; "
    "more than before add to those that are there. "
    f"[default: {SECOND_SEEDS}, all where there are fewer]",
)
@click.option(
    "--images",
    type=click.IntRange(min=2),
    default=None,
    help="Train on so many of the training images. [default: all]",
)
@click.option("--workers", default=None, help="Train on a Ray cluster: ray (a local one), or ray://host:port.")
@recipe_options("each network")
@run_options
def command(
    supernet: str,
    data: str | None,
    budgets: tuple[str, ...],
    within: int,
    spread: int,
    second_seeds: int | None,
    images: int | None,
    workers: str | None,
    recipe: str | None,
    settings: tuple[str, ...],
    seed: int,
    out: Path | None,
    device: str | None,
    verbose: bool,
) -> None:
    """Train networks on their own and compare their accuracies with those that they inherit from a supernet.

    Some cost about what a budget allows, and these count; others cost anything, and mostly show that larger networks
    are better. What is found lies in the run, and beside the supernet, where psvit-search finds it: every best.yaml
    that the supernet scores says it. FLOPs are multiply-accumulates. Validation images are not looked at.
    """
    set_up_logging(verbose)
    from psvit.errors import InputError
    from psvit.executors.choose_executor import check_workers
    from psvit.search.fidelity.drawing import around
    from psvit.search.fidelity.record import file_beside, read_fidelities
    from psvit.space.budget import Budget
    from psvit.supernet.supernet import read_provenance, read_space, supernet_digest
    from psvit.train.choices import choose_device, choose_recipe

    # What is quick to check first.
    space = read_space(supernet)
    space.check(around(Budget.parse(*budgets, space=space)))
    second_seeds = min(SECOND_SEEDS, within) if second_seeds is None else second_seeds
    if second_seeds > within:
        raise InputError(f"--second-seeds {second_seeds}: there are --within {within} networks; give no more than that")
    check_workers(workers)
    read_fidelities(file_beside(supernet))
    name = data or read_provenance(supernet).get("data")
    if not name:
        raise InputError(f"supernet {supernet!r}: does not say what it was trained on; give --data")
    chosen = choose_recipe(recipe, read_settings(settings), min(space.image_size), supernet=False)
    from psvit.data import Inputs, open_data
    from psvit.io.run_folder import RunFolder, default_folder
    from psvit.search.fidelity.run import Trainings, measure_fidelity
    from psvit.search.fidelity.words import conclusions
    from psvit.search.plan import choose_space
    from psvit.train.device_checks import check_device
    from psvit.train.job_runner import images_of
    from psvit.train.training_loader import training_loader

    place = choose_device(device)
    check_device(place, chosen)
    opened = open_data(name)
    trainings = Trainings(
        space=choose_space(None, supernet, opened, budgets),
        data=opened,
        budget=budgets,
        recipe=chosen,
        images=images,
        seed=seed,
        device=place,
        within=within,
        spread=spread,
        second_seeds=second_seeds,
        workers=workers,
    )
    inputs = Inputs.of(opened, space.image_size)
    training_loader(images_of(opened, "train", images), inputs, chosen).check(chosen.accumulate, chosen.mixes)
    config = {**trainings.config, "supernet": supernet_digest(supernet)}
    folder = RunFolder(out or default_folder(f"fidelity-{'-'.join(budgets)}", config), "psvit-fidelity", config)
    click.echo(f"run: {folder.path}")
    drawn = trainings.networks
    click.echo(
        f"drew {len(drawn.within)} of {space.count(trainings.limits):,} architectures within {trainings.limits}, and "
        f"{len(drawn.spread)} over the whole range (FLOPs are multiply-accumulates): "
        f"{len(trainings.jobs)} trainings of {chosen.epochs} epochs"
    )
    measured = measure_fidelity(trainings, supernet, folder.path, shlex.join(["psvit-fidelity", *sys.argv[1:]]))
    for line in measured.failures:
        click.echo(f"not trained: {line}")
    fidelity = measured.fidelity
    if fidelity.spread:
        _show(f"{len(drawn.spread)} networks over the whole range, which mostly measures MACs", fidelity.spread)
    _show(f"{len(drawn.within)} networks within {trainings.limits}, the ones that count", fidelity.within)
    for sentence in conclusions(fidelity.within):
        click.echo(sentence)
    beside = f" and, for searches, {measured.beside}"
    if measured.kept:
        beside = ""
        count, *_ = measured.kept.evidence
        click.echo(
            f"{measured.beside} keeps for searches the earlier measurement, which rests on {count} such networks"
        )
    click.echo(
        f"wrote {measured.file}, {folder / 'fidelity.html'}{beside}; "
        f"next: psvit-search --supernet {shlex.quote(supernet)} "
        f"{' '.join(f'--budget {shlex.quote(budget)}' for budget in budgets)}"
    )


def _show(title: str, measured: SetFidelity) -> None:
    """Print how well every score ranks a set of networks."""
    from psvit.search.fidelity.words import HEADER, rows

    show_table(title, rows(measured), HEADER)


def main() -> None:
    """Entry point of `psvit-fidelity`."""
    run(command)
