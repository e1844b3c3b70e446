"""Networks as ONNX and in ONNX Runtime; the only place that imports them and PyTorch's exporter, which needs both."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import onnxscript  # noqa: F401  - named here so that its absence is found before the export
import torch
from torch import Tensor, nn


def to_onnx(
    network: nn.Module, inputs: Tensor, *, names: tuple[str, str] = ("input", "output"), dynamic_batch: bool = False
) -> onnx.ModelProto:
    """Export a network through `torch.export`.

    Args:
        network: in evaluation mode, on the CPU.
        inputs: a batch (B, ...); of two or more for a dynamic batch.
        names: of what goes in and what comes out.
        dynamic_batch: whether the exported network takes batches of any size, or only such as `inputs`.
    """
    with _quiet_exporter():
        program = torch.onnx.export(
            network,
            (inputs,),
            input_names=names[:1],
            output_names=names[1:],
            dynamic_shapes=({0: "batch"},) if dynamic_batch else None,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep back what the exporter says of operators that it knows and our networks do not use."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def session(model: bytes | Path, threads: int | None = None) -> onnxruntime.InferenceSession:
    """Load an exported network into ONNX Runtime on the CPU.

    Args:
        model: its bytes or its file.
        threads: that an operator may use; by default as many as there are cores.
    """
    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
    )


def onnx_session(network: nn.Module, inputs: Tensor, threads: int) -> Callable[[], Any]:
    """Export a network and load it into ONNX Runtime on the CPU.

    Args:
        network: in evaluation mode, on the CPU.
        inputs: a batch, whose size becomes fixed.
        threads: that an operator may use.

    Returns:
        A forward pass of the batch, which gives its outputs as NumPy arrays.
    """
    loaded = session(to_onnx(network, inputs).SerializeToString(), threads)
    feed = {loaded.get_inputs()[0].name: inputs.numpy()}
    return lambda: loaded.run(None, feed)
