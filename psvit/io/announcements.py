"""Announcements: what a run says while it goes on, a line each.

A command prints them. In Python they are log records of the logger `psvit.announcements`, at level INFO.
"""

from __future__ import annotations

import logging

ANNOUNCEMENTS = "psvit.announcements"
"""The name of their logger."""

_logger = logging.getLogger(ANNOUNCEMENTS)


def announce(line: str) -> None:
    """Say a line."""
    _logger.info("%s", line)
