"""Waiting for a device: a GPU is handed work and does it later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def answered(run: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
    """A function that returns when the device has the result, as whoever sent a single request sees it."""
    if device.type == "cpu":
        return run

    def run_and_wait() -> Any:
        result = run()
        wait_for(device)
        return result

    return run_and_wait


def warm_up_seconds(device: torch.device) -> float:
    """For how long a device has to be busy before its times are worth something.

    A small network takes a dozen runs until a CPU's caches and branch predictors know it. A GPU that was idle takes
    some tenths of a second until its clocks are up.
    """
    return 0.05 if device.type == "cpu" else 0.3
