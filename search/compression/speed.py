"""Speed of networks beside one another: measured by turns, so that whatever disturbs one disturbs the others."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

ROUNDS = 9
"""Measurements of each network."""

SECONDS = 0.1
"""That a measurement takes at least."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How long a network takes for a batch.

    Attributes:
        median_ms: the median over all rounds, in milliseconds for the whole batch.
        ratio: how many times as fast as the first network it is: the median over rounds.
        spread: the interquartile range of this ratio.
    """

    median_ms: float
    ratio: float
    spread: float


@torch.inference_mode()
def measure_by_turns(
    networks: Sequence[nn.Module], input_shape: tuple[int, int, int], batch_size: int, device: torch.device
) -> list[Speed]:
    """Measure networks by turns.

    Args:
        networks: on the device, in evaluation mode; the first is the one that others are compared with.
        input_shape: channels, height and width of an image.
        batch_size: images in one pass.
        device: where they run.
    """
    images = torch.randn(batch_size, *input_shape, generator=torch.Generator().manual_seed(0)).to(device)
    # Twice, because the first pass of a network takes longer than the others.
    once = [[_seconds(network, images, 1) for network in networks] for _ in range(2)][-1]
    runs = [math.ceil(SECONDS / seconds) for seconds in once]
    rounds = np.array(
        [
            [_seconds(network, images, number) for network, number in zip(networks, runs, strict=True)]
            for _ in range(ROUNDS)
        ]
    )
    low, middle, high = np.quantile(rounds[:, :1] / rounds, [0.25, 0.5, 0.75], axis=0)
    return [
        Speed(median_ms=1e3 * float(median), ratio=float(ratio), spread=float(spread))
        for median, ratio, spread in zip(np.median(rounds, axis=0), middle, high - low, strict=True)
    ]


def _seconds(network: nn.Module, images: Tensor, runs: int) -> float:
    """Seconds that a pass takes, the mean of so many."""
    _wait(images.device)
    began = time.perf_counter()
    for _ in range(runs):
        network(images)
    _wait(images.device)
    return (time.perf_counter() - began) / runs


def _wait(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
