"""The parts of which a network's latency is the sum, and networks to time them in.

A part that is timed in a loop by itself runs faster than in a network: its weights stay in the caches, and branch
predictors learn so short a program by heart. So a group is timed in a chain of copies with weights of their own, about
as deep as a typical network, and the other parts in turns with copies; the rest of the difference is for the
calibration on whole networks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import PositiveInt
from torch import Tensor, nn

from psvit.arch import costs
from psvit.arch.architecture import Architecture, Stage, stage_grids
from psvit.arch.operators import Pool, Stem, Variant
from psvit.io.documents import Value
from psvit.nn.seeding import seeded
from psvit.space.layout import Layout
from psvit.space.members import Members
from psvit.space.search_space import SearchSpace

if TYPE_CHECKING:
    from psvit.nn.network import PSViT

COPIES = 4
"""Copies of a part of which a network has but one or two."""

TYPICAL = 256
"""Architectures drawn to learn how deep and how expensive a typical one is."""


class Part(Value):
    """A part of a network; equal parts take equally long wherever they stand.

    Attributes:
        kind: `stem`: patch embedding and positions; `pooling`: what stands before a stage, with the linear layers;
            `group`: an attention group; `head`: the final norm, the mean over tokens and the classifier.
        stage: position of the stage to which it belongs, from 0; decides the number of tokens in a space.
        tokens: tokens of that stage, class token included.
        embed_dim: channels of that stage.
        pool: the operator of a pooling.
        embed_dim_before: channels before a pooling.
        hidden_dim: hidden width of the MLPs of a group.
        length: layers of a group.
        variant, head_dim, stem: of the networks that have the part, `None` if all networks of the space have the same
            (as in version 0.1); the head width of groups alone, the stem of stems alone.
    """

    kind: Literal["stem", "pooling", "group", "head"]
    stage: int
    tokens: PositiveInt
    embed_dim: PositiveInt
    pool: Pool | None = None
    embed_dim_before: PositiveInt | None = None
    hidden_dim: PositiveInt | None = None
    length: PositiveInt | None = None
    variant: Variant | None = None
    head_dim: PositiveInt | None = None
    stem: Stem | None = None


Mixed = frozenset[str]
"""Which of `variant`, `head_dim` and `stem` differ among the members of a space."""


def mixed_among(parts: Iterable[Part]) -> Mixed:
    """`SearchSpace.mixed` of the space that some parts are all of."""
    parts = list(parts)
    return frozenset(name for name in ("variant", "head_dim", "stem") if any(getattr(part, name) for part in parts))


def parts_of(arch: Architecture, mixed: Mixed = frozenset()) -> Iterator[Part]:
    """The parts of an architecture in order; equal ones as often as they occur.

    Args:
        arch: the architecture.
        mixed: what differs among the members of its space.
    """
    tokens = [rows * columns + costs.has_class_token(arch.variant) for rows, columns in arch.grids]
    said = _said(mixed, arch.variant, arch.head_dim, arch.stem)
    yield Part(kind="stem", stage=0, tokens=tokens[0], embed_dim=arch.stages[0].embed_dim, **said["stem"])
    for index, stage in enumerate(arch.stages):
        common: dict[str, Any] = {"stage": index, "tokens": tokens[index], "embed_dim": stage.embed_dim}
        if index:
            before = arch.stages[index - 1].embed_dim
            pool = arch.pools[index - 1]
            yield Part(kind="pooling", pool=pool, embed_dim_before=before, **common, **said["pooling"])
        for length in stage.groups:
            yield Part(kind="group", hidden_dim=stage.hidden_dim, length=length, **common, **said["group"])
    yield Part(kind="head", **common, **said["head"])


def _said(mixed: Mixed, variant: Variant, head_dim: int, stem: Stem) -> dict[str, dict[str, Any]]:
    """What each kind of part says beside its sizes."""
    fields = {"variant": variant, "head_dim": head_dim, "stem": stem}
    needed = {"stem": ("variant", "stem"), "pooling": ("variant",), "group": ("head_dim",), "head": ("variant",)}
    return {kind: {name: fields[name] for name in names if name in mixed} for kind, names in needed.items()}


def stage_tokens(space: Members, layout: Layout) -> tuple[int, ...]:
    """Tokens of each stage of a layout, class token included."""
    grids = stage_grids(layout.variant, space.image_size, space.patch_size, space.patch_stride, len(layout.stages))
    return tuple(rows * columns + costs.has_class_token(layout.variant) for rows, columns in grids)


class StageParts:
    """The parts that one stage of a layout may have.

    Args:
        space: the space.
        layout: one of its layouts.
        stage: the stage's position.
    """

    def __init__(self, space: Members, layout: Layout, stage: int) -> None:
        self._choices = layout.stages[stage]
        self._before = layout.stages[stage - 1].embed_dim if stage else ()
        self._layout = layout
        self._stage = stage
        self._mixed = frozenset(space.mixed)
        self._common: dict[str, Any] = {"stage": stage, "tokens": stage_tokens(space, layout)[stage]}

    def _part(self, kind: str, stem: Stem, **fields: Any) -> Part:
        said = _said(self._mixed, self._layout.variant, self._layout.head_dim, stem)[kind]
        return Part.model_validate({"kind": kind, **self._common, **fields, **said})

    def stem(self, kind: Stem, width: int) -> Part:
        """A stem."""
        return self._part("stem", kind, embed_dim=width)

    def pooling(self, pool: Pool, before: int, width: int) -> Part:
        """A pooling, from one width to another."""
        return self._part("pooling", "patch", pool=pool, embed_dim_before=before, embed_dim=width)

    def group(self, width: int, ratio: float, length: int) -> Part:
        """An attention group."""
        return self._part("group", "patch", embed_dim=width, hidden_dim=round(width * ratio), length=length)

    def head(self, width: int) -> Part:
        """The classifier."""
        return self._part("head", "patch", embed_dim=width)

    def all(self) -> Iterator[Part]:
        """Every one of them."""
        for width in self._choices.embed_dim:
            if self._stage == 0:
                for kind in self._layout.stem:
                    yield self.stem(kind, width)
            else:
                for before, pool in itertools.product(self._before, self._layout.pools[self._stage - 1]):
                    if before <= width:
                        yield self.pooling(pool, before, width)
            for ratio, length in itertools.product(self._choices.mlp_ratio, range(1, self._choices.max_group + 1)):
                yield self.group(width, ratio, length)
            if self._stage == len(self._layout.stages) - 1:
                yield self.head(width)


def parts_in(space: Members) -> list[Part]:
    """All parts that a space's members have, each once."""
    parts: dict[Part, None] = {}
    for layout in space.layouts:
        for stage in range(len(layout.stages)):
            parts |= dict.fromkeys(StageParts(space, layout, stage).all())
    return list(parts)


def part_macs(space: Members, part: Part) -> int:
    """Multiply-accumulates of a part; those of a network's parts add up to the network's."""
    variant = part.variant or space.variants[0]
    if part.kind == "stem":
        stem = part.stem or space.layouts[0].stem[0]
        return costs.stem(variant, stem, space.patches, space.in_chans, part.embed_dim).macs
    if part.kind == "head":
        return costs.head(part.embed_dim, space.num_classes).macs
    if part.kind == "pooling":
        assert part.pool is not None
        assert part.embed_dim_before is not None
        grids = stage_grids(variant, space.image_size, space.patch_size, space.patch_stride, part.stage)
        return costs.pooling(variant, part.pool, grids[-1], part.embed_dim_before, part.embed_dim).macs
    assert part.hidden_dim is not None
    assert part.length is not None
    return costs.layers(part.tokens, part.embed_dim, part.hidden_dim, 1, part.length - 1)[0]


class Chain(nn.Sequential):
    """Copies of a part one after another."""


class Turns(nn.Module):
    """Copies of a part on the same input; gives all outputs, so that no runtime leaves a copy out."""

    def __init__(self, parts: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """From one input to the outputs of every copy."""
        return tuple(part(x) for part in self.parts)


class StemOnly(nn.Module):
    """The beginning of a network as a module of its own."""

    def __init__(self, network: PSViT) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """From images (B, C, height, width) to tokens (B, N, D)."""
        return self.network.embed(x)


class HeadOnly(nn.Module):
    """The end of a network as a module of its own."""

    def __init__(self, network: PSViT) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """From tokens (B, N, D) to logits (B, classes)."""
        return self.network.forward_head(self.network.norm(x))


class Bench:
    """Builds what is measured in place of the parts and members of a space.

    Args:
        space: the space.
        eager: whether operators are called one by one; chains of groups are long then, and short where they have to
            be exported or compiled.
    """

    def __init__(self, space: SearchSpace, eager: bool) -> None:
        self._space = space
        typical = space.sample(np.random.default_rng(0), TYPICAL)
        self._depth = int(np.median([arch.depth for arch in typical])) if eager else COPIES
        self._macs = int(np.median(typical.macs))

    def subject(self, subject: Part | Architecture) -> tuple[nn.Module, tuple[int, ...], int]:
        """What is measured for a part or a whole network; its input without the batch; and copies of it therein."""
        if isinstance(subject, Part):
            return self.part(subject)
        return fresh(subject), (subject.in_chans, *subject.image_size), 1

    def part(self, part: Part) -> tuple[nn.Module, tuple[int, ...], int]:
        """Copies of a part in one module, the shape of its input without the batch, and the number of copies."""
        if part.kind == "group":
            copies = self._group_copies(part)
            stage: Any = fresh(self._host(part, copies)).stages[part.stage]
            return Chain(*stage.groups), (part.tokens, part.embed_dim), copies
        modules = [self._single(part) for _ in range(COPIES)]
        if part.kind == "stem":
            return Turns(modules), (self._space.in_chans, *self._space.image_size), COPIES
        if part.kind == "pooling":
            before = math.prod(self._host(part, 1).grids[part.stage - 1])
            before += costs.has_class_token(part.variant or self._space.variants[0])
            return Turns(modules), (before, part.embed_dim_before or part.embed_dim), COPIES
        return Turns(modules), (part.tokens, part.embed_dim), COPIES

    def _single(self, part: Part) -> nn.Module:
        network = fresh(self._host(part, 1))
        if part.kind == "stem":
            return StemOnly(network)
        if part.kind == "head":
            return HeadOnly(network)
        stage: Any = network.stages[part.stage]
        pool: nn.Module = stage.pool
        return pool

    def _group_copies(self, part: Part) -> int:
        """As deep as a typical network (or `COPIES` deep) where that costs no more MACs than one, at least two."""
        return max(2, min(round(self._depth / (part.length or 1)), self._macs // part_macs(self._space, part)))

    def _host(self, part: Part, copies: int) -> Architecture:
        """The smallest network that has a part where it belongs, seldom a member of the space."""
        before = Stage(embed_dim=part.embed_dim_before or part.embed_dim, groups=(1,), mlp_ratio=1.0)
        ratio = (part.hidden_dim or part.embed_dim) / part.embed_dim
        last = Stage(embed_dim=part.embed_dim, groups=(part.length or 1,) * copies, mlp_ratio=ratio)
        layout = next(
            layout
            for layout in self._space.layouts
            if part.variant in (None, layout.variant) and part.head_dim in (None, layout.head_dim)
            if part.embed_dim % layout.head_dim == before.embed_dim % layout.head_dim == 0
        )
        return self._space.network(
            layout,
            stem=part.stem or layout.stem[0],
            stages=(*[before] * part.stage, last),
            pools=(part.pool or "max",) * part.stage,
        )


def fresh(arch: Architecture) -> PSViT:
    """A network with arbitrary weights, in a fraction of the time that its initialisation takes."""
    from psvit.nn.network import PSViT  # it loads timm, which whoever has a model of latency already need not wait for

    network = PSViT(arch, device="meta").to_empty(device="cpu")
    with seeded(0):
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
        nn.init.normal_(network.pos_embed, std=0.02)
        if network.has_class_token:
            nn.init.normal_(network.cls_token, std=0.02)
    return network
