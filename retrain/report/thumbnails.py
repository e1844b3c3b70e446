"""Thumbnails: images that are small enough to be a part of a page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image

SIDE = 96
"""Pixels of the longer side, of what is kept at most and of what is shown."""


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """An image as a part of a page.

    Attributes:
        uri: the image.
        width: as shown, in pixels.
        height: as shown, in pixels.
        is_magnified: whether each pixel of it is shown as a square of several.
    """

    uri: str
    width: int
    height: int
    is_magnified: bool


def thumbnail(picture: Image.Image) -> Thumbnail:
    """A small copy of an image; images of few pixels keep them all and are magnified."""
    small = picture.copy()
    small.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    small.save(stream, "PNG", optimize=True)
    uri = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
    longer = max(small.size)
    # Whole pixels, so that all squares are of one size.
    factor = SIDE // longer if 2 * longer <= SIDE else SIDE / longer
    width, height = (max(1, round(factor * side)) for side in small.size)
    return Thumbnail(uri=uri, width=width, height=height, is_magnified=2 * longer <= SIDE)
