"""Precision of float32 on a GPU: whether its products and convolutions round their inputs to TF32."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch


@contextlib.contextmanager
def float32_products(precision: Literal["high", "highest"], device_type: str = "cuda") -> Iterator[None]:
    """Compute products and convolutions of float32 numbers on GPUs alike; also a decorator.

    PyTorch rounds the inputs of convolutions to TF32 of itself, and those of other products not.

    Args:
        precision: `high` rounds both, which is several times as fast, for training; `highest` neither, for scores and
            comparisons.
        device_type: where it is computed; nothing changes anywhere but on `cuda`.
    """
    if device_type != "cuda" or not torch.cuda.is_available():
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = precision == "high"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
