"""The GPU, or what stands in for it.

    pytest -m gpu -n 0 tests/gpu_tests

`PSVIT_REHEARSE=cpu` runs what does not need a GPU on the CPU instead, so that the tests themselves can be tried without
one.
"""

from __future__ import annotations

import os

import pytest
import torch

REHEARSED = os.environ.get("PSVIT_REHEARSE")


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where to compute."""
    if REHEARSED:
        return torch.device(REHEARSED)
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU with CUDA")
    return torch.device("cuda")


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    """A GPU, without which a test means nothing."""
    if device.type != "cuda":
        pytest.skip("this can only be seen on a GPU")
    return device
