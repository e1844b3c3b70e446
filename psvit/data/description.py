"""What a run says of its images before anything is done with them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import numpy as np
from PIL import Image

from psvit.data.batches import Inputs, evaluation_transform
from psvit.data.image_data import ImageData
from psvit.data.images import Decoded, Files, Labelled

FREQUENT, TIMES_AS_FREQUENT = 0.6, 2.0
"""A class is frequent from this share of the images on, or if it has this many times the images of the average one."""

COMPARED_FILES = 20_000
"""Most files among which equal ones are looked for."""


def describe_images(data: ImageData, image_size: tuple[int, int]) -> list[str]:
    """What was found, and what is done to each image before a network sees it; for the first lines of a run.

    Args:
        data: the images.
        image_size: at which networks see them.
    """
    heights, widths = np.array(data.sizes).T
    alike = len(set(data.sizes)) == 1
    known = alike and all(part.size == data.sizes[0] for part in (data.train, data.val))
    colour = "grey" if data.in_chans == 1 else "coloured"
    sizes = f"all of {_shown(data.sizes[0])} pixels (height x width)"
    if not known:
        sizes = f"{len(data.sizes)} looked at are {sizes}"
    if not alike:
        sizes = (
            f"{len(data.sizes)} looked at are {heights.min()} to {heights.max()} pixels high and {widths.min()} to "
            f"{widths.max()} wide"
        )
    held_out = " (held out: a fifth of every class)" if data.val_is_held_out else ""
    found = (
        f"images: {len(data.all_train):,} for training and {len(data.val):,} for validation{held_out}, of "
        f"{len(data.classes)} classes, {colour}; {sizes}"
    )
    lines = [found, *_frequent_class(data), *_repeated(data)]
    fitted = f"resized until it just covers {_shown(image_size)} pixels, of which its middle is seen"
    if not alike:
        return [*lines, f"each is {fitted}; in training, a recipe may cut and change them at random as well"]
    done = _done_to(data.sizes[0], data, image_size)
    others = "" if known else f"; any of another size is {fitted}"
    return [
        *lines,
        f"networks see them {done}{others}; in training, a recipe may cut and change them at random as well",
    ]


def _frequent_class(data: ImageData) -> list[str]:
    """What a network is worth that does not look at the images, if that is much."""
    counts = np.bincount(data.val.labels, minlength=len(data.classes))
    share = counts.max() / counts.sum()
    if share < min(TIMES_AS_FREQUENT / len(counts), FREQUENT):
        return []
    name = data.classes[int(counts.argmax())]
    return [
        f"{share:.1%} of the validation images are of the class {name!r}: a network that names it for every image has "
        "that accuracy"
    ]


def _repeated(data: ImageData) -> list[str]:
    """How many of the validation images are among the others, if they can be compared in a moment."""
    try:
        others = {mark for _, mark in _marks(data.all_train, data.val)}
        found = [place for place, mark in _marks(data.val, data.all_train) if mark in others]
    except OSError:  # whoever needs the image will say so
        return []
    if not found:
        return []
    path = data.val.path(found[0])
    such_as = f" (such as {path})" if path else ""
    return [
        f"{len(found):,} of the validation images{such_as} {'is' if len(found) == 1 else 'are'} among the training "
        "images as well, so accuracies on validation images are too good"
    ]


def _marks(images: Labelled, others: Labelled) -> Iterator[tuple[int, bytes]]:
    """The positions of images with what tells them from different ones, where they may be equal to one of the others.

    Of images in memory these are pixels, else files; of images that were not read there are none.
    """
    pictures, compared = images.known, others.known
    if isinstance(pictures, Decoded) and isinstance(compared, Decoded):
        if pictures.pixels.shape[1:] == compared.pixels.shape[1:]:
            for place, row in enumerate(images.rows):
                yield place, blake2b(pictures.pixels[row].tobytes(), digest_size=16).digest()
    elif (
        isinstance(pictures, Files) and isinstance(compared, Files) and len(pictures) + len(compared) <= COMPARED_FILES
    ):
        sizes = {os.path.getsize(path) for path in compared.paths}
        for place, row in enumerate(images.rows):
            path = pictures.paths[row]
            if os.path.getsize(path) in sizes:
                yield place, blake2b(Path(path).read_bytes(), digest_size=16).digest()


def _done_to(size: tuple[int, int], data: ImageData, image_size: tuple[int, int]) -> str:
    """What the transform of images that are not augmented does to those of a size."""
    if size == image_size:
        return "as they are"
    # How they are normalised, which is known only once they were read, does not matter here.
    channels = data.in_chans
    inputs = Inputs(image_size=image_size, in_chans=channels, mean=(0.0,) * channels, std=(1.0,) * channels)
    resize = evaluation_transform(inputs).transforms[0]  # type: ignore[attr-defined]
    width, height = resize(Image.new("L", size[::-1])).size
    resized = "as they are" if (height, width) == size else f"resized to {_shown((height, width))} pixels"
    if (height, width) == image_size:
        return resized
    return f"{resized}, of each the middle {_shown(image_size)} pixels"


def _shown(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
