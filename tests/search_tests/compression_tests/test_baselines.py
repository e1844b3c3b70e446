"""What is to be had without a search: fewer layers, and how fast networks are beside one another."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from psvit.arch.architecture import Architecture
from psvit.arch.costs import cost
from psvit.executors.executor import Portable
from psvit.nn.network import PSViT
from psvit.search.compression.baselines import ShortenedNetworks, fewer_layers
from psvit.search.compression.speed import measure_by_turns
from psvit.space.around import shortened
from psvit.train.recipe import Recipe
from psvit.train.training_job import TrainingJob

DEIT = Architecture.load("deit-tiny")
ARCH = Architecture.from_dict(
    {
        "variant": "1d",
        "image_size": [8, 8],
        "in_chans": 1,
        "num_classes": 3,
        "patch_size": 2,
        "patch_stride": 2,
        "head_dim": 4,
        "stages": [
            {"embed_dim": 8, "groups": [1, 1], "mlp_ratio": 2.0},
            {"embed_dim": 16, "groups": [1], "mlp_ratio": 2.0},
        ],
        "pools": ["max"],
    }
)


@pytest.mark.parametrize("percent", [99, 60, 40, 12])
def test_as_few_layers_are_left_out_as_a_limit_demands(percent):
    limit = cost(DEIT).macs * percent // 100
    shorter = fewer_layers(DEIT, limit)
    assert cost(shorter).macs <= limit
    longer = DEIT.to_dict()["stages"][0] | {"groups": [1] * (shorter.depth + 1)}
    assert cost(Architecture.from_dict({**DEIT.to_dict(), "stages": [longer]})).macs > limit
    assert fewer_layers(DEIT, 10**6) is None


@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_a_shorter_network_keeps_the_weights_of_its_layers(layers):
    torch.manual_seed(0)
    original = PSViT(ARCH).eval()
    recipe = Recipe(epochs=1, batch_size=4, lr=0.1)
    shorter = shortened(ARCH, layers)
    network = ShortenedNetworks(Portable(lambda: original))(TrainingJob(arch=shorter, recipe=recipe, seed=0)).eval()
    images = torch.randn(2, 1, 8, 8)
    tokens = original.embed(images)
    for layer in original.stages[0].groups[:layers]:
        tokens = layer(tokens)
    assert torch.allclose(network.stages[0](network.embed(images)), tokens, atol=1e-6)


class Waiting(nn.Module):
    """Takes as long as it is told."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def forward(self, images):
        time.sleep(self.seconds)
        return images


def test_speeds_are_relative_to_the_first_network():
    slow, fast = measure_by_turns([Waiting(0.02), Waiting(0.002)], (3, 8, 8), 4, torch.device("cpu"))
    assert slow.ratio == 1
    assert slow.spread == 0
    assert fast.ratio > 2
    assert slow.median_ms >= 20
