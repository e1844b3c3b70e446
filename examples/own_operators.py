"""A pooling operator and a stem of one's own: register them, search a space that has them, and use what was found.

    python examples/own_operators.py FOLDER

An architecture file names its operators. So whatever builds such a network registers them first, as `register` does.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import psvit


class MaxAndAvg(nn.Module):
    """Pooling by a mixture of maximum and average that every channel learns."""

    def __init__(self, variant: str, channels: int) -> None:
        super().__init__()
        self.dims = 1 if variant == "1d" else 2
        self.mixture = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """From (B, C, N) to (B, C, ceil(N / 2)), or from (B, C, rows, columns) to half of both, rounded up."""
        pools = (F.max_pool1d, F.avg_pool1d) if self.dims == 1 else (F.max_pool2d, F.avg_pool2d)
        largest, mean = (pool(x, kernel_size=3, stride=2, padding=1) for pool in pools)
        share = self.mixture.sigmoid().view(-1, *[1] * self.dims)
        return share * largest + (1 - share) * mean


class OverlappingPatches(nn.Module):
    """A patch embedding that sees as much again around every patch."""

    def __init__(self, in_chans: int, embed_dim: int, patch_size: int, patch_stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, 2 * patch_size + 1, stride=patch_size, padding=patch_size // 2 + 1)

    def forward(self, x: Tensor) -> Tensor:
        """From images (B, C, height, width) to tokens (B, P, D)."""
        return self.proj(x).flatten(2).transpose(1, 2)


def needs_even_patches(patch_size: int, patch_stride: int) -> None:
    """What `OverlappingPatches` can cut: even sides, without overlap of the patches themselves."""
    if patch_size % 2 or patch_stride != patch_size:
        raise ValueError(f"patch_size must be even and equal to patch_stride, received {patch_size} and {patch_stride}")


def register() -> None:
    """Make both known to psvit."""
    psvit.register_pooling("max_and_avg", MaxAndAvg)
    psvit.register_stem("overlapping", OverlappingPatches, check=needs_even_patches)


SPACE = {
    "name": "own-operators",
    "variant": "2d",
    "image_size": [8, 8],
    "in_chans": 1,
    "num_classes": 10,
    "patch_size": 2,
    "patch_stride": 2,
    "head_dim": 8,
    "stem": ["patch", "overlapping"],
    "layouts": [
        {
            "stages": [
                {"begin": 0, "embed_dim": [16, 32], "depth": [1, 2], "max_group": 2, "mlp_ratio": [2]},
                {"begin": 2, "embed_dim": [32, 48], "depth": [1, 2], "max_group": 2, "mlp_ratio": [2]},
            ],
            "pools": [["max", "max_and_avg"]],
        }
    ],
}


def main(folder: Path) -> None:
    """Train a supernet on scikit-learn's digits, search it, retrain what was found, and load that again."""
    brief = {"epochs": 2, "warmup_epochs": 0}
    space = psvit.SearchSpace.from_dict(SPACE)
    supernet = psvit.train_supernet(space, "digits", settings=brief, out=folder / "supernet")
    result = psvit.run_search(
        budget="0.2..0.6MFLOPs", supernet=supernet, trials=24, finalists=2, control=0, out=folder / "search"
    )
    network = psvit.retrain_network(result.best, "digits", settings=brief, out=folder / "network")
    psvit.export_network(network, "torch-export", out=folder / "exported")
    arch = psvit.Architecture.load(network.file)
    print(f"found: stem {arch.stem}, pooling {arch.pools[0]}, {psvit.cost(arch).macs:,} MACs")


if __name__ == "__main__":
    register()
    main(Path(sys.argv[1]))
