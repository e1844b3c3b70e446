"""What all tests share."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

with contextlib.suppress(ImportError):  # tests on a GPU do without
    from hypothesis import HealthCheck, settings

    # Nothing is judged by the time that it takes: something else may keep the machine busy.
    settings.register_profile("psvit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("psvit")

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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a command said that failed is shown; the error itself holds it and does not tell."""
    report = yield
    error = call.excinfo.value if call.excinfo else None
    if isinstance(error, subprocess.CalledProcessError | subprocess.TimeoutExpired):
        for name in ("stdout", "stderr"):
            if told := getattr(error, name):
                report.sections.append((f"{name} of the process", str(told)[-5000:]))
    return report


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


# --- pages in a browser

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

DRAWN_SECONDS = 60
"""Until a page has to be drawn, on a machine that is busy with other tests."""

DRAWN = """
const page = document.documentElement;
return document.readyState === "complete"
  && (page.dataset.drawn !== undefined || !document.querySelector("script[data-figure]"));
"""

TEXTS = """
const small = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node = walker.nextNode(); node; node = walker.nextNode()) {
  const parent = node.parentElement;
  if (!node.textContent.trim() || parent.closest("script, style, noscript, title, desc, .modebar")) continue;
  const box = parent.getBoundingClientRect();
  if (!box.width) continue;
  // What is scaled down with a picture is as small as it looks.
  const svg = parent.closest("svg[viewBox]");
  const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
  small.push([parseFloat(getComputedStyle(parent).fontSize) * scale, node.textContent.trim().slice(0, 40)]);
}
return small.sort((one, other) => one[0] - other[0]);
"""

CONTRAST = """
const light = (color) => {
  const [r, g, b] = color.match(/[0-9.]+/g).slice(0, 3).map((c) => {
    c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = light(getComputedStyle(document.body).backgroundColor);
const texts = [...document.querySelectorAll("main > p, h1, h2, dt, figcaption, summary, .xtick text, .legendtext")];
return [ground, ...texts.map((text) => {
  const style = getComputedStyle(text);
  const own = light(text instanceof SVGElement ? style.fill : style.color);
  return (Math.max(own, ground) + 0.05) / (Math.min(own, ground) + 0.05);
})];
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A real Chromium that no network reaches."""
    if (CHROMIUM is None or DRIVER is None) and "CI" not in os.environ:
        pytest.skip("needs Debian's chromium and chromium-driver (apt-get install chromium chromium-driver)")
    assert CHROMIUM, "chromium is missing; .ci/run installs it"
    assert DRIVER, "chromedriver is missing; .ci/run installs it"
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    # Root, as in containers, needs --no-sandbox; /dev/shm is small there.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    yield driver
    driver.quit()


@dataclass(frozen=True)
class Visit:
    """Looks at pages.

    Attributes:
        driver: of the browser.
    """

    driver: Any

    def __call__(self, path: Path, width: int, scheme: str = "light") -> Any:
        """Open a file at a width, wait until it is drawn, and make sure that the console has nothing to say."""
        from selenium.webdriver.support.ui import WebDriverWait

        self.resize(width)
        self.choose_scheme(scheme)
        self.driver.get_log("browser")
        self.driver.get(path.as_uri())
        WebDriverWait(self.driver, DRAWN_SECONDS).until(lambda driver: driver.execute_script(DRAWN))
        assert self.driver.execute_script("return innerWidth") == width
        assert self.driver.get_log("browser") == []
        return self.driver

    def resize(self, width: int) -> None:
        """Make the window as wide as so many pixels."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def choose_scheme(self, scheme: str) -> None:
        """Prefer `light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def smallest_text(self) -> tuple[float, str]:
        """How many pixels the smallest letters have, and what they say."""
        size, text = self.driver.execute_script(TEXTS)[0]
        return size, text

    def contrasts(self) -> tuple[float, list[float]]:
        """How light the ground is, from 0 to 1, and the contrast of texts with it."""
        ground, *contrasts = self.driver.execute_script(CONTRAST)
        return ground, contrasts


@pytest.fixture
def visit(browser: Any) -> Visit:
    """Opens pages in the browser."""
    return Visit(browser)
