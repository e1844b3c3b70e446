"""Splitting images: every class in proportion, and always alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from psvit.errors import InputError

SEARCH_FRACTION = 0.1
"""Part of the training images that is held out for comparing candidates."""

SPLIT_SEED = 0
"""The splits belong to the data, not to a run: a search must not see what its supernet was trained on."""


def stratified_split(
    labels: NDArray[np.int64], fraction: float, seed: int, name: str = "data"
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut positions in two with every class in proportion; the second part has this fraction, both are ascending.

    Raises:
        InputError: a class has a single image.
    """
    from sklearn.model_selection import train_test_split

    counts = np.bincount(labels)
    if counts[counts > 0].min() < 2 or len(labels) * fraction < len(counts):
        least = int(np.ceil(len(counts) / fraction))
        raise InputError(
            f"data {name!r}: too few images to hold {fraction:.0%} out: {len(labels)} of {len(counts)} classes, "
            f"the rarest with {counts.min()}; needed are {least} in all and 2 of each"
        )
    first, second = train_test_split(
        np.arange(len(labels)), test_size=fraction, random_state=seed, shuffle=True, stratify=labels
    )
    return np.sort(first), np.sort(second)
