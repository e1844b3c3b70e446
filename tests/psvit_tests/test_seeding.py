"""Global generators, seeded for a stretch of code and put back."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from psvit.seeding import seeded


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
