"""A vision transformer of timm as a network of this family, with equal outputs.

The family's 1d network of one stage without sharing is DeiT (arXiv 2012.12877). Layer scales are multiplied into the
layers before them, and a layer without a bias gets one of zero. A network with any other part is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from timm.layers import Attention, LayerScale, Mlp, PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from psvit.arch.architecture import Architecture
from psvit.errors import InputError
from psvit.nn.checkpoint_filter import checkpoint_filter_fn
from psvit.nn.network import PSViT
from psvit.nn.seeding import seeded

TOLERANCE = 1e-4
"""By how much outputs may differ, relative to the largest: what another order of sums makes."""


def from_timm(network: nn.Module, name: str) -> PSViT:
    """A network of this family with the weights and the outputs of a vision transformer of timm.

    Args:
        network: the vision transformer; not changed.
        name: what to call it in an error.

    Raises:
        InputError: it has a part that the family has no form for; names the part.
    """
    check_parts(network, name)
    vit: Any = copy.deepcopy(network).eval()
    attention, hidden = vit.blocks[0].attn, vit.blocks[0].mlp.fc1.out_features
    arch = Architecture.from_dict(
        {
            "variant": "1d",
            "image_size": list(vit.patch_embed.img_size),
            "in_chans": vit.in_chans,
            "num_classes": vit.num_classes,
            "patch_size": vit.patch_embed.patch_size[0],
            "patch_stride": vit.patch_embed.patch_size[0],
            "head_dim": attention.head_dim,
            "stages": [
                {"embed_dim": vit.embed_dim, "groups": [1] * len(vit.blocks), "mlp_ratio": hidden / vit.embed_dim}
            ],
            "pools": [],
        },
        source=name,
    )
    found = PSViT(arch).eval()
    found.load_state_dict(checkpoint_filter_fn(vit.state_dict(), found))
    _check_equal(vit, found, name)
    return found


def check_parts(network: nn.Module, name: str) -> None:
    """Make sure that a network has no part that the family lacks; its weights are not looked at.

    Raises:
        InputError: it has one; names it.
    """
    for part in _foreign_parts(network):
        raise InputError(
            f"{name}: {part}; what can be made faster is a vision transformer of timm's VisionTransformer as DeiT has "
            "it (a class token, learnt positions, plain attention and MLPs), or a network of psvit"
        )


def _foreign_parts(network: nn.Module) -> Iterator[str]:
    """What a network has, or lacks, that the family has no form for."""
    if type(network) is not VisionTransformer:
        yield f"it is a network of the class {type(network).__name__}"
        return
    vit: Any = network
    # Older versions of timm lack some of these, and then have what is expected here.
    if vit.num_prefix_tokens != 1 or vit.cls_token is None:
        registers = getattr(vit, "num_reg_tokens", 0)
        yield f"it has {registers} register tokens" if registers else "it has no class token"
    if vit.global_pool != "token":
        yield f"it classifies by {vit.global_pool or 'no'} pooling, not by the class token"
    if vit.pos_embed is None:
        yield "it has no learnt positions"
    if type(vit.patch_embed) is not PatchEmbed or vit.patch_embed.proj.kernel_size != vit.patch_embed.proj.stride:
        yield f"its stem is a {type(vit.patch_embed).__name__}, not a patch embedding"
    elif len(set(vit.patch_embed.patch_size)) > 1:
        yield f"its patches are not square: {vit.patch_embed.patch_size}"
    elif not isinstance(vit.patch_embed.norm, nn.Identity):
        yield "it normalises its patch embedding"
    if not isinstance(vit.norm_pre, nn.Identity):
        yield "it normalises tokens before its first layer"
    if isinstance(vit.norm, nn.Identity) or not isinstance(vit.fc_norm, nn.Identity):
        yield "its final normalisation is not that of all tokens before the class token is taken"
    shapes = {tuple(tuple(weight.shape) for weight in block.parameters()) for block in vit.blocks}
    if len(shapes) > 1:
        yield "its layers differ in their shapes"
    for block in vit.blocks:
        yield from _foreign_in_block(block)


def _foreign_in_block(block: Any) -> Iterator[str]:
    """The same of one block."""
    if type(block) is not Block:
        yield f"its layers are {type(block).__name__}s"
        return
    attention, mlp = block.attn, block.mlp
    if type(attention) is not Attention:
        yield f"its attention is a {type(attention).__name__}"
    elif not isinstance(attention.q_norm, nn.Identity) or not isinstance(attention.k_norm, nn.Identity):
        yield "it normalises queries and keys"
    elif not isinstance(getattr(attention, "norm", nn.Identity()), nn.Identity):
        yield "it normalises the outputs of attention"
    elif getattr(attention, "gate", None) is not None:
        yield "its attention is gated"
    elif attention.qkv.out_features != 3 * attention.qkv.in_features:
        yield "its heads together are not as wide as its tokens"
    if type(mlp) is not Mlp:
        yield f"its MLPs are {type(mlp).__name__}s"
    elif not isinstance(mlp.act, nn.GELU) or mlp.act.approximate != "none":
        yield f"its activation is {type(mlp.act).__name__}, not GELU"
    elif not isinstance(mlp.norm, nn.Identity):
        yield "it normalises inside its MLPs"
    scales: list[nn.Module] = [block.ls1, block.ls2]
    for scale in scales:
        if not isinstance(scale, LayerScale | nn.Identity):
            yield f"it scales its layers by a {type(scale).__name__}"
    norms: list[nn.Module] = [block.norm1, block.norm2]
    for norm in norms:
        if not isinstance(norm, nn.LayerNorm):
            yield f"its normalisation is {type(norm).__name__}, not LayerNorm"


@torch.no_grad()
def _check_equal(vit: nn.Module, found: PSViT, name: str) -> None:
    """Make sure that two networks give the same outputs, whatever was overlooked above."""
    with seeded(0):
        images = torch.randn(2, found.in_chans, *found.arch.image_size)
    wanted, given = vit(images), found(images)
    apart = float((wanted - given).abs().max()) / max(1.0, float(wanted.abs().max()))
    if not apart <= TOLERANCE:
        raise InputError(
            f"{name}: as a network of psvit it gives other outputs (by {apart:.2g} of the largest), so it has a part "
            "that psvit does not know"
        )
