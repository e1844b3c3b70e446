"""What may go wrong with one architecture without ending the search, and how it is said."""

from __future__ import annotations

from collections.abc import Callable

import torch

from psvit.errors import DivergedError
from psvit.search.trial import Score

NO_NUMBERS = "outputs that are no finite numbers"


def out_of_memory(error: Exception) -> str:
    """The reason to record where an exception says that memory ran out; empty where it says anything else."""
    says_so = isinstance(error, RuntimeError) and ("allocate memory" in str(error) or "out of memory" in str(error))
    if not (isinstance(error, torch.OutOfMemoryError | MemoryError) or says_so):
        return ""
    first, *_ = str(error).splitlines() or [""]
    return f"out of memory: {first[:200]}" if first else "out of memory"


def score_of(measure: Callable[[], float], images: int) -> Score:
    """What training comes to; failed where it diverges or runs out of memory.

    Args:
        measure: trains, and gives the accuracy.
        images: that it rests on.
    """
    try:
        return Score(value=measure(), images=images)
    except DivergedError as error:
        return Score(value=None, state="failed", reason=str(error))
    except Exception as error:
        reason = out_of_memory(error)
        if not reason:
            raise
        return Score(value=None, state="failed", reason=reason)
