"""Supernet: the weights of all architectures of a space at once.

The supernet owns parameters and a rule which part of them an architecture uses; it owns no forward pass. To run an
architecture, the network that `psvit.model` builds for it, without memory of its own, is called with slices of the
supernet's parameters in place of its own. So a slice and the network extracted from it cannot drift apart.

Every dimension is shared in the way of AutoFormer (arXiv 2107.00651): a narrower layer uses the leading channels, in
attention the leading heads; a shallower stage uses the first layers. Layers form one list, and a layout says at which
place of it each stage begins. A layer that shares its neighbour's attention map uses the values, projection and MLP
that it has as a producer.

Networks of both variants share layers and the positions of patches. Poolings, the final norm and the classifier are
kept for each variant, and stems for each kind.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from psvit.arch.architecture import Architecture
from psvit.arch.operators import Pool, Stem, Variant, until_operators_change
from psvit.errors import InputError
from psvit.io.documents import Place, replacing
from psvit.nn.filled import filled
from psvit.nn.layers import POOLING_MODULES, STEM_MODULES, AttentionGroup, Layer
from psvit.nn.network import PSViT, init_weights
from psvit.space.layout import StageChoices
from psvit.space.search_space import SearchSpace
from psvit.supernet.provenance import METADATA, SCHEMA, read_space, supernet_file


class Slice(NamedTuple):
    """The part of a supernet's parameter that a network uses as its own.

    Attributes:
        name: the supernet's parameter.
        qkv: which of query, key and value, where it is a fused matrix of them.
        skip: leading tokens that are left out, of positions.
    """

    name: str
    qkv: slice | None = None
    skip: int = 0

    def of(self, weight: Tensor, shape: torch.Size) -> Tensor:
        """The part with this shape: the leading one, in a fused query-key-value matrix the leading part of each."""
        if weight.shape == shape:
            return weight
        # One operator, where indexing takes one for every axis, and fills zeros for each when gradients flow back.
        strides, begin = weight.stride(), weight.storage_offset()
        if self.qkv is not None:
            parts, third = self.qkv.stop - self.qkv.start, len(weight) // 3 * strides[0]
            sizes = (parts, shape[0] // parts, *shape[1:])
            return weight.as_strided(sizes, (third, *strides), begin + self.qkv.start * third).flatten(0, 1)
        return weight.as_strided(shape, strides, begin + self.skip * strides[1] if self.skip else begin)


class Supernet(nn.Module):
    """One set of weights for every architecture of a space.

    Args:
        space: the space; its classes and channels are the supernet's.
        drop_path_rate: stochastic depth of each drawn network's last layer in training.
    """

    def __init__(self, space: SearchSpace, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.space = space
        self.drop_path_rate = drop_path_rate
        stages = [stage for layout in space.layouts for stage in layout.stages]
        first = max(max(layout.stages[0].embed_dim) for layout in space.layouts)
        has_class_token = "1d" in space.variants

        kinds = {kind for layout in space.layouts for kind in layout.stem}
        for kind in sorted(kinds, key=lambda kind: (kind != "patch", kind)):
            stem = STEM_MODULES[kind](space.in_chans, first, space.patch_size, space.patch_stride)
            self.add_module(_stem_name(kind), stem)
        if has_class_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, first))
        self.pos_embed = nn.Parameter(torch.zeros(1, space.patches.number + has_class_token, first))
        layers: list[nn.Module] = []
        for place in range(max(stage.end for stage in stages)):
            users = [stage for stage in stages if stage.begin <= place < stage.end]
            if not users:
                # A gap between stages; an empty module keeps the numbering of the places.
                layers.append(nn.Identity())
                continue
            width = max(max(stage.embed_dim) for stage in users)
            hidden = max(round(max(stage.embed_dim) * max(stage.mlp_ratio)) for stage in users)
            # Into how many heads it is divided is said by each network; the weights are the same.
            layers.append(Layer(width, 1, hidden, shares=False))
        self.layers = nn.ModuleList(layers)
        self.pools = nn.ModuleDict()
        for variant in space.variants:
            self.pools.update(_pool_weights(space, variant, _suffix(space, variant)))
        for variant in space.variants:
            last = max(max(layout.stages[-1].embed_dim) for layout in space.layouts if layout.variant == variant)
            self.add_module(f"norm{_suffix(space, variant)}", nn.LayerNorm(last, eps=1e-6))
            self.add_module(f"head{_suffix(space, variant)}", nn.Linear(last, space.num_classes))
        # Each parameter's module and its name there; looking them up takes longer than slicing.
        self._owners = {
            name: (self.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2])
            for name, _ in self.named_parameters(remove_duplicate=False)
        }
        init_weights(self)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay leaves alone."""
        return {"pos_embed", "cls_token"}

    def forward(self, images: Tensor, arch: Architecture) -> Tensor:
        """Logits (B, classes) of an architecture for images (B, C, height, width).

        Raises:
            ValueError: the architecture is not a member of the space.
        """
        logits: Tensor = filled(self.structure(arch), self.slices(arch), self.training)(images)
        return logits

    def structure(self, arch: Architecture) -> PSViT:
        """The architecture's network without memory of its own, to be `filled` with `slices`; equal parts are shared.

        Raises:
            ValueError: the architecture is not a member of the space.
        """
        return _member(self.space, arch, self.drop_path_rate).structure

    def slices(self, arch: Architecture) -> dict[str, Tensor]:
        """The architecture's parameters under the names they have in its own network, as slices of the supernet's.

        Gradients flow through them. All are views, except fused query-key-value matrices narrower than the supernet's.

        Raises:
            ValueError: the architecture is not a member of the space.
        """
        found = {}
        for name, source, shape in _member(self.space, arch, self.drop_path_rate).parts:
            owner, attribute = self._owners[source.name]
            found[name] = source.of(getattr(owner, attribute), shape)
        return found

    def extract(self, arch: Architecture) -> PSViT:
        """A network of its own with a copy of the architecture's weights; it gives the supernet's outputs.

        Raises:
            ValueError: the architecture is not a member of the space.
        """
        weights = {name: weight.detach().clone() for name, weight in self.slices(arch).items()}
        network = PSViT(arch, drop_path_rate=self.drop_path_rate, device=self.pos_embed.device)
        network.load_state_dict(weights)
        return network.train(self.training)

    def source(self, arch: Architecture, name: str) -> Slice:
        """The part of the supernet's parameters that one of a network's is."""
        layout = self.space.layout_of(arch)
        assert layout is not None
        return _source(self.space, layout, arch, name)

    def plain_name(self, name: str) -> str:
        """What a parameter outside the layers is called in a network, given its name in the supernet."""
        module, dot, rest = name.partition(".")
        return f"{module.removesuffix('_1d').removesuffix('_2d')}{dot}{rest}"

    # --- files

    def save(self, path: Path, provenance: dict[str, Any] | None = None) -> None:
        """Write the weights, with the space and where they come from, into one safetensors file."""
        about = {"schema": SCHEMA, "space": self.space.to_dict(), "provenance": provenance or {}}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        with replacing(path) as temporary:
            # One entry, because safetensors writes several in an order that differs from process to process.
            save_file(tensors, temporary, {METADATA: json.dumps(about)})

    @classmethod
    def load(cls, path: Place, device: torch.device | str = "cpu") -> Supernet:
        """Read a supernet from its file, or from the run folder that holds it.

        Raises:
            InputError: there is none, or the file is damaged.
        """
        file = supernet_file(path)
        supernet = cls(read_space(file))
        with safe_open(file, framework="pt") as stream:
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        try:
            supernet.load_state_dict(tensors)
        except RuntimeError:
            raise InputError(f"{file}: its weights do not fit the space that it names") from None
        return supernet.to(device)


class _Structure(PSViT):
    """A network to be `filled`. Training lays out a new one in every step, and all have a few kinds of groups."""

    group = staticmethod(lru_cache(maxsize=256)(AttentionGroup))


class _Member(NamedTuple):
    """What a supernet knows of an architecture that it has met.

    Attributes:
        structure: the network on the meta device.
        parts: for each of its parameters, the name, where it lies in the supernet, and its shape.
    """

    structure: PSViT
    parts: tuple[tuple[str, Slice, torch.Size], ...]


@until_operators_change
@lru_cache(maxsize=256)
def _member(space: SearchSpace, arch: Architecture, drop_path_rate: float) -> _Member:
    """A member of the space; kept, because a search runs each on many batches."""
    layout = space.check_member(arch)
    structure = _Structure(arch, drop_path_rate=drop_path_rate, device="meta")
    return _Member(
        structure,
        tuple(
            (name, _source(space, layout, arch, name), parameter.shape)
            for name, parameter in structure.named_parameters(remove_duplicate=False)
        ),
    )


def _source(space: SearchSpace, layout: int, arch: Architecture, name: str) -> Slice:
    """The part of the supernet's parameters that one of a network's is."""
    module, *rest = name.split(".")
    suffix = _suffix(space, arch.variant)
    if module == "pos_embed":
        # The class token comes first, and a network without one leaves its position out.
        return Slice(name, skip=int("1d" in space.variants and arch.variant == "2d"))
    if module == "patch_embed":
        return Slice(".".join([_stem_name(arch.stem), *rest]))
    if module in ("norm", "head"):
        return Slice(".".join([module + suffix, *rest]))
    if module != "stages":
        return Slice(name)
    stage = int(rest[0])
    begin = space.layouts[layout].stages[stage].begin
    if rest[1] == "pool":
        part = arch.pools[stage - 1] if rest[2] == "pool" else rest[2]
        return Slice(".".join(["pools", f"{begin}{suffix}", part, *rest[3:]]))
    group, layer = int(rest[2]), int(rest[4])
    place = begin + sum(arch.stages[stage].groups[:group]) + layer
    rest = rest[5:]
    qkv = {"qkv": slice(0, 3), "v": slice(2, 3)}.get(rest[1]) if rest[0] == "attn" else None
    if qkv:
        rest = ["attn", "qkv", *rest[2:]]
    return Slice(".".join(["layers", str(place), *rest]), qkv=qkv)


def _suffix(space: SearchSpace, variant: Variant) -> str:
    """How the names end of modules that each variant has; in a space of one variant, as in version 0.1."""
    return f"_{variant}" if len(space.variants) > 1 else ""


def _stem_name(kind: Stem) -> str:
    """The name of a kind of stem in the supernet. The patch stem keeps timm's name, as in version 0.1."""
    return "patch_embed" if kind == "patch" else f"{kind}_stem"


def _pool_weights(space: SearchSpace, variant: Variant, suffix: str) -> dict[str, nn.Module]:
    """The weights of a variant's poolings, by the place of the layer that they stand before, as wide as any needs."""
    crossings: dict[int, list[tuple[StageChoices, StageChoices, tuple[Pool, ...]]]] = {}
    for layout in space.layouts:
        if layout.variant != variant:
            continue
        for before, after, operators in zip(layout.stages, layout.stages[1:], layout.pools, strict=False):
            crossings.setdefault(after.begin, []).append((before, after, operators))
    places: dict[str, nn.Module] = {}
    for begin, here in sorted(crossings.items()):
        dim_in = max(max(before.embed_dim) for before, _, _ in here)
        dim_out = max(max(after.embed_dim) for _, after, _ in here)
        weights = nn.ModuleDict()
        for operator in dict.fromkeys(operator for _, _, operators in here for operator in operators):
            module = POOLING_MODULES[operator](variant, dim_in)
            if next(module.parameters(), None) is not None:
                weights[operator] = module
        if any(min(before.embed_dim) < max(after.embed_dim) for before, after, _ in here):
            weights["proj"] = nn.Linear(dim_in, dim_out)
            if variant == "1d":
                weights["cls_proj"] = nn.Linear(dim_in, dim_out)
        places[f"{begin}{suffix}"] = weights
    return places
