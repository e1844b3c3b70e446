"""Batches: how images become tensors, for training and for comparing networks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from psvit.data.image_data import ImageData
from psvit.data.images import MEMORY_LIMIT, Decoded, Labelled
from psvit.io.cores import usable_cores
from psvit.nn.precision import float32_products

CROP_PCT, INTERPOLATION = 1.0, "bicubic"
"""Of images that are not augmented: no border is cut off, and how they are resized."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """How images are made into tensors.

    Attributes:
        image_size: height and width in pixels.
        in_chans: channels.
        mean: of every channel.
        std: of every channel.
        workers: processes that prepare batches; 0 prepares them in this one.
    """

    image_size: tuple[int, int]
    in_chans: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    workers: int = 0

    @classmethod
    def of(cls, data: ImageData, image_size: tuple[int, int]) -> Inputs:
        """For a data set: images in memory and small enough need no processes of their own."""
        small = isinstance(data.train.pictures, Decoded) and max(image_size) < 16
        return cls(
            image_size=image_size,
            in_chans=data.in_chans,
            mean=data.mean,
            std=data.std,
            workers=0 if small else _workers(),
        )


def _workers() -> int:
    """Processes that prepare batches: one for each core that this process may use, shared with others of its run."""
    return max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def evaluation_transform(
    inputs: Inputs, crop_pct: float = CROP_PCT, interpolation: str = INTERPOLATION
) -> Callable[[Image.Image], Tensor]:
    """From an image to the tensor (C, height, width) that a network is compared, validated and used on."""
    from timm.data import create_transform  # two seconds, which what decodes no image need not wait for

    transform: Callable[[Image.Image], Tensor] = create_transform(
        (inputs.in_chans, *inputs.image_size),
        is_training=False,
        crop_pct=crop_pct,
        interpolation=interpolation,
        mean=inputs.mean,
        std=inputs.std,
    )
    return transform


class Batches:
    """Images in fixed batches, unaugmented, for comparing networks; kept in memory if they fit.

    Args:
        images: the images.
        inputs: how they become tensors.
        batch_size: images a batch.
        device: where batches go.
        order_seed: of a random order of the images; without it they keep theirs, which is often sorted by class.
    """

    def __init__(
        self,
        images: Labelled,
        inputs: Inputs,
        batch_size: int,
        device: torch.device,
        order_seed: int | None = None,
    ) -> None:
        self.batch_size = batch_size
        self.is_shuffled = order_seed is not None
        if order_seed is not None:
            images = images.take(np.random.default_rng(order_seed).permutation(len(images)))
        transform = evaluation_transform(inputs)
        self.num_images = len(images)
        self._device = device
        self._loader: DataLoader[Any] = DataLoader(
            images.transformed(transform), batch_size=batch_size, num_workers=inputs.workers
        )
        bytes_needed = 4 * len(images) * inputs.in_chans * inputs.image_size[0] * inputs.image_size[1]
        self._kept: list[tuple[Tensor, Tensor]] | None = [] if bytes_needed <= MEMORY_LIMIT else None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of images (B, C, height, width) and labels (B,)."""
        if self._kept is None:
            return ((images.to(self._device), labels.to(self._device)) for images, labels in self._loader)
        if not self._kept:
            self._kept = [(images.to(self._device), labels.to(self._device)) for images, labels in self._loader]
        return iter(self._kept)


@torch.inference_mode()
@float32_products("highest")
def accuracy(logits_of: Callable[[Tensor], Tensor], batches: Batches) -> float:
    """Top-1 accuracy in percent of a function from images (B, C, height, width) to logits (B, classes)."""
    correct = sum(int((logits_of(images).argmax(dim=1) == labels).sum()) for images, labels in batches)
    return 100 * correct / batches.num_images
