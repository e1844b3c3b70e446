"""Seeding what libraries draw from global generators, for a stretch of code and without a trace afterwards."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator

import numpy as np
import torch


@contextlib.contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Run a block with Python's, NumPy's and PyTorch's global generators seeded by `key`, then put them back.

    timm's augmentation and mixup and PyTorch's initialisation and samplers draw from them. Equal keys give equal
    draws, so a key that names seed and step makes a step repeatable by itself.
    """
    with reseeding() as seed_all:
        seed_all(number_of(*key))
        yield


@contextlib.contextmanager
def reseeding() -> Iterator[Callable[[int], None]]:
    """Lend a function that seeds the global generators with a number below 2**32, as often as wanted in the block.

    They are put back at the end of the block.
    """
    python, numpy = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield _seed_all
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def number_of(*key: int) -> int:
    """A number below 2**32 for a key; keys of different lengths are different keys."""
    return int(np.random.SeedSequence((len(key), *key)).generate_state(1)[0])


def _seed_all(number: int) -> None:
    random.seed(number)
    np.random.seed(number)
    if torch.accelerator.is_available():
        torch.manual_seed(number)
    else:
        # A tenth of the time: the other remembers the seed, and who gave it, for devices that are not there.
        torch.default_generator.manual_seed(number)
