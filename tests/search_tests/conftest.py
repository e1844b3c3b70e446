"""Small spaces and cheap scores for the tests of the search."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from psvit.architecture import Architecture
from psvit.search_space import SearchSpace


class SmoothScore:
    """A score with one peak inside the space: the closer to some depth and width, the better.

    Stands in for a supernet where a test is about searching; counts what it evaluates.
    """

    def __init__(self) -> None:
        self.evaluated: list[Architecture] = []

    def evaluate(self, arch: Architecture) -> float:
        self.evaluated.append(arch)
        score = -0.3 * sum(pool != "conv" for pool in arch.pools)
        for stage, width in zip(arch.stages, (2, 3.5, 5), strict=False):
            score -= (stage.depth - 3) ** 2 + (stage.embed_dim / 32 - width) ** 2
            score -= 0.5 * (len(stage.groups) - 2) ** 2 + (stage.mlp_ratio - 3) ** 2
        return score

    def describe(self) -> dict[str, object]:
        return {"kind": "smooth score"}


@pytest.fixture
def score() -> Callable[[], SmoothScore]:
    return SmoothScore


@pytest.fixture
def digits_space() -> SearchSpace:
    """The smallest shipped space, 6,468 members."""
    return SearchSpace.load("psvit-2d-digits")


@pytest.fixture
def tiny_space() -> SearchSpace:
    """Two layouts, few enough members to evaluate them all.

    2 widths; and 3 pairs of widths x 2 poolings x 3 groupings x 2 ratios: 2 + 36 members.
    """
    one = {"begin": 0, "embed_dim": [8, 16], "mlp_ratio": [2.0]}
    last = {"begin": 1, "embed_dim": [8, 16], "depth": [1, 2], "max_group": 2, "mlp_ratio": [2.0, 3.0]}
    return SearchSpace.from_dict(
        {
            "name": "tiny",
            "variant": "1d",
            "image_size": [8, 8],
            "in_chans": 1,
            "num_classes": 3,
            "patch_size": 4,
            "patch_stride": 4,
            "head_dim": 4,
            "layouts": [
                {"stages": [{**one, "depth": [3], "max_group": 1}]},
                {"stages": [{**one, "depth": [1], "max_group": 1}, last], "pools": [["max", "conv"]]},
            ],
        }
    )
