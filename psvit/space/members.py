"""Members: the architectures of a space as a set with an exact size, in which every one has a number and a code.

A space fixes what all its members have in common (patches, images, classes) and lists *layouts*: a variant, a head
width, choices of stem, and for every stage the choices of width, depth, grouping and MLP ratio, with the choices of
pooling operator between stages. No two layouts can hold the same network, so nothing is described twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from psvit.arch.architecture import Architecture, cut, stage_grids
from psvit.arch.bounds import MOST_CLASSES, MOST_COST, Channels, Side
from psvit.arch.costs import cost
from psvit.arch.operators import STEMS, Patches, Variant
from psvit.io.documents import Value, dump_yaml, read_yaml, write_atomic
from psvit.io.shipped import find
from psvit.space.dimensions import ENTRY, Chosen, chosen_by, fields_of, places
from psvit.space.encoding import Encoding
from psvit.space.layout import Layout
from psvit.space.numbering import Numbering

SCHEMA = "psvit/space/1"

OF_LAYOUTS = ("variant", "head_dim", "stem")
"""Keys of a layout that a file may also give once, at its top, for all layouts that do not have their own."""

_ORDER = ("name", "variant", "image_size", "in_chans", "num_classes", "patch_size", "patch_stride", "head_dim", "stem")
"""The keys of a file before `layouts`, in order."""


class Members(Value):
    """A set of architectures: what of `SearchSpace` needs no budget.

    Attributes:
        name: for people and files.
        image_size, in_chans, num_classes, patch_size, patch_stride: as in `Architecture`, the same in all members.
        layouts: the choices; no two can hold the same network.
    """

    name: str
    image_size: tuple[Side, Side]
    in_chans: Channels
    num_classes: Annotated[int, Field(gt=0, le=MOST_CLASSES)]
    patch_size: Side
    patch_stride: Side
    layouts: Annotated[tuple[Layout, ...], Field(min_length=1, max_length=1000)]

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        for position, layout in enumerate(self.layouts):
            for other in self.layouts[:position]:
                if layout.overlaps(other):
                    raise ValueError(
                        "layouts must differ in variant, in number of stages, or in the depths of a stage, but two of "
                        f"variant {layout.variant} with {len(layout.stages)} stages can hold the same network"
                    )
            stage_grids(layout.variant, self.image_size, self.patch_size, self.patch_stride, len(layout.stages))
            for kind in layout.stem:
                STEMS[kind].check(self.patch_size, self.patch_stride)
        # Indices and cumulative counts are 64-bit integers throughout.
        if self.size >= 2**63:
            raise ValueError(f"a space may hold at most 2**63 - 1 architectures, this one holds {self.size}")
        if (most := max(map(self._at_most, self.layouts))) > MOST_COST:
            raise ValueError(f"an architecture may cost at most {MOST_COST:.2g} MACs, one here could cost {most:.2g}")
        return self

    def _at_most(self, layout: Layout) -> int:
        """No less than what any member of a layout costs in its layers."""
        width = max(max(stage.embed_dim) for stage in layout.stages)
        hidden = 2 * max(max(stage.mlp_ratio) for stage in layout.stages)
        layers, tokens = sum(max(stage.depth) for stage in layout.stages), self.patches.number + 1
        return layers * tokens * width * (math.ceil(4 + hidden) * width + 2 * tokens)

    @model_serializer(mode="wrap")
    def _say_once(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What all layouts have alike is said once, at the top, as in version 0.1: so its files and digests stay.
        fields: dict[str, Any] = handler(self)
        layouts = fields.pop("layouts", ())
        common = {}
        for key in OF_LAYOUTS:
            first = layouts[0].get(key) if layouts else None
            if first is not None and all(layout.get(key) == first for layout in layouts):
                common[key] = first
                for layout in layouts:
                    del layout[key]
        fields = {key: {**fields, **common}[key] for key in _ORDER if key in fields or key in common}
        return {**fields, "layouts": layouts} if layouts else fields

    @classmethod
    def file_keys(cls) -> list[str]:
        """The keys of a file."""
        return [*_ORDER, "layouts"]

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The variants of its members, ascending."""
        return tuple(sorted({layout.variant for layout in self.layouts}))

    @cached_property
    def mixed(self) -> tuple[str, ...]:
        """Which of `variant`, `head_dim` and `stem` differ among the members, so that a description has to say it."""
        values: dict[str, set[Any]] = {
            "variant": set(self.variants),
            "head_dim": {layout.head_dim for layout in self.layouts},
            "stem": {stem for layout in self.layouts for stem in layout.stem},
        }
        return tuple(name for name, found in values.items() if len(found) > 1)

    @property
    def patches(self) -> Patches:
        """How an image is cut."""
        return cut(self.image_size, self.patch_size, self.patch_stride)

    # --- files

    @classmethod
    def from_dict(cls, data: Any, source: str = "") -> Self:
        """See `Value.from_dict`. A value at the top level holds for every layout that does not have its own."""
        if isinstance(data, dict) and isinstance(data.get("layouts"), list):
            common = {key: data[key] for key in OF_LAYOUTS if key in data}
            rest = {key: value for key, value in data.items() if key not in OF_LAYOUTS}
            layouts = [{**common, **layout} if isinstance(layout, dict) else layout for layout in data["layouts"]]
            data = {**rest, "layouts": layouts}
        return super().from_dict(data, source)

    @classmethod
    def load(cls, name_or_path: str | Path) -> Self:
        """Read a shipped space by name, or a space file.

        Raises:
            InputError: no such space, or the file breaks a rule.
        """
        path = find("space", name_or_path)
        return cls.from_dict(read_yaml(path, SCHEMA), source=str(path))

    def save(self, path: str | Path) -> None:
        """Write a space file."""
        write_atomic(Path(path), dump_yaml({"schema": SCHEMA, **self.to_dict()}))

    def with_data(self, num_classes: int, in_chans: int, image_size: tuple[int, int] | None = None) -> Self:
        """The same space for other images and classes, which the data decide."""
        changed = {"num_classes": num_classes, "in_chans": in_chans, "image_size": list(image_size or self.image_size)}
        return type(self).from_dict({**self.to_dict(), **changed}, source=self.name)

    def differs_in_data_only(self, other: Members) -> bool:
        """Whether two spaces are the same but for classes, channels and size of the images."""
        of_data = {"num_classes", "in_chans", "image_size"}
        return self.model_dump(exclude=of_data) == other.model_dump(exclude=of_data)

    # --- the set and its numbering

    @cached_property
    def size(self) -> int:
        """The exact number of architectures."""
        return sum(numbering.size for numbering in self._numberings)

    @cached_property
    def _numberings(self) -> tuple[Numbering, ...]:
        return tuple(Numbering(layout) for layout in self.layouts)

    def __getitem__(self, number: int) -> Architecture:
        """The architecture with this number.

        Raises:
            IndexError: not in 0 .. size - 1.
        """
        if not 0 <= number < self.size:
            raise IndexError(f"architectures of {self.name} are numbered 0 to {self.size - 1}, received {number}")
        number = int(number)
        for layout, numbering in enumerate(self._numberings):
            if number < numbering.size:
                return self.build(layout, numbering.member(number))
            number -= numbering.size
        raise AssertionError("sizes of the layouts do not add up to the size of the space")

    def index(self, arch: Architecture) -> int:
        """The number of an architecture.

        Raises:
            ValueError: not a member; says why.
        """
        layout = self.check_member(arch)
        before = sum(numbering.size for numbering in self._numberings[:layout])
        return before + self._numberings[layout].number(chosen_by(arch))

    def strata(self) -> tuple[Self, ...]:
        """Its parts of one layout and one stem each, as spaces that share no member."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        parts = [
            Layout(**{**{name: getattr(layout, name) for name in Layout.model_fields}, "stem": (stem,)})
            for layout in self.layouts
            for stem in layout.stem
        ]
        return tuple(type(self)(**{**fields, "layouts": (part,)}) for part in parts)

    def contains(self, arch: Architecture) -> bool:
        """Whether an architecture is a member."""
        return not self.why_not(arch)

    def why_not(self, arch: Architecture) -> str:
        """Why an architecture is no member; empty for a member."""
        for name in ("image_size", "in_chans", "num_classes", "patch_size", "patch_stride"):
            if getattr(arch, name) != getattr(self, name):
                return f"{name} is {getattr(arch, name)}, must be {getattr(self, name)}"
        if arch.variant not in self.variants:
            return f"variant is {arch.variant}, must be {' or '.join(self.variants)}"
        similar = [layout for layout in self.layouts if layout.variant == arch.variant]
        if arch.head_dim not in {layout.head_dim for layout in similar}:
            permitted = sorted({layout.head_dim for layout in similar})
            return f"head_dim is {arch.head_dim}, must be {' or '.join(map(str, permitted))}"
        numbers = dict.fromkeys(len(layout.stages) for layout in similar)
        if len(arch.stages) not in numbers:
            return f"it has {len(arch.stages)} stages, must be one of {', '.join(map(str, numbers))}"
        similar = [layout for layout in similar if len(layout.stages) == len(arch.stages)]
        number = self.layout_of(arch)
        if number is None and len(similar) > 1:
            return f"no layout of {len(arch.stages)} stages has depths {[stage.depth for stage in arch.stages]}"
        layout = similar[0] if number is None else self.layouts[number]
        if arch.head_dim != layout.head_dim:
            return f"head_dim is {arch.head_dim}, must be {layout.head_dim} with these stages"
        for dimension, place, choices in places(layout):
            reason = dimension.why_not(choices, dimension.value(arch, place), place)
            if reason:
                return reason
        return ""

    def layout_of(self, arch: Architecture) -> int | None:
        """The position of the only layout that can hold an architecture, by variant, number of stages and depths."""
        depths = tuple(stage.depth for stage in arch.stages)
        return next((i for i, layout in enumerate(self.layouts) if layout.may_hold(arch.variant, depths)), None)

    def check_member(self, arch: Architecture) -> int:
        """The position of a member's layout.

        Raises:
            ValueError: not a member; says why.
        """
        reason = self.why_not(arch)
        if reason:
            raise ValueError(f"not a member of {self.name}: {reason}")
        layout = self.layout_of(arch)
        assert layout is not None
        return layout

    def build(self, layout: int, chosen: Chosen) -> Architecture:
        """The architecture of these choices in a layout, which is named by its position.

        Raises:
            ValueError: the choices together are impossible, such as a width that shrinks.
        """
        of_layout = self.layouts[layout]
        return self.network(of_layout, **fields_of(chosen, len(of_layout.stages)))

    def network(self, layout: Layout, **fields: Any) -> Architecture:
        """An architecture, member or not, with these fields and what all members of a layout have in common."""
        return Architecture(
            variant=layout.variant,
            image_size=self.image_size,
            in_chans=self.in_chans,
            num_classes=self.num_classes,
            patch_size=self.patch_size,
            patch_stride=self.patch_stride,
            head_dim=layout.head_dim,
            **fields,
        )

    # --- encoded architectures

    @cached_property
    def encoding(self) -> Encoding:
        """How members are encoded."""
        return Encoding(self.layouts)

    @property
    def genes(self) -> dict[str, int]:
        """The names of an encoded architecture's positions, in order, with the number of values of each."""
        return self.encoding.genes

    def encode(self, arch: Architecture) -> NDArray[np.int64]:
        """The positions of a member's choices, in the order of `genes`; stages that it lacks are zero.

        Raises:
            ValueError: not a member.
        """
        return self.encoding.encode(self.check_member(arch), arch)

    def decode(self, row: Sequence[int] | NDArray[np.int64]) -> Architecture:
        """The architecture of an encoded row; the inverse of `encode`.

        Raises:
            IndexError: a gene is beyond the choices that its stage has.
            ValueError: the genes together describe nothing possible, such as a width that shrinks.
        """
        return self.build(*self.encoding.decode(row))

    # --- extremes

    @cached_property
    def smallest(self) -> Architecture:
        """Every choice at its least, the largest groups, pooling without weights; of the layouts' the fewest MACs."""
        members = self._extremes(largest=False)
        return min(members, key=lambda arch: cost(arch).macs)

    @cached_property
    def largest(self) -> Architecture:
        """Every choice at its greatest, no sharing, pooling by convolution; of the layouts' the most MACs."""
        members = self._extremes(largest=True)
        return max(members, key=lambda arch: cost(arch).macs)

    def _extremes(self, largest: bool) -> list[Architecture]:
        """Of each layout and stem the member with every choice at its greatest or least."""
        members = []
        for number, layout in enumerate(self.layouts):
            rest = {
                (dimension, place): dimension.extreme(choices, largest)
                for dimension, place, choices in places(layout)
                if (dimension, place) != (ENTRY, 0)
            }
            members += [self.build(number, {**rest, (ENTRY, 0): stem}) for stem in layout.stem]
        return members
