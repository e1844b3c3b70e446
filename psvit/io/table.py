"""Table: rows of named values, for files, notebooks and libraries that take such."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHOWN = 20
"""Rows that a notebook shows."""


class Table(list[dict[str, Any]]):
    """Rows, each a value by the name of its column; `pandas.DataFrame(table)` and `polars.DataFrame(table)` take it.

    Args:
        rows: the rows.
        columns: their names, in order; those of the first row by default.
    """

    def __init__(self, rows: Iterable[dict[str, Any]] = (), columns: Sequence[str] = ()) -> None:
        super().__init__(rows)
        self.columns = tuple(columns or (self[0] if self else ()))

    def to_csv(self) -> str:
        """Comma-separated values, the names first; empty where a value is missing."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(self)
        return text.getvalue()

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.columns)
        shown = (
            "".join(f"<td>{html.escape(_shown(row.get(name)))}</td>" for name in self.columns) for row in self[:SHOWN]
        )
        body = "".join(f"<tr>{cells}</tr>" for cells in shown)
        rest = f"<p>{len(self) - SHOWN:,} more rows</p>" if len(self) > SHOWN else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}"


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class HtmlFile:
    """A page in a file, which a notebook shows.

    Attributes:
        path: of the file.
    """

    path: Path

    def __fspath__(self) -> str:
        return str(self.path)

    def _repr_html_(self) -> str:
        page = html.escape(self.path.read_text(encoding="utf-8"), quote=True)
        return f'<iframe srcdoc="{page}" width="100%" height="700" style="border:0"></iframe>'
