"""Supernet: the weights of all architectures of a space at once.

The supernet owns parameters and a rule which part of them an architecture uses; it owns no forward pass. To run an
architecture, the network that `psvit.model` builds for it, without memory of its own, is called with slices of the
supernet's parameters in place of its own. So a slice and the network extracted from it cannot drift apart.

Every dimension is shared in the way of AutoFormer (arXiv 2107.00651): a narrower layer uses the leading channels, in
attention the leading heads; a shallower stage uses the first layers. Layers form one list, and a layout says at which
place of it each stage begins. A layer that shares its neighbour's attention map uses the values, projection and MLP
that it has as a producer.
"""

from __future__ import annotations

import json
import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from psvit.architecture import Architecture, Pool, stage_grids
from psvit.data import ImageData
from psvit.documents import digest_of_file, replacing
from psvit.errors import InputError
from psvit.layers import Layer, PatchEmbed
from psvit.model import PSViT, init_weights
from psvit.search_space import SearchSpace, StageChoices

_logger = logging.getLogger(__name__)

SCHEMA = "psvit/supernet/1"
FILE_NAME = "supernet.safetensors"
METADATA = "psvit"


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
        last = max(max(layout.stages[-1].embed_dim) for layout in space.layouts)
        has_class_token = space.variant == "1d"
        (rows, columns), *_ = stage_grids(space.variant, space.image_size, space.patch_size, space.patch_stride, 1)

        self.patch_embed = PatchEmbed(space.in_chans, first, space.patch_size, space.patch_stride)
        if has_class_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, first))
        self.pos_embed = nn.Parameter(torch.zeros(1, rows * columns + has_class_token, first))
        layers: list[nn.Module] = []
        for place in range(max(stage.end for stage in stages)):
            users = [stage for stage in stages if stage.begin <= place < stage.end]
            if not users:
                # A gap between stages; an empty module keeps the numbering of the places.
                layers.append(nn.Identity())
                continue
            width = max(max(stage.embed_dim) for stage in users)
            hidden = max(round(max(stage.embed_dim) * max(stage.mlp_ratio)) for stage in users)
            layers.append(Layer(width, width // space.head_dim, hidden, shares=False))
        self.layers = nn.ModuleList(layers)
        self.pools = _pool_weights(space)
        self.norm = nn.LayerNorm(last, eps=1e-6)
        self.head = nn.Linear(last, space.num_classes)
        init_weights(self)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay leaves alone."""
        return {"pos_embed", "cls_token"}

    def forward(self, images: Tensor, arch: Architecture) -> Tensor:
        """Logits (B, classes) of an architecture for images (B, C, height, width).

        Raises:
            ValueError: the architecture is not a member of the space.
        """
        logits: Tensor = functional_call(self.structure(arch), self.slices(arch), (images,), strict=True)
        return logits

    def structure(self, arch: Architecture) -> PSViT:
        """The architecture's network on the meta device, to be called with `slices`; in the supernet's mode.

        Raises:
            ValueError: the architecture is not a member of the space.
        """
        return _structure(self.space, arch, self.drop_path_rate).train(self.training)

    def slices(self, arch: Architecture) -> dict[str, Tensor]:
        """The architecture's parameters under the names they have in its own network, as slices of the supernet's.

        Gradients flow through them. All are views, except fused query-key-value matrices narrower than the supernet's.

        Raises:
            ValueError: the architecture is not a member of the space.
        """
        own = dict(self.named_parameters())  # in one pass, which is faster than looking each up
        return {
            name: _slice(own[source], parameter.shape, qkv)
            for name, parameter in self.structure(arch).named_parameters()
            for source, qkv in [self.source(arch, name)]
        }

    def extract(self, arch: Architecture) -> PSViT:
        """A network of its own with a copy of the architecture's weights; it gives the supernet's outputs.

        Raises:
            ValueError: the architecture is not a member of the space.
        """
        weights = {name: weight.detach().clone() for name, weight in self.slices(arch).items()}
        network = PSViT(arch, drop_path_rate=self.drop_path_rate, device=self.pos_embed.device)
        network.load_state_dict(weights)
        return network.train(self.training)

    def source(self, arch: Architecture, name: str) -> tuple[str, slice | None]:
        """The supernet's parameter behind one of a network's, and which of query, key and value are taken from it."""
        parts = name.split(".")
        if parts[0] != "stages":
            return name, None
        layout = self.space.layout_of(arch)
        assert layout is not None
        stage = int(parts[1])
        begin = self.space.layouts[layout].stages[stage].begin
        if parts[2] == "pool":
            return ".".join(["pools", str(begin), "conv" if parts[3] == "pool" else parts[3], *parts[4:]]), None
        group, layer = int(parts[3]), int(parts[5])
        place = begin + sum(arch.stages[stage].groups[:group]) + layer
        rest = parts[6:]
        qkv = {"qkv": slice(0, 3), "v": slice(2, 3)}.get(rest[1]) if rest[0] == "attn" else None
        if qkv:
            rest = ["attn", "qkv", *rest[2:]]
        return ".".join(["layers", str(place), *rest]), qkv

    def part(self, source: str, qkv: slice | None, shape: torch.Size) -> Tensor:
        """The part of a parameter, as `source` names it, that a network's parameter of this shape is."""
        return _slice(self.get_parameter(source), shape, qkv)

    # --- files

    def save(self, path: Path, provenance: dict[str, Any] | None = None) -> None:
        """Write the weights, with the space and where they come from, into one safetensors file."""
        about = {"schema": SCHEMA, "space": self.space.to_dict(), "provenance": provenance or {}}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        with replacing(path) as temporary:
            # One entry, because safetensors writes several in an order that differs from process to process.
            save_file(tensors, temporary, {METADATA: json.dumps(about)})

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> Supernet:
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


def supernet_file(path: str | Path) -> Path:
    """The file of a supernet, given that or its run folder.

    Raises:
        InputError: there is none.
    """
    file = Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise InputError(f"supernet {str(path)!r}: expected a run folder with {FILE_NAME}, or such a file")
    return file


def read_space(path: str | Path) -> SearchSpace:
    """The space of a supernet, without its weights.

    Raises:
        InputError: there is no supernet, or the file is damaged.
    """
    return SearchSpace.from_dict(_about(path)["space"], source=str(supernet_file(path)))


def read_provenance(path: str | Path) -> dict[str, Any]:
    """Where a supernet comes from: data, seed, recipe.

    Raises:
        InputError: there is no supernet, or the file is damaged.
    """
    provenance: dict[str, Any] = _about(path)["provenance"]
    return provenance


def check_held_out(path: str | Path, data: ImageData) -> None:
    """Make sure that the search images of a data set are none that a supernet was trained on, as far as can be told.

    Those of another name are the user's to judge, which a warning says; of older supernets nothing is known.

    Raises:
        InputError: there is no supernet, or the images behind the name have changed since, so that they are split
            otherwise.
    """
    provenance = read_provenance(path)
    name, digest = str(provenance.get("data", "")), provenance.get("data_digest")
    if digest in (None, data.digest):
        return
    if name == data.name or Path(name).resolve() == Path(data.name).resolve():
        raise InputError(
            f"supernet {str(path)!r}: images of {data.name!r} were added, removed or changed since it was trained "
            f"(digest {digest} then, {data.digest} now), so some it was trained on would be searched on; restore them, "
            "or train another supernet"
        )
    _logger.warning(
        "the supernet %s was trained on %r, not on %r; none of the images of both may be the same",
        path,
        name,
        data.name,
    )


def _about(path: str | Path) -> dict[str, Any]:
    """What is said beside the weights."""
    file = supernet_file(path)
    try:
        with safe_open(file, framework="pt") as stream:
            metadata: dict[str, str] = stream.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a readable safetensors file: {error}") from None
    try:
        about: dict[str, Any] = json.loads(metadata.get(METADATA, "{}"))
    except json.JSONDecodeError:
        about = {}
    if about.get("schema") != SCHEMA:
        raise InputError(f"{file}: not a supernet: schema must be {SCHEMA}, is {about.get('schema')}")
    return about


def supernet_digest(path: str | Path) -> str:
    """A digest of a supernet's file, to tell whether scores come from the same weights."""
    return digest_of_file(supernet_file(path))


@lru_cache(maxsize=256)
def _structure(space: SearchSpace, arch: Architecture, drop_path_rate: float) -> PSViT:
    """A member's network on the meta device, structure only; kept, because a search runs each on many batches."""
    reason = space.why_not(arch)
    if reason:
        raise ValueError(f"not a member of {space.name}: {reason}")
    with _Uninitialised():
        return PSViT(arch, drop_path_rate=drop_path_rate, device="meta")


class _Uninitialised(TorchFunctionMode):
    """Leaves new parameters as they are: on the meta device filling them does nothing and takes most of the time."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _INITIALISERS:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


_INITIALISERS = {nn.init.kaiming_uniform_, nn.init.uniform_, Tensor.uniform_, Tensor.fill_, Tensor.zero_}


def _slice(weight: Tensor, shape: torch.Size, qkv: slice | None) -> Tensor:
    """The leading part of a parameter, in a fused query-key-value one the leading part of each."""
    if qkv is not None:
        parts = qkv.stop - qkv.start
        thirds = weight.unflatten(0, (3, -1))[qkv, : shape[0] // parts]
        return (thirds if weight.dim() == 1 else thirds[..., : shape[1]]).flatten(0, 1)
    return weight[tuple(slice(size) for size in shape)]


def _pool_weights(space: SearchSpace) -> nn.ModuleDict:
    """The weights of the poolings, by the place in the list of layers that they stand before, as wide as any needs."""
    crossings: dict[int, list[tuple[StageChoices, StageChoices, tuple[Pool, ...]]]] = {}
    for layout in space.layouts:
        for before, after, operators in zip(layout.stages, layout.stages[1:], layout.pools, strict=False):
            crossings.setdefault(after.begin, []).append((before, after, operators))
    places = nn.ModuleDict()
    for begin, here in sorted(crossings.items()):
        dim_in = max(max(before.embed_dim) for before, _, _ in here)
        dim_out = max(max(after.embed_dim) for _, after, _ in here)
        weights = nn.ModuleDict()
        if any("conv" in operators for _, _, operators in here):
            conv = nn.Conv1d if space.variant == "1d" else nn.Conv2d
            weights["conv"] = conv(dim_in, dim_in, kernel_size=3, groups=dim_in)
        if any(min(before.embed_dim) < max(after.embed_dim) for before, after, _ in here):
            weights["proj"] = nn.Linear(dim_in, dim_out)
            if space.variant == "1d":
                weights["cls_proj"] = nn.Linear(dim_in, dim_out)
        places[str(begin)] = weights
    return places
