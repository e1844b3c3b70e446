"""The parts of which a network's latency is the sum, and networks to time them in.

A part that is timed in a loop by itself runs faster than in a network: its weights stay in the caches, and branch
predictors learn so short a program by heart. So a group is timed in a chain of copies with weights of their own, about
as deep as a typical network, and the other parts in turns with copies; the rest of the difference is for the
calibration on whole networks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from pydantic import PositiveInt
from torch import Tensor, nn

from psvit import costs
from psvit.architecture import Architecture, Pool, Stage, stage_grids
from psvit.documents import Value
from psvit.model import PSViT, PSViTStage
from psvit.search_space import SearchSpace
from psvit.seeding import seeded

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
    """

    kind: Literal["stem", "pooling", "group", "head"]
    stage: int
    tokens: PositiveInt
    embed_dim: PositiveInt
    pool: Pool | None = None
    embed_dim_before: PositiveInt | None = None
    hidden_dim: PositiveInt | None = None
    length: PositiveInt | None = None


def parts_of(arch: Architecture) -> Iterator[Part]:
    """The parts of an architecture in order; equal ones as often as they occur."""
    tokens = [rows * columns + costs.has_class_token(arch.variant) for rows, columns in arch.grids]
    yield Part(kind="stem", stage=0, tokens=tokens[0], embed_dim=arch.stages[0].embed_dim)
    for index, stage in enumerate(arch.stages):
        common: dict[str, Any] = {"stage": index, "tokens": tokens[index], "embed_dim": stage.embed_dim}
        if index:
            before = arch.stages[index - 1].embed_dim
            yield Part(kind="pooling", pool=arch.pools[index - 1], embed_dim_before=before, **common)
        for length in stage.groups:
            yield Part(kind="group", hidden_dim=stage.hidden_dim, length=length, **common)
    yield Part(kind="head", **common)


def stage_tokens(space: SearchSpace) -> tuple[int, ...]:
    """Tokens of each stage, class token included; layouts with fewer stages have the first of them."""
    stages = max(len(layout.stages) for layout in space.layouts)
    grids = stage_grids(space.variant, space.image_size, space.patch_size, space.patch_stride, stages)
    return tuple(rows * columns + costs.has_class_token(space.variant) for rows, columns in grids)


def parts_in(space: SearchSpace) -> list[Part]:
    """All parts that a space's members have, each once."""
    parts: dict[Part, None] = {}
    for layout in space.layouts:
        for index, choices in enumerate(layout.stages):
            for width in choices.embed_dim:
                common: dict[str, Any] = {"stage": index, "tokens": stage_tokens(space)[index], "embed_dim": width}
                if index == 0:
                    parts[Part(kind="stem", **common)] = None
                else:
                    for before, pool in itertools.product(layout.stages[index - 1].embed_dim, layout.pools[index - 1]):
                        if before <= width:
                            parts[Part(kind="pooling", pool=pool, embed_dim_before=before, **common)] = None
                for ratio, length in itertools.product(choices.mlp_ratio, range(1, choices.max_group + 1)):
                    parts[Part(kind="group", hidden_dim=round(width * ratio), length=length, **common)] = None
                if index == len(layout.stages) - 1:
                    parts[Part(kind="head", **common)] = None
    return list(parts)


def part_macs(space: SearchSpace, part: Part) -> int:
    """Multiply-accumulates of a part; those of a network's parts add up to the network's."""
    patches = part.tokens - costs.has_class_token(space.variant)
    if part.kind == "stem":
        return costs.stem(space.variant, "patch", patches, space.in_chans, space.patch_size, part.embed_dim).macs
    if part.kind == "head":
        return costs.head(part.embed_dim, space.num_classes).macs
    if part.kind == "pooling":
        assert part.pool is not None
        assert part.embed_dim_before is not None
        return costs.pooling(space.variant, part.pool, patches, part.embed_dim_before, part.embed_dim).macs
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


class Stem(nn.Module):
    """The beginning of a network as a module of its own."""

    def __init__(self, network: PSViT) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """From images (B, C, height, width) to tokens (B, N, D)."""
        return self.network.embed(x)


class Head(nn.Module):
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

    def part(self, part: Part) -> tuple[nn.Module, tuple[int, ...], int]:
        """Copies of a part in one module, the shape of its input without the batch, and the number of copies."""
        if part.kind == "group":
            copies = self._group_copies(part)
            stage = fresh(self._host(part, copies)).stages[part.stage]
            assert isinstance(stage, PSViTStage)
            return Chain(*stage.groups), (part.tokens, part.embed_dim), copies
        modules = [self._single(part) for _ in range(COPIES)]
        if part.kind == "stem":
            return Turns(modules), (self._space.in_chans, *self._space.image_size), COPIES
        if part.kind == "pooling":
            before = stage_tokens(self._space)[part.stage - 1]
            return Turns(modules), (before, part.embed_dim_before or part.embed_dim), COPIES
        return Turns(modules), (part.tokens, part.embed_dim), COPIES

    def network(self, arch: Architecture) -> tuple[nn.Module, tuple[int, ...], int]:
        """The same for a whole network."""
        return fresh(arch), (arch.in_chans, *arch.image_size), 1

    def _single(self, part: Part) -> nn.Module:
        network = fresh(self._host(part, 1))
        if part.kind == "stem":
            return Stem(network)
        if part.kind == "head":
            return Head(network)
        stage = network.stages[part.stage]
        assert isinstance(stage, PSViTStage)
        return stage.pool

    def _group_copies(self, part: Part) -> int:
        """As deep as a typical network (or `COPIES` deep) where that costs no more MACs than one, at least two."""
        return max(2, min(round(self._depth / (part.length or 1)), self._macs // part_macs(self._space, part)))

    def _host(self, part: Part, copies: int) -> Architecture:
        """The smallest network that has a part where it belongs, seldom a member of the space."""
        before = Stage(embed_dim=part.embed_dim_before or part.embed_dim, groups=(1,), mlp_ratio=1.0)
        ratio = (part.hidden_dim or part.embed_dim) / part.embed_dim
        last = Stage(embed_dim=part.embed_dim, groups=(part.length or 1,) * copies, mlp_ratio=ratio)
        return self._space.build([before] * part.stage + [last], [part.pool or "max"] * part.stage)


def fresh(arch: Architecture) -> PSViT:
    """A network with arbitrary weights, in a fraction of the time that its initialisation takes."""
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
