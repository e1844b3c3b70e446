"""References: networks that a report names beside what was found, DeiT first of all."""

from __future__ import annotations

from dataclasses import dataclass

from psvit.arch.architecture import Architecture
from psvit.arch.costs import Cost, cost
from psvit.space.search_space import SearchSpace

DEIT = {"deit-tiny": "DeiT-Tiny", "deit-small": "DeiT-Small", "deit-base": "DeiT-Base"}

PUBLISHED = {"DeiT-Tiny": 72.2, "DeiT-Small": 79.8, "DeiT-Base": 81.8}
"""Top-1 in percent on ImageNet-1k at 224 pixels, trained for 300 epochs (DeiT, arXiv 2012.12877)."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A network to compare with.

    Attributes:
        name: for people.
        cost: its costs on the images that are searched for.
        arch: the network itself, where it is known; one that is in the space can be scored like any candidate.
        score: the score by the evaluator of the search; `None` if it was not scored.
    """

    name: str
    cost: Cost
    arch: Architecture | None = None
    score: float | None = None


def deit_references(space: SearchSpace) -> list[Reference]:
    """The three DeiTs on the images of a space, without scores.

    For images of their own size they are DeiT; for others they have its widths and layers on the patches of the space,
    which their names then say.
    """
    references = []
    for file, name in DEIT.items():
        deit = Architecture.load(file)
        of_space = {"image_size": space.image_size, "in_chans": space.in_chans, "num_classes": space.num_classes}
        if space.image_size != deit.image_size:
            of_space |= {"patch_size": space.patch_size, "patch_stride": space.patch_stride}
            name = f"{name} on patches of {space.patch_size}"
        arch = Architecture(**{**dict(deit), **of_space})
        references.append(Reference(name=name, cost=cost(arch), arch=arch))
    return references


def published(space: SearchSpace) -> dict[str, float]:
    """What was published of the DeiTs, where the space is of the images that it holds for: ImageNet's at 224 pixels."""
    is_imagenet = (space.image_size, space.in_chans, space.num_classes) == ((224, 224), 3, 1000)
    return PUBLISHED if is_imagenet else {}
