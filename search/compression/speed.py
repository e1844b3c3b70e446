"""Speed of networks beside one another: measured by turns, so that whatever disturbs one disturbs the others."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from psvit.nn.precision import float32_products
from psvit.search.latency.waiting import wait_for, warm_up_seconds

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
@float32_products("highest")
def measure_by_turns(
    networks: Sequence[nn.Module],
    input_shape: tuple[int, int, int],
    batch_size: int,
    device: torch.device,
    seconds: float = SECONDS,
) -> list[Speed]:
    """Measure networks by turns.

    Args:
        networks: on the device, in evaluation mode; the first is the one that others are compared with.
        input_shape: channels, height and width of an image.
        batch_size: images in one pass.
        device: where they run.
        seconds: that each of the `ROUNDS` measurements of a network takes at least.
    """
    images = torch.randn(batch_size, *input_shape, generator=torch.Generator().manual_seed(0)).to(device)
    began = time.perf_counter()
    while time.perf_counter() - began < warm_up_seconds(device):
        _seconds(networks[0], images, 1)
    # Twice, because the first pass of a network takes longer than the others.
    once = [[_seconds(network, images, 1) for network in networks] for _ in range(2)][-1]
    runs = [math.ceil(seconds / one) for one in once]
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
    """Seconds from handing over a batch to its answer, the mean of so many passes."""
    wait_for(images.device)
    began = time.perf_counter()
    for _ in range(runs):
        network(images)
        wait_for(images.device)
    return (time.perf_counter() - began) / runs
