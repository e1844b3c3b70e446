"""Predictions as text: a line an image for people, JSON and CSV for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from psvit.errors import InputError
from psvit.io.escaping import in_terminal

Prediction = tuple[Path, list[tuple[str, float]] | InputError]
"""An image, and its most probable classes with their probabilities, or why it cannot be read."""

COLUMNS = ("image", "rank", "class", "probability")


def as_lines(predictions: Iterable[Prediction]) -> Iterator[str]:
    """A line for every image that can be read."""
    for path, found in predictions:
        if not isinstance(found, InputError):
            told = ", ".join(f"{name} {100 * probability:.2f} %" for name, probability in found)
            yield in_terminal(f"{path}: {told}") + "\n"


def as_json(predictions: Iterable[Prediction]) -> Iterator[str]:
    """One list with an object for every image: its path, and its classes or the error. It is whole if all are read."""
    before = "["
    for path, found in predictions:
        if isinstance(found, InputError):
            about: dict[str, object] = {"image": str(path), "error": str(found)}
        else:
            classes = [{"class": name, "probability": round(probability, 6)} for name, probability in found]
            about = {"image": str(path), "classes": classes}
        yield f"{before}\n{json.dumps(about)}"
        before = ","
    yield "[]\n" if before == "[" else "\n]\n"


def as_csv(predictions: Iterable[Prediction]) -> Iterator[str]:
    """A header, then a row for every class of every image that can be read."""
    yield _row(COLUMNS)
    for path, found in predictions:
        for rank, (name, probability) in enumerate([] if isinstance(found, InputError) else found, start=1):
            yield _row((_text(path), rank, name, f"{probability:.6f}"))


def _row(values: Iterable[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


def _text(path: Path) -> str:
    """A path, with a mark in the place of bytes that are no text."""
    return str(path).encode(errors="surrogateescape").decode(errors="replace")
