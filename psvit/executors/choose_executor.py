"""Choose the executor: this process, or a Ray cluster that is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from psvit.executors.executor import Executor, LocalExecutor
from psvit.executors.workers import Workers

if TYPE_CHECKING:  # those who hand work on need nothing of it
    import torch


def executor_for(workers: str | None, device: torch.device) -> Executor:
    """An executor on the Ray cluster that is named, or in this process if none is.

    Args:
        workers: see `Workers.parse`.
        device: where an item is computed: on a core, or on a GPU.
    """
    if workers is None:
        return LocalExecutor()
    from psvit.executors.ray_trials import RayExecutor

    named = Workers.parse(workers)
    return RayExecutor(named.address, gpus=named.gpus if device.type == "cuda" else 0)


@contextmanager
def reached(workers: str | None) -> Iterator[None]:
    """Be connected to the Ray cluster that is named in a block, so that one that is started here is started once.

    Raises:
        InputError: there is no cluster at the address.
    """
    if workers is None:
        yield
        return
    from psvit.executors.ray_cluster import connected

    with connected(Workers.parse(workers).address):
        yield


def check_workers(workers: str | None) -> None:
    """Make sure that what is named is a Ray cluster that answers, or one to be started here.

    Raises:
        InputError: it is not.
    """
    if workers is None:
        return
    address = Workers.parse(workers).address
    from psvit.executors.ray_cluster import check_cluster

    check_cluster(address)
