"""RunFolder: where a command keeps what it makes, and how the same command finds it again."""

from __future__ import annotations

import hashlib
import json
import os
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, ClassVar

from filelock import BaseFileLock

from psvit.errors import InputError
from psvit.io.announcements import Silence
from psvit.io.documents import dump_yaml, read_yaml, remove_unfinished, write_atomic
from psvit.io.folders_in_use import FolderInUse, check_in_use, forget
from psvit.io.locks import LOCK_FILE, hold, remove

SCHEMA = "psvit/run/1"
CONFIG = "config.yaml"

ERROR_FILE = "error.txt"
"""Where the traceback of an unforeseen error is kept, until the run goes on."""

_UNFINISHED_CONFIG = f".{CONFIG}.*.tmp"
"""What `write_atomic` calls the file meanwhile; a process that is killed just then leaves it."""

DATA, DATA_DIGEST = "data", "data_digest"
"""Keys of a configuration: what its images are called, and `psvit.data.ImageData.digest`."""


def default_folder(label: str, config: dict[str, Any]) -> Path:
    """Where a run goes when no folder is named: equal configurations meet in the same one."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]
    # A budget may hold a path.
    name = re.sub(r"[^\w.%-]+", "-", label)
    return Path("runs") / f"{name}-{digest}"


class RunFolder:
    """A folder with the resolved configuration of the run that made it.

    Args:
        path: where it is or shall be.
        command: the command that makes it.
        config: everything that decides its results, as plain scalars, lists and dicts.

    Raises:
        InputError: the folder belongs to another run (the differences are named), holds something else, or cannot be
            written, or another process is at work in it.

    Attributes:
        last: the folder of the last run that this process began.
    """

    last: ClassVar[Path | None] = None

    def __init__(self, path: Path, command: str, config: dict[str, Any]) -> None:
        self.path = path
        Silence.begin()
        check_folder(path, command, config)  # before anything is written, be it the file that is locked
        # Kept for as long as the folder is referred to.
        self._lock = self._hold()
        try:
            # Again, because another process may have begun a run here before the folder was locked.
            self.resumed = check_folder(path, command, config)
            remove_unfinished(path)
            (path / ERROR_FILE).unlink(missing_ok=True)
            if not self.resumed:
                write_atomic(path / CONFIG, dump_yaml({"schema": SCHEMA, "command": command, **config}))
            # As long as the lock: who deletes the folder meanwhile finds no half of a run there.
            self._in_use = FolderInUse(path, f"--out {path}", CONFIG)
        except BaseException:
            if (path / CONFIG).exists():
                self._lock.release()
            else:
                remove(self._lock)
            raise
        RunFolder.last = path.absolute()

    def _hold(self) -> BaseFileLock:
        """Keep other processes out until this one ends, however it does."""
        check_in_use(self.path.parent)
        forget(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = hold(self.path / LOCK_FILE)
        except OSError as error:
            raise InputError(f"--out {self.path}: cannot be written: {error.strerror}") from None
        if lock is None:
            raise InputError(f"--out {self.path}: another process is at work in it; name another folder")
        return lock

    def __truediv__(self, name: str) -> Path:
        return self.path / name


def check_folder(path: Path, command: str, config: dict[str, Any]) -> bool:
    """Make sure that a run can be kept in a folder, and leave everything as it is.

    Args:
        path: where it is or shall be.
        command: as of `RunFolder`.
        config: as of `RunFolder`.

    Returns:
        Whether it was begun there before.

    Raises:
        InputError: as `RunFolder`, except for other processes that are at work there.
    """
    try:
        # Looked at once: of processes that `torchrun` started, another one may begin the run just now.
        there = {entry.name for entry in path.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        there = set()
    except OSError as error:
        raise InputError(f"--out {path}: cannot be written: {error.strerror}") from None
    if path.exists() and not path.is_dir():
        raise InputError(f"--out {path}: is a file; name a folder, new or of the same run")
    if CONFIG in there:
        found = differences(read_yaml(path / CONFIG, SCHEMA), {"command": command, **config})
        if found:
            raise InputError(
                f"--out {path}: holds a run with another configuration ({'; '.join(found)}); "
                "name another folder, or give the same options to continue it"
            )
    elif not all(map(_is_ours, there)):
        raise InputError(f"--out {path}: is not empty and holds no run; name a new folder")
    nearest = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InputError(f"--out {path}: cannot be written")
    return CONFIG in there


def _is_ours(name: str) -> bool:
    """Whether a file is none that a user has put there: a folder with no other is empty."""
    return name == LOCK_FILE or fnmatch(name, _UNFINISHED_CONFIG)


def differences(found: Any, wanted: Any, key: str = "") -> list[str]:
    """The places where two configurations differ, as `key: found there, wanted here`.

    Of images that have another name, only that is told; those that were written down before there were digests of
    images are taken to be the same.
    """
    if isinstance(found, dict) and isinstance(wanted, dict):
        names = list(dict.fromkeys([*found, *wanted]))
        if found.get(DATA_DIGEST) is None or found.get(DATA) != wanted.get(DATA):
            names = [name for name in names if name != DATA_DIGEST]
        return [
            difference
            for name in names
            for difference in differences(found.get(name), wanted.get(name), f"{key}.{name}".lstrip("."))
        ]
    if found == wanted:
        return []
    told = f"{key}: {found} there, {wanted} here"
    if key.split(".")[-1] == DATA_DIGEST:
        told += ", so images were added, removed or changed since, which moves others between the parts; restore them"
    return [told]
