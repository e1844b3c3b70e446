"""Confusion: how many images of each class a network takes for which class."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from psvit.errors import InputError
from psvit.io.documents import write_atomic

CONFUSION_FILE = "confusion.csv"

MOST_CLASSES = 2_000
"""Of more classes no matrix is written: nearly all of its millions of cells would be zero."""


@dataclass(frozen=True, eq=False)
class Confusion:
    """Counts of images by true class and by the class that they are taken for; only counts above zero are kept.

    Attributes:
        classes: the names of the classes.
        true: the numbers of true classes, (pairs,).
        said: the numbers of the classes that their images are taken for, (pairs,).
        counts: how many images, (pairs,).
    """

    classes: tuple[str, ...]
    true: NDArray[np.int64]
    said: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, labels: NDArray[np.int64], said: NDArray[np.int64], classes: Sequence[str]) -> Confusion:
        """That of images with these true classes, (images,), taken for those, (images,)."""
        pairs, counts = np.unique(labels * len(classes) + said, return_counts=True)
        return cls(tuple(classes), *np.divmod(pairs, len(classes)), counts)

    @property
    def matrix(self) -> NDArray[np.int64]:
        """All counts: a row for each true class, a column for each class that images are taken for."""
        matrix = np.zeros((len(self.classes),) * 2, dtype=np.int64)
        matrix[self.true, self.said] = self.counts
        return matrix

    @property
    def of_class(self) -> NDArray[np.int64]:
        """How many images of each class there are, (classes,)."""
        return self._sums(self.true)

    @property
    def said_to_be(self) -> NDArray[np.int64]:
        """How many images are taken for each class, (classes,)."""
        return self._sums(self.said)

    @property
    def right(self) -> NDArray[np.int64]:
        """How many images of each class are recognised, (classes,)."""
        is_right = self.true == self.said
        right = np.zeros(len(self.classes), dtype=np.int64)
        right[self.true[is_right]] = self.counts[is_right]
        return right

    def mistaken(self, number: int) -> list[tuple[int, int, int]]:
        """The commonest mistakes: true class, the class that its images are taken for, how many; most first."""
        wrong = np.flatnonzero(self.true != self.said)
        chosen = wrong[np.argsort(-self.counts[wrong], kind="stable")][:number]
        return [(int(self.true[at]), int(self.said[at]), int(self.counts[at])) for at in chosen]

    def hardest(self, number: int) -> list[int]:
        """The classes of which the smallest parts are recognised, worst first; those without images left out."""
        images, right = self.of_class, self.right
        known = np.flatnonzero(images)
        return [int(one) for one in known[np.argsort(right[known] / images[known], kind="stable")][:number]]

    def commonest_mistake(self, true: int) -> tuple[int, int] | None:
        """What images of a class are most often taken for, and how many are; `None` if all are recognised."""
        own = np.flatnonzero((self.true == true) & (self.said != true))
        if not len(own):
            return None
        at = own[np.argmax(self.counts[own])]
        return int(self.said[at]), int(self.counts[at])

    def to_csv(self) -> str:
        """The matrix as comma-separated values, with the names of the classes in the first row and column."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["true class", *self.classes])
        writer.writerows([name, *row] for name, row in zip(self.classes, self.matrix.tolist(), strict=True))
        return text.getvalue()

    def write(self, folder: Path) -> None:
        """Write the matrix into a folder, unless there are too many classes."""
        if len(self.classes) <= MOST_CLASSES:
            write_atomic(folder / CONFUSION_FILE, self.to_csv())

    def _sums(self, classes: NDArray[np.int64]) -> NDArray[np.int64]:
        sums = np.zeros(len(self.classes), dtype=np.int64)
        np.add.at(sums, classes, self.counts)
        return sums


def read_matrix(folder: Path) -> NDArray[np.int64]:
    """The confusion matrix in the folder of a retraining, as `Confusion.matrix`.

    Raises:
        InputError: there is none, or the file holds something else.
    """
    path = folder / CONFUSION_FILE
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            _, *rows = csv.reader(stream)
            matrix = np.array([row[1:] for row in rows], dtype=np.int64)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read: {error.strerror}; there is none of more than {MOST_CLASSES:,} classes, nor of a "
            "network that psvit 0.1.0 trained"
        ) from None
    except ValueError as error:
        raise InputError(f"{path}: does not hold a confusion matrix: {error}") from None
    return matrix
