"""Seeding what libraries draw from global generators, for a stretch of code and without a trace afterwards."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator

import numpy as np
import torch


@contextlib.contextmanager
def seeded(*key: int, device: torch.device | None = None) -> Iterator[None]:
    """Run a block with Python's, NumPy's and PyTorch's global generators seeded by `key`, then put them back.

    timm's augmentation and mixup and PyTorch's initialisation and samplers draw from them. Equal keys give equal
    draws, so a key that names seed and step makes a step repeatable by itself.

    Args:
        key: whole numbers of at least 0.
        device: where the block draws, too. Stochastic depth and dropout draw from the generator of the device that
            they compute on, and each device has its own.
    """
    number = number_of(*key)
    on_device = contextlib.nullcontext() if device is None or device.type == "cpu" else _seeded_on(device, number)
    with reseeding() as seed_all, on_device:
        seed_all(number)
        yield


@contextlib.contextmanager
def reseeding() -> Iterator[Callable[[int], None]]:
    """Lend a function that seeds the global generators with a number below 2**32, as often as wanted in the block.

    They are those of Python, NumPy and PyTorch's CPU; timm's augmentation draws from all three and from no other. They
    are put back at the end of the block.
    """
    before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield _seed_all
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.default_generator.set_state(before[2])


def number_of(*key: int) -> int:
    """A number below 2**32 for a key; keys of different lengths are different keys."""
    return int(np.random.SeedSequence((len(key), *key)).generate_state(1)[0])


def _seed_all(number: int) -> None:
    random.seed(number)
    np.random.seed(number)
    # Not torch.manual_seed, which goes through all kinds of devices as well: ten times this for every image.
    torch.default_generator.manual_seed(number)


@contextlib.contextmanager
def _seeded_on(device: torch.device, number: int) -> Iterator[None]:
    """Run a block with the generator of a device seeded, then put it back."""
    module = torch.get_device_module(device)
    before = module.get_rng_state(device)
    try:
        with torch.accelerator.device_index(device.index):
            module.manual_seed(number)
        yield
    finally:
        module.set_rng_state(before, device)
