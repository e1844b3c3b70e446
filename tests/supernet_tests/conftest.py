"""Small spaces, weights and images for the tests of the supernet."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

from psvit.data import Decoded, ImageData, Labelled
from psvit.space.search_space import SearchSpace
from psvit.supernet.supernet import Supernet


def _small_space(kind: str) -> SearchSpace:
    """Two layouts that overlap in the list of layers, a place that no layout uses, and grids with odd sides.

    `mixed` has these layouts in both variants, in 2d behind either stem.
    """
    if kind == "mixed":
        one, other = _small_space("1d").to_dict(), _small_space("2d").to_dict()
        both = [{"variant": "1d", **layout} for layout in one["layouts"]]
        both += [{"variant": "2d", "stem": ["patch", "conv"], **layout} for layout in other["layouts"]]
        del one["variant"]
        return SearchSpace.from_dict({**one, "name": "small-mixed", "layouts": both})
    wide = {"begin": 5, "embed_dim": [8, 16], "depth": [1, 2, 3], "max_group": 2, "mlp_ratio": [2.0, 3.0]}
    return SearchSpace.from_dict(
        {
            "name": f"small-{kind}",
            "variant": kind,
            "image_size": [10, 6],
            "in_chans": 2,
            "num_classes": 5,
            "patch_size": 2,
            "patch_stride": 2,
            "head_dim": 4,
            "layouts": [
                {
                    "stages": [
                        {"begin": 0, "embed_dim": [8, 12], "depth": [1, 2, 3], "max_group": 3, "mlp_ratio": [1.5, 2.0]},
                        wide,
                    ],
                    "pools": [["max", "avg", "conv"]],
                },
                {
                    "stages": [
                        {"begin": 0, "embed_dim": [8], "depth": [1, 2], "max_group": 2, "mlp_ratio": [2.0]},
                        {"begin": 2, "embed_dim": [8, 16], "depth": [1, 2], "max_group": 2, "mlp_ratio": [1.5]},
                        {**wide, "embed_dim": [12, 20], "depth": [2]},
                    ],
                    "pools": [["max", "conv"], ["avg", "conv"]],
                },
            ],
        }
    )


@pytest.fixture(params=["1d", "2d", "mixed"])
def space(request: pytest.FixtureRequest) -> SearchSpace:
    return _small_space(request.param)


@pytest.fixture
def space_2d() -> SearchSpace:
    return _small_space("2d")


@pytest.fixture
def trained_like() -> Callable[..., Supernet]:
    """Makes a supernet whose every parameter is random; a fresh one has biases of 0 and norms of 1, all alike."""

    def make(space: SearchSpace, seed: int = 0, drop_path_rate: float = 0.0) -> Supernet:
        generator = torch.Generator().manual_seed(seed)
        supernet = Supernet(space, drop_path_rate=drop_path_rate).eval()
        with torch.no_grad():
            for name, parameter in supernet.named_parameters():
                parameter.normal_(std=0.2, generator=generator)
                if "norm" in name and name.endswith("weight"):
                    parameter.add_(1.0)
        return supernet

    return make


@pytest.fixture
def images() -> Callable[..., torch.Tensor]:
    """Makes random images that fit a space."""

    def make(space: SearchSpace, n: int = 2, seed: int = 1) -> torch.Tensor:
        shape = (n, space.in_chans, *space.image_size)
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture(scope="session")
def tiny_space() -> SearchSpace:
    """A space whose supernet trains an epoch in a fraction of a second, for grey images of 8 x 8 pixels."""
    stage = {"embed_dim": [8, 16], "depth": [1, 2], "max_group": 2, "mlp_ratio": [2.0]}
    return SearchSpace.from_dict(
        {
            "name": "tiny",
            "variant": "2d",
            "image_size": [8, 8],
            "in_chans": 1,
            "num_classes": 3,
            "patch_size": 4,
            "patch_stride": 4,
            "head_dim": 4,
            "layouts": [
                {"stages": [{"begin": 0, **stage}, {"begin": 2, **stage}], "pools": [["max", "conv"]]},
            ],
        }
    )


@pytest.fixture(scope="session")
def tiny_data() -> Callable[..., ImageData]:
    """Makes 60 grey images of three classes that differ in their pattern."""

    def make(side: int = 8, pictures: type[Decoded] = Decoded) -> ImageData:
        rng = np.random.default_rng(0)
        labels = np.arange(60) % 3
        patterns = rng.integers(0, 256, size=(3, side, side))
        pixels = (patterns[labels] * 0.6 + rng.integers(0, 100, size=(60, side, side))).astype(np.uint8)
        shown = pictures(pixels)

        def rows(start: int, stop: int) -> Labelled:
            return Labelled(shown, labels, np.arange(start, stop))

        return ImageData(
            name="tiny",
            digest="0",
            classes=("a", "b", "c"),
            in_chans=1,
            sizes=((side, side),),
            statistics=lambda: ((0.5,), (0.25,)),
            train=rows(0, 36),
            search=rows(36, 48),
            verdict=rows(36, 36),
            val=rows(48, 60),
            reopen=partial(make, side, pictures),
        )

    return make
