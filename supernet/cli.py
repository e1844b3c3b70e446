"""`psvit-supernet`: train the weights that a search scores candidates with."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

import click

from psvit.cli import (
    DATA_HELP,
    read_keeping,
    read_settings,
    recipe_options,
    run,
    run_options,
    set_up_logging,
    training_options,
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
@training_options
@run_options
def command(
    data: str,
    space_name: str | None,
    init: str | None,
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
    """Train a supernet: one set of weights from which every architecture of a space takes its slice.

    A tenth of the training images is held out for the search; validation images are not looked at. Several processes,
    on one machine or more, train together when torchrun starts them: torchrun --no-python --nproc-per-node 2
    psvit-supernet ... How it goes is shown by tensorboard --logdir FOLDER.
    """
    set_up_logging(verbose)
    from psvit.data import Inputs, open_data
    from psvit.io.run_folder import RunFolder, default_folder
    from psvit.nn.vit_weights import read_vit
    from psvit.space.budget import Budget
    from psvit.space.search_space import SearchSpace, default_space
    from psvit.supernet.train import train_supernet
    from psvit.supernet.warm_start import plan
    from psvit.train.choices import choose_device, choose_recipe, choose_teacher
    from psvit.train.device_checks import check_device
    from psvit.train.distributed import joined
    from psvit.train.training_loader import training_loader

    space = SearchSpace.load(space_name) if space_name else None
    values = read_settings(settings)
    keeping = read_keeping(checkpoint_every, number)
    place = choose_device(device)
    with joined(place) as world:
        with world.first_goes_ahead():  # images and weights may have to be fetched
            images = open_data(data)
            vit = read_vit(init) if init else None
            space = space or default_space(Budget(), images.image_size)
            space = space.with_data(len(images.classes), images.in_chans)
            chosen = choose_recipe(recipe, values, min(space.image_size), supernet=True, teacher=bool(teacher_name))
            check_device(place, chosen)
            inputs = Inputs.of(images, space.image_size)
            training_loader(images.train, inputs, chosen).check(world.size * chosen.accumulate, chosen.mixes)
            teacher = choose_teacher(teacher_name, teacher_weights, inputs, len(images.classes))
        config = {
            "data": data,
            "data_digest": images.digest,
            "space": space.name,
            "space_digest": space.digest,
            "init": {"weights": vit.name, "digest": vit.digest} if vit else None,
            "teacher": {"name": teacher.name, "digest": teacher.digest} if teacher else None,
            "recipe": chosen.to_dict(),
            "seed": seed,
            "device": place.type,
        }
        path = out or default_folder(f"supernet-{space.name}", config)
        held = []

        def begin() -> None:
            # Held until the end, so that no other run is at work in it.
            held.append(RunFolder(path, "psvit-supernet", config))
            click.echo(f"run: {path}")
            if vit:
                click.echo(f"warm start from {vit.name}: {plan(space, vit.weights)}; all names: {path}/warm_start.yaml")
                head_dims = sorted({layout.head_dim for layout in space.layouts})
                if vit.head_dim is not None and head_dims != [vit.head_dim]:
                    into = " or ".join(map(str, head_dims))
                    click.echo(f"its heads of {vit.head_dim} channels are divided anew into heads of {into}")

        world.first_alone(begin)
        file = train_supernet(
            space,
            images,
            chosen,
            seed=seed,
            device=place,
            folder=path,
            init=vit,
            teacher=teacher,
            keeping=keeping,
            world=world,
        )
        if world.is_first:
            click.echo(
                f"trained a supernet of the {space.size:,} architectures of {space.name}: {file}; "
                f"next: psvit-search --supernet {quote(str(path))} --budget ..."
            )


def main() -> None:
    """Entry point of `psvit-supernet`."""
    run(command)
