"""Operations of Pillow's on batches of tensors, on any device, with a value of its own for every image.

Images are float32 of shape (B, C, height, width) and hold whole numbers from 0 to 255. Results are whole numbers again.
A result may differ from Pillow's by 1, because Pillow computes some operations in other number types.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

BICUBIC_SLOPE = -0.5
"""The slope of the cubic kernel by which Pillow resizes. Where it moves pixels, as in `affine`, the slope is -1."""


def resized_crop(images: Tensor, boxes: NDArray[np.int64], bicubic: NDArray[np.bool_], size: tuple[int, int]) -> Tensor:
    """Cut a rectangle out of each image and resize it, antialiased, as Pillow does: first its rows, then its columns.

    Args:
        images: (B, C, height, width).
        boxes: top, left, height and width of the rectangles in whole pixels, (B, 4).
        bicubic: which images are resized with a bicubic kernel, the others with a bilinear one, (B,).
        size: height and width of the results.
    """
    top, left, height, width = boxes.T
    across = _resizing(left, width, bicubic, images.shape[3], size[1], images.device)
    down = _resizing(top, height, bicubic, images.shape[2], size[0], images.device)
    return _rounded(down[:, None] @ _rounded(images @ across.mT[:, None]))


def _resizing(
    begin: NDArray[np.int64],
    extent: NDArray[np.int64],
    bicubic: NDArray[np.bool_],
    side: int,
    wanted: int,
    device: torch.device,
) -> Tensor:
    """The weight of every pixel of a side in every pixel of the resized one, (B, wanted, side).

    Most weights are zero, so only the others are computed. NumPy computes them, because their number has to be known
    before there are tensors.
    """
    scale = (extent / wanted)[:, None]
    stretch = np.maximum(scale, 1)
    support = np.where(bicubic, 2, 1)[:, None] * stretch
    centre = (np.arange(wanted) + 0.5) * scale
    # Whole pixels, as Pillow counts them: half a pixel too many on one side would change the sum.
    first = np.maximum(np.floor(centre - support + 0.5), 0).astype(np.int64)
    last = np.minimum(np.floor(centre + support + 0.5), extent[:, None]).astype(np.int64)
    place = first[..., None] + np.arange((last - first).max())
    distance = np.abs((place - centre[..., None] + 0.5) / stretch[..., None])
    weights = np.where(bicubic[:, None, None], _cubic(distance), np.maximum(1 - distance, 0))
    weights[place >= last[..., None]] = 0
    weights /= weights.sum(axis=2, keepdims=True)
    index = np.minimum(place + begin[:, None, None], side - 1)
    found = torch.zeros(len(begin), wanted, side, device=device)
    on_device = torch.from_numpy(weights.astype(np.float32)).to(device)
    return found.scatter_add_(2, torch.from_numpy(index).to(device), on_device)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The cubic kernel at distances of at least 0."""
    a = BICUBIC_SLOPE
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def affine(images: Tensor, matrix: Tensor, bicubic: Tensor, fill: Tensor, along: str = "xy") -> Tensor:
    """Move the pixels of each image: what stands at x, y afterwards was at `matrix @ (x, y, 1)`.

    Args:
        images: (B, C, height, width).
        matrix: in pixels, (B, 2, 3).
        bicubic: which images are interpolated by a cubic kernel, the others bilinearly, (B,).
        fill: of every channel, for what was outside, (C,).
        along: the directions in which pixels move; `x` and `y` alone are faster.
    """
    height, width = images.shape[2:]
    rows, columns = (torch.arange(side, device=images.device) + 0.5 for side in (height, width))
    place = torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)]).flatten(1)
    x, y = (matrix[:, :, :2] @ place + matrix[:, :, 2:]).unbind(1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    across, down = (
        _taps(value - 0.5, bicubic, side, direction in along)
        for value, side, direction in ((x, width, "x"), (y, height, "y"))
    )
    flat = images.flatten(2)
    moved = torch.zeros_like(flat)
    for down_weight, row in down:
        line = torch.zeros_like(flat)
        for across_weight, column in across:
            index = (row * width + column)[:, None].expand_as(flat)
            line.addcmul_(across_weight[:, None], flat.gather(2, index))
        moved.addcmul_(down_weight[:, None], line)
    # Pillow truncates here.
    moved = moved.add_(1e-3).clamp_(0, 255).floor_()
    return torch.where(inside[:, None], moved, fill[:, None]).view_as(images)


def _taps(place: Tensor, bicubic: Tensor, side: int, moves: bool) -> list[tuple[Tensor, Tensor]]:
    """For each pixel of the result the weights and indices of the pixels that it is made of, along one side.

    Indices beyond an edge become that of the edge.
    """
    if not moves:
        return [(torch.ones_like(place), place.round().long())]
    first = place.floor()
    part = place - first
    square = part**2
    cube = part * square
    cubic = [2 * square - part - cube, 1 - 2 * square + cube, part + square - cube, cube - square]
    linear = [torch.zeros_like(part), 1 - part, part, torch.zeros_like(part)]
    weights = [torch.where(bicubic[:, None], a, b) for a, b in zip(cubic, linear, strict=True)]
    begin = first.long()
    return [
        (weight, (begin + offset).clamp_(0, side - 1)) for weight, offset in zip(weights, (-1, 0, 1, 2), strict=True)
    ]


def flipped(images: Tensor, which: Tensor) -> Tensor:
    """Mirror some of the images, (B,), left to right."""
    return torch.where(which[:, None, None, None], images.flip(3), images)


def blended(degenerate: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """Images between `degenerate` ones (factor 0) and themselves (factor 1), or beyond; `factor` is (B,)."""
    mixed = degenerate + factor[:, None, None, None] * (images - degenerate)
    return mixed.clamp(0, 255).floor()


def grey(images: Tensor) -> Tensor:
    """The brightness of colour images by ITU-R 601-2, (B, 1, height, width); grey images stay."""
    if images.shape[1] == 1:
        return images
    weights = torch.tensor([19595.0, 38470.0, 7471.0], device=images.device)[:, None, None]
    return ((images * weights).sum(dim=1, keepdim=True) / 65536 + 0.5).floor()


def color(images: Tensor, factor: Tensor) -> Tensor:
    """Less colour (factor below 1, 0 is grey) or more, as Pillow's `ImageEnhance.Color`; grey images stay."""
    return blended(grey(images).expand_as(images), images, factor) if images.shape[1] > 1 else images


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Less contrast (factor below 1, 0 is flat) or more, as Pillow's `ImageEnhance.Contrast`."""
    mean = (grey(images).mean(dim=(1, 2, 3), keepdim=True) + 0.5).floor()
    return blended(mean.expand_as(images), images, factor)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Darker (factor below 1, 0 is black) or brighter, as Pillow's `ImageEnhance.Brightness`."""
    return blended(torch.zeros_like(images), images, factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Smoother (factor below 1, 0 is blurred) or sharper, as Pillow's `ImageEnhance.Sharpness`."""
    smooth = images.clone()
    if min(images.shape[2:]) > 2:
        kernel = torch.ones(1, 1, 3, 3, device=images.device)
        kernel[..., 1, 1] = 5
        inner = F.conv2d(images.flatten(0, 1)[:, None], kernel / 13)
        smooth[..., 1:-1, 1:-1] = _rounded(inner).view(*images.shape[:2], *inner.shape[2:])
    return blended(smooth, images, factor)


def auto_contrast(images: Tensor) -> Tensor:
    """Stretch every channel from 0 to 255, as Pillow's `ImageOps.autocontrast`."""
    low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
    stretched = ((images - low) * 255 / (high - low).clamp(min=1)).floor()
    return torch.where(high > low, stretched, images)


def equalize(images: Tensor) -> Tensor:
    """Make all brightnesses of a channel about as frequent, as Pillow's `ImageOps.equalize`."""
    values = images.flatten(2).long()
    counts = torch.zeros(*images.shape[:2], 256, dtype=torch.long, device=images.device)
    counts.scatter_add_(2, values, torch.ones_like(values))
    step = (values.shape[2] - counts.gather(2, values.amax(dim=2, keepdim=True))) // 255
    before = counts.cumsum(dim=2) - counts
    table = ((before + step // 2) // step.clamp(min=1)).clamp(max=255)
    return torch.where(step > 0, table.gather(2, values), values).to(images.dtype).view_as(images)


def invert(images: Tensor) -> Tensor:
    """Negatives."""
    return 255 - images


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert what is at least as bright as a threshold, one an image, (B,)."""
    return torch.where(images < threshold[:, None, None, None], images, 255 - images)


def solarize_add(images: Tensor, add: Tensor) -> Tensor:
    """Brighten the darker half of the values by a number, one an image, (B,)."""
    return torch.where(images < 128, (images + add[:, None, None, None]).clamp(max=255), images)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest bits of every value, one number of bits an image, (B,); with none, images are black."""
    step = 2.0 ** (8 - bits.clamp(0, 8))[:, None, None, None]
    return (images / step).floor() * step


def _moving(
    build: Callable[[Tensor, int, int], list[list[Tensor]]], along: str
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """An operation that moves pixels.

    Args:
        build: makes the matrices from values (B,), height and width.
        along: the directions in which pixels move.
    """

    def operation(images: Tensor, value: Tensor, bicubic: Tensor, fill: Tensor) -> Tensor:
        rows = build(value, *images.shape[2:])
        return affine(images, torch.stack([torch.stack(row, dim=1) for row in rows], dim=1), bicubic, fill, along)

    return operation


def _rotation(degrees: Tensor, height: int, width: int) -> list[list[Tensor]]:
    """About the centre, counter-clockwise."""
    cos, sin = torch.cos(-degrees.deg2rad()), torch.sin(-degrees.deg2rad())
    x, y = width / 2, height / 2
    return [[cos, sin, x - cos * x - sin * y], [-sin, cos, y + sin * x - cos * y]]


def _ones(value: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ones_like(value), torch.zeros_like(value)


def _shear_x(value: Tensor, _height: int, _width: int) -> list[list[Tensor]]:
    one, zero = _ones(value)
    return [[one, value, zero], [zero, one, zero]]


def _shear_y(value: Tensor, _height: int, _width: int) -> list[list[Tensor]]:
    one, zero = _ones(value)
    return [[one, zero, zero], [value, one, zero]]


def _translate_x(value: Tensor, _height: int, width: int) -> list[list[Tensor]]:
    one, zero = _ones(value)
    return [[one, zero, value * width], [zero, one, zero]]


def _translate_y(value: Tensor, height: int, _width: int) -> list[list[Tensor]]:
    one, zero = _ones(value)
    return [[one, zero, zero], [zero, one, value * height]]


rotate = _moving(_rotation, "xy")
shear_x, shear_y = _moving(_shear_x, "x"), _moving(_shear_y, "y")
translate_x, translate_y = _moving(_translate_x, "x"), _moving(_translate_y, "y")


def _rounded(images: Tensor) -> Tensor:
    return images.add(0.5).floor_().clamp_(0, 255)
