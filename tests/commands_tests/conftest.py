"""Calling the commands, and what several tests call them on."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from psvit.arch.architecture import Architecture
from psvit.cli import run
from psvit.search.indicators import DSS
from psvit.search.trial import Score

MODULES = {
    "psvit-supernet": "psvit.supernet.cli",
    "psvit-search": "psvit.search.cli",
    "psvit-latency": "psvit.search.latency.cli",
    "psvit-fidelity": "psvit.search.fidelity.cli",
    "psvit-retrain": "psvit.retrain.cli",
    "psvit-export": "psvit.retrain.delivery.cli",
    "psvit-predict": "psvit.retrain.delivery.cli",
}

COMMANDS = {"psvit-export": "export_command", "psvit-predict": "predict_command"}
"""What they are called in their modules, where it is not `command`."""

BRIEFLY = tuple(
    word for value in ("epochs=2", "warmup_epochs=0", "batch_size=128") for word in ("--supernet-set", value)
)
"""A second instead of minutes; nothing is learnt, which no test here needs."""

SPACE = ("--space", "psvit-2d-digits")
SHORT = ("--recipe", str(Path(__file__).with_name("short.yaml")))

FEW = ("--finalists", "2", "--control", "2", *SHORT)


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it printed."""

    command: str
    status: int
    out: str
    err: str

    @property
    def last_line(self) -> str:
        return self.out.strip().splitlines()[-1]


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Outcome]:
    """Calls a command in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def in_process(command: str, *arguments: object) -> Outcome:
        capfd.readouterr()
        called = getattr(importlib.import_module(MODULES[command]), COMMANDS.get(command, "command"))
        with pytest.raises(SystemExit) as ended:
            run(called, [str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return Outcome(command, ended.value.code, out, err)

    return in_process


@pytest.fixture(scope="session")
def printed_by() -> Callable[..., str]:
    """Calls a command in this process, in a folder, for what several tests look at; returns what it printed."""

    def in_folder(folder: Path, command: str, *arguments: object) -> str:
        called = getattr(importlib.import_module(MODULES[command]), COMMANDS.get(command, "command"))
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.chdir(folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            run(called, [str(argument) for argument in arguments])
        assert (ended.value.code, err.getvalue()) == (0, "")
        return out.getvalue()

    return in_folder


@pytest.fixture(scope="session")
def script() -> Callable[[str], str]:
    """Where an installed command is."""

    def path(command: str) -> str:
        found = Path(sysconfig.get_path("scripts")) / command
        assert found.exists()
        return str(found)

    return path


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory, printed_by: Callable[..., str], few_digits: str) -> Path:
    """The finished run of a search on few digits that trained its own supernet; not to be changed by tests."""
    place = tmp_path_factory.mktemp("searched")
    command = (
        "psvit-search",
        "--data",
        few_digits,
        "--evaluator",
        "inherited",
        *SPACE,
        "--budget",
        "1MFLOPs",
        *BRIEFLY,
        "--trials",
        "8",
        *FEW,
    )
    # Kept beside the run, for the tests that look at what it printed.
    (place / "out.txt").write_text(printed_by(place, *command, "--out", "run"))
    return place / "run"


@pytest.fixture
def quick_indicator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arbitrary scores instead of the training-free indicator, which takes a twentieth of a second for each."""

    def evaluate(self: DSS, archs: Sequence[Architecture], best: Sequence[float] = ()) -> list[Score]:
        return [Score(value=float(int(sha256(repr(arch).encode()).hexdigest()[:8], 16))) for arch in archs]

    monkeypatch.setattr(DSS, "evaluate", evaluate)


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes an image folder of small images whose classes differ in their pattern."""

    def make(
        name: str = "images",
        classes: tuple[str, ...] = ("cat", "dog"),
        each: int = 20,
        mode: str = "RGB",
        sizes: tuple[int, ...] = (8,),
    ) -> Path:
        rng = np.random.default_rng(0)
        for part, count in (("train", each), ("val", each // 2)):
            for label, class_name in enumerate(classes):
                folder = tmp_path / name / part / class_name
                folder.mkdir(parents=True)
                for index in range(count):
                    side = sizes[index % len(sizes)]
                    pixels = (rng.integers(0, 100, size=(side, side, 3)) + 100 * (label == np.arange(3))).astype(
                        np.uint8
                    )
                    Image.fromarray(pixels).convert(mode).save(folder / f"{index:03}.png")
        return tmp_path / name

    return make


@pytest.fixture(scope="session")
def python() -> str:
    """The interpreter that runs the tests."""
    return sys.executable
