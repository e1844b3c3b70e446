"""The images in a folder with a folder for every class; an image's class is the name of the folder that it lies in."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from psvit.data.pixels import is_hidden, is_image_name, unreadable
from psvit.errors import InputError

MOST_LEVELS = 40
"""Folders inside one another."""

TRAIN, VAL = "train", ("val", "valid", "validation")
"""What folders of training and of validation images are called."""

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
    return [int(part) if part.isdecimal() else part for part in _DIGITS.split(text.lower())]


def parts_of(root: Path) -> tuple[Path, Path | None]:
    """The folders of the training and of the validation images; `None` if these are to be held out from the others.

    A folder either has `train/` in it, with or without `val/` beside that, or holds the folders of the classes itself.

    Raises:
        InputError: it is neither, or a part of another folder, or has two folders of validation images.
    """
    named = [root / name for name in VAL if _is_part(root / name)]
    if len(named) > 1:
        found = " and ".join(f"{folder.name}/" for folder in named)
        raise InputError(f"data '{root}': expected one folder of validation images, found {found}; keep one")
    if _is_part(root / TRAIN):
        for flat in (root / name for name in VAL):
            if flat not in named and _has_images(flat):
                raise InputError(
                    f"data '{root}': the images in {flat.name}/ lie in no folders of classes, as those in "
                    f"{TRAIN}/ do; move them into some, or remove {flat.name}/"
                )
        return root / TRAIN, named[0] if named else None
    hint = ""
    if root.name in (TRAIN, *VAL) and (root.parent / TRAIN).is_dir():
        hint = f"; did you mean {str(root.parent)!r}?"
    elif not named and any(_has_images(folder) for folder in _folders_in(root)):
        return root, None
    raise InputError(
        f"data '{root}': expected a folder of images for every class, in it or in {TRAIN}/ and {VAL[0]}/ in it{hint}"
    )


def _is_part(folder: Path) -> bool:
    """Whether there is such a folder, and it is none of a class that is called like a part."""
    return folder.is_dir() and (not _has_images(folder) or any(map(_has_images, _folders_in(folder))))


def _folders_in(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return [Path(entry.path) for entry in entries if _is_folder(entry) and not is_hidden(entry.name)]
    return []


def _has_images(folder: Path) -> bool:
    """Whether images lie in a folder, and not only in folders below."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return any(_is_image(entry) for entry in entries)
    return False


def _is_image(entry: os.DirEntry[str]) -> bool:
    return is_image_name(entry.name) and not _is_folder(entry)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself
        return False


def images_in(
    folder: Path, classes: Sequence[str] | None = None, *, may_be_nested: bool = True
) -> tuple[list[ImageFile], tuple[str, ...]]:
    """All images below a folder and the names of their classes, both in natural order.

    Links are followed, but not into a folder that they lie in. A file that is found twice counts once. Hidden files and
    folders are left out; otherwise images and classes are those that timm finds.

    Args:
        folder: the folder.
        classes: the classes; images of others are left out. By default, all that have images.
        may_be_nested: whether folders of classes may lie in other folders. Then another data set further below would be
            taken for classes as well.

    Raises:
        InputError: a file is in two classes, in none or too deep, is no regular file, cannot be read, or has a name
            that is no text.
    """
    found: dict[Identity, tuple[str, str, int]] = {}
    for path, label in _files(str(folder), "", (), set()):
        if not label:
            raise InputError(f"{path}: lies in no folder of a class; move it into one, or away from {folder}")
        if not may_be_nested and os.path.dirname(os.path.dirname(path)) != str(folder):
            raise InputError(
                f"{path}: lies too deep for an image of a class in {folder}; move it, or name another folder"
            )
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
        if is_hidden(entry.name):
            continue
        if _is_folder(entry):
            yield from _files(entry.path, entry.name, (*above, here), seen)
        elif _is_image(entry):
            yield entry.path, label
