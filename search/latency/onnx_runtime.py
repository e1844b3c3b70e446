"""Networks in ONNX Runtime; the only place that imports it and PyTorch's exporter, which needs onnx and onnxscript."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import onnx  # noqa: F401  - named here so that its absence is found before the export
import onnxruntime
import onnxscript  # noqa: F401
import torch
from torch import Tensor, nn


def onnx_session(network: nn.Module, inputs: Tensor, threads: int) -> Callable[[], Any]:
    """Export a network and load it into ONNX Runtime on the CPU.

    Args:
        network: in evaluation mode, on the CPU.
        inputs: a batch, whose size becomes fixed.
        threads: that an operator may use.

    Returns:
        A forward pass of the batch, which gives its outputs as NumPy arrays.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(network, (inputs,), dynamo=True, verbose=False)
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {session.get_inputs()[0].name: inputs.numpy()}
    return lambda: session.run(None, feed)
