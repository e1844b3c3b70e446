"""`psvit-export` and `psvit-predict`: hand a trained network on, and use it on images."""

from __future__ import annotations

from pathlib import Path

import click

from psvit.cli import run, set_up_logging
from psvit.errors import InputError
from psvit.io.escaping import in_terminal


@click.command(name="psvit-export", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("place", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "name",
    required=True,
    metavar="FORMAT",
    help="onnx (any batch size, for ONNX Runtime and others), torch-export (needs PyTorch only), or timm (a folder for "
    "timm.create_model).",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="A folder: new, empty, or of an earlier export in the same form, whose files are replaced; all others stay. "
    "[default: beside the network, named after it and the format]",
)
@click.option(
    "--license",
    "license_name",
    default=None,
    metavar="NAME",
    help="Licence of the weights for the model card, as hubs call it, such as apache-2.0. [default: left open]",
)
@click.option("-v", "--verbose", is_flag=True, help="Log what is done.")
def export_command(place: Path, name: str, out: Path | None, license_name: str | None, verbose: bool) -> None:
    """Write a trained network in a form that others run, with its preprocessing, class names and a model card.

    RUN is the folder of psvit-retrain or of a search with images, or an architecture file with its weights beside it.
    What is written is read again and compared with the network at two batch sizes; it is kept only if it computes the
    same.
    """
    set_up_logging(verbose)
    from psvit.retrain.delivery.export import export_network
    from psvit.retrain.delivery.formats import FORMATS

    exported = export_network(place, name, out=out, license=license_name)
    checked = ", ".join(f"{size}: {difference:.1g}" for size, difference in exported.differences.items())
    click.echo(f"largest relative difference from PyTorch's outputs, by batch size: {checked}")
    click.echo(f"exported as {FORMATS[exported.format].what}: {exported.folder}; how to use it: {exported.card}")


@click.command(name="psvit-predict", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("place", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="How many classes are shown.")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Images at once.")
@click.option("--device", default=None, help="Where to compute: cpu, cuda, ... [default: cuda if there is one]")
@click.option("-v", "--verbose", is_flag=True, help="Log what is done.")
def predict_command(
    place: Path, images: tuple[Path, ...], top: int, batch_size: int, device: str | None, verbose: bool
) -> None:
    """Say what is on images: the most probable classes of each, one line an image.

    RUN is the folder of psvit-retrain or of a search with images, an architecture file with its weights beside it, or a
    folder that psvit-export --to timm wrote. Of a folder of images, all are taken, those in folders within it too.
    """
    set_up_logging(verbose)
    from psvit.classifier import Classifier
    from psvit.retrain.delivery.image_files import image_files
    from psvit.train.choices import choose_device

    files = image_files(images)
    classifier = Classifier.load(place, choose_device(device))
    unreadable, error = [], None
    for path, found in classifier.predict_all(files, top, batch_size):
        if isinstance(found, InputError):
            unreadable.append(str(path))
            error = error or found
        else:
            told = ", ".join(f"{name} {100 * probability:.2f} %" for name, probability in found)
            click.echo(in_terminal(f"{path}: {told}"))
    if error:
        # All others are told by now.
        others = f" (and {len(unreadable) - 1} more: {', '.join(unreadable[1:])})" if len(unreadable) > 1 else ""
        raise InputError(f"{error}{others}")


def main_export() -> None:
    """Entry point of `psvit-export`."""
    run(export_command)


def main_predict() -> None:
    """Entry point of `psvit-predict`."""
    run(predict_command)
