"""A small network, its weights and images for the tests of retraining."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from psvit.arch.architecture import Architecture, ArchitectureFile
from psvit.data import Decoded, ImageData, Labelled
from psvit.model import PSViT


@pytest.fixture
def found() -> ArchitectureFile:
    """A small network with a shared map and a pooling, found for three classes of grey images of 8 x 8 pixels."""
    arch = Architecture.from_dict(
        {
            "variant": "2d",
            "image_size": [8, 8],
            "in_chans": 1,
            "num_classes": 3,
            "patch_size": 2,
            "patch_stride": 2,
            "head_dim": 4,
            "stages": [
                {"embed_dim": 8, "groups": [2], "mlp_ratio": 2.0},
                {"embed_dim": 16, "groups": [1], "mlp_ratio": 2.0},
            ],
            "pools": ["conv"],
        }
    )
    return ArchitectureFile(
        arch=arch,
        score={"value": 50.0, "kind": "inherited accuracy"},
        budget=("1MFLOPs",),
        provenance={"searcher": "random", "seed": 4},
    )


@pytest.fixture
def make_data() -> Callable[..., ImageData]:
    """Makes grey or colour images whose classes differ in their pattern; 48 to train on and 30 to report on."""

    def make(num_classes: int = 3, in_chans: int = 1, pictures: type[Decoded] = Decoded) -> ImageData:
        rng = np.random.default_rng(0)
        labels = np.arange(78) % num_classes
        shape = (8, 8) if in_chans == 1 else (8, 8, in_chans)
        patterns = rng.integers(0, 256, size=(num_classes, *shape))
        pixels = (patterns[labels] * 0.4 + rng.integers(0, 150, size=(78, *shape))).astype(np.uint8)
        shown, apart = pictures(pixels[:48]), pictures(pixels[48:])
        return ImageData(
            name="tiny",
            digest="0",
            classes=tuple("abcdefghij"[:num_classes]),
            in_chans=in_chans,
            sizes=((8, 8),),
            statistics=lambda: ((0.5,) * in_chans, (0.25,) * in_chans),
            train=Labelled(shown, labels[:48], np.arange(0, 32)),
            search=Labelled(shown, labels[:48], np.arange(40, 48)),
            verdict=Labelled(shown, labels[:48], np.arange(32, 40)),
            val=Labelled(apart, labels[48:]),
            reopen=partial(make, num_classes, in_chans, pictures),
        )

    return make


@pytest.fixture
def weights(found: ArchitectureFile, tmp_path: Path) -> Path:
    """Weights as a supernet would hand them on, every parameter random."""
    network = PSViT(found.arch)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3, generator=generator)
    save_file(network.state_dict(), tmp_path / "best.safetensors")
    return tmp_path / "best.safetensors"
