"""What all tests share."""

from __future__ import annotations

import gc
import multiprocessing
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

# The suite runs in several processes, and threads of theirs that wait for one another slow each other down many times
# over. Set before PyTorch is loaded, and inherited by the commands that tests call.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What PyTorch compiles is kept in one folder, where processes that compile the same thing at once disturb each other.
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "alone")
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"psvit-tests-inductor-{WORKER}"))

# What is loaded and collected stays until the end. Looking through it for garbage again and again took a tenth of the
# suite's time, so that is left out while it grows, and afterwards it is not looked at.
gc.disable()


def pytest_configure(config: pytest.Config) -> None:
    """GPUs are hidden from tests that do not ask for one, so that the suite is the same everywhere."""
    if "gpu" not in config.option.markexpr.replace("not gpu", ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that say how long they take come first, the longest before others, so that no process waits for one."""
    items.sort(key=lambda item: -max((mark.kwargs.get("seconds", 0) for mark in item.iter_markers("slow")), default=0))


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def _nothing_waits_for_the_disk() -> Iterator[None]:
    """Files of this process are not forced onto the disk, which took most of the time wherever journals are written.

    It matters when the power fails. Whoever is only killed leaves what the system has already been given.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: os.fstat(file) and None)
        yield


@pytest.fixture(scope="session", autouse=True)
def measure_a_step() -> Iterator[Callable[..., float]]:
    """Searches measure no training steps to say how long they will take, but where a test asks for what does that."""
    from psvit.search import estimate

    measured = estimate._measured
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimate, "_measured", lambda *args: 0.001)
        yield measured


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, int]]:
    """Which jobs are trained: network and seed, in order."""
    from psvit.train import job_runner  # PyTorch takes seconds, and not every test needs it

    calls, train = [], job_runner.train

    def remember(task, loader, recipe, *, seed, **kwargs):
        calls.append((task.model.arch, seed))
        return train(task, loader, recipe, seed=seed, **kwargs)

    monkeypatch.setattr(job_runner, "train", remember)
    return calls


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of 40 of scikit-learn's digits a class, on which a search takes seconds; not to be changed by tests."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("few") / "digits"
    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    for label in range(10):
        for index, place in enumerate(np.flatnonzero(digits.target == label)[:40]):
            path = folder / ("train" if index < 30 else "val") / f"{label}" / f"{index:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[place]).save(path)
    return str(folder)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray cluster of two nodes with a core each; tests that use it are in the group `ray`, so there is only one.

    Every module has its own: tests take nodes away from it. Commands that start clusters themselves are in the group
    `ray in commands`.
    """
    from ray.cluster_utils import Cluster

    # Workers that are nice starve beside whatever else runs. Nodes that tests add later read this as well.
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_worker_niceness="0")
    # What a lost node is noticed by; in seconds instead of half a minute.
    quick = {"health_check_period_ms": 500, "health_check_failure_threshold": 4, "health_check_timeout_ms": 500}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    head = {"num_cpus": 0, "_system_config": quick, "include_dashboard": False, "ray_client_server_port": port}
    with pytest.MonkeyPatch.context() as patch:
        # What waits how is told by whoever uses the cluster; the nodes know nothing of it.
        for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
            patch.delenv(name, raising=False)
        cluster = Cluster(initialize_head=True, head_node_args=head)
        cluster.client_address = f"ray://{cluster.head_node.node_ip_address}:{port}"
        for _ in range(2):
            cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


class ByValue:
    """A function that another process receives whole, with all that it refers to; of itself it would send its name."""

    def __init__(self, function: Callable[..., object]) -> None:
        self.function = function

    def __reduce__(self):
        from ray import cloudpickle

        return cloudpickle.loads, (cloudpickle.dumps(self.function),)


@pytest.fixture(scope="session")
def make_process() -> Callable[..., BaseProcess]:
    """Makes a process that calls a function; the module of a test, which it cannot import, is registered by value.

    Processes are forked from one that has only loaded the libraries, which takes seconds. Forked from this one they
    could not compute gradients where PyTorch has begun threads for those of a GPU; tests that ran before can be the
    reason, even without a GPU.
    """
    context = multiprocessing.get_context("forkserver")
    libraries = [
        "pytest",
        "ray.cloudpickle",
        "psvit.supernet.train",
        "psvit.search.run",
        "psvit.search.report.document",
    ]
    context.set_forkserver_preload(libraries)

    def make(function: Callable[..., object], *arguments: Any) -> BaseProcess:
        by_value = (ByValue(argument) if isinstance(argument, FunctionType) else argument for argument in arguments)
        return context.Process(target=ByValue(function), args=tuple(by_value))

    return make


@pytest.fixture(scope="session")
def marked() -> Callable[[str], list[tuple[str, bytes]]]:
    """Finds the processes that come from one that had a mark in its environment."""

    def find(mark: str) -> list[tuple[str, bytes]]:
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if mark.encode() in (path / "environ").read_bytes():
                    found.append((path.name, (path / "cmdline").read_bytes()[:200]))
            except OSError:  # gone, or not ours
                continue
        return found

    return find
