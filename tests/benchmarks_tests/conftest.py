"""Running a script of benchmarks/, and what several tests run one on."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from psvit.nn.seeding import seeded
from psvit.space.search_space import SearchSpace
from psvit.supernet.supernet import Supernet

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@dataclass(frozen=True)
class Ended:
    """How a script ended, and what it printed."""

    status: int
    out: str
    err: str

    @property
    def rows(self) -> list[list[str]]:
        """The cells of all Markdown tables, headings too, row by row."""
        lines = [line for line in self.out.splitlines() if line.startswith("|") and not line.startswith("|---")]
        return [[cell.strip().strip("`*") for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture
def call_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Ended]]:
    """Runs a script in this process, in a folder of its own; it may change how many threads there are, and seed."""
    monkeypatch.chdir(tmp_path)
    threads, state = torch.get_num_threads(), torch.get_rng_state()

    def call(name: str, *options: object) -> Ended:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", [str(BENCHMARKS / f"{name}.py"), *map(str, options)])
        status = 0
        try:
            importlib.import_module(name).main()
        except SystemExit as ended:
            status = ended.code or 0
            assert isinstance(status, int), status
        return Ended(status, *capfd.readouterr())

    yield call
    torch.set_num_threads(threads)
    torch.set_rng_state(state)


@pytest.fixture
def numbers() -> Callable[[str], list[float]]:
    """Finds the numbers in a text."""
    return lambda text: [float(number.replace(",", "")) for number in re.findall(r"-?\d[\d,]*\.?\d*", text)]


@pytest.fixture
def untrained(tmp_path: Path) -> Callable[..., Path]:
    """Makes the run folder of a supernet that was never trained, for digits."""

    def make(name: str = "supernet", seed: int = 0, space: SearchSpace | None = None) -> Path:
        with seeded(seed):
            supernet = Supernet(space or SearchSpace.load("psvit-2d-digits"))
        recipe = {"sampling": "uniform", "target": "labels", "epochs": 0}
        supernet.save(tmp_path / name / "supernet.safetensors", {"data": "digits", "recipe": recipe})
        return tmp_path / name

    return make
