"""The images in a folder with a folder for every class; an image's class is the name of the folder that it lies in."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from psvit.data.pixels import ENDINGS, unreadable
from psvit.errors import InputError

MOST_LEVELS = 40
"""Folders inside one another."""

_DIGITS = re.compile(r"(\d+)")

Identity = tuple[int, int]
"""Device and number of a file or folder, whatever it is called."""


class ImageFile(NamedTuple):
    """An image of a folder.

    Attributes:
        path: its path.
        label: the number of its class.
        size: in bytes.
    """

    path: str
    label: int
    size: int


def natural_key(text: str) -> list[int | str]:
    """A key of a sort that has `class 2` before `class 10`; timm numbers the classes of a folder in this order."""
    return [int(part) if part.isdigit() else part for part in _DIGITS.split(text.lower())]


def images_in(folder: Path, classes: Sequence[str] | None = None) -> tuple[list[ImageFile], tuple[str, ...]]:
    """All images below a folder and the names of their classes, both in natural order.

    Links are followed, but not into a folder that they lie in. A file that is found twice counts once.

    Args:
        folder: the folder.
        classes: the classes; images of others are left out. By default, all that have images.

    Raises:
        InputError: a file is in two classes, is no regular file, cannot be read, or has a name that is no text.
    """
    found: dict[Identity, tuple[str, str, int]] = {}
    for path, label in _files(str(folder), "", (), set()):
        try:
            about = os.stat(path)
        except OSError:
            raise InputError(unreadable(path)) from None
        if not stat.S_ISREG(about.st_mode):
            raise InputError(f"{path}: must be a regular file, to be read as an image")
        identity = (about.st_dev, about.st_ino)
        first, its_label, _ = found.setdefault(identity, (path, label, about.st_size))
        if its_label != label:
            raise InputError(
                f"{path}: is the same file as {first}, so it would be in the classes {its_label} and {label}"
            )
    names = tuple(classes or sorted({label for _, label, _ in found.values()}, key=natural_key))
    number = {name: place for place, name in enumerate(names)}
    images = [ImageFile(path, number[label], size) for path, label, size in found.values() if label in number]
    return sorted(images, key=lambda image: natural_key(image.path)), names


def _files(
    folder: str, label: str, above: tuple[Identity, ...], seen: set[tuple[Identity, str]]
) -> Iterator[tuple[str, str]]:
    """The paths of all files with the ending of an image, each with the name of its folder.

    Args:
        folder: the folder.
        label: its name.
        above: the folders that it lies in.
        seen: all folders so far, with their names.
    """
    try:
        about = os.stat(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}") from None
    here = (about.st_dev, about.st_ino)
    if here in above or (here, label) in seen:
        return
    seen.add((here, label))
    if len(above) >= MOST_LEVELS:
        raise InputError(f"{folder}: lies in more than {MOST_LEVELS} folders")
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}") from None
    for entry in entries:
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(entry.path).decode(errors="backslashreplace")
            raise InputError(f"{shown}: has a name that is no UTF-8; rename it") from None
        if entry.is_dir():
            yield from _files(entry.path, entry.name, (*above, here), seen)
        elif os.path.splitext(entry.name)[1].lower() in ENDINGS:
            yield entry.path, label
