"""A baseline for small images: logistic regression on raw pixels, which any network has to match."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psvit.data.images import Decoded, Labelled
from psvit.io.announcements import announce

EXACT_VALUES = 2_000_000
"""Values of pixels up to which the regression is brought to its end, in seconds."""

MOST_VALUES = 40_000_000
"""Values of pixels that it is fitted on. On one core that takes 10 s, with the steps that `MOST_STEPS` permits."""

MOST_STEPS = 100
"""Steps of the optimiser if there are more values than `EXACT_VALUES`."""


@dataclass(frozen=True)
class Baseline:
    """The accuracy of logistic regression.

    Attributes:
        accuracy: top-1 in percent.
        images: how many training images it was fitted on.
        of: how many there are.
    """

    accuracy: float
    images: int
    of: int

    def in_words(self, on: str) -> str:
        """What it reaches, as a clause.

        Args:
            on: on which images.
        """
        some = f", fitted on {self.images:,} of {self.of:,} images" if self.images < self.of else ""
        return f"logistic regression on the pixels has {self.accuracy:.2f} % on {on}{some}"


def logistic_regression(train: Labelled, test: Labelled) -> Baseline | None:
    """Scikit-learn's logistic regression, fitted on training images and scored on others.

    If there are too many values for it to be a matter of seconds, it is fitted on a part of the images.

    Returns:
        `None` if the images are not in memory, so that they are not small.
    """
    if not isinstance(train.pictures, Decoded) or not isinstance(test.pictures, Decoded):
        return None
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    values = int(np.prod(train.pictures.pixels.shape[1:]))
    number = min(len(train), MOST_VALUES // values)
    is_exact = len(train) * values <= EXACT_VALUES
    some = (
        train
        if number == len(train)
        else train.take(np.sort(np.random.default_rng(0).permutation(len(train))[:number]))
    )
    if len(np.unique(some.labels)) < 2:
        return None
    if not is_exact:
        announce("fitting logistic regression on the pixels, for comparison")
    kind = np.float64 if is_exact else np.float32
    model = LogisticRegression(max_iter=5000 if is_exact else MOST_STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # that the steps did not suffice is known
        model.fit(_values(some, kind), some.labels)
    size, places = MOST_VALUES // values, np.arange(len(test))
    parts = [test.take(places[begin : begin + size]) for begin in range(0, len(test), size)]
    right = sum(int((model.predict(_values(part, kind)) == part.labels).sum()) for part in parts)
    found = 100 * right / len(test)
    return Baseline(found, number, len(train))


def _values(images: Labelled, kind: type[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Pixels from 0 to 1, (images, values)."""
    assert isinstance(images.pictures, Decoded)
    return images.pictures.pixels[images.rows].reshape(len(images), -1) / kind(255)
