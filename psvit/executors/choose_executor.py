"""Choose the executor: this process, or a Ray cluster that is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psvit.errors import InputError
from psvit.executors.executor import Executor, LocalExecutor

if TYPE_CHECKING:  # those who hand work on need nothing of it
    import torch


def executor_for(workers: str | None, device: torch.device, bar: str = "") -> Executor:
    """An executor on the Ray cluster that is named, or in this process if none is.

    Args:
        workers: `ray`, which joins the cluster of `RAY_ADDRESS` or starts one, or `ray://host:port`.
        device: where an item is computed: on a core, or on a GPU.
        bar: what a progress bar of the work on the cluster says; without it, the caller shows one or there is none.
    """
    if workers is None:
        return LocalExecutor()
    from psvit.executors.ray_trials import RayExecutor

    return RayExecutor(workers, gpus=1 if device.type == "cuda" else 0, bar=bar)


def check_workers(workers: str | None) -> None:
    """Make sure that what is named is a Ray cluster that answers, or one to be started here.

    Raises:
        InputError: it is not.
    """
    if workers is None:
        return
    if workers != "ray" and not workers.startswith("ray://"):
        raise InputError(f"--workers {workers!r}: permitted are ray and ray://host:port")
    from psvit.executors.ray_cluster import check_cluster

    check_cluster(workers)
