"""TimeLimit: what a search by short trainings may still begin, so that it is over in time.

A search is planned into its time from a few training steps. A machine may turn out slower than these said, or become
slower. So trainings are timed as the search goes on, and what would not end in time is left out. What was left out is
said, and the same command does it later.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable

from psvit.search.trial import Score

ALLOWED = 1.1
"""How far beyond its time something may end that is begun: what a plan is wrong by is no reason to leave anything out.
"""

RECENT = 6
"""By so many trainings, the last ones of each worker, the others are judged."""


class TimeIsUpError(Exception):
    """An evaluator has no time for all of a population.

    Attributes:
        scores: those of its first architectures.
    """

    def __init__(self, scores: list[Score]) -> None:
        super().__init__("time is up")
        self.scores = scores


def elapsed(trainings: Iterable[float], at_once: int) -> float:
    """The epochs that pass until the last of several trainings ends.

    Args:
        trainings: the epochs of each. They begin in this order, each as soon as a worker is free.
        at_once: how many workers there are.
    """
    ends = [0.0] * at_once
    for epochs in trainings:
        heapq.heapreplace(ends, ends[0] + epochs)
    return max(ends)


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
        self._at_once = 1
        self._running: dict[Hashable, float] = {}
        self._recent: deque[tuple[float, float]] = deque(maxlen=RECENT)

    @property
    def left(self) -> float:
        """The seconds that are left; infinite without a limit."""
        return self._seconds - (self._clock() - self._began)

    @property
    def is_over(self) -> bool:
        """Whether anything was not permitted, or no time is left."""
        return self.is_up or self.left <= 0

    def begin(self, at_once: int = 1) -> None:
        """Trainings begin now, on so many workers; none is running."""
        self._last = self._clock()
        if self._planning is None:
            self._planning = self._last - self._began
        self._at_once = at_once
        self._running.clear()
        self._recent = deque(self._recent, maxlen=RECENT * at_once)

    def begins(self, training: Hashable, epochs: float) -> None:
        """A training of so many epochs begins now, or as soon as a worker is free."""
        self._running[training] = epochs

    def ended(self, training: Hashable, *, failed: bool = False) -> None:
        """A training that has begun has ended. One that failed says nothing of how long others take."""
        workers = min(self._at_once, len(self._running))
        epochs = self._running.pop(training)
        if failed:
            return
        now = self._clock()
        self._recent.append((workers * (now - self._last), epochs))
        self._last = now

    def permits(self, *trainings: float, share: float = 1.0) -> bool:
        """Whether trainings may begin now.

        As long as none was timed they take no time.

        Args:
            trainings: the epochs of each. They come after those that have begun.
            share: of the time since the first trainings began, within which they shall end.
        """
        if math.isinf(self._seconds):
            return True
        seconds, trained = (sum(values) for values in zip(*self._recent, strict=True)) if self._recent else (0.0, 1.0)
        epochs = elapsed([*self._running.values(), *trainings], self._at_once)
        end = self._clock() - self._began + epochs * seconds / trained
        before = self._planning or 0.0
        is_late = end > ALLOWED * (before + share * max(0.0, self._seconds - before))
        self.is_up = self.is_up or is_late
        return not is_late
