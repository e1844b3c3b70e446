"""The cores that this process may use: of its affinity and of its container's quota, whichever is less."""

from __future__ import annotations


def usable_cores() -> int:
    """The number of cores, at least 1; `LOKY_MAX_CPU_COUNT` in the environment limits it further."""
    from joblib import cpu_count  # takes longer than what a command's help needs

    return int(cpu_count())
