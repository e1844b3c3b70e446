"""`psvit-supernet`: train the weights that a search scores candidates with."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

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


@click.command(name="psvit-supernet", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--data", required=True, help=DATA_HELP)
@click.option(
    "--space",
    "space_name",
    default=None,
    help="A shipped space or a .yaml file. [default: the smallest shipped 2d space for the images' size]",
)
@click.option(
    "--init",
    default=None,
    metavar="NAME_OR_FILE",
    help="Begin with the weights of DeiT or another ViT: a name that timm knows, or a .safetensors or .pth file.",
)
@recipe_options("the supernet")
@run_options
def command(
    data: str,
    space_name: str | None,
    init: str | None,
    recipe: str | None,
    settings: tuple[str, ...],
    seed: int,
    out: Path | None,
    device: str | None,
    verbose: bool,
) -> None:
    """Train a supernet: one set of weights from which every architecture of a space takes its slice.

    A tenth of the training images is held out for the search; validation images are not looked at.
    """
    set_up_logging(verbose)
    from psvit.budget import Budget
    from psvit.data import open_data
    from psvit.run_folder import RunFolder
    from psvit.search_space import SearchSpace, default_space
    from psvit.supernet.train import train_supernet
    from psvit.supernet.warm_start import plan
    from psvit.vit_weights import digest, read_vit

    space = SearchSpace.load(space_name) if space_name else None
    images = open_data(data)
    space = space or default_space(Budget(), images.image_size)
    space = space.with_data(len(images.classes), images.in_chans)
    chosen = read_recipe(recipe, settings, min(space.image_size), supernet=True)
    place = read_device(device)
    weights = read_vit(init) if init else None
    config = {
        "data": data,
        "space": space.name,
        "space_digest": space.digest,
        "init": {"weights": init, "digest": digest(weights)} if weights else None,
        "recipe": chosen.to_dict(),
        "seed": seed,
        "device": place.type,
    }
    folder = RunFolder(out or default_folder(f"supernet-{space.name}", config), "psvit-supernet", config)
    click.echo(f"run: {folder.path}")
    if weights:
        click.echo(f"warm start from {init}: {plan(space, weights)}; all names are in {folder / 'warm_start.yaml'}")
    file = train_supernet(
        space,
        images,
        chosen,
        seed=seed,
        device=place,
        folder=folder.path,
        init=(init, weights) if init and weights else None,
    )
    click.echo(
        f"trained a supernet of the {space.size:,} architectures of {space.name}: {file}; "
        f"next: psvit-search --supernet {quote(str(folder.path))} --budget ..."
    )


def main() -> None:
    """Entry point of `psvit-supernet`."""
    run(command)
