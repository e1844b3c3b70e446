"""The page that all reports are: one HTML document that loads nothing, light or dark, with plotly's figures."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

import psvit.search.report.figures as figures
from psvit.search.report.formatting import percent, value_in_words


def page(package: str, template: str, **values: Any) -> str:
    """Fill a template, which extends `page.html.j2`; equal values give equal text.

    Args:
        package: where the template lies; what it extends and imports lies here.
        template: its file name.
        values: by the names that the template has for them.
    """

    def source(name: str) -> str:
        where = package if name == template else __package__
        return files(where).joinpath(name).read_text(encoding="utf-8")

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(source)
    )
    environment.filters.update(percent=percent, value=value_in_words)
    environment.globals.update(plotly=Markup(figures.plotly_script()), markup=Markup)
    return environment.get_template(template).render(**values)
