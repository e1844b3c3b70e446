"""Weights for a network from a checkpoint of its own, or from a vision transformer of timm."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

from timm.layers import resample_abs_pos_embed
from torch import Tensor

from psvit.errors import InputError
from psvit.nn.network import PSViT, resolve
from psvit.nn.vit_weights import Source, in_block, is_vit, stem_and_head, transfer_weights


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: PSViT) -> dict[str, Tensor]:
    """Weights for a network from a checkpoint of its own, or from DeiT or another vision transformer of timm.

    The latter are laid onto the network as `psvit.nn.vit_weights` says; parameters that get none are absent from the
    result, so only a 1d network of one stage can load it strictly.

    Args:
        state_dict: the checkpoint, bare or under the key `model` or `state_dict`.
        model: the network that they are for.

    Raises:
        InputError: positions of which neither the checkpoint nor their number says the grid.
    """
    weights: Any = dict(state_dict)
    weights = dict(weights.get("model", weights.get("state_dict", weights)))
    if is_vit(weights):
        parameters = dict(model.named_parameters())
        return transfer_weights(weights, parameters, _vit_sources(model), model.arch.patches.grid).weights
    if "pos_embed" in weights:
        grid, old = model.arch.patches.grid, _source_grid(model, weights["pos_embed"])
        if old != grid:
            weights["pos_embed"] = resample_abs_pos_embed(
                weights["pos_embed"], list(grid), list(old), model.num_prefix_tokens
            )
    return weights


def _source_grid(model: PSViT, positions: Tensor) -> tuple[int, int]:
    """The grid of a checkpoint's positions: as timm recorded it, else the network's own, else a square."""
    number = positions.shape[1] - model.num_prefix_tokens
    args = getattr(model, "pretrained_model_args", {})
    size = args.get("img_size") or getattr(model, "pretrained_cfg", {}).get("input_size", (0,))[1:]
    grids = []
    with contextlib.suppress(InputError):
        # The size that is recorded may be another network's.
        source = resolve(args.get("arch", model.arch), img_size=tuple(size) if isinstance(size, Sequence) else size)
        grids.append(source.patches.grid)
    side = math.isqrt(number)
    for rows, columns in (*grids, model.arch.patches.grid, (side, side)):
        if rows * columns == number:
            return rows, columns
    raise InputError(f"checkpoint: {number} positions fit neither the network's grid nor a square one")


def _vit_sources(model: PSViT) -> dict[str, Source]:
    """Where each parameter of a network comes from in a vision transformer: blocks laid onto layers in order."""
    sources = stem_and_head(name for name, _ in model.named_parameters())
    block = 0
    for i, stage in enumerate(model.arch.stages):
        for j, length in enumerate(stage.groups):
            for k in range(length):
                prefix = f"stages.{i}.groups.{j}.layers.{k}."
                layer = model.get_submodule(prefix[:-1])
                sources |= {prefix + name: in_block(block, name) for name, _ in layer.named_parameters()}
                block += 1
    return sources
