"""Global generators, seeded for a stretch of code and put back."""

from __future__ import annotations

import contextlib
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from timm.layers import DropPath

from psvit.nn.seeding import number_of, reseeding, seeded


def draws():
    """Something from each of the generators."""
    return random.random(), np.random.rand(3).tolist(), torch.rand(3).tolist(), torch.randperm(20).tolist()


def states():
    return random.getstate(), str(np.random.get_state()), torch.random.get_rng_state().tolist()


@pytest.fixture(autouse=True)
def _own_generators():
    """These tests must not move what other tests draw from."""
    before = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    yield
    random.setstate(before[0])
    np.random.set_state(before[1])
    torch.random.set_rng_state(before[2])


@pytest.mark.parametrize("key", [(0,), (0, 0), (7, 3), (2**40, 1)])
def test_equal_keys_give_equal_draws(key):
    with seeded(*key):
        first = draws()
    draws()  # whatever happens in between
    with seeded(*key):
        assert draws() == first


def test_different_keys_give_different_draws():
    keys = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2**31, 3)]
    found = []
    for key in keys:
        with seeded(*key):
            found.append(draws())
    for generator in range(4):
        assert len({str(draw[generator]) for draw in found}) == len(keys)


def test_a_longer_key_is_another_key():
    # A network's weights are drawn under the seed, its first epoch under the seed and zero.
    with seeded(5):
        first = draws()
    with seeded(5, 0):
        assert draws() != first


def test_nothing_outside_depends_on_the_block():
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    before = states()
    with seeded(1, 2):
        draws()
        assert states() != before
    assert states() == before


def test_generators_are_put_back_after_an_error():
    before = states()

    def fail():
        with seeded(1):
            draws()
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert states() == before


def test_blocks_may_be_nested():
    with seeded(1):
        expected = draws(), draws()
    with seeded(1):
        first = draws()
        with seeded(2):
            draws()
        assert (first, draws()) == expected


# --- which generators are seeded


def fresh_draws(number):
    """The same as `draws`, from generators of our own."""
    python, numpy, pytorch = random.Random(number), np.random.RandomState(number), torch.Generator().manual_seed(number)
    return (
        python.random(),
        numpy.rand(3).tolist(),
        torch.rand(3, generator=pytorch).tolist(),
        torch.randperm(20, generator=pytorch).tolist(),
    )


@pytest.mark.parametrize("number", [0, 1, 12345, 2**32 - 1])
def test_draws_are_those_of_fresh_generators_with_the_number(number):
    with reseeding() as seed_all:
        for _ in range(2):
            seed_all(number)
            assert draws() == fresh_draws(number)
    torch.manual_seed(number)
    assert torch.rand(3).tolist() == fresh_draws(number)[2]


@pytest.mark.parametrize("device", [None, torch.device("cpu")])
def test_a_block_draws_as_fresh_generators_with_the_number_of_its_key(device):
    with seeded(3, 1, 4, device=device):
        assert draws() == fresh_draws(number_of(3, 1, 4))


@pytest.fixture
def _only_the_cpu(monkeypatch):
    """As if there were a GPU that is in use, and nobody might touch its generators."""

    def refuse(*args):
        pytest.fail("generators of other devices are touched")

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch, "manual_seed", refuse)
    for name in ("manual_seed", "manual_seed_all", "get_rng_state", "get_rng_state_all", "set_rng_state"):
        monkeypatch.setattr(torch.cuda, name, refuse)


@pytest.mark.usefixtures("_only_the_cpu")
def test_seeding_for_an_image_touches_no_other_device():
    with reseeding() as seed_all:
        seed_all(5)
        assert draws() == fresh_draws(5)


@pytest.mark.usefixtures("_only_the_cpu")
def test_a_block_that_computes_on_the_cpu_touches_no_other_device():
    with seeded(5), seeded(5, 6, device=torch.device("cpu")):
        assert draws() == fresh_draws(number_of(5, 6))


@pytest.fixture
def gpus(monkeypatch):
    """The generators of three devices that are not there; the first is the current one."""
    generators = [torch.Generator().manual_seed(number) for number in range(3)]
    current = [0]

    @contextlib.contextmanager
    def device_index(index):
        before = current[0]
        current[0] = before if index is None else index
        yield
        current[0] = before

    def of(device):
        return generators[current[0] if device.index is None else device.index]

    module = SimpleNamespace(
        manual_seed=lambda number: generators[current[0]].manual_seed(number),
        get_rng_state=lambda device: of(device).get_state(),
        set_rng_state=lambda state, device: of(device).set_state(state),
    )
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    monkeypatch.setattr(torch.accelerator, "device_index", device_index)
    return generators


@pytest.mark.parametrize(("device", "used"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2), ("xpu:1", 1)])
def test_a_block_that_computes_on_a_device_draws_repeatably_there_too(gpus, device, used):
    before = [generator.get_state().tolist() for generator in gpus]
    number = number_of(8, 2)
    with seeded(8, 2, device=torch.device(device)):
        assert draws() == fresh_draws(number)
        expected = torch.rand(5, generator=torch.Generator().manual_seed(number))
        assert torch.equal(torch.rand(5, generator=gpus[used]), expected)
        others = [gpus[index].get_state().tolist() == before[index] for index in range(3) if index != used]
        assert all(others)
    assert [generator.get_state().tolist() for generator in gpus] == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_stochastic_depth_on_a_gpu_is_repeatable_and_leaves_its_generator_alone():
    device, ones = torch.device("cuda"), torch.ones(256, 1, device="cuda")
    drop = DropPath(0.5).train()
    before = torch.cuda.get_rng_state()
    results = []
    for key in ((1, 2), (1, 2), (1, 3)):
        with seeded(*key, device=device):
            results.append(drop(ones))
        drop(ones)  # whatever happens in between
        torch.cuda.set_rng_state(before)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    with seeded(1, device=device):
        drop(ones)
    assert torch.equal(torch.cuda.get_rng_state(), before)
