"""One row a training, in a CSV file that only grows."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from psvit import Architecture
from psvit.errors import InputError
from psvit.train.training_job import TrainingJob


@dataclass(frozen=True, kw_only=True)
class Row:
    """A training and what came out of it. Where a field holds a tuple, it has one entry an epoch.

    Attributes:
        name: of the network.
        macs_budget: what it was drawn or fitted for.
        origin: `random`, or the family that it is fitted after.
        stratum: variant and stem.
        arch: the network, as JSON.
        arch_digest: of it.
        recipe_digest: of the recipe.
        lr: peak learning rate of the recipe.
        data: what the images are.
        data_digest: of all pixels and labels.
        images: training images.
        epochs: passes over them.
        seed: of everything random.
        initial: which weights it began with: `random`, or the name of a supernet, see `truth.supernets.name_of`.
        train_loss: mean over the epoch's steps, smoothing included.
        search_accuracy: top-1 in percent on the search images.
        search_loss: cross entropy on the search images, without smoothing.
        val_accuracy: top-1 in percent on the validation images after the last epoch.
        val_loss: cross entropy there.
        seconds: wall time of training and of looking at the search images.
        processor_seconds: processor time of the same.
        device: what it was trained on.
        threads: of PyTorch.
        versions: of psvit, PyTorch, timm, NumPy and Python.
        commit: of the code.
        date: when it ended, UTC.
    """

    name: str
    macs_budget: int
    origin: str
    stratum: str
    arch: str
    arch_digest: str
    recipe_digest: str
    lr: float
    data: str
    data_digest: str
    images: int
    epochs: int
    seed: int
    initial: str
    train_loss: tuple[float, ...]
    search_accuracy: tuple[float, ...]
    search_loss: tuple[float, ...]
    val_accuracy: float
    val_loss: float
    seconds: float
    processor_seconds: float
    device: str
    threads: int
    versions: str
    commit: str
    date: str

    @property
    def key(self) -> tuple[object, ...]:
        """What decides the result, but for rounding: rows with equal keys are the same training."""
        return (self.arch_digest, self.recipe_digest, self.data_digest, self.images, self.seed, self.initial)

    @property
    def job_key(self) -> tuple[str, str, int, str]:
        """What the row of a job is found by, see `key_of`."""
        return self.arch_digest, self.recipe_digest, self.seed, self.initial

    @property
    def network(self) -> Architecture:
        """The network as a value."""
        return Architecture.from_dict(json.loads(self.arch), source=self.name)


def key_of(job: TrainingJob) -> tuple[str, str, int, str]:
    """What the row of a job is found by."""
    return job.arch.digest, job.recipe.digest, job.seed, job.init


_CURVES = ("train_loss", "search_accuracy", "search_loss")
_READ: dict[str, Any] = {"int": int, "float": float, "str": str}


def read(path: Path) -> list[Row]:
    """The rows of a file; an empty list if there is no file. Of several with one key the first counts.

    Raises:
        InputError: a line that is no row.
    """
    if not path.exists():
        return []
    found: dict[tuple[object, ...], Row] = {}
    with path.open(newline="", encoding="utf-8") as stream:
        for record in csv.DictReader(stream):
            try:
                row = Row(**{field.name: _value(field.name, str(field.type), record) for field in fields(Row)})
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(f"{path}: not a row of the truth table: {error!r}") from None
            found.setdefault(row.key, row)
    return list(found.values())


def append(path: Path, row: Row) -> None:
    """Add a row with a single write, which no other process can come between."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if not path.exists():
        writer.writerow([field.name for field in fields(Row)])
    writer.writerow([_text(getattr(row, field.name)) for field in fields(Row)])
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, text.getvalue().encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _value(name: str, kind: str, record: dict[str, str]) -> Any:
    if name in _CURVES:
        return tuple(float(number) for number in record[name].split())
    return _READ[kind](record[name])


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
