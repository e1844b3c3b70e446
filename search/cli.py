"""`psvit-search`: find the best architecture for a budget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from psvit.cli import (
    DATA_HELP,
    default_folder,
    read_device,
    read_recipe,
    recipe_options,
    run,
    run_options,
    set_up_logging,
)

if TYPE_CHECKING:
    from psvit.data import ImageData
    from psvit.search_space import SearchSpace

SPENT = 0.9
"""A limit without a lower end is a budget to spend: the search stays in its upper tenth where that is not empty."""

INDICATOR_TRIALS, SUPERNET_TRIALS = 128, 256


@click.command(name="psvit-search", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    required=True,
    help="A limit such as 2GFLOPs, 2GMACs (the same: FLOPs are multiply-accumulates), 22Mparams or 1.2..1.4GFLOPs; "
    "may be given several times. 2GFLOPs alone searches 1.8 to 2, 0..2GFLOPs everything up to it.",
)
@click.option(
    "--supernet", "supernet_path", default=None, help="The run of psvit-supernet whose weights score candidates."
)
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
    "[default: the supernet's, or the smallest shipped 2d space that holds the budget]",
)
@click.option("--searcher", default="evolution", show_default=True, help="evolution or random.")
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=None,
    help=f"Architectures to evaluate. [default: {SUPERNET_TRIALS}, without a supernet {INDICATOR_TRIALS}]",
)
@recipe_options("the supernet, where one is trained first,")
@run_options
def command(
    budgets: tuple[str, ...],
    supernet_path: str | None,
    data: str | None,
    space_name: str | None,
    searcher: str,
    trials: int | None,
    recipe: str | None,
    settings: tuple[str, ...],
    seed: int,
    out: Path | None,
    device: str | None,
    verbose: bool,
) -> None:
    """Find the best architecture within a budget and write it to best.yaml.

    Candidates are scored with the weights of a trained supernet, on images held out from training. With neither
    --supernet nor --data they are scored by a training-free indicator, which needs no images and says less.
    """
    set_up_logging(verbose)
    from psvit.budget import Budget, format_cost
    from psvit.errors import InputError
    from psvit.search_space import SearchSpace, default_space

    # Everything that can be wrong is found out before anything is trained or written.
    budget = Budget.parse(*budgets)
    space = SearchSpace.load(space_name) if space_name else None
    if space:
        space.check(budget)
    from psvit.search.searchers import make_searcher

    chosen_searcher = make_searcher(searcher)
    from psvit.data import Batches, Inputs, open_data
    from psvit.supernet.supernet import Supernet, read_provenance, read_space, supernet_digest

    if supernet_path and settings + ((recipe,) if recipe else ()):
        raise InputError("--recipe and --set are for training a supernet, but --supernet names a trained one")
    if supernet_path and not data:
        data = read_provenance(supernet_path).get("data")
    if supernet_path:
        read_space(supernet_path).check(budget)
    images: ImageData | None = open_data(data) if data else None
    if supernet_path:
        space = _space_of(supernet_path, space, images)
    else:
        space = space or default_space(budget, images.image_size if images else 224)
        if images:
            space = space.with_data(len(images.classes), images.in_chans)
    space.check(budget)
    spent = budget.spent(SPENT)
    if space.count(spent) == 0:
        spent = budget
    chosen_recipe = read_recipe(recipe, settings, min(space.image_size), supernet=True) if images else None
    if settings and not images:
        raise InputError("--set is for training a supernet, which needs --data")
    trials = trials or (SUPERNET_TRIALS if images else INDICATOR_TRIALS)
    place = read_device(device)

    from psvit.run_folder import RunFolder

    config = {
        "budget": list(budgets),
        "space": space.name,
        "space_digest": space.digest,
        "data": data,
        "supernet": supernet_digest(supernet_path) if supernet_path else None,
        "recipe": chosen_recipe.to_dict() if chosen_recipe and not supernet_path else None,
        "searcher": searcher,
        "trials": trials,
        "seed": seed,
        "device": place.type,
    }
    folder = RunFolder(out or default_folder(f"search-{'-'.join(budgets)}", config), "psvit-search", config)
    click.echo(f"run: {folder.path}")

    from psvit.search.evaluator import Evaluator, InheritedAccuracy
    from psvit.search.indicators import DSS
    from psvit.search.result import write_history, write_winner
    from psvit.search.search import search, winner
    from psvit.search.study import Study
    from psvit.supernet.train import train_supernet

    evaluator: Evaluator
    supernet: Supernet | None = None
    if images:
        if not supernet_path:
            assert chosen_recipe is not None
            file = train_supernet(space, images, chosen_recipe, seed=seed, device=place, folder=folder / "supernet")
            supernet_path = str(file)
        supernet = Supernet.load(supernet_path, place)
        inputs = Inputs.of(images, space.image_size)
        evaluator = InheritedAccuracy(supernet, Batches(images.search, inputs, 256, place))
    else:
        evaluator = DSS(space, seed, place)
    click.echo(
        f"searching {space.count(spent):,} of the {space.size:,} architectures of {space.name}: {spent} "
        f"(FLOPs are multiply-accumulates), scored by {evaluator.describe()['kind']}"
    )
    study = Study(space, folder / "study.journal")
    for _ in search(space, spent, chosen_searcher, evaluator, study, trials=trials, seed=seed):
        pass
    write_history(folder.path, study)
    trial = winner(study)
    provenance = {
        "space": space.name,
        "space_digest": space.digest,
        "searcher": searcher,
        "trials": len(study.history),
        "seed": seed,
        "supernet_digest": supernet_digest(supernet_path) if supernet_path else None,
        "data": images.describe() if images else None,
    }
    file = write_winner(
        folder.path, trial, score=evaluator.describe(), budget=budgets, provenance=provenance, supernet=supernet
    )
    click.echo(
        f"found: {format_cost('macs', trial.cost.macs)}, {format_cost('num_params', trial.cost.num_params)}, "
        f"{evaluator.describe()['kind']} {trial.score:.6g}, the best of {len(study.history)}: {file}"
    )
    click.echo(f"next: psvit-retrain {file} --data {data or 'DATA'}")


def _space_of(supernet_path: str, wanted: SearchSpace | None, images: ImageData | None) -> SearchSpace:
    """The space of a supernet, which has to be the wanted one and to fit the images."""
    from psvit.errors import InputError
    from psvit.supernet.supernet import read_space

    space = read_space(supernet_path)
    if images and (len(images.classes), images.in_chans) != (space.num_classes, space.in_chans):
        raise InputError(
            f"supernet {supernet_path!r}: was trained for {space.num_classes} classes and {space.in_chans} channels, "
            f"but {images.name!r} has {len(images.classes)} and {images.in_chans}"
        )
    if wanted and wanted.with_data(space.num_classes, space.in_chans, space.image_size) != space:
        raise InputError(f"supernet {supernet_path!r}: belongs to space {space.name}, not to {wanted.name}")
    return space


def main() -> None:
    """Entry point of `psvit-search`."""
    run(command)
