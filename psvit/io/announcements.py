"""Announcements: what a run says while it goes on, a line each.

A command prints them. In Python they are log records of the logger `psvit.announcements`, at level INFO.
"""

from __future__ import annotations

import logging
import math
import time

ANNOUNCEMENTS = "psvit.announcements"
"""The name of their logger."""

_logger = logging.getLogger(ANNOUNCEMENTS)


def announce(line: str) -> None:
    """Say a line."""
    _logger.info("%s", line)


class Silence:
    """How long a run has said nothing of its progress, whichever of its steps did.

    Attributes:
        since: when something was said last, in seconds of a clock.
    """

    since: float = -math.inf

    @classmethod
    def begin(cls, now: float | None = None) -> None:
        """Begin to count anew: a command or a run begins, or something was said."""
        cls.since = time.monotonic() if now is None else now
