"""The parts of a PSViT: attention with its own or a shared map, layers, attention groups, token pooling.

The layers of a group use one attention map. There are two ways to hand it on, with equal results: as the map itself
(`map`), or as the queries and keys that it comes from (`qk`), which each layer then gives to a fused kernel. The map
saves a matrix product a layer but has to be written to memory, which fused kernels never do.

Letters: B images, N tokens (class token included), H heads, D channels, P patch tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp, use_fused_attn
from torch import Tensor, nn

from psvit.arch.operators import Pool, Variant
from psvit.arch.stem import KERNEL, convolutions

Form = Literal["map", "qk"]
"""What a group hands on: its attention map, or the queries and keys that it comes from."""

Sharing = Literal["auto"] | Form
"""In which form the layers of a group share attention; `auto` is `choose_sharing`."""

Shared = Tensor | tuple[Tensor, Tensor]
"""What a producer hands on: the map (B, H, N, N) after softmax, or its queries and keys (B, H, N, D / H)."""

LARGE_MAP = 6 * 2**20
"""Elements of a map that no longer pays on a CPU: 24 MiB in float32."""


def choose_sharing(batch: int, tokens: int, num_heads: int, device_type: str) -> Form:
    """The form in which a group shares attention, from shapes and device alone, so that equal runs compute alike.

    On a CPU handing the map on is as fast or faster until it outgrows the caches; from there on a fused kernel computes
    it again in less time than memory takes to give it back, by 5 to 50 % of a whole group, whatever its length and in
    training as in inference (`docs/benchmarks-parts.md`). On other devices queries and keys are handed on, because
    fused kernels are further ahead there; that was not measured. A network that is exported or traced by `torch.fx` may
    meet any batch: it keeps the map, which is also what runtimes without fused attention compute fastest.

    Args:
        batch: images B.
        tokens: tokens N.
        num_heads: heads H.
        device_type: as in `torch.device.type`.
    """
    if torch.compiler.is_exporting() or not isinstance(batch, int | torch.SymInt):  # symbolic tracing knows no number
        return "map"
    if device_type in ("cpu", "meta"):
        return "qk" if batch * num_heads * tokens * tokens > LARGE_MAP else "map"
    return "qk"


def attend(q: Tensor, k: Tensor, v: Tensor, fused: bool) -> Tensor:
    """Softmax attention of queries, keys and values (B, H, N, D / H), fused where permitted."""
    if fused:
        return F.scaled_dot_product_attention(q, k, v)
    return attention_map(q, k) @ v


def attention_map(q: Tensor, k: Tensor) -> Tensor:
    """The attention map (B, H, N, N) of queries and keys (B, H, N, D / H)."""
    return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)


class Attention(nn.Module):
    """Self-attention of a producer: computes its attention, and hands it on where others use it.

    Args:
        embed_dim: channels D.
        num_heads: heads H; each has D / H channels.
    """

    def __init__(self, embed_dim: int, num_heads: int, **dd: Any) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.fused_attn = use_fused_attn()
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, **dd)
        self.proj = nn.Linear(embed_dim, embed_dim, **dd)

    def forward(self, x: Tensor, hand_on: Form | None) -> tuple[Tensor, Shared | None]:
        """From x (B, N, D) to the output (B, N, D) and what is handed on, if anything."""
        B, N, D = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, D // self.num_heads).permute(2, 0, 3, 1, 4).unbind(0)
        shared: Shared | None = None
        if hand_on == "map":
            shared = attention_map(q, k)
            x = shared @ v
        else:
            shared = (q, k) if hand_on else None
            x = attend(q, k, v, self.fused_attn)
        return self.proj(x.transpose(1, 2).reshape(B, N, D)), shared


class SharedAttention(nn.Module):
    """Self-attention of a sharer: own values and output projection, the producer's map.

    Args:
        embed_dim: channels D.
        num_heads: heads H, as many as the map has.
    """

    def __init__(self, embed_dim: int, num_heads: int, **dd: Any) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.fused_attn = use_fused_attn()
        self.v = nn.Linear(embed_dim, embed_dim, **dd)
        self.proj = nn.Linear(embed_dim, embed_dim, **dd)

    def forward(self, x: Tensor, shared: Shared) -> Tensor:
        """From x (B, N, D) and what the producer handed on to the output (B, N, D)."""
        B, N, D = x.shape
        v = self.v(x).reshape(B, N, self.num_heads, D // self.num_heads).transpose(1, 2)
        x = attend(*shared, v, self.fused_attn) if isinstance(shared, tuple) else shared @ v
        return self.proj(x.transpose(1, 2).reshape(B, N, D))


class Layer(nn.Module):
    """One pre-norm transformer layer: attention and MLP, a residual around each.

    Args:
        embed_dim: channels D.
        num_heads: heads H.
        hidden_dim: hidden width of the MLP.
        shares: whether it uses the map of a producer before it instead of one of its own.
        drop_path: probability of skipping each branch in training.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, hidden_dim: int, shares: bool, drop_path: float = 0.0, **dd: Any
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=1e-6, **dd)
        self.attn = (SharedAttention if shares else Attention)(embed_dim, num_heads, **dd)
        self.drop_path1 = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = nn.LayerNorm(embed_dim, eps=1e-6, **dd)
        self.mlp = Mlp(embed_dim, hidden_dim, **dd)
        self.drop_path2 = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, shared: Shared | None, hand_on: Form | None) -> tuple[Tensor, Shared | None]:
        """From x (B, N, D) and, for a sharer, what its producer handed on to the next x and what is handed on."""
        if isinstance(self.attn, Attention):
            branch, shared = self.attn(self.norm1(x), hand_on)
        else:
            branch = self.attn(self.norm1(x), shared)
        x = x + self.drop_path1(branch)
        return x + self.drop_path2(self.mlp(self.norm2(x))), shared


class AttentionGroup(nn.Module):
    """Neighbouring layers that use one attention map: a producer, then any number of sharers.

    Args:
        length: number of layers.
        drop_path: one probability for each layer.
        sharing: in which form attention is shared.
    """

    def __init__(
        self,
        length: int,
        embed_dim: int,
        num_heads: int,
        hidden_dim: int,
        drop_path: Sequence[float],
        sharing: Sharing = "auto",
        **dd: Any,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.sharing: Sharing = sharing
        self.layers = nn.ModuleList(
            Layer(embed_dim, num_heads, hidden_dim, shares=index > 0, drop_path=drop_path[index], **dd)
            for index in range(length)
        )

    def forward(self, x: Tensor) -> Tensor:
        """From (B, N, D) to (B, N, D)."""
        B, N, _ = x.shape
        hand_on: Form | None = None
        if len(self.layers) > 1:
            hand_on = choose_sharing(B, N, self.num_heads, x.device.type) if self.sharing == "auto" else self.sharing
        shared: Shared | None = None
        for layer in self.layers:
            x, shared = layer(x, shared, hand_on)
        return x


def _max_pool(variant: Variant, channels: int, **dd: Any) -> nn.Module:
    return (nn.MaxPool1d if variant == "1d" else nn.MaxPool2d)(**_WINDOW)


def _avg_pool(variant: Variant, channels: int, **dd: Any) -> nn.Module:
    return (nn.AvgPool1d if variant == "1d" else nn.AvgPool2d)(**_WINDOW, count_include_pad=False)


def _conv_pool(variant: Variant, channels: int, **dd: Any) -> nn.Module:
    return (nn.Conv1d if variant == "1d" else nn.Conv2d)(channels, channels, groups=channels, **_WINDOW, **dd)


_WINDOW: dict[str, Any] = {"kernel_size": 3, "stride": 2, "padding": 1}

POOLING_MODULES: dict[str, Callable[..., nn.Module]] = {"max": _max_pool, "avg": _avg_pool, "conv": _conv_pool}
"""Pooling operators by name: from variant and channels C to a module on (B, C, N) or (B, C, rows, columns)."""


class TokenPool(nn.Module):
    """Pooling between two stages: an operator that halves the patch tokens per axis, then the new width.

    Args:
        variant: `1d` pools the sequence and passes the class token by; `2d` pools the grid.
        pool: `max`; `avg`, which leaves the padding out of the mean; `conv`, depthwise with bias; or a registered one.
        grid: rows and columns of the patch tokens that come in.
        dim_in: channels before.
        dim_out: channels after. If they differ, patch tokens and class token have a linear layer each.
    """

    def __init__(
        self, variant: Variant, pool: Pool, grid: tuple[int, int], dim_in: int, dim_out: int, **dd: Any
    ) -> None:
        super().__init__()
        self.grid = grid
        self.has_class_token = variant == "1d"
        self.pool = POOLING_MODULES[pool](variant, dim_in, **dd)
        widens = dim_in != dim_out
        self.proj = nn.Linear(dim_in, dim_out, **dd) if widens else nn.Identity()
        if self.has_class_token:
            self.cls_proj = nn.Linear(dim_in, dim_out, **dd) if widens else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """From (B, N, dim_in) to (B, ceil(N / 2) or ceil(rows / 2) * ceil(columns / 2), dim_out)."""
        if self.has_class_token:
            patches = self.pool(x[:, 1:].transpose(1, 2)).transpose(1, 2)
            return torch.cat([self.cls_proj(x[:, :1]), self.proj(patches)], dim=1)
        patches = x.transpose(1, 2).unflatten(2, self.grid)
        return self.proj(self.pool(patches).flatten(2).transpose(1, 2))


class PatchEmbed(nn.Module):
    """Cut images into square, possibly overlapping patches and map each to a token.

    Args:
        in_chans: channels of the images.
        embed_dim: channels D of the tokens.
        patch_size: side of a patch in pixels.
        patch_stride: distance between neighbouring patches in pixels.
    """

    def __init__(self, in_chans: int, embed_dim: int, patch_size: int, patch_stride: int, **dd: Any) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_stride, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """From images (B, C, height, width) to tokens (B, P, D)."""
        return self.proj(x).flatten(2).transpose(1, 2)


class ConvStem(nn.Module):
    """Turn images into tokens by a few strided convolutions with GELU between them, as `psvit.arch.stem` says.

    Args:
        in_chans: channels of the images.
        embed_dim: channels D of the tokens.
        patch_size: the product of the strides: pixels from one token to the next.
    """

    def __init__(self, in_chans: int, embed_dim: int, patch_size: int, **dd: Any) -> None:
        super().__init__()
        modules: list[nn.Module] = []
        for one in convolutions(in_chans, embed_dim, patch_size):
            conv = nn.Conv2d(one.in_chans, one.out_chans, KERNEL, stride=one.stride, padding=KERNEL // 2, **dd)
            modules += [conv, nn.GELU()]
        self.convs = nn.Sequential(*modules[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """From images (B, C, height, width) to tokens (B, P, D)."""
        return self.convs(x).flatten(2).transpose(1, 2)


def _patch_stem(in_chans: int, embed_dim: int, patch_size: int, patch_stride: int, **dd: Any) -> nn.Module:
    return PatchEmbed(in_chans, embed_dim, patch_size, patch_stride, **dd)


def _conv_stem(in_chans: int, embed_dim: int, patch_size: int, patch_stride: int, **dd: Any) -> nn.Module:
    return ConvStem(in_chans, embed_dim, patch_size, **dd)


STEM_MODULES: dict[str, Callable[..., nn.Module]] = {"patch": _patch_stem, "conv": _conv_stem}
"""Stems by name: from channels of the image, `embed_dim`, patch size and stride to a module from images to tokens."""
