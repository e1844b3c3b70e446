"""TimeLimit: what a search by short trainings may still begin, so that it is over in time.

A search is planned into its time from a few training steps. A machine may turn out slower than these said, or become
slower. So trainings are timed as the search goes on, and what would not end in time is left out. What was left out is
said, and the same command does it later.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from psvit.search.trial import Score

ALLOWED = 1.1
"""How far beyond its time something may end that is begun: what a plan is wrong by is no reason to leave anything out.
"""

RECENT = 6
"""By so many trainings, the last ones, the others are judged."""


class TimeIsUpError(Exception):
    """An evaluator has no time for all of a population.

    Attributes:
        scores: those of its first architectures.
    """

    def __init__(self, scores: list[Score]) -> None:
        super().__init__("time is up")
        self.scores = scores


class TimeLimit:
    """The time of one call of a search. It begins now.

    Args:
        seconds: how many there are; without a number everything is permitted.
        clock: gives the time in seconds.

    Attributes:
        left_out: what was left out, in words.
        is_up: whether anything was not permitted.
    """

    def __init__(self, seconds: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.left_out: list[str] = []
        self.is_up = False
        self._seconds = math.inf if seconds is None else seconds
        self._clock = clock
        self._began = self._last = clock()
        self._planning: float | None = None
        self._recent: deque[tuple[float, float]] = deque(maxlen=RECENT)

    @property
    def left(self) -> float:
        """The seconds that are left; infinite without a limit."""
        return self._seconds - (self._clock() - self._began)

    def begin(self) -> None:
        """Trainings begin now."""
        self._last = self._clock()
        if self._planning is None:
            self._planning = self._last - self._began

    def trained(self, epochs: float) -> None:
        """So many epochs of a network were trained since trainings began or the last time that this was said."""
        now = self._clock()
        self._recent.append((now - self._last, epochs))
        self._last = now

    def permits(self, epochs: float, share: float = 1.0) -> bool:
        """Whether so many epochs, of one network or over several, may begin now.

        As long as no training was timed they take no time.

        Args:
            epochs: how many.
            share: of the time since the first trainings began, within which they shall end.
        """
        if math.isinf(self._seconds):
            return True
        seconds, trained = (sum(values) for values in zip(*self._recent, strict=True)) if self._recent else (0.0, 1.0)
        end = self._clock() - self._began + epochs * seconds / trained
        before = self._planning or 0.0
        is_late = end > ALLOWED * (before + share * max(0.0, self._seconds - before))
        self.is_up = self.is_up or is_late
        return not is_late
