"""`psvit-search`: find the best architecture for a budget."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path

import click

from psvit.cli import (
    DATA_HELP,
    read_duration,
    read_settings,
    recipe_options,
    run,
    run_options,
    set_up_logging,
    show_table,
)

INDICATOR_TRIALS, SUPERNET_TRIALS = 128, 256


@click.command(name="psvit-search", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    required=True,
    help="A limit such as 2GFLOPs, 2GMACs (the same: FLOPs are multiply-accumulates), 22Mparams, 300MB of activations, "
    "1.2..1.4GFLOPs, 60% (of the MACs of the space's largest), 60%ofdeit_small, 5ms@cpu, 20ms@cpu:batch=8,threads=1; "
    "may be given several times. 2GFLOPs alone searches 1.8 to 2, 0..2GFLOPs everything up to it.",
)
@click.option("--supernet", default=None, help="The run of psvit-supernet whose weights score candidates.")
@click.option(
    "--data",
    default=None,
    help=f"{DATA_HELP} Without a supernet, one is trained on it first. [default: the supernet's]",
)
@click.option(
    "--space",
    "space_name",
    default=None,
    help="A shipped space or a .yaml file. "
    "[default: the supernet's, or the smallest shipped 2d space that holds the budget; where latency alone is limited, "
    "psvit-2d-small for images of 224 pixels]",
)
@click.option(
    "--latency",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="A latency model of psvit-latency for a limit such as 5ms@cpu; without one it is built first, inside the run.",
)
@click.option(
    "--objectives",
    "objectives_text",
    default="accuracy",
    show_default=True,
    help="What is improved: accuracy, or also any of macs, params, memory and latency, as in accuracy,macs; several "
    "give a Pareto front and one file a point.",
)
@click.option(
    "--searcher",
    default="evolution",
    show_default=True,
    help="evolution, random, enumerate (small spaces), optuna-tpe, optuna-nsga2 or optuna-gp.",
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=None,
    help=f"Architectures to evaluate. [default: {SUPERNET_TRIALS}, without a supernet {INDICATOR_TRIALS}, all where "
    "they are enumerated]",
)
@click.option(
    "--time",
    "time_text",
    default=None,
    help="Begin no further batch after so long: 90s, 30min or 2h; the control gets its share.",
)
@click.option(
    "--finalists",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="Where there are images, train so many of the best briefly before one is called the winner; 0 trains none.",
)
@click.option(
    "--control",
    type=click.IntRange(min=0),
    default=None,
    help="Architectures drawn at random and scored for comparison. [default: a quarter of those evaluated, none where "
    "the searcher is random or enumerates]",
)
@click.option("--no-sharing", is_flag=True, help="Compute candidates one at a time, not what they have in common once.")
@click.option("--no-racing", is_flag=True, help="Score every candidate on all images.")
@click.option(
    "--storage",
    default=None,
    help="Where the study is kept, so that several processes can work on it: a journal file, or a URL such as "
    "postgresql://user@host/name. [default: a journal in the run's folder]",
)
@click.option("--study", default=None, help="The study's name in the storage. [default: by the configuration]")
@click.option("--workers", default=None, help="Score, and train finalists, on a Ray cluster: ray, or ray://host:port.")
@recipe_options("the supernet, where one is trained first,")
@run_options
def command(
    budgets: tuple[str, ...],
    supernet: str | None,
    data: str | None,
    space_name: str | None,
    latency: tuple[Path, ...],
    objectives_text: str,
    searcher: str,
    trials: int | None,
    time_text: str | None,
    finalists: int,
    control: int | None,
    no_sharing: bool,
    no_racing: bool,
    storage: str | None,
    study: str | None,
    workers: str | None,
    recipe: str | None,
    settings: tuple[str, ...],
    seed: int,
    out: Path | None,
    device: str | None,
    verbose: bool,
) -> None:
    """Find the best architecture within a budget and write it to best.yaml; report.html says how it was found.

    Under a limit on latency, candidates are proposed by a latency model of this device, and the best of them are
    measured until one is within the limit. Let nothing else run meanwhile.

    Candidates are scored with the weights of a trained supernet, on images held out from training. With neither
    --supernet nor --data they are scored by a training-free indicator, which needs no images and says less.
    """
    set_up_logging(verbose)
    from psvit.errors import InputError
    from psvit.space.budget import Budget, format_cost
    from psvit.space.search_space import SearchSpace

    # Whatever can be wrong is found out before anything is trained or written, what is quick to check first.
    space = SearchSpace.load(space_name) if space_name else None
    if supernet:
        from psvit.search.fidelity.record import file_beside, read_fidelities
        from psvit.supernet.supernet import read_space

        known: SearchSpace | None = read_space(supernet)
        read_fidelities(file_beside(supernet))
    else:
        known = space
    budget = Budget.parse(*budgets, space=known)
    if known and (supernet or not data):  # otherwise the data change what an architecture costs
        known.check(budget)
    if (recipe or settings) and (supernet or not data):
        raise InputError("--recipe and --set say how a supernet is trained first, which --data without --supernet does")
    from psvit.data import open_data
    from psvit.executors.choose_executor import check_workers
    from psvit.io.run_folder import RunFolder, check_folder, default_folder
    from psvit.search.fidelity.record import in_words as fidelity_in_words
    from psvit.search.objectives import Objectives
    from psvit.search.plan import SearchRun, choose_space
    from psvit.search.run import run_search
    from psvit.search.searchers import make_searcher
    from psvit.search.searchers.enumerate import Enumerate, check_enumerable
    from psvit.search.storage import check_storage, without_password
    from psvit.supernet.supernet import read_provenance
    from psvit.train.choices import choose_devices, choose_recipe
    from psvit.train.device_checks import check_device

    make_searcher(searcher)
    values = read_settings(settings)
    objectives = Objectives.parse(objectives_text)
    seconds = read_duration("--time", time_text) if time_text else None
    if study and not storage:
        raise InputError(f"--study {study!r}: names a study in a --storage, and none is given")
    check_workers(workers)
    place, place_of_workers = choose_devices(device, workers)
    if supernet:
        data = data or read_provenance(supernet).get("data")
    images = open_data(data) if data else None
    space = choose_space(space, supernet, images, budgets)
    request = SearchRun(
        space=space,
        budget=budgets,
        data=images,
        supernet=supernet,
        recipe=None if supernet or not data else choose_recipe(recipe, values, min(space.image_size), supernet=True),
        searcher=searcher,
        trials=trials or (SUPERNET_TRIALS if images else INDICATOR_TRIALS),
        seed=seed,
        device=place,
        worker_device=place_of_workers,
        latency=latency,
        objectives=objectives,
        seconds=seconds,
        finalists=finalists,
        control=control,
        storage=storage,
        study=study,
        share_prefixes=not no_sharing,
        race=not no_racing,
        workers=workers,
    )
    if request.recipe:
        check_device(place, request.recipe)
    members = space.count(request.limits)
    enumerates = searcher == Enumerate.name
    if enumerates:
        check_enumerable(members)
    request = replace(
        request,
        trials=members if enumerates and trials is None else request.trials,
        control=0 if control is None and (enumerates or searcher == "random") else control,
    )
    place_of_run = out or default_folder(f"search-{'-'.join(budgets)}", request.config)
    if not check_folder(place_of_run, "psvit-search", request.config):
        request.check_latencies()
    if storage:  # which may be made by being opened
        check_storage(storage)
    folder = RunFolder(place_of_run, "psvit-search", request.config)
    click.echo(f"run: {folder.path}")
    latencies = request.limits.latencies
    click.echo(
        f"searching {space.count(request.limits):,} of the {space.size:,} architectures of {space.name}"
        f"{', those predicted within the limit on latency' if latencies else ''}: "
        f"{request.limits} (FLOPs are multiply-accumulates)"
    )
    if not images:
        click.echo(
            "no images given: candidates are scored by the training-free indicator DSS (arXiv 2203.12217), which has "
            "not been found better than taking as many multiply-accumulates as the budget allows"
        )
    found = run_search(request, folder, shlex.join(["psvit-search", *map(without_password, sys.argv[1:])]))
    winner = found.winner
    if found.trials < request.trials and not found.stopped:
        reason = "time is up" if seconds else f"no more were found within {request.limits}"
        click.echo(f"evaluated {found.trials} of {request.trials}: {reason}")
    if found.passed_over:
        click.echo(f"passed over {found.passed_over} with better scores that were measured beyond a limit")
    for name, times in winner.latencies.items():
        if "measured_ms" in times:
            click.echo(
                f"measured {times['measured_ms']:.4g} ms@{name} (interquartile range {times['iqr_ms']:.2g} ms), "
                f"predicted {times['predicted_ms']:.4g} ms"
            )
        else:
            click.echo(f"not measured on {name}, predicted {times['predicted_ms']:.4g} ms")
    failures = {finalist.trial.number: finalist.failure for finalist in found.finalists if finalist.failure}
    if winner.accuracy is not None:
        click.echo(f"trained the best {len(found.finalists)} briefly, {len(winner.accuracies)} times each:")
        rows = []
        for finalist in found.finalists:
            spread = "" if finalist.spread is None else f" ± {finalist.spread:.2f}"
            value = "failed" if finalist.accuracy is None else f"{finalist.accuracy:.2f}{spread} %"
            rows.append((f"trial {finalist.trial.number}", value))
        show_table("top-1 on the search images, mean and standard deviation", rows)
    elif failures:
        click.echo("no finalist could be trained, so the winner is the one with the best score")
    for number, failure in failures.items():
        click.echo(f"trial {number} failed: {failure}")
    if found.front:
        click.echo(f"found a Pareto front of {len(found.finalists)}: {found.front}")
    if images:
        click.echo(fidelity_in_words(found.fidelity, supernet or str(folder / "supernet")))
    cost = winner.trial.cost
    click.echo(
        f"{'interrupted; the best so far has' if found.stopped else 'found'} "
        f"{format_cost('macs', cost.macs)}, {format_cost('num_params', cost.num_params)}, "
        f"{found.kind} {winner.trial.score.value:.6g}, the best of {found.trials}: {found.file}; "
        f"next: psvit-retrain {shlex.quote(str(found.file))} --data {shlex.quote(data) if data else 'DATA'}"
    )
    if found.stopped:
        raise found.stopped


def main() -> None:
    """Entry point of `psvit-search`."""
    run(command)
