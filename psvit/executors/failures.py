"""Failures of a single architecture that do not end the run, and their reasons in words."""

from __future__ import annotations

from psvit.errors import RunError

_SAID_OF_MEMORY = (
    "allocate memory",
    "out of memory",
    # What CUDA's libraries say where they find no memory for their own workspace.
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
)

NO_NUMBERS = "outputs that are no finite numbers"


def out_of_memory(error: Exception) -> str:
    """The reason to record if an exception says that memory ran out; empty for any other exception."""
    import torch  # only here: where nothing fails, those who hand work on do without it

    says_so = isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID_OF_MEMORY)
    if not (isinstance(error, torch.OutOfMemoryError | MemoryError) or says_so):
        return ""
    first, *_ = str(error).splitlines() or [""]
    return f"out of memory: {first[:200]}" if first else "out of memory"


def failure_of(error: Exception) -> str:
    """The reason to record where a training diverged, or ran out of memory; empty where anything else went wrong."""
    return str(error) if isinstance(error, RunError) else out_of_memory(error)
