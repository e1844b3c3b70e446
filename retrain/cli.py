"""`psvit-retrain`: train a found network on its own and report what it is worth."""

from __future__ import annotations

from pathlib import Path

import click

from psvit.cli import (
    DATA_HELP,
    default_folder,
    read_device,
    read_keeping,
    read_recipe,
    read_teacher,
    recipe_options,
    run,
    run_options,
    set_up_logging,
    show_table,
    training_options,
)


@click.command(name="psvit-retrain", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("architecture", type=click.Path(path_type=Path))
@click.option("--data", required=True, help=DATA_HELP)
@click.option(
    "--inherit", is_flag=True, help="Start from the supernet's weights beside ARCHITECTURE, not from scratch."
)
@recipe_options("the network")
@training_options
@run_options
def command(
    architecture: Path,
    data: str,
    inherit: bool,
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

    Validation images are looked at once, after the last epoch. FLOPs are multiply-accumulates. Several processes train
    together when torchrun starts them, see psvit-supernet.
    """
    set_up_logging(verbose)
    from psvit.architecture import ArchitectureFile
    from psvit.budget import format_cost
    from psvit.costs import cost

    found = ArchitectureFile.load(architecture)
    chosen = read_recipe(recipe, settings, min(found.arch.image_size), supernet=False, teacher=teacher_name)
    keeping = read_keeping(checkpoint_every, number)
    from psvit.data import Inputs, open_data, training_loader
    from psvit.distributed import joined
    from psvit.documents import digest_of_file
    from psvit.retrain.train import NETWORK_FILE, inherited_network, retrain
    from psvit.run_folder import RunFolder
    from psvit.training import check_precision

    place = read_device(device)
    with joined(place) as world:
        with world.first_goes_ahead():  # images and weights may have to be fetched
            images = open_data(data)
            inherited = inherited_network(architecture, found, images, required=inherit)
            check_precision(place, chosen.precision)
            inputs = Inputs.of(images, found.arch.image_size)
            training_loader(images.all_train, inputs, chosen).check(world.size * chosen.accumulate, chosen.mixes)
            teacher = read_teacher(teacher_name, teacher_weights, inputs, len(images.classes))
        config = {
            "arch": found.arch.to_dict(),
            "weights": digest_of_file(architecture.with_suffix(".safetensors")) if inherited else None,
            "data": data,
            "inherit": inherit,
            "teacher": {"name": teacher.name, "digest": teacher.digest} if teacher else None,
            "recipe": chosen.to_dict(),
            "seed": seed,
            "device": place.type,
        }
        path = out or default_folder("retrain", config)
        held = []

        def begin() -> None:
            # Held until the end, so that no other run is at work in it.
            held.append(RunFolder(path, "psvit-retrain", config))
            click.echo(f"run: {path}")

        world.first_alone(begin)
        result = retrain(
            found,
            inherited,
            images,
            chosen,
            inherit=inherit,
            seed=seed,
            device=place,
            folder=path,
            teacher=teacher,
            keeping=keeping,
            world=world,
        )
        if not world.is_first:
            return
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
        file = path / NETWORK_FILE
        click.echo(
            f"trained {format_cost('macs', price.macs)}, {format_cost('num_params', price.num_params)}, "
            f"top-1 {result.score['value']:.2f} %: {file}; next, in Python: "
            f'psvit.create_model("{file}", checkpoint_path="{file.with_suffix(".safetensors")}")'
        )


def main() -> None:
    """Entry point of `psvit-retrain`."""
    run(command)
