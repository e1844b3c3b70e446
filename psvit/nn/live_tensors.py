"""LiveTensors: how many bytes of tensors are alive while something runs, on any device, the meta device included."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive after each operator; views count as what they are views of.

    Under `torch.inference_mode` PyTorch hands on every operator as our code calls it (`linear`, `layer_norm`,
    `scaled_dot_product_attention`), so what an operator makes for itself never shows. Without it, they arrive in parts.

    Args:
        image: counts as long as it lives, which is throughout.
        weights: do not count.

    Attributes:
        peak: the largest sum of bytes so far.
    """

    def __init__(self, image: Tensor, weights: Iterable[Tensor]) -> None:
        super().__init__()
        self.weights = {weight.untyped_storage()._cdata for weight in weights}
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0
        self.see(image)

    def see(self, tensor: Tensor) -> None:
        """Count a tensor from now on, and no longer those that are gone."""
        storage = tensor.untyped_storage()
        if storage._cdata in self.weights or storage._cdata in self.alive:
            return
        self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.alive = {key: (storage, size) for key, (storage, size) in self.alive.items() if not storage.expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.scaled_dot_product_attention.default and args[0].is_meta:
            # Fused kernels give their output in the layout of the queries, so that joining the heads is a view. There
            # are none for meta tensors; what stands in for them gives it in another layout, which would cost a copy.
            out = torch.empty_like(args[0])
        else:
            out = func(*args, **(kwargs or {}))
        for tensor in [out] if isinstance(out, Tensor) else out:
            self.see(tensor)
        return out
