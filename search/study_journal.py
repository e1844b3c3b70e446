"""StudyJournal: a study in a file, as a journal of Optuna's, which processes on one disk may share."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any, BinaryIO, cast

from filelock import lock_descriptor, unlock_descriptor
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from psvit.errors import InputError
from psvit.io.folders_in_use import check_in_use
from psvit.search.journal_records import fault_of

_BEGIN = b'{"op_code":'
"""How every record of a journal of Optuna's begins."""

REPAIR = "; restore the file, or remove it to begin anew"
"""What can be done about a damaged record."""

_SET_STUDY_USER_ATTR, _CREATE_TRIAL = 2, 4
"""Kinds of records."""


class StudyJournal(JournalStorage):
    """A journal in a file.

    Args:
        path: the file, which is made if it does not exist.

    Raises:
        InputError: it is no journal, a record is damaged, or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_dir():
            raise InputError(
                f"--storage {path}: is a folder; expected a journal file or a URL such as postgresql://..."
            )
        check_in_use(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab"):
                pass
            with path.open("rb") as stream:
                begin = stream.read(len(_BEGIN))
            if not _BEGIN.startswith(begin) and begin != _BEGIN:  # before anything in it is changed
                raise InputError(f"--storage {path}: is not a journal of Optuna's")
            super().__init__(_Records(path))
        except InputError:
            raise
        except OSError as error:
            raise InputError(f"--storage {path}: cannot be written: {error.strerror}") from None
        # Whatever Optuna says of a record that has the right shape and is none of its version.
        except (ValueError, KeyError, TypeError, AssertionError):
            raise InputError(f"--storage {path}: is not a journal of Optuna's") from None

    def line_of(self, study_id: int, place: str | int) -> int | None:
        """The number of the line that holds an attribute of a study by name, or that began a trial by number."""
        found = []
        with self.path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                record = json.loads(line) if line.endswith(b"\n") else {}
                kind = record.get("op_code") if record.get("study_id") == study_id else None
                if (
                    kind == _CREATE_TRIAL
                    if isinstance(place, int)
                    else (kind == _SET_STUDY_USER_ATTR and place in record["user_attr"])
                ):
                    found.append(number)
        if isinstance(place, int):
            return found[place] if place < len(found) else None
        return found[-1] if found else None


class _Records(JournalFileBackend):
    """The records in the file, each of which is looked at before Optuna sees it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__(str(path), lock_obj=cast(Any, _Lock(path)))

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """The records from a number on.

        Raises:
            InputError: a record is damaged; names its line. Or the file is gone.
        """
        number = log_number_from
        try:
            for record in super().read_logs(log_number_from):
                number += 1
                if fault := fault_of(record):
                    raise InputError(f"--storage {self._path}: line {number} is damaged: {fault}{REPAIR}")
                yield record
        except FileNotFoundError:
            raise _gone(self._path) from None
        except InputError:
            raise
        except (ValueError, RecursionError):
            raise InputError(f"--storage {self._path}: line {number + 1} is damaged: is not JSON{REPAIR}") from None


def _gone(path: Path) -> InputError:
    try:
        check_in_use(path)
    except InputError as error:
        return error
    return InputError(
        f"--storage {path}: was deleted or moved while a search was at work with it; put it back and give the same "
        "command to continue, or begin anew with another one"
    )


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
        """Wait until no other process holds the journal, and leave it ending with a whole record.

        Raises:
            InputError: the file, or the run's folder that holds it, is gone.
        """
        check_in_use(self._journal)
        try:
            self._stream = self._journal.open("rb+")
        except FileNotFoundError:
            raise _gone(self._journal) from None
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
