"""Weights of timm's vision transformers, laid onto the family's networks and supernets.

A network of one 1d stage without sharing takes DeiT's weights (arXiv 2012.12877) whole. For every other network they
are a warm start: blocks are laid onto layers in order, a layer that shares its neighbour's map leaves the block's
queries and keys behind, and where widths differ the leading channels are taken, in attention the leading heads. Where
heads have other widths, the same channels are divided into heads anew. What a vision transformer does not have
(poolings, layers beyond its depth, channels beyond its width) stays as it was.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from timm.models import adapt_input_conv, create_model, is_model, load_checkpoint, load_state_dict
from torch import Tensor, nn

from psvit.errors import InputError

Weights = dict[str, Tensor]

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar")
SOURCES = ("hf-hub:", "local-dir:")
"""What names of timm's begin with that are of a repository on a hub, or of a folder like one."""

_STEM_AND_HEAD = ("cls_token", "pos_embed", "patch_embed", "norm", "head")


@dataclass(frozen=True)
class Vit:
    """A vision transformer's weights.

    Attributes:
        name: where they come from.
        weights: its state.
        head_dim: channels of a head; not known of a file.
    """

    name: str
    weights: Weights
    head_dim: int | None = None

    @property
    def digest(self) -> str:
        """A digest of names and values, to tell whether two runs began with the same weights."""
        hashed = hashlib.sha256()
        for name, tensor in sorted(self.weights.items()):
            hashed.update(f"{name} {tuple(tensor.shape)}".encode())
            hashed.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return hashed.hexdigest()[:16]


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
class TransferReport:
    """Which parameters of a model were filled when weights were copied to it, and which were not.

    Attributes:
        weights: new values of the parameters that got any, whole tensors.
        whole: parameters that were filled completely.
        partly: parameters whose leading part was filled.
        fresh: parameters that stay as they were.
        cut: parameters of the vision transformer of which only a part found a place.
        unused: those that found none.
    """

    weights: Weights
    whole: tuple[str, ...]
    partly: tuple[str, ...]
    fresh: tuple[str, ...]
    cut: tuple[str, ...]
    unused: tuple[str, ...]

    def report(self) -> dict[str, list[str]]:
        """The names, for a file."""
        return {name: list(getattr(self, name)) for name in ("whole", "partly", "fresh", "cut", "unused")}

    def __str__(self) -> str:
        parts = [f"filled {len(self.whole)} parameters whole and {len(self.partly)} in their leading part"]
        parts += [f"left {_abbreviated(self.fresh)} as initialised"] if self.fresh else []
        parts += [f"used {_abbreviated(self.cut)} in part"] if self.cut else []
        parts += [f"did not use {_abbreviated(self.unused)}"] if self.unused else []
        return "; ".join(parts)


def read_vit(name_or_file: str) -> Vit:
    """A vision transformer: a name that timm knows, or a file that timm or torch wrote.

    A file's averaged weights are preferred to its last ones, as timm does.

    Raises:
        InputError: no such model or file, no weights to be had, or weights of something else.
    """
    path = Path(name_or_file)
    if path.suffix in _SUFFIXES or path.is_file():
        if not path.is_file():
            raise InputError(f"weights {name_or_file!r}: no such file; expected a .safetensors or .pth file, or a name")
        try:
            vit = Vit(name_or_file, load_state_dict(str(path), device="cpu", weights_only=True))
        except Exception as error:
            # Every format has errors of its own, and torch's unpickler any; what they have in common is the file.
            raise InputError(f"weights {name_or_file!r}: cannot be read: {_first_line(error)}") from None
    elif name_or_file.startswith(SOURCES) or is_model(name_or_file):
        vit = _download(name_or_file)
    else:
        raise InputError(
            f"weights {name_or_file!r}: neither a file nor a model of timm; expected for example "
            "deit_small_patch16_224, or a .safetensors or .pth file"
        )
    check_vit(vit.weights, name_or_file)
    return vit


def load_weights(network: nn.Module, file: Path) -> None:
    """Load all weights of a network from a .safetensors or .pth file, of which no code is run.

    Fails with the errors of timm, PyTorch and safetensors.
    """
    load_checkpoint(network, str(file), weights_only=True)


def pretrained(name: str) -> nn.Module:
    """The model that timm has for a name, with its weights; fails with the errors of whatever library fetches them."""
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    try:
        # It would warn of every attempt; the error says what came of them.
        hub.setLevel(logging.ERROR)
        model: nn.Module = create_model(name, pretrained=True)
    finally:
        hub.setLevel(level)
    return model


def _download(name: str) -> Vit:
    """The weights that timm has for a name."""
    try:
        model: Any = pretrained(name)
    except Exception as error:
        raise InputError(
            f"weights {name!r}: cannot be had ({_first_line(error)}); a .safetensors or .pth file works too"
        ) from None
    heads = getattr(getattr(next(iter(getattr(model, "blocks", [])), None), "attn", None), "num_heads", None)
    return Vit(name, model.state_dict(), model.embed_dim // heads if heads else None)


def is_vit(weights: Mapping[str, Tensor]) -> bool:
    """Whether weights have the names of a vision transformer of timm."""
    return "blocks.0.attn.qkv.weight" in weights


def check_vit(weights: Weights, name: str) -> None:
    """Refuse weights that are not a plain vision transformer's.

    Raises:
        InputError: no blocks with fused queries, keys and values, all of one width, or positions of another kind.
    """
    if not is_vit(weights):
        raise InputError(f"weights {name!r}: not those of a vision transformer of timm: no blocks.0.attn.qkv.weight")
    shapes = {tuple(weight.shape) for key, weight in weights.items() if key.endswith("attn.qkv.weight")}
    width = weights["blocks.0.attn.qkv.weight"].shape[-1]
    if shapes != {(3 * width, width)}:
        raise InputError(f"weights {name!r}: not those of a plain vision transformer: attn.qkv.weight has {shapes}")
    for key, dims in (("pos_embed", 3), ("patch_embed.proj.weight", 4)):
        if key in weights and weights[key].dim() != dims:
            raise InputError(f"weights {name!r}: not those of a plain vision transformer: {key} has another form")


def transfer_weights(
    weights: Mapping[str, Tensor],
    model: Mapping[str, Tensor],
    sources: Mapping[str, Source],
    grid: tuple[int, int],
) -> TransferReport:
    """Lay a vision transformer's weights onto a model's parameters.

    Args:
        weights: the vision transformer's state.
        model: the parameters to fill; not changed. A `cls_token` among them has a position before the patches'.
        sources: where each comes from; those not named stay as they are.
        grid: rows and columns of the model's patch tokens.
    """
    prepared = _prepared(weights)
    prefix = int("cls_token" in model)
    filled: Weights = {}
    whole: list[str] = []
    partly: list[str] = []
    used: dict[str, int] = {}
    for name, parameter in model.items():
        source = sources.get(name)
        value = _fitted(source.name, prepared, parameter, grid, prefix) if source else None
        if source is None or value is None:
            continue
        filled[name], taken = _with_leading(parameter, value, source.qkv)
        (whole if taken == parameter.numel() else partly).append(name)
        # Values that are resampled count as they are afterwards.
        used[source.name] = used.get(source.name, 0) + prepared[source.name].numel() * taken // value.numel()
    return TransferReport(
        weights=filled,
        whole=tuple(whole),
        partly=tuple(partly),
        fresh=tuple(name for name in model if name not in filled),
        cut=tuple(name for name in weights if 0 < used.get(name, 0) < weights[name].numel()),
        unused=tuple(name for name in weights if name not in used and not name.endswith(_FOLDED)),
    )


def stem_and_head(names: Iterable[str]) -> dict[str, Source]:
    """The sources of parameters outside the layers, which have the names they have in a vision transformer."""
    return {name: Source(name) for name in names if name.split(".")[0] in _STEM_AND_HEAD}


def in_block(block: int, name: str) -> Source:
    """The source of a layer's parameter, `name` within the layer, in a block."""
    if name.startswith("attn.v."):
        return Source(f"blocks.{block}.attn.qkv.{name.removeprefix('attn.v.')}", slice(2, 3))
    return Source(f"blocks.{block}.{name}", slice(0, 3) if name.startswith("attn.qkv.") else None)


_FOLDED = (".ls1.gamma", ".ls2.gamma", ".gamma_1", ".gamma_2")
"""Layer scales, which are multiplied into the layers before them."""

_LAYERS = tuple(f".{name}.weight" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"))


def _prepared(weights: Mapping[str, Tensor]) -> Weights:
    """The same vision transformer without what this family has other forms for, as far as that is exact."""
    prepared = dict(weights)
    for name, gamma in weights.items():
        if not name.endswith(_FOLDED):
            continue
        block = name.removesuffix(".gamma").rpartition(".")[0]
        layer = f"{block}.attn.proj" if name.endswith((".ls1.gamma", ".gamma_1")) else f"{block}.mlp.fc2"
        for part in ("weight", "bias"):
            if f"{layer}.{part}" in prepared:
                value = prepared[f"{layer}.{part}"]
                prepared[f"{layer}.{part}"] = value * (gamma[:, None] if value.dim() == 2 else gamma)
    blocks = {name.rpartition(".")[0]: weight for name, weight in weights.items() if name.endswith(_LAYERS)}
    for layer, weight in blocks.items():
        # A layer without a bias is one with a bias of zero.
        prepared.setdefault(f"{layer}.bias", weight.new_zeros(weight.shape[0]))
    for first, weight in blocks.items():
        second = f"{first.removesuffix('.fc1')}.fc2"
        if first.endswith(".fc1") and (second not in blocks or blocks[second].shape[1] != weight.shape[0]):
            # A gated MLP: its rows mean something else.
            for layer in (first, second):
                prepared.pop(f"{layer}.weight", None)
                prepared.pop(f"{layer}.bias", None)
    return prepared


def _fitted(
    name: str, weights: Mapping[str, Tensor], parameter: Tensor, grid: tuple[int, int], prefix: int
) -> Tensor | None:
    """A weight, adapted to other images or classes; `None` if there is none or it cannot be adapted."""
    value = weights.get(name)
    if value is None:
        return None
    if name.startswith("head."):
        # Other classes: the classifier of the source means nothing.
        return value if value.shape[0] == parameter.shape[0] else None
    if name.startswith("patch_embed."):
        if any(key.startswith("patch_embed.") and not key.startswith("patch_embed.proj.") for key in weights):
            # A stem of several layers, of which this is the last.
            return None
        return _patches(value, parameter) if name == "patch_embed.proj.weight" else value
    return _positions(value, weights, grid, prefix) if name == "pos_embed" else value


def _patches(value: Tensor, parameter: Tensor) -> Tensor:
    """The patch embedding's kernels for patches of another size and images of other channels."""
    if value.shape[2:] != parameter.shape[2:]:
        value = resample_patch_embed(value, list(parameter.shape[2:]))
    return for_channels(value, parameter.shape[1])


def for_channels(kernels: Tensor, in_chans: int) -> Tensor:
    """The kernels of a first layer, (D, C, height, width), for images of other channels, as timm adapts them."""
    if kernels.shape[1] == 1:
        return kernels.expand(-1, in_chans, -1, -1) / in_chans
    adapted: Tensor = adapt_input_conv(in_chans, kernels, base_chans=kernels.shape[1])
    return adapted


def _positions(value: Tensor, weights: Mapping[str, Tensor], grid: tuple[int, int], prefix: int) -> Tensor | None:
    """Position embeddings for another grid; those of a source do not say its grid, so a square one is assumed."""
    extra = sum(weights[name].shape[1] for name in ("cls_token", "dist_token", "reg_token") if name in weights)
    for others in (extra, 0):
        patches = value[:, others:]
        side = math.isqrt(patches.shape[1])
        if patches.shape[1] == math.prod(grid):
            break
        if side > 0 and side**2 == patches.shape[1]:
            patches = resample_abs_pos_embed(patches, list(grid), [side, side], num_prefix_tokens=0)
            break
    else:
        return None
    if not prefix:
        return patches
    # Where only patches have positions, the class token has none, which is one of zero.
    first = value[:, :1] if others and "cls_token" in weights else patches.new_zeros(1, 1, patches.shape[2])
    return torch.cat([first, patches], dim=1)


def _with_leading(parameter: Tensor, value: Tensor, qkv: slice | None) -> tuple[Tensor, int]:
    """A parameter with its leading part replaced by that of a value, and how many numbers that are."""
    result = parameter.detach().clone()
    # Queries, keys and values are stacked: of each, the leading heads.
    into = result if qkv is None else result.unflatten(0, (qkv.stop - qkv.start, -1))
    out_of = value if qkv is None else value.unflatten(0, (3, -1))[qkv]
    common = tuple(slice(min(sizes)) for sizes in zip(into.shape, out_of.shape, strict=True))
    into[common] = out_of[common].to(result)
    return result, into[common].numel()


def _abbreviated(names: tuple[str, ...], shown: int = 4) -> str:
    """Some names for people."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
