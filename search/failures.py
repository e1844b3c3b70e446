"""What may go wrong with one architecture without ending the search, and how it is said."""

from __future__ import annotations

import torch

NO_NUMBERS = "outputs that are no finite numbers"


def out_of_memory(error: Exception) -> str:
    """The reason to record where an exception says that memory ran out; empty where it says anything else."""
    says_so = isinstance(error, RuntimeError) and ("allocate memory" in str(error) or "out of memory" in str(error))
    if not (isinstance(error, torch.OutOfMemoryError | MemoryError) or says_so):
        return ""
    first, *_ = str(error).splitlines() or [""]
    return f"out of memory: {first[:200]}" if first else "out of memory"
