"""Which exceptions are failures of one item."""

from __future__ import annotations

import pytest
import torch

from psvit.errors import DivergedError
from psvit.executors.failures import failure_of, out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    ],
)
def test_memory_that_ran_out_is_a_failure_of_one_line(error):
    assert out_of_memory(error) == failure_of(error)
    assert failure_of(error).startswith("out of memory")
    assert "\n" not in failure_of(error)


def test_a_run_error_is_its_own_reason_and_a_defect_has_none():
    assert failure_of(DivergedError("the loss is nan")) == "the loss is nan"
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory"), KeyError(1)):
        assert failure_of(error) == ""
