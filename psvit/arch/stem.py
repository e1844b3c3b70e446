"""The convolutional stem in numbers: which convolutions turn an image into tokens.

A stem of a few strided 3×3 convolutions instead of one linear patch embedding, after "Early Convolutions Help
Transformers See Better" (arXiv 2106.14881, section 4) and CCT (arXiv 2104.05704, section 3.2). Departures: there is no
batch normalisation, no pooling and no 1×1 convolution at the end; GELU stands between convolutions, not after the last,
so that tokens are a linear map of what comes before, as those of a patch embedding are.

Nothing here can be chosen: strides follow from the patch size and widths from `embed_dim`, so that no network has two
descriptions.
"""

from __future__ import annotations

import math
from typing import NamedTuple

KERNEL = 3
"""Side of every convolution; with a padding of 1, a stride that divides a side leaves exactly the quotient."""

MOST_CONVOLUTIONS = 5
LEAST_CONVOLUTIONS = 2


class Convolution(NamedTuple):
    """One 3×3 convolution of the stem.

    Attributes:
        in_chans: channels that come in.
        out_chans: channels that go out.
        stride: pixels from one output to the next.
        reduction: pixels of the image from one output to the next.
    """

    in_chans: int
    out_chans: int
    stride: int
    reduction: int


def strides(patch_size: int) -> tuple[int, ...]:
    """The strides of the convolutions, ascending: the prime factors of the patch size; a stride of 1 fills up to two.

    Raises:
        ValueError: the patch size is no product of at most five factors 2 and 3.
    """
    factors = []
    rest = patch_size
    for factor in (2, 3):
        while rest % factor == 0:
            factors.append(factor)
            rest //= factor
    if rest != 1 or len(factors) > MOST_CONVOLUTIONS:
        raise ValueError(
            f"patch_size must be a product of at most {MOST_CONVOLUTIONS} factors 2 and 3 for a conv stem "
            f"(1, 2, 3, 4, 6, 8, 9, 12, 16, ...), received {patch_size}"
        )
    return (*factors, *(1,) * (LEAST_CONVOLUTIONS - len(factors)))


def patch_sizes() -> tuple[int, ...]:
    """All patch sizes that a conv stem can take, ascending."""
    powers = range(MOST_CONVOLUTIONS + 1)
    return tuple(sorted(2**twos * 3**threes for twos in powers for threes in powers[: len(powers) - twos]))


def check(patch_size: int, patch_stride: int) -> None:
    """Make sure that a conv stem can turn such patches into tokens.

    Raises:
        ValueError: it cannot; says which rule is broken.
    """
    strides(patch_size)
    if patch_stride != patch_size:
        raise ValueError(f"patch_stride must equal patch_size {patch_size} for a conv stem, received {patch_stride}")


def convolutions(in_chans: int, embed_dim: int, patch_size: int) -> tuple[Convolution, ...]:
    """The convolutions of a stem; the last has `embed_dim` channels, each other half of the next, rounded up.

    Raises:
        ValueError: as `strides`.
    """
    steps = strides(patch_size)
    widths = [-(-embed_dim // 2**later) for later in reversed(range(len(steps)))]
    return tuple(
        Convolution(before, after, stride, math.prod(steps[: place + 1]))
        for place, (before, after, stride) in enumerate(zip([in_chans, *widths], widths, steps, strict=False))
    )
