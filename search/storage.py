"""Where a study is kept: a journal file beside a run, or any storage of Optuna's for many machines."""

from __future__ import annotations

import itertools
import os
import re
import time
import warnings
from pathlib import Path

from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage

from psvit.errors import InputError
from psvit.search.study_journal import StudyJournal

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
        return StudyJournal(Path(storage))
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
