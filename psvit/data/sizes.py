"""Sizes of images: how users give them, and at which size networks see images."""

from __future__ import annotations

import re

from psvit.errors import InputError
from psvit.space.for_images import LEAST_SIDE, MOST_SIDE

Size = tuple[int, int]
"""Height and width in pixels."""

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
