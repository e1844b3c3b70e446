"""Sizes of images: at which size networks see them."""

from __future__ import annotations

from psvit.space.for_images import LEAST_SIDE, MOST_SIDE

Size = tuple[int, int]
"""Height and width in pixels."""

SHORT_SIDE = 224
"""Smaller side at which images are seen that are larger than spaces are made for; it is what ImageNet is used with."""


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
