"""A journal of measurements, one line of JSON each, that survives whatever ends the process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from psvit.errors import InputError
from psvit.io.folders_in_use import check_in_use
from psvit.io.locks import hold, remove
from psvit.io.run_folder import differences


class Journal:
    """Records in a file, each of them on disk before `add` returns.

    Args:
        path: the file; one that exists is continued.
        config: what the measurements are of, JSON-serialisable; its first line.

    Raises:
        InputError: the file is of something else (the differences are named), is no journal, or cannot be written,
            or another process writes to it.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        wanted = json.loads(json.dumps(config))
        check_in_use(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = hold(path)
            if lock is None:
                raise InputError(f"{path}: another process is measuring; let it end, or name another file")
            # Kept for as long as the journal is referred to. The journal itself is locked: nothing ever replaces it.
            self._lock = lock
            self._stream = path.open("a+b")
            first, *records = self._begin(wanted)
        except InputError:
            raise
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from None
        except ValueError:
            raise InputError(f"{path}: is no journal of measurements") from None
        if found := differences(first, wanted):
            raise InputError(
                f"{path}: holds measurements of something else ({'; '.join(found)}); delete it, or name another file"
            )
        self.records: list[dict[str, Any]] = records

    def _begin(self, config: dict[str, Any]) -> list[dict[str, Any]]:
        """The lines of the file. If it has none, the configuration is written now and is the first."""
        self._stream.seek(0)
        content = self._stream.read()
        # What a process that died while it wrote left of a line has no line break at its end.
        whole = content[: content.rfind(b"\n") + 1]
        lines = [json.loads(line) for line in whole.splitlines()]
        if not all(isinstance(line, dict) for line in lines):
            raise ValueError("a line that is no record")
        self._stream.truncate(len(whole))
        if not lines:
            self._write(config)
        return lines or [config]

    def add(self, record: dict[str, Any]) -> None:
        """Append a record, JSON-serialisable."""
        self.records.append(record)
        self._write(record)

    def _write(self, line: dict[str, Any]) -> None:
        self._stream.write(json.dumps(line).encode() + b"\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def remove(self) -> None:
        """Delete the file when its records have gone into another."""
        self._stream.close()
        remove(self._lock)
