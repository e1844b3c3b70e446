"""`psvit-search`: find the best architecture for a budget."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from psvit.cli import (
    DATA_HELP,
    Command,
    check_budgets,
    completing,
    completing_shipped,
    image_size_option,
    read_duration,
    read_numbers,
    read_settings,
    recipe_options,
    run,
    run_options,
    set_up_logging,
    show_table,
)
from psvit.errors import InputError

if TYPE_CHECKING:
    from psvit.search.result import SearchResult
    from psvit.search.selection.finalist import Finalist


EVALUATORS = ("trained", "inherited", "dss", "rule")
SEARCHERS = ("evolution", "stratified", "random", "enumerate", "optuna-tpe", "optuna-nsga2", "optuna-gp")
"""Names that a shell completes; a test compares them with those that are known."""


@click.command(
    cls=Command,
    name="psvit-search",
    groups={
        "What to search for": ("budgets", "objectives_text", "space_name", "image_size", "latency"),
        "Images and weights": ("data", "init", "init_weights", "depths_text", "supernet"),
        "How networks are trained": ("recipe", "settings", "inherit", "supernet_recipe", "supernet_settings"),
        "How to search": (
            *("evaluator", "searcher", "trials", "time_text", "dry_run"),
            *("finalists", "control", "no_sharing", "no_racing"),
        ),
    },
    examples=(
        "psvit-search --data images --budget 10MFLOPs",
        "psvit-search --data images --budget 5ms@cpu --time 2h",
        "psvit-search --init deit_small_patch16_224 --data images --budget 60%",
        "psvit-search --budget 2GFLOPs",
    ),
)
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    help="A limit such as 2GFLOPs, 2GMACs (the same: FLOPs are multiply-accumulates), 22Mparams, 5MB of activations, "
    "1.2..1.4GFLOPs, 60% (of the MACs of the --init network, or of the largest in --space or --supernet), "
    "60%ofdeit_small, 5ms@cpu, 20ms@cpu:batch=8,threads=1. May be given several times; then all limits hold. 2GFLOPs "
    "searches 1.8 to 2 GFLOPs; 0..2GFLOPs searches everything up to 2.",
)
@click.option("--supernet", default=None, help="The run of psvit-supernet whose weights score candidates.")
@click.option(
    "--init",
    "init",
    default=None,
    help="A trained network to make cheaper: a model of timm such as deit_tiny_patch16_224, a folder that timm wrote, "
    "a .safetensors or .pth file with timm's config.json beside it, or a run of psvit-retrain.",
)
@click.option(
    "--init-weights",
    default=None,
    type=click.Path(path_type=Path),
    help="With --init, a .safetensors or .pth file with the weights of the model of timm.  [default: timm's pretrained "
    "weights]",
)
@click.option(
    "--depths",
    "depths_text",
    default=None,
    help="With --init, also permit candidates with fewer layers: so many, such as 8..11 or 8,10. The last layers are "
    "left out.",
)
@click.option("--data", default=None, help=f"{DATA_HELP} [default: the supernet's; else no images]")
@click.option(
    "--evaluator",
    default=None,
    shell_complete=completing(*EVALUATORS),
    help="How candidates are scored: trained (short trainings), inherited (a supernet's weights; without --supernet "
    "one is trained first) or dss (a training-free indicator). rule scores nothing and takes a hand-made network. "
    "[default: inherited with --supernet or --init; else trained with --data; without images dss if a search is asked "
    "for by --searcher, --trials or a limit on latency; else rule]",
)
@click.option(
    "--space",
    "space_name",
    default=None,
    shell_complete=completing_shipped("space"),
    help="A shipped space or a .yaml file. "
    "[default: the supernet's; else one that is made for images and budget; for --evaluator inherited and dss, the "
    "smallest shipped 2d space for images of exactly this size that holds the budget, if there is one]",
)
@image_size_option
@click.option(
    "--latency",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="A latency model of psvit-latency for a limit such as 5ms@cpu. [default: it is built first, inside the run]",
)
@click.option(
    "--objectives",
    "objectives_text",
    default="accuracy",
    show_default=True,
    help="What is improved: accuracy (or score, which means the same), then any of macs, params, memory and latency, "
    "as in accuracy,macs. Several give a Pareto front, with one file for each point.",
)
@click.option(
    "--searcher",
    default=None,
    shell_complete=completing(*SEARCHERS),
    help="What proposes candidates: evolution (breeds the best so far), stratified (draws from every kind of network "
    "in turn), random, enumerate (all; for small spaces), optuna-tpe, optuna-nsga2 or optuna-gp. [default: evolution]",
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=None,
    help="How many candidates are proposed; references are evaluated in addition. [default: 48 by short trainings, 256 "
    "by a supernet, 128 by dss, all by enumerate]",
)
@click.option(
    "--time",
    "time_text",
    default=None,
    help="Time limit, such as 90s, 30min or 2h. With short trainings, the whole search is planned to fit into it, and "
    "what does not fit after all is left out. With other scores, no batch begins after it; scoring the control counts. "
    "The same command goes on with what was left out.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan and how long it would take, and write nothing.")
@click.option(
    "--finalists",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="How many of the best candidates enter the selection, besides the references: they are trained, and the "
    "winner is chosen among them. With short trainings it is always the best third. 0: no selection.",
)
@click.option(
    "--inherit/--from-scratch",
    "inherit",
    default=None,
    help="Begin trainings with the supernet's weights, or with random weights.  [default: from scratch; with --init, "
    "inherit]",
)
@click.option(
    "--control",
    type=click.IntRange(min=0),
    default=None,
    help="How many random architectures are scored for comparison. [default: a quarter of those evaluated; none with "
    "short trainings, and with the searchers random and enumerate]",
)
@click.option(
    "--no-sharing",
    is_flag=True,
    help="Score candidates one by one. By default, layers that they have in common are computed once.",
)
@click.option(
    "--no-racing",
    is_flag=True,
    help="Score every candidate on all images. By default, those that cannot be among the best are given up early.",
)
@click.option(
    "--storage",
    default=None,
    help="Where the study is kept, if several processes work on it: a journal file, or a URL such as "
    "postgresql://user@host/name. [default: a journal in the run's folder]",
)
@click.option(
    "--study", default=None, help="The study's name in the storage. [default: follows from the configuration]"
)
@click.option(
    "--workers",
    default=None,
    help="Score and train on a Ray cluster, a network on each core or GPU: ray, which starts one on this machine if "
    "there is none, or ray://host:port. With ray:gpus=0.25, four workers share a GPU.",
)
@recipe_options("a supernet that is trained first", "supernet")
@recipe_options(
    "the winner",
    more=" Candidates begin such a training, with a quarter of its epochs or what fits into --time; the worse leave "
    "early.",
)
@run_options
def command(
    budgets: tuple[str, ...],
    supernet: str | None,
    init: str | None,
    init_weights: Path | None,
    depths_text: str | None,
    data: str | None,
    evaluator: str | None,
    space_name: str | None,
    image_size: str | None,
    latency: tuple[Path, ...],
    objectives_text: str,
    searcher: str | None,
    trials: int | None,
    time_text: str | None,
    dry_run: bool,
    finalists: int,
    inherit: bool | None,
    control: int | None,
    no_sharing: bool,
    no_racing: bool,
    storage: str | None,
    study: str | None,
    workers: str | None,
    recipe: str | None,
    settings: tuple[str, ...],
    supernet_recipe: str | None,
    supernet_settings: tuple[str, ...],
    seed: int,
    out: Path | None,
    device: str | None,
    verbose: bool,
) -> None:
    """Find the best architecture within a budget.

    It is written to best.yaml; report.html says how it was found. Candidates are compared on images held out from
    training: by short trainings, or with the weights of a supernet. Without images nothing can be compared, so a rule
    takes a hand-made network for the budget, in seconds.

    With a limit on latency, a latency model of this device proposes candidates, and the best are measured until one is
    within the limit. Let nothing else run on the machine meanwhile.
    """
    set_up_logging(verbose)
    if not budgets:
        raise InputError(_asking_for_a_budget(data, init, image_size))
    check_budgets(budgets)
    given: dict[str, Any] = dict(
        space=space_name,
        budget=budgets,
        data=data,
        supernet=supernet,
        init=init,
        init_weights=init_weights,
        depths=read_numbers("--depths", depths_text) if depths_text else None,
        evaluator=evaluator,
        searcher=searcher,
        objectives=objectives_text.split(","),
        trials=trials,
        seconds=read_duration("--time", time_text) if time_text else None,
        finalists=finalists,
        inherit=inherit,
        control=control,
        recipe=recipe,
        settings=read_settings(settings),
        supernet_recipe=supernet_recipe,
        supernet_settings=read_settings(supernet_settings, "--supernet-set"),
        image_size=image_size,
        latency=latency,
        share_prefixes=not no_sharing,
        race=not no_racing,
        storage=storage,
        study=study,
        workers=workers,
        out=out,
        seed=seed,
        device=device,
    )
    from psvit.search.run import estimate_search, run_search
    from psvit.search.storage import without_password

    if dry_run:
        estimate_search(**given)
        return
    try:
        result = run_search(**given, repeated_by=shlex.join(["psvit-search", *map(without_password, sys.argv[1:])]))
    except KeyboardInterrupt:
        click.echo("there is no best network yet")
        raise
    # What matters most comes first.
    if line := _verdict(result, is_expected=finalists > 0 and not result.front_folder):
        click.echo(line)
    if result.compression:
        for line in result.compression.lines:
            click.echo(line)
        show_table(result.compression.title, result.compression.cells, result.compression.header)
    _tell(result, is_timed=bool(time_text))
    _tell_winner(result, supernet)
    if result.stopped:
        raise result.stopped


def _asking_for_a_budget(data: str | None, init: str | None, image_size: str | None) -> str:
    """What is said where no budget is given, with some that suit the images."""
    from psvit.data import found_data, seen_size
    from psvit.io.arguments import read_image_size
    from psvit.space.for_images import usual_budgets

    asked = "--budget: what may the network cost? give it as "
    if init is not None:
        return f"{asked}60% (of what that network costs), 2GFLOPs, 22Mparams or 5ms@cpu"
    if data is None:
        return f"{asked}2GFLOPs, 22Mparams or 5ms@cpu"
    height, width = read_image_size(image_size) if image_size else seen_size(found_data(data).image_size)
    quick, usual = usual_budgets((height, width))
    return (
        f"{asked}{quick}, 22Mparams or 5ms@cpu; for images of {height} x {width} pixels (height x width), networks of "
        f"{quick} are quick to train, and {usual} is to them what 2GFLOPs is to 224 x 224 pixels"
    )


def _verdict(result: SearchResult, *, is_expected: bool) -> str:
    """The verdict, or why there is none; empty where none was to be expected."""
    if result.verdict:
        return f"verdict: {result.verdict}"
    was_compared = bool(result.best.looks)
    if was_compared and not any(finalist.is_reference for finalist in result.finalists):
        return "no verdict: no hand-made network was compared"
    if result.left_out and is_expected:
        return "no verdict: there was no time to compare the finalists to the end"
    return "no verdict: there was nothing to compare it on" if was_compared else ""


def _tell(result: SearchResult, is_timed: bool) -> None:
    """Print how the search went."""
    evaluated, best = len(result.trials), result.best
    if result.left_out:
        click.echo(f"time is up: {'; '.join(result.left_out)}; the same command goes on with that")
    elif evaluated < result.wanted and not result.stopped:
        reason = "time is up" if is_timed else "no more were found within the limits"
        click.echo(f"evaluated {evaluated} of {result.wanted}: {reason}")
    if result.passed_over:
        click.echo(f"passed over {result.passed_over} with better scores that were measured beyond a limit")
    for name, times in best.latencies.items():
        if "measured_ms" in times:
            click.echo(
                f"measured {times['measured_ms']:.4g} ms@{name} (interquartile range {times['iqr_ms']:.2g} ms), "
                f"predicted {times['predicted_ms']:.4g} ms"
            )
        else:
            click.echo(f"not measured on {name}, predicted {times['predicted_ms']:.4g} ms")
    if any(finalist.looks for finalist in result.finalists):
        show_table(
            "selection: top-1 on the search images after epochs",
            [(finalist.name, _looks(finalist)) for finalist in result.finalists],
        )
    elif any(finalist.failure for finalist in result.finalists):
        click.echo("no finalist could be trained, so the winner is the one with the best score")
    if result.baseline:
        click.echo(f"for comparison, {result.baseline.in_words('the search images')}")
        if caution := best.caution(result.baseline):
            click.echo(f"{caution}; the retraining trains longer, and compares again")
    for finalist in result.finalists:
        if finalist.failure:
            click.echo(f"{finalist.name} failed: {finalist.failure}")


def _looks(finalist: Finalist) -> str:
    """What the trainings of a finalist reached."""
    told = [f"{look.mean:.2f} % after {look.epoch}" for look in finalist.looks]
    if finalist.spread is not None:
        told[-1] = f"{finalist.accuracy:.2f} ± {finalist.spread:.2f} % after {finalist.looks[-1].epoch}"
    return ", ".join([*told, *(["failed"] if finalist.failure else [])])


def _tell_winner(result: SearchResult, supernet: str | None) -> None:
    """Print what was found, how far that can be trusted, and how to go on."""
    from psvit.io.progress import in_time
    from psvit.report.formatting import count
    from psvit.search.evaluator import INHERITED
    from psvit.search.fidelity.record import in_words
    from psvit.space.budget import format_cost

    best = result.best
    known = [format_cost(name, getattr(best.cost, name)) for name in ("macs", "num_params")]
    if best.accuracy is not None:
        epochs = count(best.looks[-1].epoch, "epoch")
        known.append(f"top-1 {best.accuracy:.2f} % on the search images after {epochs}")
    elif best.scored:
        known.append(f"{result.kind} {best.scored}")
    if result.front_folder:
        click.echo(f"found a Pareto front of {len(result.front)}: {result.front_folder}")
    if result.kind == INHERITED:
        click.echo(in_words(result.fidelity, supernet or str(result.folder / "supernet")))
    among = f" (among {len(result.trials)} scored)" if result.trials else ""
    click.echo(
        f"{'interrupted; the best so far is' if result.stopped else 'found'} {best.name}{among}: {', '.join(known)}"
    )
    click.echo(f"wrote {result.file}{f' and {result.html.path}' if result.html else ''}")
    known = [f"about {in_time(result.next_seconds)} on this machine"] if result.next_seconds is not None else []
    known += [count(result.next_epochs, "epoch")] if result.next_epochs is not None else []
    told = f" ({', '.join(known)})" if known else ""
    click.echo(f"next{told}: {result.next_command}")


def main() -> None:
    """Entry point of `psvit-search`."""
    run(command)
