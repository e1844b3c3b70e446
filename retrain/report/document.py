"""The one HTML file that says what a retraining gave: how accurate its network is, and where it is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import Any

from psvit.arch.architecture import ArchitectureFile
from psvit.arch.costs import cost
from psvit.data import ImageData
from psvit.io.documents import dump_yaml, write_atomic
from psvit.nn.picture import NARROW, draw
from psvit.report.formatting import DASH, count, in_words, joined, milliseconds, number, percent
from psvit.report.page import page
from psvit.retrain.report.confusion import CONFUSION_FILE, MOST_CLASSES, Confusion
from psvit.retrain.report.curve import curve_of
from psvit.retrain.report.predictions import Predictions
from psvit.retrain.report.thumbnails import thumbnail
from psvit.space.budget import format_cost
from psvit.train.accuracies import FROM_SCRATCH, accuracies, label_of, trained_as

REPORT_FILE = "report.html"
TEMPLATE = "psvit.retrain.report/report.html.j2"

SHOWN_CLASSES = 30
"""Of more classes a matrix cannot be read any more; the commonest mistakes are listed instead."""

LISTED = 20
"""Lines of the tables that stand in the place of a matrix."""

NAMED = 3
"""Mistakes that are named in the sentence above a matrix."""

IMAGES = 24
"""Images that are shown."""

_LONGEST_NAME = 40
"""Characters of a name that are shown."""

_COSTS = {
    "macs": "multiply-accumulates of one image",
    "num_params": "parameters",
    "activation_bytes": "activation memory of one image",
}


def next_command(folder: Path) -> str:
    """The shell line that goes on from the run of a retraining."""
    return f"psvit-export {quote(str(folder))} --to onnx"


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that a report shows.

    Attributes:
        folder: the folder of the run.
        network: what is known about the trained network.
        data: the images that it was trained on.
        predictions: what it says of the validation images.
        log: of its training, a row for each epoch.
    """

    folder: Path
    network: ArchitectureFile
    data: ImageData
    predictions: Predictions
    log: Sequence[Mapping[str, float]]

    @cached_property
    def confusion(self) -> Confusion:
        """What it takes for what."""
        return Confusion.of(self.predictions.labels, self.predictions.said, self.data.classes)


def write_report(report: Report) -> None:
    """Write the report and the confusion matrix into the folder of the run, each whole or not at all.

    Raises:
        InputError: the place cannot be written, or an image cannot be read any more.
    """
    report.confusion.write(report.folder)
    write_atomic(report.folder / REPORT_FILE, render(report))


def render(report: Report) -> str:
    """The report as one HTML document that loads nothing; equal reports give equal text."""
    network, data, predictions, confusion = report.network, report.data, report.predictions, report.confusion
    names = [_short(name) for name in data.classes]
    shows_matrix = len(names) <= SHOWN_CLASSES
    losses = [row["loss"] for row in report.log]
    wrong = int((predictions.said != predictions.labels).sum())
    return page(
        TEMPLATE,
        title=f"A network for {_short(Path(data.name).name)}",
        task=_task(network, data),
        accuracy=f"{network.score['value']:.2f} %",
        images=len(predictions.labels),
        own=label_of(trained_as(network), network),
        accuracies=[(label_of(key, network), f"{value:.2f} %") for key, value in accuracies(network).items()],
        arch=in_words(network.arch),
        costs=[(_COSTS[key], format_cost(key, value)) for key, value in cost(network.arch).to_dict().items()],
        latencies=[_latency(setting, times) for setting, times in report.network.latency.items()],
        wide=draw(network.arch),
        narrow=draw(network.arch, width=NARROW),
        next_command=next_command(report.folder),
        wrong=wrong,
        matrix=_matrix(confusion, names) if shows_matrix else None,
        classes=len(names),
        commonest=_in_a_sentence(confusion, names),
        confused=[] if shows_matrix else _confused(confusion, names),
        hardest=[] if shows_matrix else _hardest(confusion, names),
        confusion_file=CONFUSION_FILE if len(names) <= MOST_CLASSES else None,
        mistakes=_mistakes(predictions, data, names),
        curve=curve_of(losses) if losses else None,
        epochs=count(len(losses), "epoch"),
        losses=[number(loss) for loss in (*losses[:1], *losses[-1:])],
        recipe=dump_yaml({key: network.to_dict()["provenance"][key] for key in ("recipe", "seed", "versions")}),
    )


# --- what was trained


def _task(network: ArchitectureFile, data: ImageData) -> str:
    """What was trained, on what and how, in sentences."""
    height, width = network.arch.image_size
    colour = "grey" if data.in_chans == 1 else "colour"
    begun = "from scratch" if trained_as(network) == FROM_SCRATCH else "from inherited weights"
    teacher = network.provenance.get("teacher")
    taught = f", taught by {_short(str(teacher['name']))}" if teacher else ""
    epochs = count(int(network.provenance["recipe"]["epochs"]), "epoch")
    trained = f"It was trained {begun} for {epochs} on {count(len(data.all_train), 'image')}{taught}."
    return (
        f"It tells {count(len(data.classes), 'class', 'classes')} of {colour} images apart, and sees them at "
        f"{height} × {width} pixels. {trained}"
    )


def _latency(setting: str, times: Any) -> tuple[str, str]:
    """A setting, and the milliseconds that were measured or predicted there."""
    return f"latency, {_short(setting)}", milliseconds(times)


def _short(name: str) -> str:
    """A name from the data as it is shown: whole, unless it is very long."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


# --- what is confused


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else DASH


def _matrix(confusion: Confusion, names: Sequence[str]) -> dict[str, Any]:
    """The matrix as rows of cells; wrong ones are coloured relative to the worst, or the few of them were not seen."""
    matrix, images, said, right = confusion.matrix, confusion.of_class, confusion.said_to_be, confusion.right
    worst = max((part / images[true] for true, _, part in confusion.mistaken(len(confusion.counts))), default=1.0)

    def cell(true: int, other: int) -> dict[str, str]:
        part = int(matrix[true, other])
        if not part:
            return {"kind": "", "depth": "0", "count": "", "title": ""}
        share = part / images[true]
        return {
            "kind": "right" if true == other else "wrong",
            "depth": f"{share if true == other else share / worst:.2f}",
            "count": f"{part:,}",
            "title": f"{names[true]}, said to be {names[other]}: {part:,} of {images[true]:,}",
        }

    return {
        "names": names,
        "rows": [
            {
                "name": name,
                "cells": [cell(true, other) for other in range(len(names))],
                "images": f"{images[true]:,}",
                "recognised": _share(int(right[true]), int(images[true])),
            }
            for true, name in enumerate(names)
        ],
        "said_right": [percent(right[one] / said[one] if said[one] else None) for one in range(len(names))],
    }


def _in_a_sentence(confusion: Confusion, names: Sequence[str]) -> str:
    """The commonest mistakes, in words; empty if there are none."""
    images = confusion.of_class
    return joined(
        [
            f"{names[true]} for {names[said]} ({part:,} of {images[true]:,})"
            for true, said, part in confusion.mistaken(NAMED)
        ]
    )


def _confused(confusion: Confusion, names: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """The commonest mistakes as rows of a table."""
    images = confusion.of_class
    return [
        (names[true], names[said], f"{part:,}", _share(part, int(images[true])))
        for true, said, part in confusion.mistaken(LISTED)
    ]


def _hardest(confusion: Confusion, names: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """The classes that are recognised worst as rows of a table."""
    images, right = confusion.of_class, confusion.right
    rows = []
    for one in confusion.hardest(LISTED):
        mistake = confusion.commonest_mistake(one)
        told = f"{names[mistake[0]]} ({mistake[1]:,})" if mistake else DASH
        rows.append((names[one], told, _share(int(right[one]), int(images[one])), f"{images[one]:,}"))
    return rows


# --- images


def _mistakes(predictions: Predictions, data: ImageData, names: Sequence[str]) -> list[dict[str, Any]]:
    """The images that it gets most wrong."""
    found = []
    for at in predictions.most_wrong(IMAGES).tolist():
        picture, _ = data.val[at]
        found.append(
            {
                "thumbnail": thumbnail(picture),
                "said": names[predictions.said[at]],
                "probability": _probability(float(predictions.probabilities[at])),
                "true": names[predictions.labels[at]],
                "its_probability": _probability(_of_loss(float(predictions.losses[at]))),
                "place": _place(data, at),
            }
        )
    return found


def _of_loss(loss: float) -> float:
    """The probability of the true class."""
    return math.exp(-loss)


def _probability(share: float) -> str:
    """A probability in percent, with one digit."""
    if share < 0.0005:
        return "< 0.1 %"
    return f"{100 * share:.1f} %" if share < 0.9995 else "> 99.9 %"


def _place(data: ImageData, at: int) -> tuple[str, ...]:
    """Where a validation image is found: folder and name of its file, or its number in the set."""
    path = data.val.path(at)
    return (f"image {at}",) if path is None else Path(path).parts[-2:]
