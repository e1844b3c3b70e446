"""Costs of a network in closed form: multiply-accumulates, parameters and peak activation memory.

FLOPs are multiply-accumulates (MACs) here, as in the DeiT, PiT and AutoFormer papers, whose "1.3 GFLOPs" are 1.3 G
MACs. Counted are matrix products and convolutions and nothing else: no bias, norm, softmax, activation or pooling
without weights; layers that share an attention map are priced as reusing it.

Peak activation memory is the largest sum of bytes of tensors that are alive at once in a forward pass of `psvit.model`
under `torch.inference_mode`, for one image in float32, where groups hand on their map and groups of one layer use fused
attention. A tensor is alive while anything in our code or its caller refers to it: the image, which the caller holds,
counts throughout. Weights and what an operator needs inside itself do not count. Unlike the other two it is a maximum,
not a sum.

The leaf functions work on integers and, element by element, on integer arrays, so that one network and a million
are priced by the same formulas. Letters: n tokens (class token included), d embed_dim, h hidden width of the MLP.
"""

from __future__ import annotations

import math
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from psvit.arch.operators import POOLINGS, STEMS, Patches, Pool, Stem, Variant, pooled
from psvit.arch.operators import Terms as Terms
from psvit.io.documents import Value

Count = TypeVar("Count", int, NDArray[np.int64])

ADDITIVE = ("macs", "num_params")
"""The names of the costs that add up over the parts of a network."""

METRICS = (*ADDITIVE, "activation_bytes")
"""The names of all costs, in the order in which arrays of costs hold them."""

BYTES = 4
"""Of a number in float32."""


class Cost(Value):
    """The costs of one network for one image.

    Attributes:
        macs: multiply-accumulates of one forward pass.
        num_params: trainable parameters.
        activation_bytes: peak activation memory of one forward pass.
    """

    macs: int
    num_params: int
    activation_bytes: int


class PricedStage(Protocol):
    """The fields of `psvit.arch.architecture.Stage` that costs depend on."""

    embed_dim: int
    groups: tuple[int, ...]

    @property
    def hidden_dim(self) -> int:
        """Hidden width of the MLPs."""

    @property
    def depth(self) -> int:
        """Number of layers."""


class Priced(Protocol):
    """The fields of `psvit.arch.architecture.Architecture` that costs depend on."""

    variant: Variant
    image_size: tuple[int, int]
    in_chans: int
    num_classes: int
    stem: Stem
    head_dim: int
    pools: tuple[Pool, ...]

    @property
    def stages(self) -> tuple[PricedStage, ...]:
        """The stages."""

    @property
    def patches(self) -> Patches:
        """How an image is cut."""

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of patch tokens in every stage."""


def cost(arch: Priced) -> Cost:
    """The costs of an architecture, exact."""
    tokens = [math.prod(grid) for grid in arch.grids]
    first, last = arch.stages[0], arch.stages[-1]
    total = stem(arch.variant, arch.stem, arch.patches, arch.in_chans, first.embed_dim)
    total += head(last.embed_dim, arch.num_classes)
    for stage, count in zip(arch.stages, tokens, strict=True):
        producers = len(stage.groups)
        macs, num_params = layers(
            count + has_class_token(arch.variant),
            stage.embed_dim,
            stage.hidden_dim,
            producers,
            stage.depth - producers,
        )
        total += Terms(macs, num_params)
    for index, pool in enumerate(arch.pools):
        before, after = arch.stages[index : index + 2]
        total += pooling(arch.variant, pool, arch.grids[index], before.embed_dim, after.embed_dim)
    return Cost(macs=total.macs, num_params=total.num_params, activation_bytes=activation_bytes(arch))


def activation_bytes(arch: Priced) -> int:
    """The peak activation memory of an architecture, exact.

    A pooling is never where the peak is: what it has alive, a layer at its output's width exceeds. A conv stem may be:
    its first outputs are larger than the tokens.
    """
    tokens = [math.prod(grid) + has_class_token(arch.variant) for grid in arch.grids]
    moments = [
        head_elements(arch.variant, tokens[-1], arch.stages[-1].embed_dim, arch.num_classes),
        STEMS[arch.stem].elements(arch.patches, arch.in_chans, arch.stages[0].embed_dim),
    ]
    for index, (stage, n) in enumerate(zip(arch.stages, tokens, strict=True)):
        # A stage's input is alive until the stage ends. A pooling makes a new tensor of it; in the first stage it is
        # the first group's input itself, which is counted there.
        source = tokens[index - 1] * arch.stages[index - 1].embed_dim if index else n * stage.embed_dim
        for place, layers in enumerate(stage.groups):
            held = source if index or place else 0
            heads = stage.embed_dim // arch.head_dim
            moments.append(held + group_elements(n, stage.embed_dim, stage.hidden_dim, heads, layers > 1))
    return BYTES * (image_elements(arch.in_chans, arch.image_size) + max(moments))


def has_class_token(variant: Variant) -> bool:
    """Only PSViT-1D keeps a class token."""
    return variant == "1d"


def stem(variant: Variant, kind: Stem, patches: Patches, in_chans: int, d: int) -> Terms:
    """What turns the image into tokens, with biases; position embeddings and, in 1d, the class token."""
    tokens = Terms(0, (patches.number + has_class_token(variant)) * d + has_class_token(variant) * d)
    return tokens + STEMS[kind].terms(patches, in_chans, d)


def layers(n: Count, d: Count, h: Count, producers: Count, sharers: Count) -> tuple[Count, Count]:
    """MACs and parameters of the layers of a stage.

    A producer has queries, keys, values, output projection (4 d²) and two attention products (2 n² d); a sharer has
    values and output projection (2 d²) and one product (n² d). Both have two norms and an MLP.
    """
    mlp_macs = 2 * n * d * h
    mlp_params = 2 * d * h + h + d
    norms = 4 * d
    macs = producers * (4 * n * d * d + 2 * n * n * d + mlp_macs) + sharers * (2 * n * d * d + n * n * d + mlp_macs)
    params = producers * (4 * d * d + 4 * d + norms + mlp_params) + sharers * (2 * d * d + 2 * d + norms + mlp_params)
    return macs, params


def pooling(variant: Variant, pool: Pool, grid: tuple[int, int], d_in: int, d_out: int) -> Terms:
    """The operator, the linear layer where the width changes, and the class token's own in 1d.

    Args:
        variant: 1d or 2d.
        pool: the operator.
        grid: rows and columns of the patch tokens that come in, one row in 1d.
        d_in: channels before.
        d_out: channels after.
    """
    operator = POOLINGS[pool].terms(variant, grid, d_in)
    if d_in == d_out:
        return operator
    linears = 1 + has_class_token(variant)
    tokens = math.prod(pooled(grid)) + has_class_token(variant)
    return operator + Terms(tokens * d_in * d_out, linears * (d_in * d_out + d_out))


def head(d: int, num_classes: int) -> Terms:
    """The final norm and the linear classifier, applied to one vector."""
    return Terms(d * num_classes, 2 * d + (d * num_classes + num_classes))


def image_elements(in_chans: int, image_size: tuple[int, int]) -> int:
    """Numbers in an image."""
    return in_chans * math.prod(image_size)


def group_elements(n: int, d: Count, h: Count, heads: Count, shares: bool) -> Count:
    """The most numbers that are alive at once in an attention group, its input included.

    Where attention is fused: while the output is projected, that, the input, the norm's output, queries, keys, values
    and attention's output; or while the MLP's activation is computed, the input, attention's branch, their sum, its
    norm, and the hidden layer twice. Where a map is shared: in the producer, the map beside its logits, or beside
    attention's output in two layouts (of one head they are the same) while that is projected; or in a sharer the MLP
    again, with the group's input and the map.
    """
    x, hidden, attention_map = n * d, n * h, heads * n * n
    if not shares:
        return x + _larger(6 * x, 3 * x + 2 * hidden)
    producer = _larger(4 * x + 2 * attention_map, (6 + (heads > 1)) * x + attention_map)
    return x + _larger(producer, 4 * x + 2 * hidden + attention_map)


def head_elements(variant: Variant, n: int, d: int, num_classes: int) -> int:
    """Numbers alive while the classifier runs: its output, and its input, which in 1d is a view of all tokens."""
    return (n * d if has_class_token(variant) else d) + num_classes


def _larger(one: Count, other: Count) -> Count:
    """The greater of two numbers, or of two arrays element by element."""
    if isinstance(one, int):
        return max(one, other)
    return np.maximum(one, other)
