"""Splitting images: every class in proportion, and always alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from psvit.errors import InputError

SEARCH_FRACTION = 0.1
"""Part of the training images that is held out for comparing candidates; as many again are for the verdict."""

VAL_FRACTION = 0.2
"""Part of the images that is held out for validation, if there are no validation images."""

SPLIT_SEED, VERDICT_SEED = 0, 1
"""The splits belong to the data, not to a run: a search must not see what its supernet was trained on."""


def parts(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The positions of the training, search and verdict images, each ascending, with every class in proportion.

    The search images do not depend on there being verdict images, so they are those of version 0.1. If there are too
    few images for a verdict, it has none. If there are too few for any to be held out, all are for training.

    Args:
        labels: classes of all training images, (n,).
    """
    none = np.empty(0, dtype=np.int64)
    try:
        others, search = held_out(labels)
    except InputError:
        return np.arange(len(labels)), none, none
    try:
        train, verdict = stratified_split(labels[others], len(search), VERDICT_SEED)
    except InputError:
        return others, search, none
    return others[train], search, others[verdict]


def held_out(labels: NDArray[np.int64], name: str = "data") -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The positions of the images that are not search images, and of those that are, see `stratified_split`."""
    return stratified_split(labels, SEARCH_FRACTION, SPLIT_SEED, name)


def held_out_for_validation(labels: NDArray[np.int64], name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The positions of the images that are for training, and of those for validation, see `stratified_split`."""
    return stratified_split(labels, VAL_FRACTION, SPLIT_SEED, name)


def stratified_split(
    labels: NDArray[np.int64], size: float, seed: int, name: str = "data"
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut positions in two with every class in proportion; both parts are ascending.

    The parts are those of scikit-learn's `train_test_split`, which takes a second to load.

    Args:
        labels: classes, (n,).
        size: of the second part: a share below 1, or a number of images.
        seed: of the draw.
        name: what to call the images in an error.

    Raises:
        InputError: a class has a single image, or the second part would be smaller than the number of classes.
    """
    counts = np.bincount(labels)
    share = size if size < 1 else size / len(labels)
    if counts[counts > 0].min() < 2 or len(labels) * share < len(counts):
        least = int(np.ceil(len(counts) / share))
        raise InputError(
            f"data {name!r}: too few images to hold {share:.0%} out: {len(labels)} of {len(counts)} classes, "
            f"the rarest with {counts.min()}; needed are {least} in all and 2 of each"
        )
    wanted = int(np.ceil(size * len(labels))) if size < 1 else int(size)
    rng = np.random.RandomState(seed)
    counts = counts[counts > 0]
    first = _shares(counts, len(labels) - wanted, rng)
    second = _shares(counts - first, wanted, rng)
    of_classes = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    drawn = [positions[rng.permutation(len(positions))] for positions in of_classes]
    return (
        np.sort(np.concatenate([some[:few] for some, few in zip(drawn, first, strict=True)])),
        np.sort(np.concatenate([some[few:][:rest] for some, few, rest in zip(drawn, first, second, strict=True)])),
    )


def _shares(counts: NDArray[np.int64], wanted: int, rng: np.random.RandomState) -> NDArray[np.int64]:
    """How many of each class are taken, in proportion; what is left by rounding down goes to the largest remainders."""
    exact = counts / counts.sum() * wanted
    shares = np.floor(exact)
    remainders = exact - shares
    for value in np.unique(remainders)[::-1]:
        left = int(wanted - shares.sum())
        if left <= 0:
            break
        (classes,) = np.nonzero(remainders == value)
        shares[rng.choice(classes, size=min(len(classes), left), replace=False)] += 1
    return shares.astype(np.int64)
