"""Token merging (ToMe, arXiv 2210.09461): a trained network made cheaper without training, to compare with.

In every layer, after attention, the patch tokens are dealt into two sets by turns. Each of the first set has its most
similar partner in the second, and the r pairs that are most alike are merged into their mean, weighted by how many
patches a token stands for. Attention counts a token as often as it stands for a patch (proportional attention). The
class token is never merged. As in the paper, similarity is the cosine of keys, averaged over heads.

Letters: B images, N tokens (class token included), H heads, D channels, P patch tokens, r merged ones.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from psvit.arch.architecture import Architecture
from psvit.arch.costs import cost
from psvit.nn.layers import Attention, Layer
from psvit.nn.network import PSViT


class MergingNetwork(nn.Module):
    """A network of one stage without shared maps, whose tokens are merged on the way.

    Args:
        network: the network; its weights are used, not changed.
        merged: how many tokens r each layer merges.

    Raises:
        ValueError: a network that is pooled or shares maps, or a number for each layer is missing.
    """

    def __init__(self, network: PSViT, merged: tuple[int, ...]) -> None:
        super().__init__()
        if not can_merge(network.arch) or len(merged) != network.arch.depth:
            raise ValueError("tokens are merged in networks of one stage without shared maps, layer by layer")
        self.network = network
        self.merged = merged

    def forward(self, images: Tensor) -> Tensor:
        """From images (B, C, height, width) to logits (B, classes)."""
        x = self.network.embed(images)
        size = x.new_ones(x.shape[0], x.shape[1], 1)
        layers = [module for module in self.network.modules() if isinstance(module, Layer)]
        for layer, number in zip(layers, self.merged, strict=True):
            x, size = self._layer(layer, x, size, number)
        x = self.network.norm(x)
        if self.network.has_class_token:
            return self.network.head(x[:, 0])
        return self.network.head((x * size).sum(dim=1) / size.sum(dim=1))

    def _layer(self, layer: Layer, x: Tensor, size: Tensor, merged: int) -> tuple[Tensor, Tensor]:
        """A layer with merging between attention and MLP: x (B, N, D) and sizes (B, N, 1) before and after."""
        attention = layer.attn
        assert isinstance(attention, Attention)
        B, N, D = x.shape
        qkv = attention.qkv(layer.norm1(x)).reshape(B, N, 3, attention.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        weights = size.log()[:, None, None, :, 0]
        branch = F.scaled_dot_product_attention(q, k, v, attn_mask=weights.expand(B, 1, N, N))
        x = x + attention.proj(branch.transpose(1, 2).reshape(B, N, D))
        if merged:
            x, size = merge(x, size, k.mean(dim=1), merged, self.network.num_prefix_tokens)
        return x + layer.mlp(layer.norm2(x)), size


def merge(x: Tensor, size: Tensor, keys: Tensor, merged: int, prefix: int) -> tuple[Tensor, Tensor]:
    """Merge the most similar tokens in pairs.

    Args:
        x: tokens (B, N, D).
        size: how many patches each stands for, (B, N, 1).
        keys: what they are compared by, (B, N, K).
        merged: how many disappear, at most half of those behind the prefix.
        prefix: leading tokens that stay as they are.

    Returns:
        The tokens (B, N - merged, D) and their sizes. The order of patch tokens is not kept.
    """
    B = len(x)
    unit = F.normalize(keys[:, prefix:], dim=-1)
    first, second = unit[:, ::2], unit[:, 1::2]
    likeness, partner = (first @ second.transpose(1, 2)).max(dim=2)
    order = likeness.argsort(dim=1, descending=True)
    gone, stay = order[:, :merged, None], order[:, merged:, None]
    into = partner[..., None].gather(1, gone)

    def united(values: Tensor) -> Tensor:
        head, ones, others = values[:, :prefix], values[:, prefix::2], values[:, prefix + 1 :: 2]
        width = values.shape[2]
        moved = ones.gather(1, gone.expand(B, merged, width))
        kept = ones.gather(1, stay.expand(B, stay.shape[1], width))
        return torch.cat([head, kept, others.scatter_add(1, into.expand(B, merged, width), moved)], dim=1)

    sizes = united(size)
    return united(x * size) / sizes, sizes


def can_merge(arch: Architecture) -> bool:
    """Whether tokens of a network can be merged: pooling on a grid and shared maps do not permit it."""
    return len(arch.stages) == 1 and max(arch.stages[0].groups) == 1


def merging_macs(arch: Architecture, merged: tuple[int, ...]) -> int:
    """Multiply-accumulates of one image, counted as those of all networks (`psvit.arch.costs`), similarities included.

    Args:
        arch: the network.
        merged: how many tokens each layer merges.
    """
    stage, prefix = arch.stages[0], int(arch.variant == "1d")
    d, h = stage.embed_dim, stage.hidden_dim

    def of_layers(numbers: tuple[int, ...]) -> int:
        total, patches = 0, arch.patches.number
        for number in numbers:
            n = patches + prefix
            total += 4 * n * d * d + 2 * n * n * d
            if number:
                total += -(-patches // 2) * (patches // 2) * arch.head_dim
            patches -= number
            total += 2 * (patches + prefix) * d * h
        return total

    return cost(arch).macs - of_layers((0,) * arch.depth) + of_layers(merged)


def merged_for(arch: Architecture, macs: int) -> tuple[int, ...] | None:
    """How many tokens each layer merges to cost at most so many multiply-accumulates, and as many as possible.

    All layers merge as many tokens, or the first ones one more than the others. A layer merges at most half of its
    patch tokens, and one patch token is left.

    Returns:
        A number for each layer; `None` if merging cannot save so much.
    """
    for more in range(arch.depth * arch.patches.number + 1):
        wanted = [more // arch.depth + (layer < more % arch.depth) for layer in range(arch.depth)]
        left, numbers = arch.patches.number, []
        for number in wanted:
            numbers.append(min(number, left // 2))
            left -= numbers[-1]
        if merging_macs(arch, tuple(numbers)) <= macs:
            return tuple(numbers)
        if left == 1 and numbers[0] < wanted[0]:
            return None
    return None
