"""Leases: which of the processes that work on a study are alive.

Every process changes its *sign of life* in the study from time to time. Whoever reads the study notes on its own clock
when it last saw a sign change. If a sign stays the same for longer than `LEASE`, its process is taken to be dead.

Signs hold the time at which they were written, but only so that they differ and people can read them. They are never
compared with a reader's clock: the clocks of two machines may differ by minutes or by days.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

LEASE = 120.0
"""Seconds without a new sign of life from a process, after which other processes may evaluate what it holds."""


class Leases:
    """What one process has seen of the signs of life of others.

    Args:
        clock: gives the time in seconds. Only differences count, so it need not agree with anybody else's.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[Hashable, float]] = {}

    def is_alive(self, process: str, sign: Hashable) -> bool:
        """Whether a process is alive, by the sign of life that is in the study now.

        A process that is seen for the first time is alive, because it is not known how old its sign is.
        """
        now = self._clock()
        known, since = self._seen.get(process, (None, now))
        if known != sign:
            since = now
            self._seen[process] = sign, now
        return now - since <= LEASE
