"""Where a study is kept: a journal file beside a run, or any storage of Optuna's for many machines."""

from __future__ import annotations

import itertools
import os
import re
import time
import warnings
from pathlib import Path
from typing import Any, BinaryIO, cast

from filelock import lock_descriptor, unlock_descriptor
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from psvit.errors import InputError

TRIES = 5
"""How often a database is opened again whose tables another process makes at the same time."""


def open_storage(storage: str | Path) -> BaseStorage:
    """Open a storage, or make it.

    Args:
        storage: the path of a journal file; `redis://...`; or a URL of a database that SQLAlchemy knows, such as
            `postgresql://user@host/name`.

    Raises:
        InputError: it cannot be opened, or its driver is not installed.
    """
    text = str(storage)
    if "://" not in text:
        return _journal(Path(storage))
    shown = without_password(text)
    try:
        if text.startswith("redis"):
            from optuna.storages.journal import JournalRedisBackend

            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return JournalStorage(JournalRedisBackend(text))
        return _database(text)
    except ImportError as error:
        hint = "; pip install -e '.[postgresql]'" if text.startswith("postgresql") else ""
        raise InputError(f"--storage {shown}: its driver is not installed: {line_of(error)}{hint}") from None
    except Exception as error:  # whatever the driver behind the URL raises
        raise InputError(f"--storage {shown}: cannot be opened: {line_of(error)}") from None


def check_storage(storage: str) -> None:
    """Make sure that a storage can be opened, without making a journal that is not there yet.

    Raises:
        InputError: as `open_storage`.
    """
    path = Path(storage)
    if "://" in storage or path.exists():
        open_storage(storage)
        return
    place = next(parent for parent in path.absolute().parents if parent.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise InputError(f"--storage {storage}: cannot be written")


_PASSWORDS = (
    re.compile(r"(://[^/:@]*:).*(@)", re.DOTALL),
    re.compile(r"([?&][^=&]*(?:password|passwd|pwd)[^=&]*=)[^&\s]*()", re.IGNORECASE),
)
"""Before the host, up to the last @, because not everybody writes one in a password as %40; and among the options."""


def without_password(text: str) -> str:
    """Text with three stars in place of the password of a URL in it, to be shown or written down."""
    for password in _PASSWORDS:
        text = password.sub(r"\1***\2", text)
    return text


def line_of(error: Exception) -> str:
    """The message of a storage's error, on one short line without passwords."""
    return without_password(" ".join(str(error).split()))[:200].rstrip(".") or type(error).__name__


def _database(url: str) -> BaseStorage:
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import DBAPIError

    for attempt in itertools.count():
        try:
            # A connection that has died is found out before it is used, not by losing a result.
            return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
        except DBAPIError as error:
            # Of several processes that begin together one makes the tables, and the others find them half made.
            if attempt == TRIES or not any(word in str(error).lower() for word in ("already exists", "duplicate")):
                raise
            time.sleep(0.1 * 2**attempt)
    raise AssertionError


_BEGIN = b'{"op_code":'
"""How every record of a journal of Optuna's begins."""


def _journal(path: Path) -> JournalStorage:
    if path.is_dir():
        raise InputError(f"--storage {path}: is a folder; expected a journal file or a URL such as postgresql://...")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass
        with path.open("rb") as stream:
            begin = stream.read(len(_BEGIN))
        if not _BEGIN.startswith(begin) and begin != _BEGIN:  # before anything in it is changed
            raise InputError(f"--storage {path}: is not a journal of Optuna's")
        return JournalStorage(JournalFileBackend(str(path), lock_obj=cast(Any, _Lock(path))))
    except OSError as error:
        raise InputError(f"--storage {path}: cannot be written: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AssertionError):  # whatever Optuna says of a record that is none
        raise InputError(f"--storage {path}: is not a journal of Optuna's") from None


class _Lock:
    """A lock on the journal itself, which the kernel frees when a process dies.

    Optuna's own is a link that a killed process leaves behind, and with a relative path nobody takes it over.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._stream: BinaryIO | None = None
        self.acquire()  # what a killed process left of a record is cut off before anything is read
        self.release()

    def acquire(self) -> bool:
        """Wait until no other process holds the journal, and leave it ending with a whole record."""
        self._stream = self._journal.open("rb+")
        lock_descriptor(self._stream.fileno(), poll_interval=0.001)
        _drop_partial_record(self._stream)
        return True

    def release(self) -> None:
        """Let others have it."""
        if self._stream is not None:
            # Closing it is not enough where another thread forked meanwhile: the child has it open too.
            unlock_descriptor(self._stream.fileno())
            self._stream.close()
            self._stream = None


def _drop_partial_record(stream: BinaryIO) -> None:
    """Cut off what a process that died while it wrote left of a record; a whole one ends with a line break."""
    size = stream.seek(0, os.SEEK_END)
    end = size
    while end:
        start = max(0, end - 65536)
        stream.seek(start)
        found = stream.read(end - start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end < size:
        stream.truncate(end)
