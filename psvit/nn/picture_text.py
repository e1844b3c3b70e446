"""What a picture says in words: labels, and a description for those who do not see it."""

from __future__ import annotations

import math

from psvit.arch.architecture import Architecture
from psvit.arch.costs import ADDITIVE, cost, has_class_token
from psvit.arch.stem import convolutions
from psvit.space.budget import format_cost


def summary(arch: Architecture) -> str:
    """The costs and the size of a network in one line."""
    costs = cost(arch)
    maps = sum(len(stage.groups) for stage in arch.stages)
    return " · ".join(
        [
            *(format_cost(metric, getattr(costs, metric)) for metric in ADDITIVE),
            f"{count(arch.depth, 'layer')}, {count(maps, 'attention map')}",
            f"image {times(*arch.image_size)}, {count(arch.in_chans, 'channel')}",
        ]
    )


def description(arch: Architecture) -> str:
    """A network in sentences, for those who do not see the picture."""
    sentences = [summary(arch) + "."]
    if arch.stem == "conv":
        convs = convolutions(arch.in_chans, arch.stages[0].embed_dim, arch.patch_size)
        channels = ", ".join(str(conv.out_chans) for conv in convs)
        sentences.append(f"Stem: {len(convs)} convolutions with {channels} channels.")
    elif arch.stem != "patch":
        sentences.append(f"Stem: {arch.stem}.")
    for index, stage in enumerate(arch.stages):
        tokens = count(math.prod(arch.grids[index]), "token") + " and a class token" * has_class_token(arch.variant)
        pool = f"{arch.pools[index - 1]} pooling, then " if index else ""
        groups = ", ".join(map(str, stage.groups))
        sentences.append(
            f"Stage {index + 1}: {pool}{tokens}, {count(stage.embed_dim, 'channel')}, MLPs {stage.hidden_dim} wide, "
            f"layers in attention groups of {groups}."
        )
    return " ".join(sentences)


def times(rows: int, columns: int) -> str:
    """Two sides, such as `8×8`."""
    return f"{rows}×{columns}"


def count(number: int, one: str, several: str | None = None) -> str:
    """A number with its noun."""
    return f"{number} {one}" if number == 1 else f"{number} {several or one + 's'}"
