"""The page that all reports are: one HTML document that loads nothing, light or dark."""

from __future__ import annotations

import html
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from psvit.report.chart import packed
from psvit.report.formatting import percent, value_in_words


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
        page = html.escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" width="100%" height="700" style="border:0"></iframe>'


def page(template: str, **values: Any) -> str:
    """Fill a template, which extends `psvit.report/page.html.j2`; equal values give equal text.

    Args:
        template: its package and its file, as `psvit.search.report/report.html.j2`. Templates name others so, too.
        values: by the names that the template has for them. All text is escaped.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_source)
    )
    environment.filters.update(packed=packed, percent=percent, value=value_in_words)
    return environment.get_template(template).render(**values)


def _source(template: str) -> str:
    package, _, file = template.partition("/")
    return files(package).joinpath(file).read_text(encoding="utf-8")
