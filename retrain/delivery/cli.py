"""`psvit-export` and `psvit-predict`: hand a trained network on, and use it on images."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from psvit.cli import Command, run, set_up_logging
from psvit.errors import InputError
from psvit.io.escaping import in_terminal
from psvit.io.progress import progress_bar

if TYPE_CHECKING:
    from psvit.retrain.delivery.predictions import Prediction


@click.command(cls=Command, name="psvit-export", examples=("psvit-export runs/network --to onnx",))
@click.argument("place", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "name",
    required=True,
    metavar="FORMAT",
    help="onnx (any batch size, for ONNX Runtime and others), torch-export (needs only PyTorch), or timm (a folder for "
    "timm.create_model; needs psvit).",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="A folder: new, empty, or of an earlier export in the same format. Its exported files are replaced, others "
    "stay. [default: beside the network, named after it and the format]",
)
@click.option(
    "--license",
    "license_name",
    default=None,
    metavar="NAME",
    help="Licence of the weights, for the model card, in the form of model hubs, such as apache-2.0. [default: none]",
)
@click.option("-v", "--verbose", is_flag=True, help="Log every step on standard error.")
def export_command(place: Path, name: str, out: Path | None, license_name: str | None, verbose: bool) -> None:
    """Export a trained network to ONNX, torch.export or timm.

    The export is a folder with the network, its preprocessing, class names and a model card. It is compared with the
    network at two batch sizes, and kept only if the outputs agree.

    RUN is the run of psvit-retrain or of a search with images, or an architecture file with its weights beside it.
    """
    set_up_logging(verbose)
    from psvit.retrain.delivery.export import export_network
    from psvit.retrain.delivery.formats import FORMATS

    exported = export_network(place, name, out=out, license=license_name)
    checked = ", ".join(f"{size}: {difference:.1g}" for size, difference in exported.differences.items())
    click.echo(f"largest relative difference from PyTorch's outputs, by batch size: {checked}")
    click.echo(f"exported as {FORMATS[exported.format].what}: {exported.folder}; how to use it: {exported.card}")


@click.command(
    cls=Command,
    name="psvit-predict",
    examples=("psvit-predict runs/network photo.jpg", "psvit-predict runs/network photos --top 1 --json"),
)
@click.argument("place", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="How many classes are shown.")
@click.option("--json", "json", is_flag=True, help="Print one JSON list with an object for each image.")
@click.option("--csv", "csv", is_flag=True, help="Print CSV: image, rank, class, probability.")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Images in a batch.")
@click.option("--device", default=None, help="Where to compute: cpu, cuda, ... [default: cuda if there is one]")
@click.option("-v", "--verbose", is_flag=True, help="Log every step on standard error.")
def predict_command(
    place: Path,
    images: tuple[Path, ...],
    top: int,
    json: bool,
    csv: bool,
    batch_size: int,
    device: str | None,
    verbose: bool,
) -> None:
    """Classify images with a trained network.

    It prints one line for each image, with its most probable classes.

    RUN is the run of psvit-retrain or of a search with images, an architecture file with its weights beside it, or a
    folder that psvit-export --to timm wrote. IMAGE is an image, or a folder of images, which may hold further folders.
    """
    set_up_logging(verbose)
    if json and csv:
        raise InputError("--json and --csv: one form is printed; give one of them")
    from psvit.classifier import Classifier
    from psvit.retrain.delivery.image_files import image_files
    from psvit.retrain.delivery.predictions import as_csv, as_json, as_lines
    from psvit.train.choices import choose_device

    files = image_files(images)
    classifier = Classifier.load(place, choose_device(device))
    unreadable: list[tuple[Path, InputError]] = []

    def predictions() -> Iterator[Prediction]:
        # On a terminal, the predictions themselves show how far it is.
        shown: AbstractContextManager[Callable[[int, str], None] | None] = (
            contextlib.nullcontext() if sys.stdout.isatty() else progress_bar("classifying", len(files), "images")
        )
        with shown as advance:
            for path, found in classifier.predict_all(files, top, batch_size):
                if isinstance(found, InputError):
                    unreadable.append((path, found))
                yield path, found
                if advance:
                    advance(1, "")

    form = as_json if json else as_csv if csv else as_lines
    for text in form(predictions()):
        # On a terminal, names must not do what control characters do; line breaks are the form's own.
        shown = "\n".join(map(in_terminal, text.split("\n"))) if csv and sys.stdout.isatty() else text
        click.echo(shown, nl=False)
    if unreadable:
        # All others are told by now.
        names = ", ".join(str(path) for path, _ in unreadable[1:])
        others = f" (and {len(unreadable) - 1} more: {names})" if names else ""
        raise InputError(f"{unreadable[0][1]}{others}")


def main_export() -> None:
    """Entry point of `psvit-export`."""
    run(export_command)


def main_predict() -> None:
    """Entry point of `psvit-predict`."""
    run(predict_command)
