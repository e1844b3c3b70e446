"""Set how OpenMP's threads wait for one another, before PyTorch is loaded.

PyTorch computes with GNU OpenMP. Its threads spin before they sleep: 300,000 rounds by default, which is so long that
beside a single busy process a training step becomes many times slower, because the threads spin on the core that they
wait for. Threads that sleep at once are slow without other programs. `benchmarks/openmp_waiting.py` measures this.

The library reads its settings once, when it is loaded, so they have to be in the environment before `import torch`. The
commands put ours there, where the processes that they start find it too. `import psvit` does not: in a notebook or in
another program the environment belongs to whoever wrote that, and PyTorch has often been loaded already. There, set
`GOMP_SPINCOUNT=10000` before Python starts. Other implementations of OpenMP, such as LLVM's, do not read it.
"""

from __future__ import annotations

import os

SPIN_COUNT = "10000"
"""Rounds that a thread spins before it sleeps."""

_SPIN_COUNT_NAME = "GOMP_SPINCOUNT"
_WAIT_POLICY_NAME = "OMP_WAIT_POLICY"


def waiting_settings() -> dict[str, str]:
    """The environment variables that say how threads wait: the user's if there are any, otherwise ours."""
    own = {name: os.environ[name] for name in (_SPIN_COUNT_NAME, _WAIT_POLICY_NAME) if name in os.environ}
    return own or {_SPIN_COUNT_NAME: SPIN_COUNT}


def wait_briefly() -> None:
    """Put our setting into this process's environment, unless the user has one; to be called before `import torch`."""
    os.environ.update(waiting_settings())
