"""Report: one HTML file that says what a search found, on what that rests, and how to repeat it."""

from __future__ import annotations

from psvit.search.report.document import render as render
from psvit.search.report.document import write_report as write_report
from psvit.search.report.references import Reference as Reference
from psvit.search.report.references import deit_references as deit_references
from psvit.search.report.report import Report as Report
