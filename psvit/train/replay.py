"""Replay: a network's forward and backward pass in training as CUDA graphs.

A small network spends most of a training step on launching kernels one by one. A CUDA graph is recorded once and
launches them all. That needs every step to compute the same on tensors of the same shapes, as one network does and a
supernet does not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from psvit.executors.failures import out_of_memory
from psvit.nn.seeding import seeded
from psvit.train.device_checks import autocast
from psvit.train.recipe import Precision

_logger = logging.getLogger(__name__)

TOLERANCES = {"float32": 0.01, "bfloat16": 0.05, "float16": 0.02}
"""By precision: how far gradients may be from those without graphs, relative to their norm. Some kernels of the
backward pass add in another order every time, and products of float32 numbers are rounded in training."""


class Replay:
    """Replays a network's passes in training once they are recorded.

    Nothing is replayed that differs from what it replaces: the first batch is computed both ways. A network that cannot
    be recorded is trained as without graphs. In evaluation mode nothing changes.

    Args:
        network: in training mode when it is recorded.
        precision: of its products in training.
        record: as `torch.cuda.make_graphed_callables`: replaces the network's forward pass in training.

    Attributes:
        is_decided: whether it was tried to record them.
    """

    def __init__(
        self, network: nn.Module, precision: Precision, record: Callable[..., Any] = torch.cuda.make_graphed_callables
    ) -> None:
        self._network = network
        self._precision = precision
        self._record = record
        self.is_decided = False

    def begin(self, images: Tensor) -> None:
        """Record the passes, if that can be done.

        Args:
            images: a batch (B, C, height, width), of the shape that all will have.
        """
        self.is_decided = True
        expected = self._gradients(images)
        try:
            with autocast(images.device, self._precision, cache_enabled=False):
                self._record(self._network, (images.clone(),), allow_unused_input=True)
            found = self._gradients(images)
        except Exception as error:  # operators of a user's own may do anything
            self.end()
            reason = out_of_memory(error) or str(error).partition("\n")[0]
            if images.is_cuda:
                torch.cuda.empty_cache()
            _logger.info("not trained as CUDA graphs: %s", reason)
            return
        apart = (found - expected).norm() / expected.norm()
        # Written so that a number that is none counts as too far.
        if not apart <= TOLERANCES[self._precision]:
            self.end()
            _logger.warning("not trained as CUDA graphs: gradients were %.3g of their norm apart", apart)

    def end(self) -> None:
        """Give the network its own forward pass back."""
        self._network.__dict__.pop("forward", None)

    def _gradients(self, images: Tensor) -> Tensor:
        """The gradients of all parameters in one row, for a loss and draws that are always the same; none is kept."""
        with seeded(0, device=images.device):
            with autocast(images.device, self._precision):
                logits = self._network(images)
            weights = torch.linspace(-1, 1, logits.numel(), device=logits.device).view_as(logits)
            (logits.float() * weights).mean().backward()
        parts = [one.grad.float().flatten() for one in self._network.parameters() if one.grad is not None]
        row = torch.cat(parts)
        self._network.zero_grad()
        return row
