"""Tables: rows of text or of named values, as lines of text, as comma-separated values and as HTML."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Iterable, Sequence
from typing import Any, Self

Rows = Sequence[Sequence[str]]

SHOWN = 20
"""Rows of a long table that a notebook shows."""


def text_table(rows: Rows, header: Sequence[str] = ()) -> str:
    """Rows in aligned columns, a line each; the first column begins at the left, the others end at the right."""
    lines = [list(row) for row in ([header, *rows] if header else rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if position else cell.ljust(width)
            for position, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def html_table(rows: Rows, header: Sequence[str] = (), title: str = "") -> str:
    """The same as an HTML table, for notebooks. All text is escaped."""
    parts = [f"<caption>{html.escape(title)}</caption>"] if title else []
    if header:
        parts.append(f"<tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in header)}</tr>")
    parts += [f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows]
    return f"<table>{''.join(parts)}</table>"


class Table(list[dict[str, Any]]):
    """Rows, each a value by the name of its column; `pandas.DataFrame(table)` and `polars.DataFrame(table)` take it.

    Args:
        rows: the rows.
        columns: their names, in order.
    """

    def __init__(self, rows: Iterable[dict[str, Any]], columns: Sequence[str]) -> None:
        super().__init__(rows)
        self.columns = tuple(columns)

    @classmethod
    def from_csv(cls, text: str) -> Self:
        """What `to_csv` wrote. What reads as a number is one."""
        reader = csv.DictReader(io.StringIO(text))
        rows = [{name: _value(cell) for name, cell in row.items()} for row in reader]
        return cls(rows, tuple(reader.fieldnames or ()))

    def to_csv(self) -> str:
        """Comma-separated values, the names first; a missing value is empty."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(self)
        return text.getvalue()

    def _repr_html_(self) -> str:
        rows = [[_shown(row.get(name)) for name in self.columns] for row in self[:SHOWN]]
        rest = f"<p>{len(self) - SHOWN:,} more rows</p>" if len(self) > SHOWN else ""
        return html_table(rows, self.columns) + rest


def _value(cell: str) -> int | float | str | None:
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            pass
    return cell or None


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)
