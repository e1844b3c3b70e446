"""A journal of measurements, one line of JSON each, that survives whatever ends the process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from psvit.errors import InputError
from psvit.run_folder import differences, hold


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
        self._path = path
        self.records: list[dict[str, Any]] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("a+b")
            if not hold(self._stream):
                raise InputError(f"{path}: another process is measuring; let it end, or name another file")
            self._stream.seek(0)
            content = self._stream.read()
            # What a process that died while it wrote left of a record has no line break at its end.
            whole = content[: content.rfind(b"\n") + 1]
            lines = [json.loads(line) for line in whole.splitlines()]
            if not all(isinstance(line, dict) for line in lines):
                raise json.JSONDecodeError("not a record", "", 0)
            if not lines:
                self._write(config)
            elif len(whole) < len(content):
                os.truncate(path, len(whole))
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from None
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise InputError(f"{path}: is no journal of measurements") from None
        wanted = json.loads(json.dumps(config))
        first, *self.records = lines or [wanted]
        if found := differences(first, wanted):
            raise InputError(
                f"{path}: holds measurements of something else ({'; '.join(found)}); delete it, or name another file"
            )

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
        self._path.unlink(missing_ok=True)
        self._stream.close()
