"""`psvit-fidelity`: measure how far the scores that a supernet gives can be trusted."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from psvit.cli import (
    DATA_HELP,
    Command,
    check_budgets,
    read_settings,
    recipe_options,
    run,
    run_options,
    set_up_logging,
    show_table,
)


@click.command(
    cls=Command,
    name="psvit-fidelity",
    groups={
        "What is measured": ("supernet", "data", "budgets", "within", "spread", "second_seeds"),
        "How networks are trained": ("images", "recipe", "settings"),
    },
    examples=("psvit-fidelity --supernet runs/supernet --budget 10MFLOPs",),
)
@click.option("--supernet", required=True, help="The run of psvit-supernet whose ranking is measured.")
@click.option("--data", default=None, help=f"{DATA_HELP} [default: the supernet's]")
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    required=True,
    help="Around which cost networks are compared: within 5 % of 2GFLOPs (multiply-accumulates) or 22Mparams, or in a "
    "range that is no wider, such as 1.3..1.4GFLOPs. Other limits, such as 5MB, may be added.",
)
@click.option(
    "--within",
    type=click.IntRange(min=2),
    default=30,
    show_default=True,
    help="How many networks are trained around the budget. If a run is continued with more, the new ones are added.",
)
@click.option(
    "--spread",
    type=click.IntRange(min=0),
    default=15,
    show_default=True,
    help="The same over the whole range of multiply-accumulates.",
)
@click.option(
    "--second-seeds",
    type=click.IntRange(min=0),
    default=None,
    help="How many of those around the budget are trained a second time, with another seed. [default: 10, or all if "
    "there are fewer]",
)
@click.option(
    "--images",
    type=click.IntRange(min=2),
    default=None,
    help="How many training images are used. [default: all]",
)
@click.option(
    "--workers",
    default=None,
    help="Train on a Ray cluster: ray, or ray://host:port. With ray:gpus=0.25, four workers share a GPU.",
)
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
    """Measure how well a supernet ranks networks.

    The command trains networks on their own, and compares these accuracies with those that they have with the
    supernet's weights. Look first at the networks around the budget; over a wide range of costs, larger networks are
    mostly better.

    The result is written to the run, and to the supernet's run. Then every best.yaml and report of psvit-search
    --supernet contains it. FLOPs are multiply-accumulates. Validation images are not used.
    """
    set_up_logging(verbose)
    check_budgets(budgets)
    from psvit.search.fidelity.formatting import HEADER, rows
    from psvit.search.fidelity.run import measure_fidelity

    measured = measure_fidelity(
        supernet,
        budgets,
        data=data,
        recipe=recipe,
        settings=read_settings(settings),
        within=within,
        spread=spread,
        second_seeds=second_seeds,
        images=images,
        workers=workers,
        out=out,
        seed=seed,
        device=device,
        command=shlex.join(["psvit-fidelity", *sys.argv[1:]]),
    )
    for line in measured.failures:
        click.echo(f"not trained: {line}")
    for title, one in measured.tables:
        show_table(title, rows(one), HEADER)
    for sentence in measured.conclusions:
        click.echo(sentence)
    beside = f" and, for searches, {measured.beside}"
    if measured.kept:
        beside = ""
        count, *_ = measured.kept.evidence
        click.echo(
            f"{measured.beside} keeps for searches the earlier measurement, which rests on {count} such networks"
        )
    click.echo(f"wrote {measured.file}, {measured.report}{beside}")
    click.echo(
        f"next: psvit-search --supernet {shlex.quote(supernet)} "
        f"{' '.join(f'--budget {shlex.quote(budget)}' for budget in budgets)}"
    )


def main() -> None:
    """Entry point of `psvit-fidelity`."""
    run(command)
