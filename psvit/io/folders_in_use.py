"""Folders in use: what happens if a run's folder is deleted, moved or replaced while the run is at work in it.

Files are written into folders that are made where they are missing. Into a folder that is gone this would write the
second half of a run. So whatever writes asks here first.
"""

from __future__ import annotations

import os
from pathlib import Path
from weakref import WeakValueDictionary

from psvit.errors import InputError

_SECONDS = 2.0
"""Differences between two times of one file that are not counted: some file systems round them after a while."""

_in_use: WeakValueDictionary[Path, FolderInUse] = WeakValueDictionary()


class FolderInUse:
    """A folder that a run is at work in, for as long as this is referred to.

    Args:
        folder: it.
        shown: what to call it in an error.
        mark: a file in it that is written once, when the run is begun.
    """

    def __init__(self, folder: Path, shown: str, mark: str) -> None:
        self._mark = folder.absolute() / mark
        self._shown = shown
        self._written = self._mark.stat().st_mtime
        _in_use[folder.absolute()] = self

    def check(self) -> None:
        """Make sure that it is there, and is the one that was begun.

        Raises:
            InputError: it is not.
        """
        try:
            is_there = abs(self._mark.stat().st_mtime - self._written) <= _SECONDS
        except (FileNotFoundError, NotADirectoryError):
            is_there = False
        except OSError:  # a disk that fails is not a folder that was deleted
            is_there = True
        if not is_there:
            raise InputError(
                f"{self._shown}: was deleted, moved or replaced while the run was at work in it, so the run has ended "
                "and writes nothing more; put the folder back and give the same command to continue, or begin anew "
                "with another one"
            )


def forget(folder: Path) -> None:
    """Forget that a run was at work in a folder, because one begins there that may make it anew."""
    _in_use.pop(folder.absolute(), None)


def forget_all() -> None:
    """Forget all that runs of this process have begun, because another command begins."""
    _in_use.clear()


def check_in_use(path: Path) -> None:
    """Make sure that no folder in use is missing to which a path belongs.

    Raises:
        InputError: one is; says what to do.
    """
    place = Path(os.path.abspath(path))
    for folder, used in list(_in_use.items()):
        if place.is_relative_to(folder):
            used.check()


def check_all_in_use() -> None:
    """Make sure that no folder in use is missing.

    Raises:
        InputError: one is; says what to do.
    """
    for used in list(_in_use.values()):
        used.check()
