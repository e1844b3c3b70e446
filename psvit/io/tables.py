"""Tables: rows of text, as lines of text and as HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence

Rows = Sequence[Sequence[str]]


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
