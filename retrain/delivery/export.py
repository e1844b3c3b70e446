"""Exporting: a folder with a network in another form, kept only if it computes there what it computes in PyTorch."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from psvit.arch.architecture import ArchitectureFile
from psvit.classifier import NETWORK_FILE, Classifier, as_classifier
from psvit.errors import InputError, MismatchError, RunError
from psvit.io.documents import Place, write_atomic
from psvit.io.tables import html_table
from psvit.nn.picture import draw
from psvit.retrain.delivery.card import PICTURE_FILE, card
from psvit.retrain.delivery.folder import replacing_export
from psvit.retrain.delivery.formats import FORMATS, PREPROCESSING_FILE, Format, Run, example

CARD_FILE = "README.md"

LICENSE_NAME = r"[a-z0-9]+([.-][a-z0-9]+)*"
"""How hubs write the names of licences."""

CHECKED_BATCHES = (1, 5)
"""Images of the batches that outputs are compared on; a network is exported with a batch of another size."""

TOLERANCE = 1e-4
"""The largest permitted difference from PyTorch's outputs, relative to the largest of them. A runtime that adds up in
another order differs by some 1e-6."""


@dataclass(frozen=True)
class Exported:
    """An exported network.

    Attributes:
        folder: where.
        format: the name of its form.
        differences: by batch size, the largest difference from PyTorch's outputs, relative to the largest of them.
    """

    folder: Path
    format: str
    differences: dict[int, float]

    @property
    def card(self) -> Path:
        """The file that says how to use it."""
        return self.folder / CARD_FILE

    def _repr_html_(self) -> str:
        rows = [("folder", str(self.folder)), ("form", FORMATS[self.format].what)]
        rows += [
            (f"largest relative difference from PyTorch's outputs, batch of {size}", f"{difference:.1g}")
            for size, difference in self.differences.items()
        ]
        return html_table(rows, title="exported network")


def export_network(
    network: Classifier | Place, to: str, *, out: str | Path | None = None, license: str | None = None
) -> Exported:
    """Write a trained network in a form that others run, with its preprocessing, class names and a model card.

    What is written is read again and compared with the network at two batch sizes; it is kept only if it computes the
    same.

    Args:
        network: a trained network, or what `psvit.Classifier.load` takes.
        to: the form: `onnx`, `torch-export` or `timm`.
        out: a folder: new, empty, or of an earlier export in the same form. By default it lies beside the network and
            is called after it and the form.
        license: of the weights, as hubs call it, such as `apache-2.0`; without it the card leaves it open.

    Raises:
        InputError: there is no such form, network or name of a licence, a library for the form is missing, or the
            folder cannot be used.
        MismatchError: it computes something else there; nothing is left.
        RunError: the exporter fails; nothing is left.
    """
    _check_form(to)  # before anything is read
    classifier = as_classifier(network)
    if classifier.device.type != "cpu":
        on_cpu = copy.deepcopy(classifier.network).cpu()
        classifier = Classifier(on_cpu, classifier.preprocessing, classifier.file, classifier.source)
    source = classifier.source
    name = source.resolve().name if source.is_dir() else source.resolve().stem
    return export(classifier, to, Path(out or source.parent / f"{name}-{to}"), license)


def _check_form(name: str) -> None:
    if name not in FORMATS:
        raise InputError(f"--to {name!r}: permitted are {', '.join(FORMATS)}")


def export(classifier: Classifier, name: str, folder: Path, license_name: str | None = None) -> Exported:
    """Write a network in another form, with its preprocessing, its architecture file, a picture and a model card.

    All of it is written in a folder of its own, read again from there and run beside the network; only then do the
    files take their places, and those of an earlier export. Other files in the folder stay as they are.

    Args:
        classifier: the trained network, on the CPU.
        name: of the form, see `psvit.retrain.delivery.formats.FORMATS`.
        folder: where it shall lie; new, empty, or that of an earlier export in the same form.
        license_name: of the weights, as hubs call it, for the model card.

    Raises:
        InputError: no such form or no name of a licence, a library for it is missing, nothing is known about the
            network but its weights, or the folder cannot be used, see `psvit.retrain.delivery.folder.replacing_export`.
        MismatchError: it computes something else there; nothing is left.
        RunError: the exporter fails; nothing is left.
    """
    _check_form(name)
    if license_name is not None and not re.fullmatch(LICENSE_NAME, license_name):
        raise InputError(
            f"--license {license_name!r}: expected a name as hubs have it, such as apache-2.0 or cc-by-4.0"
        )
    file = classifier.file
    if file is None:
        raise InputError(
            f"{classifier.source}: has no {NETWORK_FILE}, so nothing is known about it; export it from its run"
        )
    form = FORMATS[name]
    names = {*form.files, PREPROCESSING_FILE, PICTURE_FILE, CARD_FILE, NETWORK_FILE}
    with replacing_export(folder, name, names) as temporary:
        _write(form, classifier, file, temporary, license_name)
        differences = check(form, classifier, temporary)
    return Exported(folder, name, differences)


def _write(
    form: Format, classifier: Classifier, file: ArchitectureFile, folder: Path, license_name: str | None
) -> None:
    """Everything that an export consists of."""
    with _failing_as_run_error(form, "cannot be exported"):
        form.write(classifier, folder)
    write_atomic(folder / PREPROCESSING_FILE, classifier.preprocessing.to_json())
    write_atomic(folder / PICTURE_FILE, draw(file.arch))
    write_atomic(folder / CARD_FILE, card(file, classifier.preprocessing, form, license_name))
    file.save(folder / NETWORK_FILE)


def check(form: Format, classifier: Classifier, folder: Path) -> dict[int, float]:
    """Compare what was written with the network at two batch sizes.

    Returns:
        By batch size, the largest difference relative to the largest output.

    Raises:
        MismatchError: it is too large, or not even the shapes are equal.
        RunError: what was written cannot be read or run.
    """
    with _failing_as_run_error(form, "cannot be read again"):
        run = form.read(folder)
    return {size: _difference(form, classifier, run, size) for size in CHECKED_BATCHES}


@torch.inference_mode()
def _difference(form: Format, classifier: Classifier, run: Run, batch_size: int) -> float:
    images = example(classifier.preprocessing, batch_size)
    expected = classifier.network(images)
    with _failing_as_run_error(form, f"cannot be run with {batch_size} images"):
        found = run(images)
    if found.shape != expected.shape:
        raise MismatchError(
            f"--to {form.name}: gives outputs {tuple(found.shape)} for {batch_size} images instead of "
            f"{tuple(expected.shape)}; nothing was kept"
        )
    scale = expected.abs().max().item()
    error = (found - expected).abs().max().item()
    # Written so that a number that is none counts as different.
    if not error <= TOLERANCE * scale:
        raise MismatchError(
            f"--to {form.name}: its outputs for {batch_size} images differ from PyTorch's by {error:.2g}, permitted "
            f"are {TOLERANCE:g} of the largest output, {scale:.2g}; nothing was kept"
        )
    return error / scale if scale else 0.0


@contextlib.contextmanager
def _failing_as_run_error(form: Format, what: str) -> Iterator[None]:
    try:
        yield
    except (InputError, RunError):
        raise
    except Exception as error:  # exporters and runtimes have errors of all kinds
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise RunError(f"--to {form.name}: {what}: {lines[0]}; nothing was kept") from error
