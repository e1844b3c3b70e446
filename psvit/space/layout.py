"""Layout: the choices for networks of one variant, one head width and one number of stages."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from psvit.arch.architecture import Stage
from psvit.arch.bounds import Layers, Ratio, Width
from psvit.arch.operators import Pool, Stem, Variant
from psvit.io.documents import Value
from psvit.space.compositions import Groupings

MOST_CHOICES = 256
"""Of a width or an MLP ratio."""

MOST_PLACES = 1_024
"""In a supernet's list of layers."""

PATCH_STEM: tuple[Stem, ...] = ("patch",)
"""The only choice of stem in version 0.1; a file that says nothing of stems means it."""


class StageChoices(Value):
    """The choices for one stage of a layout.

    Attributes:
        begin: place of the stage's first layer in the supernet's list of layers.
        embed_dim: widths, ascending.
        depth: numbers of layers, ascending.
        max_group: most layers that may use one attention map.
        mlp_ratio: hidden widths of the MLPs relative to `embed_dim`, ascending.
    """

    begin: Annotated[int, Field(ge=0, le=MOST_PLACES)]
    embed_dim: Annotated[tuple[Width, ...], Field(min_length=1, max_length=MOST_CHOICES)]
    depth: Annotated[tuple[Layers, ...], Field(min_length=1)]
    max_group: Layers
    mlp_ratio: Annotated[tuple[Ratio, ...], Field(min_length=1, max_length=MOST_CHOICES)]

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        for name in ("embed_dim", "depth", "mlp_ratio"):
            values = getattr(self, name)
            if list(values) != sorted(set(values)):
                raise ValueError(f"{name} must be ascending without repeats, received {list(values)}")
        if self.max_group > max(self.depth):
            raise ValueError(
                f"max_group must be at most the largest depth {max(self.depth)}, received {self.max_group}"
            )
        for embed_dim in self.embed_dim:
            for mlp_ratio in self.mlp_ratio:
                Stage(embed_dim=embed_dim, groups=(1,), mlp_ratio=mlp_ratio)
        return self

    @property
    def end(self) -> int:
        """The place after the deepest choice's last layer in the supernet's list."""
        return self.begin + max(self.depth)

    @cached_property
    def groups(self) -> Groupings:
        """The attention groupings of all depths."""
        return Groupings(self.depth, self.max_group)


class Layout(Value):
    """The choices for networks of one variant, one head width and one number of stages.

    Attributes:
        variant: as in `Architecture`.
        head_dim: as in `Architecture`; every choice of `embed_dim` is a multiple of it.
        stem: the choices of what turns an image into tokens. A file that leaves them out has `patch` alone.
        stages: the choices of each stage; their places in the supernet's list follow one another without overlap.
        pools: the choices of operator before each stage but the first.
    """

    variant: Variant
    head_dim: Width
    stem: Annotated[tuple[Stem, ...], Field(min_length=1)] = PATCH_STEM
    stages: Annotated[tuple[StageChoices, ...], Field(min_length=1)]
    pools: tuple[Annotated[tuple[Pool, ...], Field(min_length=1)], ...] = ()

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if len(self.pools) != len(self.stages) - 1:
            raise ValueError(
                f"pools must be one fewer than stages, received {len(self.pools)} pools, {len(self.stages)} stages"
            )
        for name, choices in [("stem", self.stem), *(("pools", operators) for operators in self.pools)]:
            if len(set(choices)) != len(choices):
                raise ValueError(f"{name} must not repeat an operator, received {list(choices)}")
        for stage in self.stages:
            for embed_dim in stage.embed_dim:
                if embed_dim % self.head_dim:
                    raise ValueError(f"embed_dim must be a multiple of head_dim {self.head_dim}, received {embed_dim}")
        for before, after in zip(self.stages, self.stages[1:], strict=False):
            if after.begin < before.end:
                raise ValueError(
                    f"stages must not overlap: one with begin {before.begin} and depth up to {max(before.depth)} "
                    f"reaches to {before.end}, but the next has begin {after.begin}"
                )
            if max(after.embed_dim) < max(before.embed_dim) or min(after.embed_dim) < min(before.embed_dim):
                raise ValueError(
                    "embed_dim never shrinks, so neither the smallest nor the largest choice may: "
                    f"received {list(before.embed_dim)}, then {list(after.embed_dim)}"
                )
        return self

    @model_serializer(mode="wrap")
    def _without_patch_stem(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        if tuple(fields.get("stem", ())) == PATCH_STEM:
            del fields["stem"]
        return fields

    def may_hold(self, variant: Variant, depths: tuple[int, ...]) -> bool:
        """Whether networks of this variant with these numbers of layers in their stages belong to this layout."""
        return (
            variant == self.variant
            and len(depths) == len(self.stages)
            and all(depth in stage.depth for depth, stage in zip(depths, self.stages, strict=True))
        )

    def overlaps(self, other: Layout) -> bool:
        """Whether one network could belong to both layouts."""
        return (
            self.variant == other.variant
            and len(self.stages) == len(other.stages)
            and all(set(a.depth) & set(b.depth) for a, b in zip(self.stages, other.stages, strict=True))
        )
