"""Find the image files that paths of images and folders stand for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from psvit.data.pixels import ENDINGS, is_hidden, is_image_name
from psvit.errors import InputError


def image_files(paths: Sequence[Path]) -> list[Path]:
    """Files as they are, and all images in folders and below them but hidden ones, in the order of their names.

    Raises:
        InputError: a path that does not exist, or a folder without images.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(one for one in path.rglob("*") if _is_image(one, path))
            if not found:
                raise InputError(f"{path}: no images in it; their names end in {', '.join(ENDINGS)}")
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise InputError(f"{path}: no such file or folder")
    return files


def _is_image(file: Path, folder: Path) -> bool:
    hidden = any(map(is_hidden, file.relative_to(folder).parts))
    return not hidden and is_image_name(file.name) and file.is_file()
