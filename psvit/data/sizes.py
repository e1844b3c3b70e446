"""Sizes of images: at which size networks see them, how they get there, and how a run says so."""

from __future__ import annotations

import re

import numpy as np
from PIL import Image

from psvit.data.batches import Inputs, evaluation_transform
from psvit.data.image_data import ImageData
from psvit.errors import InputError
from psvit.space.for_images import LEAST_SIDE, MOST_SIDE

Size = tuple[int, int]
"""Height and width in pixels."""

FREQUENT, TIMES_AS_FREQUENT = 0.65, 2.0
"""A class is frequent from this share of the images on, or if it has this many times the images of the average one."""

SHORT_SIDE = 224
"""Smaller side at which images are seen that are larger than spaces are made for; it is what ImageNet is used with."""


def read_image_size(given: int | str | Size) -> Size:
    """A size as users give it: 224, `224`, `96x64` (height x width), or a pair.

    Raises:
        InputError: it is none.
    """
    if isinstance(given, tuple | list):
        sides = [*given]
    else:
        sides = [int(side) for side in str(given).split("x")] if re.fullmatch(r"\d{1,5}(x\d{1,5})?", str(given)) else []
    if not sides or len(sides) > 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise InputError(f"image_size {given!r}: must be a side in pixels, or height and width, as in 224 and 96x64")
    return sides[0], sides[-1]


def seen_size(image_size: Size) -> Size:
    """The size at which images are seen if none is asked for: their own, as long as a space can be made for it.

    Larger images are reduced in proportion: their smaller side to `SHORT_SIDE` pixels, or to fewer if the other side
    would still be too long. Sides that are too short are brought to the least.
    """
    scale = 1.0
    if max(image_size) > MOST_SIDE:
        scale = min(SHORT_SIDE / min(image_size), MOST_SIDE / max(image_size))
    height, width = (min(max(round(scale * side), LEAST_SIDE), MOST_SIDE) for side in image_size)
    return height, width


def describe_images(data: ImageData, image_size: Size) -> list[str]:
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
    lines = [found, *_frequent_class(data)]
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


def _done_to(size: Size, data: ImageData, image_size: Size) -> str:
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


def _shown(size: Size) -> str:
    return f"{size[0]} x {size[1]}"
