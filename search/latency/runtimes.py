"""The runtimes that networks are measured in: PyTorch as it is, `torch.compile`, ONNX Runtime.

Each is compared with PyTorch's own outputs before it is timed, so that nothing fast and wrong is ever reported.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

from psvit.errors import InputError, MismatchError, RunError
from psvit.search.latency.setting import Setting

Run = Callable[[], Any]
"""One forward pass of a batch that stays the same."""

TOLERANCES = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-2}
"""By precision: the largest permitted difference from PyTorch's outputs, relative to the largest of them."""


def prepare(network: nn.Module, input_shape: tuple[int, ...], setting: Setting) -> Run:
    """Put a network into its runtime and check what it computes there.

    Args:
        network: ends in evaluation mode, on the setting's device and in its precision.
        input_shape: of the input without the batch.
        setting: where and how it shall run.

    Raises:
        InputError: the runtime is not installed.
        MismatchError: it gives other outputs than PyTorch does.
        RunError: `torch.compile` fails.
    """
    dtype = getattr(torch, setting.precision)
    network = network.to(device=setting.device, dtype=dtype).eval()
    # A generator of its own: measuring leaves no trace in the global one.
    rng = torch.Generator().manual_seed(0)
    inputs = torch.randn(setting.batch_size, *input_shape, generator=rng).to(device=setting.device, dtype=dtype)

    def eager() -> Any:
        return network(inputs)

    if setting.runtime == "eager":
        return eager
    run = _compiled(network, inputs) if setting.runtime == "compile" else _onnx(network, inputs, setting)
    with torch.inference_mode():
        check_outputs(eager(), run(), setting)
    return run


def _compiled(network: nn.Module, inputs: Tensor) -> Run:
    # Networks share their code, and one that is compiled anew too often falls back silently; so each begins afresh.
    torch.compiler.reset()
    # On a GPU as one CUDA graph: launching kernels one by one takes small networks most of the time.
    mode = "reduce-overhead" if inputs.is_cuda else None
    compiled = torch.compile(network, fullgraph=True, dynamic=False, mode=mode)

    def run() -> Any:
        return compiled(inputs)

    try:
        with torch.inference_mode():
            run()
    except RuntimeError as error:
        raise RunError(f"runtime compile: torch.compile fails here: {str(error).strip().splitlines()[0]}") from error
    return run


def _onnx(network: nn.Module, inputs: Tensor, setting: Setting) -> Run:
    try:
        from psvit.nn.onnx_runtime import onnx_session
    except ImportError as error:
        raise InputError(
            f"runtime onnxruntime: {error.name} is not installed; it comes with pip install 'psvit[onnx]'"
        ) from None
    return onnx_session(network, inputs, setting.num_threads)


def runtime_version(runtime: str) -> str:
    """Name and version of a runtime; those of PyTorch have its version.

    Raises:
        InputError: it is not installed.
    """
    if runtime != "onnxruntime":
        return runtime
    try:
        return f"onnxruntime {version('onnxruntime')}"
    except PackageNotFoundError:
        raise InputError("runtime onnxruntime: not installed; it comes with pip install 'psvit[onnx]'") from None


def check_outputs(expected: Any, found: Any, setting: Setting) -> None:
    """Compare a runtime's outputs with PyTorch's, a tensor or several each.

    Raises:
        MismatchError: a difference beyond the tolerance of the precision.
    """
    tolerance = TOLERANCES[setting.precision]
    pairs = zip(_tensors(expected), _tensors(found), strict=True)
    for one, other in pairs:
        scale = one.abs().max().item()
        error = (one - other).abs().max().item() if one.shape == other.shape else float("inf")
        # Written so that a number that is none counts as different.
        if not error <= tolerance * scale:
            raise MismatchError(
                f"runtime {setting.runtime}: its outputs differ from PyTorch's by {error:.2g}, permitted are "
                f"{tolerance:g} of the largest output, {scale:.2g}; nothing was measured"
            )


def _tensors(outputs: Any) -> list[Tensor]:
    several = outputs if isinstance(outputs, list | tuple) else [outputs]
    return [torch.as_tensor(output).detach().float().cpu() for output in several]
