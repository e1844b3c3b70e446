"""Augmentation: what becomes of an image before a network is trained on it. All parts are timm's; one is mended."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from PIL import Image
from timm.data import auto_augment, create_transform
from timm.data.auto_augment import AugmentOp, AugMixAugment, AutoAugment, RandAugment
from torch import Tensor


def training_transform(
    size: tuple[int, int, int], mean: tuple[float, ...], std: tuple[float, ...], **options: Any
) -> Callable[[Image.Image], Tensor]:
    """From an image to an augmented tensor, drawn from the global generators.

    Args:
        size: channels, height and width of the tensor; the image has as many channels, 1 for `L`, 3 for `RGB`.
        mean: of every channel, for pixels from 0 to 1.
        std: of every channel.
        **options: how images are augmented, as `Recipe.augmentation` says it to timm's `create_transform`.
    """
    transform: Any = create_transform(size, is_training=True, re_mode="pixel", mean=mean, std=std, **options)
    for operation in operations(transform):
        if operation.aug_fn is auto_augment.posterize:
            operation.aug_fn = _posterize
    return transform


def operations(transform: Any) -> Iterator[AugmentOp]:
    """The operations of the automatic augmentation in a transform of timm's; an empty iterator if it has no policy."""
    for part in transform.transforms:
        if isinstance(part, RandAugment | AugMixAugment):
            yield from part.ops
        elif isinstance(part, AutoAugment):
            yield from itertools.chain.from_iterable(part.policy)


def _posterize(image: Image.Image, bits_to_keep: int, **options: Any) -> Image.Image:
    """Keep the highest bits of each pixel.

    timm's policies keep "4 down to 0" bits, and fewer than 0 with `mmax` above 10. Pillow 13 refuses fewer than 1 bit,
    while older ones gave a black image, as torchvision does for tensors. Published recipes, DeiT's among them, were
    run with these black images, so they stay. The operations are replaced in one transform, not in timm's tables,
    which other code in the process may use.
    """
    if bits_to_keep < 1:
        return Image.new(image.mode, image.size)
    return auto_augment.posterize(image, bits_to_keep, **options)
