"""World: the processes that train together, as `torchrun` starts them.

Training is synchronous and data-parallel: every process computes its part of each batch, gradients are averaged, and
every process makes the same step. No module is wrapped (as in DistributedDataParallel), because the steps of a
supernet use different parameters: all processes draw the same architectures, so all know which gradients there are,
and only these are sent, in a few large pieces after the backward pass. What a step does not use costs nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from psvit.errors import InputError

PATIENCE = timedelta(hours=2)
"""How long a process waits for another, which may be measuring or fetching images."""

PIECE = 2**23
"""Numbers that are averaged at once: 32 MiB in float32."""


@dataclass(frozen=True)
class World:
    """The processes of a run.

    Attributes:
        rank: the number of this one.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and speaks for all."""
        return self.rank == 0

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type, of equal shapes in all processes, by their means over the processes."""
        if self.size == 1:
            return
        piece: list[Tensor] = []
        for tensor in tensors:
            piece.append(tensor)
            if sum(part.numel() for part in piece) >= PIECE:
                self._average_piece_(piece)
                piece = []
        if piece:
            self._average_piece_(piece)

    def _average_piece_(self, piece: list[Tensor]) -> None:
        flat = torch.cat([part.reshape(-1) for part in piece])
        dist.all_reduce(flat)
        flat /= self.size
        for part, mean in zip(piece, flat.split([part.numel() for part in piece]), strict=True):
            part.copy_(mean.view_as(part))

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by those of the first process."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank; they are pickled."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    @contextlib.contextmanager
    def first_goes_ahead(self) -> Iterator[None]:
        """The other processes enter the block when the first has left it; for what shall be fetched or made once.

        Raises:
            InputError: in all processes, where the first one does.
        """
        if not self.is_first:
            self._check(self.gather(""))
            yield
            return
        try:
            yield
        except InputError as error:
            self.gather(str(error))
            raise
        self.gather("")

    def first_alone(self, make: Callable[[], None]) -> None:
        """Call a function in the first process while the others wait.

        Raises:
            InputError: in all processes, where it does.
        """
        with self.first_goes_ahead():
            if self.is_first:
                make()

    def _check(self, told: list[str]) -> None:
        if told[0]:
            raise InputError(told[0])


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """The world that `torchrun` started this process in, and left again after the block; without it, one process."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield World(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()
