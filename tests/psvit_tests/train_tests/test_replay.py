"""Replay: what is recorded is compared with what it replaces. CUDA graphs themselves are tested on a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from psvit.train.replay import Replay

IMAGES = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Dropout(0.2), nn.GELU(), nn.Linear(16, 5)).train()


class Recorder:
    """Stands in for the recording of graphs: replaces the forward pass by `made`."""

    def __init__(self, made):
        self.made = made
        self.calls = 0

    def __call__(self, network, sample, **options):
        self.calls += 1
        forward = network.forward
        network.forward = lambda images: self.made(forward, images)


def test_a_network_is_recorded_once_and_has_its_own_pass_back_in_the_end(network):
    seen = []

    def made(forward, images):
        seen.append(len(images))
        return forward(images)

    recorder = Recorder(made)
    replay = Replay(network, "float32", recorder)
    assert not replay.is_decided
    replay.begin(IMAGES)
    assert replay.is_decided
    before = len(seen)
    network(IMAGES)
    assert (recorder.calls, len(seen)) == (1, before + 1)
    assert all(parameter.grad is None for parameter in network.parameters())
    replay.end()
    network(IMAGES)
    assert len(seen) == before + 1
    assert "forward" not in vars(network)


@pytest.mark.parametrize("factor", [1.05, 0.0, float("nan")])
def test_what_computes_something_else_is_not_replayed(network, factor, caplog):
    Replay(network, "float32", Recorder(lambda forward, images: factor * forward(images))).begin(IMAGES)
    assert "forward" not in vars(network)
    assert "gradients" in caplog.text


def test_what_draws_otherwise_is_not_replayed(network):
    """A recorded pass draws from the generator when it is replayed, so the same seed has to give the same dropout."""
    Replay(network, "float32", Recorder(lambda forward, images: (torch.rand(1), forward(images))[1])).begin(IMAGES)
    assert "forward" not in vars(network)


@pytest.mark.parametrize(
    "error", [RuntimeError("operation not permitted when stream is capturing\nmore"), MemoryError()]
)
def test_what_cannot_be_recorded_is_trained_without(network, error, caplog):
    def made(*_):
        raise error

    with caplog.at_level("INFO", logger="psvit.train.replay"):
        Replay(network, "float32", Recorder(made)).begin(IMAGES)
    assert "forward" not in vars(network)
    assert "not trained as CUDA graphs" in caplog.text
    assert network(IMAGES).shape == (8, 5)


def test_draws_leave_the_generators_alone(network):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    Replay(network, "float32", Recorder(lambda forward, images: forward(images))).begin(IMAGES)
    assert torch.equal(torch.rand(3), expected)
