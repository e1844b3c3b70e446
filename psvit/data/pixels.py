"""Pixels: any image as 8 bits a channel, grey or colour. Every image that psvit sees enters here."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image
from PIL.TiffTags import TAGS_V2

from psvit.errors import InputError

Mode = Literal["L", "RGB"]
"""Pillow's names for 8 bits of grey, and 8 bits each of red, green and blue."""

ENDINGS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""How the names of images in folders end; a file that is named by itself may have any name."""

HIDDEN = "."
"""How the names of files and folders begin that are left out of folders, such as `.ipynb_checkpoints` and `._1.jpg`."""

_BITS_PER_SAMPLE = next(number for number, tag in TAGS_V2.items() if tag.name == "BitsPerSample")

_REMEDY = "save it with 8 or 16 bits a channel"


def read_image(path: str, mode: Mode, draft: bool = False) -> Image.Image:
    """Read one image whole.

    Args:
        path: its file.
        mode: what it is converted to.
        draft: whether it is only read to see that it can be. JPEG allows for doing so at an eighth of the size, which
            is faster.

    Raises:
        InputError: it cannot be read, or not be converted.
    """
    with _named(path), Image.open(path) as picture:
        if draft:
            picture.draft(None, (1, 1))
        return to_eight_bits(picture, mode, path)


class Look(NamedTuple):
    """What the beginning of a file says of the image in it.

    Attributes:
        mode: Pillow's name for its pixels.
        size: height and width.
    """

    mode: str
    size: tuple[int, int]


def is_hidden(name: str) -> bool:
    """Whether a file or folder is left out of folders."""
    return name.startswith(HIDDEN)


def is_image_name(name: str) -> bool:
    """Whether a file of a folder is taken for an image."""
    return not is_hidden(name) and name.lower().endswith(ENDINGS)


def look_at(path: str) -> Look:
    """Read the beginning of an image file, and no pixel.

    Raises:
        InputError: it is no image.
    """
    with _named(path), Image.open(path) as picture:
        return Look(picture.mode, (picture.height, picture.width))


def is_grey(mode: str) -> bool:
    """Whether images of one of Pillow's modes have one channel, of any depth, and no palette."""
    return mode in ("1", "L", "F") or mode.startswith("I")


def to_eight_bits(picture: Image.Image, mode: Mode, source: str) -> Image.Image:
    """Convert an image to 8 bits a channel; transparency is left out.

    Of 16 bits the upper 8 are kept, which is what Pillow does with 16 bits of colour. (With 16 bits of grey it would
    take everything above 255 for white.)

    Args:
        picture: the image.
        mode: what it is converted to.
        source: what to call it in an error.

    Raises:
        InputError: it cannot be read, or it is not known which of its values are black and white.
    """
    with _named(source):
        picture.load()
        if picture.mode == "F":
            raise InputError(f"{source}: its pixels are floating-point numbers, whose range is not known; {_REMEDY}")
        if picture.mode.startswith("I"):
            picture = _upper_bits(picture, source)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Palette images with Transparency")  # which is left out
            return picture.convert(mode)


def unreadable(source: str) -> str:
    """What is said of an image that is corrupt."""
    return f"{source}: not a readable image; mend or remove it"


def _upper_bits(picture: Image.Image, source: str) -> Image.Image:
    """The 8 upper bits of an image of integers: 16 bits, of a TIFF file also 12.

    Pillow's mode I has 32 bits, in which it also puts 16 of some files. As nothing else says which these are, the
    values have to: of those up to 255 nobody knows whether they are 8 bits or a black image of 16.
    """
    values = np.asarray(picture)
    low, high = int(values.min()), int(values.max())
    if picture.mode == "I" and (low < 0 or 0 < high < 256 or high >= 2**16):
        raise InputError(
            f"{source}: its pixels are 32-bit integers from {low} to {high}, permitted are those of 16 bits, from 0 to "
            f"65535 with some above 255; {_REMEDY}"
        )
    (bits, *_) = getattr(picture, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))
    return Image.fromarray((values >> (4 if bits == 12 else 8)).astype(np.uint8))


@contextlib.contextmanager
def _named(source: str) -> Iterator[None]:
    """Turn what Pillow raises over a corrupt image into a line that names it."""
    try:
        yield
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise InputError(f"{source}: has too many pixels; make it smaller, or remove it") from None
    except (OSError, SyntaxError, ValueError):
        raise InputError(unreadable(source)) from None
