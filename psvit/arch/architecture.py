"""Architecture: one network of the PSViT family as an immutable value, and the YAML file it travels in.

The family is reconstructed from the abstract of "PSViT: Better Vision Transformer via Token Pooling and Attention
Sharing" (arXiv 2108.03428). A network is a list of *stages* with a token *pooling* between neighbours; a stage is a
list of *attention groups*, runs of layers that use one attention map.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from psvit.arch.bounds import MOST_CLASSES, MOST_LAYERS, Channels, Layers, Ratio, Side, Width
from psvit.arch.costs import ADDITIVE, cost
from psvit.arch.operators import STEMS, Patches, Pool, Stem, Variant, pooled
from psvit.errors import InputError
from psvit.io.documents import Value, dump_yaml, read_yaml, write_atomic
from psvit.io.shipped import find

SCHEMA = "psvit/architecture/1"
FLOPS_CONVENTION = "FLOPs are multiply-accumulates (MACs), so 1 GFLOPs = 1 GMACs"


class Stage(Value):
    """A run of layers at one token count and one width.

    Attributes:
        embed_dim: channels of every token.
        groups: layers per attention group, in order; `(2, 1, 3)` is six layers with three attention maps.
        mlp_ratio: hidden width of the MLPs relative to `embed_dim`; the product must be whole.
    """

    embed_dim: Width
    groups: Annotated[tuple[Layers, ...], Field(min_length=1, max_length=MOST_LAYERS)]
    mlp_ratio: Ratio

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.depth > MOST_LAYERS:
            raise ValueError(f"groups must hold at most {MOST_LAYERS} layers in all, received {self.depth}")
        # The ratio is the quotient to the last digit, so that no two ratios name one network.
        if self.hidden_dim / self.embed_dim != self.mlp_ratio:
            raise ValueError(
                f"embed_dim * mlp_ratio must be a whole number, received {self.embed_dim} * {self.mlp_ratio}"
            )
        return self

    @property
    def depth(self) -> int:
        """Number of layers."""
        return sum(self.groups)

    @property
    def hidden_dim(self) -> int:
        """Hidden width of the MLPs."""
        return round(self.embed_dim * self.mlp_ratio)


class Architecture(Value):
    """The complete description of one network: equal values build equal networks, unequal ones different networks.

    Attributes:
        variant: `1d` keeps a class token and pools the token sequence; `2d` pools the token grid and averages it.
        image_size: height and width in pixels.
        in_chans: channels of the images.
        num_classes: outputs of the classifier; 0 leaves it out.
        stem: how an image becomes tokens: `patch` is one linear map of each patch, `conv` a few strided convolutions
            (`psvit.arch.stem`), others are registered (`psvit.nn.registration`). A file without it has `patch`.
        patch_size: side of the square patches in pixels.
        patch_stride: distance between neighbouring patches in pixels. Behind a `conv` stem, tokens stand as far apart,
            and both must be equal.
        head_dim: channels per attention head; every `embed_dim` is a multiple of it.
        stages: the stages, in order; `embed_dim` never shrinks.
        pools: the pooling operators between them, one fewer than stages.
    """

    variant: Variant
    image_size: tuple[Side, Side]
    in_chans: Channels
    num_classes: Annotated[int, Field(ge=0, le=MOST_CLASSES)]
    stem: Stem = "patch"
    patch_size: Side
    patch_stride: Side
    head_dim: Width
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    pools: tuple[Pool, ...]

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if len(self.pools) != len(self.stages) - 1:
            raise ValueError(
                f"pools must be one fewer than stages, received {len(self.pools)} pools, {len(self.stages)} stages"
            )
        for stage in self.stages:
            if stage.embed_dim % self.head_dim:
                raise ValueError(
                    f"embed_dim must be a multiple of head_dim {self.head_dim}, received {stage.embed_dim}"
                )
        widths = [stage.embed_dim for stage in self.stages]
        if widths != sorted(widths):
            raise ValueError(f"embed_dim must not shrink from stage to stage, received {widths}")
        STEMS[self.stem].check(self.patch_size, self.patch_stride)
        stage_grids(self.variant, self.image_size, self.patch_size, self.patch_stride, len(self.stages))
        return self

    @model_serializer(mode="wrap")
    def _without_patch_stem(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Version 0.1 knew no other stem: left out, every file and digest that it wrote stays as it is.
        fields: dict[str, Any] = handler(self)
        if fields.get("stem") == "patch":
            del fields["stem"]
        return fields

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of patch tokens in every stage; one row in `1d`, where only the sequence is pooled."""
        return stage_grids(self.variant, self.image_size, self.patch_size, self.patch_stride, len(self.stages))

    @property
    def patches(self) -> Patches:
        """How an image is cut."""
        return cut(self.image_size, self.patch_size, self.patch_stride)

    @property
    def depth(self) -> int:
        """Number of layers in all stages."""
        return sum(stage.depth for stage in self.stages)

    @staticmethod
    def load(path: str | Path) -> Architecture:
        """Read the architecture from an architecture file: its path, or the name of a shipped one such as `deit-tiny`.

        Raises:
            InputError: the file cannot be read or breaks a rule.
        """
        return ArchitectureFile.load(path).arch

    def save(self, path: str | Path) -> None:
        """Write an architecture file that holds the architecture and its cost."""
        ArchitectureFile(arch=self).save(path)


def cut(image_size: tuple[int, int], patch_size: int, patch_stride: int) -> Patches:
    """The patches of an image that they cover exactly."""
    rows, columns = ((side - patch_size) // patch_stride + 1 for side in image_size)
    return Patches(patch_size, patch_stride, rows, columns)


def stage_grids(
    variant: Variant, image_size: tuple[int, int], patch_size: int, patch_stride: int, num_stages: int
) -> tuple[tuple[int, int], ...]:
    """Rows and columns of patch tokens in each stage: n becomes ceil(n / 2) per pooled axis.

    Raises:
        ValueError: patches that do not cover the image exactly, or a pooling that would find a single token.
    """
    if min(image_size) < patch_size:
        raise ValueError(f"image_size must be at least patch_size {patch_size}, received {list(image_size)}")
    # Pixels that no patch sees, and a stride that is never taken, would let two descriptions build one network.
    if patch_stride > patch_size or (set(image_size) == {patch_size} and patch_stride != patch_size):
        raise ValueError(
            f"patch_stride must be at most patch_size {patch_size}, and equal to it for a single patch, "
            f"received {patch_stride}"
        )
    if any((side - patch_size) % patch_stride for side in image_size):
        raise ValueError(
            f"patches of {patch_size} pixels, {patch_stride} apart, must cover the image exactly, "
            f"received image_size {list(image_size)}"
        )
    patches = cut(image_size, patch_size, patch_stride)
    grids = [(patches.rows, patches.columns) if variant == "2d" else (1, patches.number)]
    for _ in range(num_stages - 1):
        rows, columns = grids[-1]
        # On one token every operator without weights is the identity, so two descriptions would build one network.
        if rows * columns == 1:
            raise ValueError(f"a pooling needs 2 tokens or more, but {num_stages} stages leave it 1")
        grids.append(pooled(grids[-1]))
    return tuple(grids)


class ArchitectureFile(Value):
    """The content of an architecture file: the architecture, and what is known about it.

    Attributes:
        arch: all that is needed to build the network.
        verdict: by how much it is ahead of the best hand-made network, or behind it.
        score: accuracies or indicator values, with what they rest on.
        latency: measured and predicted latencies.
        budget: the limits it was searched under, as given.
        provenance: where it comes from: space, searcher, seed, digests, versions.
    """

    arch: Architecture
    verdict: dict[str, Any] = Field(default_factory=dict)
    score: dict[str, Any] = Field(default_factory=dict)
    latency: dict[str, Any] = Field(default_factory=dict)
    budget: tuple[str, ...] = ()
    provenance: dict[str, Any] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _without_empty_verdict(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # There was none in version 0.1, whose digests stay.
        fields: dict[str, Any] = handler(self)
        if not fields.get("verdict"):
            fields.pop("verdict", None)
        return fields

    @property
    def is_made_of_another(self) -> bool:
        """Whether a search made the network of a trained one, so that it has weights worth keeping."""
        return "original" in self.provenance

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read and check a file or a shipped name; recorded MACs or parameters that are not its own are an error.

        Raises:
            InputError: the file cannot be read or breaks a rule.
        """
        data = read_yaml(find("arch", path), SCHEMA)
        recorded = data.pop("cost", None)
        # `cost` is derived, so it is no field, but a reader who mistypes a key should see it among the permitted ones.
        unknown = sorted(map(str, set(data) - set(cls.model_fields)))
        if unknown:
            permitted = ", ".join(["schema", "cost", *cls.model_fields])
            raise InputError(f"{path}: {unknown[0]}: unknown key; permitted keys: {permitted}")
        document = cls.from_dict(data, source=str(path))
        if recorded is not None:
            actual = cost(document.arch).to_dict()
            known = {**actual, "convention": FLOPS_CONVENTION}
            if not isinstance(recorded, dict):
                raise InputError(f"{path}: cost: expected a mapping of {', '.join(known)}, received {recorded!r}")
            for key, value in recorded.items():
                if key not in known:
                    raise InputError(f"{path}: cost.{key}: unknown key; permitted keys: {', '.join(known)}")
                # Activation memory is a property of the code that was run as well, which may since have changed.
                if key in ADDITIVE and value != actual[key]:
                    raise InputError(
                        f"{path}: cost.{key}: recorded {value}, but this architecture costs {actual[key]}; "
                        "after editing an architecture, delete the section 'cost'"
                    )
        return document

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all; sections about which nothing is known are left out.

        The verdict stands first, because nobody should read an architecture without it.
        """
        fields = self.to_dict()
        sections = {
            "schema": SCHEMA,
            "verdict": fields.pop("verdict", None),
            "arch": fields.pop("arch"),
            "cost": {**cost(self.arch).to_dict(), "convention": FLOPS_CONVENTION},
            **fields,
        }
        sections = {name: content for name, content in sections.items() if content}
        write_atomic(Path(path), dump_yaml(sections))
