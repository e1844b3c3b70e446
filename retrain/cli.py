"""`psvit-retrain`: train a found network on its own and report what it is worth."""

from __future__ import annotations

from pathlib import Path

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
    show_table,
)


@click.command(name="psvit-retrain", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("architecture", type=click.Path(path_type=Path))
@click.option("--data", required=True, help=DATA_HELP)
@click.option(
    "--inherit", is_flag=True, help="Start from the supernet's weights beside ARCHITECTURE, not from scratch."
)
@recipe_options("the network")
@run_options
def command(
    architecture: Path,
    data: str,
    inherit: bool,
    recipe: str | None,
    settings: tuple[str, ...],
    seed: int,
    out: Path | None,
    device: str | None,
    verbose: bool,
) -> None:
    """Train the network of an architecture file, such as the best.yaml of a search, on all training images.

    Validation images are looked at once, after the last epoch. FLOPs are multiply-accumulates.
    """
    set_up_logging(verbose)
    from psvit.architecture import ArchitectureFile
    from psvit.budget import format_cost
    from psvit.costs import cost

    found = ArchitectureFile.load(architecture)
    chosen = read_recipe(recipe, settings, min(found.arch.image_size), supernet=False)
    from psvit.data import open_data
    from psvit.documents import digest_of_file
    from psvit.retrain.train import NETWORK_FILE, inherited_network, retrain
    from psvit.run_folder import RunFolder

    place = read_device(device)
    images = open_data(data)
    inherited = inherited_network(architecture, found, images, required=inherit)
    config = {
        "arch": found.arch.to_dict(),
        "weights": digest_of_file(architecture.with_suffix(".safetensors")) if inherited else None,
        "data": data,
        "inherit": inherit,
        "recipe": chosen.to_dict(),
        "seed": seed,
        "device": place.type,
    }
    folder = RunFolder(out or default_folder("retrain", config), "psvit-retrain", config)
    click.echo(f"run: {folder.path}")
    result = retrain(found, inherited, images, chosen, inherit=inherit, seed=seed, device=place, folder=folder.path)
    price = cost(result.arch)
    rows = [
        ("inherited from the supernet", "inherited"),
        ("trained", "value"),
        ("logistic regression", "logistic_regression"),
    ]
    show_table(
        f"top-1 on {result.score['images']:,} validation images",
        [(name, f"{result.score[key]:.2f} %") for name, key in rows if key in result.score],
    )
    file = folder / NETWORK_FILE
    click.echo(
        f"trained {format_cost('macs', price.macs)}, {format_cost('num_params', price.num_params)}, "
        f"top-1 {result.score['value']:.2f} %: {file}; next, in Python: "
        f'psvit.create_model("{file}", checkpoint_path="{file.with_suffix(".safetensors")}")'
    )


def main() -> None:
    """Entry point of `psvit-retrain`."""
    run(command)
