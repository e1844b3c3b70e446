"""Small trained networks as a retraining leaves them, and images for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from psvit.arch.architecture import Architecture, ArchitectureFile
from psvit.classifier import Classifier
from psvit.model import PSViT
from psvit.train.recipe import Recipe


@pytest.fixture(scope="session")
def make_run_in() -> Callable[..., Path]:
    """Makes the folder of a finished retraining with random weights, for images of 8 x 8 pixels and three classes."""

    def make(folder: Path, variant: str = "2d", in_chans: int = 1, image_size: tuple[int, int] = (8, 8)) -> Path:
        arch = Architecture.from_dict(
            {
                "variant": variant,
                "image_size": list(image_size),
                "in_chans": in_chans,
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
        network = PSViT(arch)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.normal_(std=0.3, generator=generator)
        folder.mkdir()
        save_file(network.state_dict(), folder / "network.safetensors")
        ArchitectureFile(
            arch=arch,
            score={
                "value": 91.25,
                "kind": "standalone accuracy",
                "meaning": "top-1 in percent after training, on the validation images",
                "images": 1200,
                "inherited": 50.5,
                "from_scratch": 88.75,
                "logistic_regression": 70.0,
            },
            budget=("1MFLOPs", "20kparams"),
            provenance={
                "found": {"score": {"value": 52.0}, "searcher": "evolution", "seed": 4},
                "data": {
                    "name": "pets",
                    "mean": [0.3, 0.4, 0.5][:in_chans],
                    "std": [0.25, 0.2, 0.3][:in_chans],
                    "classes": ["cat", "dog", "emu"],
                },
                "recipe": Recipe(epochs=3, batch_size=8, lr=3e-3, layer_decay=0.75).to_dict(),
                "inherited": True,
                "seed": 7,
                "versions": {"psvit": "0.1.0"},
            },
        ).save(folder / "network.yaml")
        return folder

    return make


@pytest.fixture
def make_run(make_run_in: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Makes such a folder among the files of a test."""
    return lambda name="run", *network: make_run_in(tmp_path / name, *network)


@pytest.fixture
def classifier(make_run: Callable[..., Path]) -> Classifier:
    """The network of such a folder."""
    return Classifier.load(make_run())


@pytest.fixture
def make_image(tmp_path: Path) -> Callable[..., Path]:
    """Makes an image of smooth noise, which resizing leaves something of."""

    def make(name: str = "image.png", size: tuple[int, int] = (21, 15), mode: str = "RGB", seed: int = 0) -> Path:
        rng = np.random.default_rng(seed)
        coarse = Image.fromarray(rng.integers(0, 256, size=(5, 6, 3), dtype=np.uint8))
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse.resize(size, Image.Resampling.BICUBIC).convert(mode).save(path)
        return path

    return make
