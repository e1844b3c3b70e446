"""Seeding what libraries draw from global generators, for a stretch of code and without a trace afterwards."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Run a block with Python's, NumPy's and PyTorch's global generators seeded by `key`, then put them back.

    timm's augmentation and mixup and PyTorch's initialisation and samplers draw from them. Equal keys give equal
    draws, so a key that names seed and epoch makes an epoch repeatable by itself.
    """
    seed = int(np.random.SeedSequence((len(key), *key)).generate_state(1)[0])
    python, numpy = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
