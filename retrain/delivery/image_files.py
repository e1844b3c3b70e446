"""Find the image files that paths of images and folders stand for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from psvit.data.pixels import ENDINGS, is_hidden, is_image_name
from psvit.errors import InputError
from psvit.io.documents import is_there


def image_files(paths: Sequence[Path]) -> list[Path]:
    """Files as they are, and all images in folders and below them but hidden ones, in the order of their names.

    Raises:
        InputError: a path that does not exist, or a folder without images.
    """
    files: list[Path] = []
    for path in paths:
        if is_there(path) and path.is_dir():
            found = sorted(_images_in(path))
            if not found:
                raise InputError(f"{path}: no images in it; their names end in {', '.join(ENDINGS)}")
            files += found
        elif is_there(path):
            files.append(path)
        else:
            raise InputError(f"{path}: no such file or folder")
    return files


def _images_in(folder: Path) -> Iterator[Path]:
    """The images in a folder and below it, also behind links, but none twice."""
    seen: set[tuple[int, int]] = set()

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}")

    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        about = os.stat(place)
        if (about.st_dev, about.st_ino) in seen:
            folders.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield from (Path(place, name) for name in files if is_image_name(name) and os.path.isfile(Path(place, name)))
