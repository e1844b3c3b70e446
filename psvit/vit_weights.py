"""Weights of timm's vision transformers, laid onto the family's networks and supernets.

A network of one 1d stage without sharing takes DeiT's weights (arXiv 2012.12877) whole. For every other network they
are a warm start: blocks are laid onto layers in order, a layer that shares its neighbour's map leaves the block's
queries and keys behind, and where widths differ the leading channels are taken, in attention the leading heads. What
a vision transformer does not have (poolings, layers beyond its depth, channels beyond its width) stays as it was.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from timm.models import adapt_input_conv, create_model, is_model, load_state_dict
from torch import Tensor

from psvit.errors import InputError

Weights = dict[str, Tensor]

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar")
_STEM_AND_HEAD = ("cls_token", "pos_embed", "patch_embed", "norm", "head")


@dataclass(frozen=True)
class Source:
    """Where a parameter of a vision transformer belongs.

    Attributes:
        name: the parameter there.
        qkv: which of query, key and value, where it is a fused matrix of them.
    """

    name: str
    qkv: slice | None = None


@dataclass(frozen=True)
class Laid:
    """What laying weights onto a model came to.

    Attributes:
        weights: new values of the parameters that got any, whole tensors.
        whole: parameters that were filled completely.
        partly: parameters whose leading part was filled.
        fresh: parameters that stay as they were.
        unused: parameters of the vision transformer that found no place.
    """

    weights: Weights
    whole: tuple[str, ...]
    partly: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]

    def report(self) -> dict[str, list[str]]:
        """The names, for a file."""
        return {name: list(getattr(self, name)) for name in ("whole", "partly", "fresh", "unused")}

    def __str__(self) -> str:
        parts = [f"filled {len(self.whole)} parameters whole and {len(self.partly)} in their leading part"]
        parts += [f"left {_abbreviated(self.fresh)} as initialised"] if self.fresh else []
        parts += [f"did not use {_abbreviated(self.unused)}"] if self.unused else []
        return "; ".join(parts)


def read_vit(name_or_file: str) -> Weights:
    """The weights of a vision transformer: a name that timm knows, or a file that timm or torch wrote.

    Raises:
        InputError: no such model or file, no weights to be had, or weights of something else.
    """
    path = Path(name_or_file)
    if path.suffix in _SUFFIXES or path.exists():
        if not path.is_file():
            raise InputError(f"weights {name_or_file!r}: no such file; expected a .safetensors or .pth file, or a name")
        try:
            weights: Weights = load_state_dict(str(path), use_ema=False, device="cpu", weights_only=True)
        except Exception as error:
            # Every format has errors of its own, and torch's unpickler any; what they have in common is the file.
            raise InputError(f"weights {name_or_file!r}: cannot be read: {_first_line(error)}") from None
    else:
        if not is_model(name_or_file):
            raise InputError(
                f"weights {name_or_file!r}: neither a file nor a model of timm; expected for example "
                "deit_small_patch16_224, or a .safetensors or .pth file"
            )
        hub = logging.getLogger("huggingface_hub")
        level = hub.level
        try:
            # It would warn of every attempt; the error below says what came of them.
            hub.setLevel(logging.ERROR)
            weights = create_model(name_or_file, pretrained=True).state_dict()
        except Exception as error:
            # Downloads fail with the errors of whatever library does them.
            raise InputError(
                f"weights {name_or_file!r}: cannot be had ({_first_line(error)}); a .safetensors or .pth file works too"
            ) from None
        finally:
            hub.setLevel(level)
    check_vit(weights, name_or_file)
    return weights


def check_vit(weights: Weights, name: str) -> None:
    """Refuse weights that are not a vision transformer's.

    Raises:
        InputError: they have no blocks with fused queries, keys and values.
    """
    if "blocks.0.attn.qkv.weight" not in weights:
        raise InputError(f"weights {name!r}: not those of a vision transformer of timm: no blocks.0.attn.qkv.weight")


def digest(weights: Weights) -> str:
    """A digest of names and values, to tell whether two runs began with the same weights."""
    hashed = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        hashed.update(f"{name} {tuple(tensor.shape)}".encode())
        hashed.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return hashed.hexdigest()[:16]


def lay(weights: Weights, model: Mapping[str, Tensor], sources: dict[str, Source], grid: tuple[int, int]) -> Laid:
    """Lay a vision transformer's weights onto a model's parameters.

    Args:
        weights: the vision transformer's state.
        model: the parameters to fill; not changed.
        sources: where each comes from; those not named stay as they are.
        grid: rows and columns of the model's patch tokens.
    """
    filled: Weights = {}
    whole: list[str] = []
    partly: list[str] = []
    used = set()
    for name, parameter in model.items():
        source = sources.get(name)
        if source is None or source.name not in weights:
            continue
        value = _fitted(source.name, weights, parameter, grid)
        if value is None:
            continue
        filled[name], is_whole = _with_leading(parameter, value, source.qkv)
        (whole if is_whole else partly).append(name)
        used.add(source.name)
    fresh = tuple(name for name in model if name not in filled)
    unused = tuple(name for name in weights if name not in used)
    return Laid(filled, tuple(whole), tuple(partly), fresh, unused)


def same_place(name: str) -> Source | None:
    """The source of a parameter outside the layers, which has the name it has in a vision transformer."""
    return Source(name) if name.split(".")[0] in _STEM_AND_HEAD else None


def in_block(block: int, name: str) -> Source:
    """The source of a layer's parameter, `name` within the layer, in a block."""
    if name.startswith("attn.v."):
        return Source(f"blocks.{block}.attn.qkv.{name.removeprefix('attn.v.')}", slice(2, 3))
    return Source(f"blocks.{block}.{name}", slice(0, 3) if name.startswith("attn.qkv.") else None)


def _fitted(name: str, weights: Weights, parameter: Tensor, grid: tuple[int, int]) -> Tensor | None:
    """A weight made for other images or classes, made to fit; nothing where that is not possible."""
    value = weights[name]
    if name.startswith("head."):
        # Other classes: the classifier of the source means nothing.
        return value if value.shape[0] == parameter.shape[0] else None
    if name == "patch_embed.proj.weight":
        if value.shape[2:] != parameter.shape[2:]:
            value = resample_patch_embed(value, list(parameter.shape[2:]))
        if value.shape[1] != parameter.shape[1]:
            adapted: Tensor = adapt_input_conv(parameter.shape[1], value)
            return adapted
    if name == "pos_embed":
        prefix = int(parameter.shape[1] != math.prod(grid))
        side = math.isqrt(value.shape[1])
        others = value.shape[1] - side**2
        patches = resample_abs_pos_embed(value[:, others:], list(grid), [side, side], num_prefix_tokens=0)
        if prefix and not others:
            # A source without a position for its class token; the first patch's would be no substitute.
            return torch.cat([parameter[:, :1, : patches.shape[2]].new_zeros(1, 1, patches.shape[2]), patches], dim=1)
        return torch.cat([value[:, :prefix], patches], dim=1)
    return value


def _with_leading(parameter: Tensor, value: Tensor, qkv: slice | None) -> tuple[Tensor, bool]:
    """A parameter with its leading part replaced by that of a value, and whether that is all of it."""
    result = parameter.detach().clone()
    if qkv is None:
        common = tuple(slice(min(sizes)) for sizes in zip(result.shape, value.shape, strict=True))
        result[common] = value[common].to(result)
        return result, value[common].shape == result.shape
    # Queries, keys and values are stacked: of each, the leading heads.
    into = result.unflatten(0, (qkv.stop - qkv.start, -1))
    out_of = value.unflatten(0, (3, -1))[qkv]
    common = tuple(slice(min(sizes)) for sizes in zip(into.shape, out_of.shape, strict=True))
    into[common] = out_of[common].to(result)
    return result, out_of[common].shape == into.shape


def _abbreviated(names: tuple[str, ...], shown: int = 4) -> str:
    """Some names for people."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
