"""BatchAugmentation: training images that lie on the device, augmented in whole batches.

It draws from the distributions of `psvit.data.augmentation`, which augments one image after the other, but other
numbers. Small images take a fraction of the time on a CPU. A GPU waits for no process that loads images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from psvit.data import tensor_operations as operations
from psvit.data.augmentation_plan import AugmentationPlan, Planner
from psvit.data.images import Decoded, Labelled

BatchRows = tuple[NDArray[np.int64], NDArray[np.uint32]]
"""The rows of a batch's images and the seeds that they are augmented with, (B,) each."""

NOISE = 2**20
"""Positions in the shared noise from which an image's noise may be taken."""

Valued = Callable[[Tensor, Tensor], Tensor]
Moving = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

WITHOUT_VALUE: dict[str, Callable[[Tensor], Tensor]] = {
    "AutoContrast": operations.auto_contrast,
    "Equalize": operations.equalize,
    "Invert": operations.invert,
}
WITH_VALUE: dict[str, Valued] = {
    "Posterize": operations.posterize,
    "Solarize": operations.solarize,
    "SolarizeAdd": operations.solarize_add,
    "Color": operations.color,
    "Contrast": operations.contrast,
    "Brightness": operations.brightness,
    "Sharpness": operations.sharpness,
}
MOVING: dict[str, Moving] = {
    "Rotate": operations.rotate,
    "ShearX": operations.shear_x,
    "ShearY": operations.shear_y,
    "TranslateX": operations.translate_x,
    "TranslateY": operations.translate_y,
}


class BatchAugmentation:
    """Augmented, normalised batches of images in memory.

    Args:
        images: the images; see `can_augment`.
        transform: timm's transform for one image, which says what is done.
        output_size: height and width of what networks see.
        mean: of every channel, for pixels from 0 to 1.
        std: of every channel.
        device: where images lie and batches are computed.

    Raises:
        InputError: the transform has a part that only single images can be augmented with.
    """

    def __init__(
        self,
        images: Labelled,
        transform: Any,
        output_size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
    ) -> None:
        assert isinstance(images.pictures, Decoded)
        pixels = images.pictures.pixels
        self._pixels = torch.from_numpy(pixels if pixels.ndim == 4 else pixels[..., None])
        self._rows = images.rows
        if device.type != "cpu":
            # Once, and only those of this set: afterwards no image goes to the device any more.
            self._pixels, self._rows = self._pixels[torch.from_numpy(self._rows)].to(device), np.arange(len(images))
        self._labels = torch.from_numpy(np.asarray(images.labels)).to(device)
        self._planner = Planner(transform)
        self._output_size = output_size
        self._device = device
        self._mean, self._std = (255 * torch.tensor(value, device=device)[:, None, None] for value in (mean, std))
        self._noise = normal_noise(math.prod(output_size) * len(mean), device)
        # What moves into an image is as timm has it.
        self._fill = torch.tensor([min(255.0, round(255 * value)) for value in mean], device=device)

    def __len__(self) -> int:
        return len(self._rows)

    def batches(self, places: Sequence[BatchRows]) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (B, C, height, width) and labels (B,) for each batch that is wanted."""
        for rows, seeds in places:
            yield self._augmented(rows, seeds), self._labels[torch.from_numpy(rows).to(self._device)]

    @torch.inference_mode(False)
    @torch.no_grad()
    def _augmented(self, rows: NDArray[np.int64], seeds: NDArray[np.uint32]) -> Tensor:
        found = self._pixels[torch.from_numpy(self._rows[rows]).to(self._device)]
        images = found.permute(0, 3, 1, 2).to(torch.float32)
        height, width = images.shape[2:]
        plan = self._planner.plan(seeds, (height, width), self._output_size)
        images = augmented(images, plan, self._output_size, self._fill)
        images = (images - self._mean) / self._std
        return erased(images, plan.erased, seeds, self._noise)


def can_augment(images: Labelled) -> bool:
    """Whether batches of these images can be augmented: they are in memory, and so have one size."""
    return isinstance(images.pictures, Decoded)


def augmented(images: Tensor, plan: AugmentationPlan, output_size: tuple[int, int], fill: Tensor) -> Tensor:
    """Images after all of a plan but erasing, which comes after normalisation.

    Args:
        images: whole numbers from 0 to 255 in float32, (B, C, height, width).
        plan: what is done to each.
        output_size: height and width of the results.
        fill: of every channel, for what moves in from outside, (C,).
    """

    def on_device(values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(images.device)

    images = operations.resized_crop(images, plan.boxes, plan.bicubic, output_size)
    images = operations.flipped(images, on_device(plan.flips))
    for step in plan.steps:
        which = on_device(step.images)
        some, values = images[which], on_device(step.values.astype(np.float32))
        if step.name in WITHOUT_VALUE:
            images[which] = WITHOUT_VALUE[step.name](some)
        elif step.name in WITH_VALUE:
            images[which] = WITH_VALUE[step.name](some, values)
        else:
            images[which] = MOVING[step.name](some, values, on_device(step.bicubic), fill)
    return images


def erased(images: Tensor, boxes: NDArray[np.int64], seeds: NDArray[np.uint32], noise: Tensor) -> Tensor:
    """Images with a rectangle of each replaced by normal noise (random erasing, arXiv 1708.04896).

    Args:
        images: normalised, (B, C, height, width).
        boxes: top, left, height and width, (B, 4); nothing is erased if the size is 0.
        seeds: each says from where in `noise` the image's noise is taken, (B,).
        noise: numbers of the standard normal distribution, more than an image has.
    """
    where = np.flatnonzero(boxes[:, 2] * boxes[:, 3])
    if not len(where):
        return images
    which = torch.from_numpy(where).to(images.device)
    top, left, height, width = torch.from_numpy(boxes[where].T[..., None]).to(images.device)
    rows, columns = (torch.arange(side, device=images.device) for side in images.shape[2:])
    down, across = (rows >= top) & (rows < top + height), (columns >= left) & (columns < left + width)
    inside = (down[:, :, None] & across[:, None, :])[:, None]
    some = images[which]
    size = some[0].numel()
    begin = torch.from_numpy(seeds[where].astype(np.int64) % (len(noise) - size)).to(images.device)
    drawn = noise[begin[:, None] + torch.arange(size, device=images.device)]
    images[which] = torch.where(inside, drawn.view_as(some), some)
    return images


@cache
def normal_noise(size: int, device: torch.device) -> Tensor:
    """Numbers of the standard normal distribution, always the same and on every device: many more than `size`."""
    return torch.randn(NOISE + size, generator=torch.Generator().manual_seed(0)).to(device)
