"""`psvit-supernet`: train the weights that a search scores candidates with."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

import click

from psvit.cli import (
    DATA_HELP,
    Command,
    completing_shipped,
    image_size_option,
    is_first_process,
    read_duration,
    read_settings,
    recipe_options,
    run,
    run_options,
    set_up_logging,
    training_options,
)


@click.command(
    cls=Command,
    name="psvit-supernet",
    groups={
        "What is trained, and on what": ("data", "space_name", "image_size", "init"),
        "How it is trained": ("recipe", "settings", "teacher_name", "teacher_weights"),
    },
    examples=("psvit-supernet --data images --out runs/supernet",),
)
@click.option("--data", required=True, help=DATA_HELP)
@click.option(
    "--space",
    "space_name",
    default=None,
    shell_complete=completing_shipped("space"),
    help="A shipped space or a .yaml file. [default: the smallest shipped 2d space for images of exactly this size, or "
    "else one that is made for the images]",
)
@image_size_option
@click.option(
    "--init",
    default=None,
    metavar="NAME_OR_FILE",
    help="Begin with the weights of a vision transformer of timm: its name, or a .safetensors or .pth file.",
)
@recipe_options("the supernet")
@training_options
@run_options
def command(
    data: str,
    space_name: str | None,
    image_size: str | None,
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
    """Train a supernet, which scores candidates.

    A supernet is one set of weights, of which every architecture of a space uses a part. A tenth of the training images
    is held out for the search, and another tenth for its verdict. Validation images are not used.

    Several processes, on one machine or more, train together if torchrun starts them: torchrun --no-python
    --nproc-per-node 2 psvit-supernet ... Progress is shown by tensorboard --logdir FOLDER.
    """
    set_up_logging(verbose)
    from psvit.supernet.run import train_supernet

    trained = train_supernet(
        space_name,
        data,
        recipe=recipe,
        settings=read_settings(settings),
        image_size=image_size,
        init=init,
        teacher=teacher_name,
        teacher_weights=teacher_weights,
        out=out,
        seed=seed,
        device=device,
        checkpoint_seconds=read_duration("--checkpoint-every", checkpoint_every),
        keep=number,
    )
    if is_first_process():
        click.echo(
            f"trained a supernet of the {trained.space.size:,} architectures of {trained.space.name}: wrote "
            f"{trained.file}"
        )
        click.echo(f"next: psvit-search --supernet {quote(str(trained.folder))} --budget ...")


def main() -> None:
    """Entry point of `psvit-supernet`."""
    run(command)
