"""The command lines that are killed, and what they need: small images, networks and trainings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from psvit import Architecture, Stage

INPUTS = "../../inputs"
"""Where they are, from the folder that a command runs in."""

DATA = ("--data", f"{INPUTS}/images")
SPACE = ("--space", "psvit-2d-digits")
SELECTING = ("--recipe", f"{INPUTS}/recipe.yaml")
SHORT = ("--set", "epochs=3", "--set", "warmup_epochs=1")
SHORT_SUPERNET = tuple(word.replace("--set", "--supernet-set") for word in SHORT)
LONG = ("--set", "epochs=30", "--set", "warmup_epochs=1")
"""Of one training, which shall take longer than the imports do, so that most kills fall into it."""

OFTEN = ("--checkpoint-every", "0.01s")
OUT = ("--verbose", "--out", "run")

RECIPE = """schema: psvit/recipe/1
epochs: 8
batch_size: 64
lr: 0.002
weight_decay: 0.05
interpolation: bilinear
"""


@dataclass(frozen=True)
class Line:
    """A command line.

    Attributes:
        name: of it, in tables.
        words: those after `psvit`.
        copied: inputs that are copied to where it runs, because it writes into them.
        kills: how often it is killed by default.
    """

    name: str
    words: tuple[str, ...]
    copied: tuple[str, ...] = ()
    kills: int = 20


LINES = {
    line.name: line
    for line in (
        Line("search", ("search", *DATA, *SPACE, "--budget", "1MFLOPs", "--trials", "4", *SELECTING, *OUT), kills=100),
        Line("supernet", ("supernet", *DATA, *SPACE, *LONG, *OFTEN, *OUT)),
        Line("retrain", ("retrain", f"{INPUTS}/one.yaml", *DATA, *LONG, *OFTEN, *OUT)),
        Line(
            "retrain-several",
            ("retrain", f"{INPUTS}/one.yaml", f"{INPUTS}/other.yaml", *DATA, *LONG, *OFTEN, *OUT),
        ),
        Line(
            "fidelity",
            (
                *("fidelity", "--supernet", "supernet", "--budget", "1MFLOPs", "--within", "3", "--spread", "2"),
                *("--second-seeds", "2", *SHORT, *OUT),
            ),
            copied=("supernet",),
        ),
        Line("export", ("export", "network", "--to", "onnx", *OUT), copied=("network",)),
        Line(
            "search-init",
            ("search", "--init", "network", *DATA, "--budget", "60%", "--trials", "2", *SELECTING, *OUT),
            copied=("network",),
        ),
        Line(
            "search-front",
            (
                *("search", *DATA, "--evaluator", "inherited", *SPACE, "--budget", "1MFLOPs", "--trials", "8"),
                *("--objectives", "accuracy,macs", "--control", "2", *SHORT_SUPERNET, *SELECTING, *OUT),
            ),
        ),
    )
}
"""By name, what is killed. `psvit-latency` is missing: it waits until the machine is quiet."""

MADE = {
    "supernet": ("supernet", *DATA, *SPACE, *SHORT, "--verbose", "--out", f"{INPUTS}/supernet"),
    "network": ("retrain", f"{INPUTS}/one.yaml", *DATA, *SHORT, "--verbose", "--out", f"{INPUTS}/network"),
}
"""Inputs that commands make."""


def prepare(out: Path, line: Line, run: Callable[[tuple[str, ...], Path], object]) -> None:
    """Make the inputs of a command line.

    Args:
        out: the folder of everything.
        line: the line.
        run: runs a command line in a folder.
    """
    place = out / "inputs"
    for label, pixels in enumerate(_digits()):
        for index, image in enumerate(pixels):
            path = place / "images" / ("train" if index < 30 else "val") / f"{label}" / f"{index:02}.png"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
    (place / "recipe.yaml").write_text(RECIPE)
    for name, groups in (("one", (1, 1, 1, 1)), ("other", (2, 2))):
        _network(groups).save(place / f"{name}.yaml")
    for name in line.copied:
        if not (place / name / f"{name}.safetensors").exists():
            folder = out / "made" / name
            folder.mkdir(parents=True, exist_ok=True)
            run(MADE[name], folder)


def _digits() -> list[NDArray[np.uint8]]:
    """40 images of each class, (40, 8, 8)."""
    from sklearn.datasets import load_digits  # processes that are forked import the script, and do not need this

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return [pixels[digits.target == label][:40] for label in range(10)]


def _network(groups: tuple[int, ...]) -> Architecture:
    return Architecture(
        variant="1d",
        image_size=(8, 8),
        in_chans=1,
        num_classes=10,
        patch_size=2,
        patch_stride=2,
        head_dim=8,
        stages=(Stage(embed_dim=32, groups=groups, mlp_ratio=2.0),),
        pools=(),
    )
