"""A journal of measurements, one line of JSON each, that survives whatever ends the process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from psvit.errors import InputError
from psvit.run_folder import differences


class Journal:
    """Records in a file, each of them on disk before `add` returns.

    Args:
        path: the file; one that exists is continued.
        config: what the measurements are of, JSON-serialisable; its first line.

    Raises:
        InputError: the file is of something else (the differences are named), is no journal, or cannot be written.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self._path = path
        self.records: list[dict[str, Any]] = []
        try:
            content = path.read_bytes() if path.exists() else b""
            # What a process that died while it wrote left of a record has no line break at its end.
            whole = content[: content.rfind(b"\n") + 1]
            first, *self.records = [json.loads(line) for line in whole.splitlines()] or [None]
            if first is None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(config) + "\n", encoding="utf-8")
            elif len(whole) < len(content):
                os.truncate(path, len(whole))
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from None
        except ValueError:
            raise InputError(f"{path}: is no journal of measurements") from None
        if first is not None and (found := differences(first, json.loads(json.dumps(config)))):
            raise InputError(
                f"{path}: holds measurements of something else ({'; '.join(found)}); delete it, or name another file"
            )

    def add(self, record: dict[str, Any]) -> None:
        """Append a record, JSON-serialisable."""
        self.records.append(record)
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def remove(self) -> None:
        """Delete the file when its records have gone into another."""
        self._path.unlink(missing_ok=True)
