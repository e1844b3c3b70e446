"""Checkpoints: what a training needs to go on, in files that are whole or not there.

A checkpoint is one safetensors file: tensors, and everything else as JSON in its header. Reading one runs no code.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from psvit.errors import InputError
from psvit.io.documents import replacing

_logger = logging.getLogger(__name__)

FOLDER = "checkpoints"
METADATA = "psvit"

EVERY_SECONDS = 60.0
"""Least time between two checkpoints, where nothing else is said."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """How often checkpoints are written and how many are kept; neither decides what comes out of a training.

    Attributes:
        every_seconds: least time between two checkpoints; the end of a training is one besides.
        number: how many of the last ones are kept. More than one is for those who want to go back.

    Raises:
        InputError: a time that is negative, or none is kept.
    """

    every_seconds: float = EVERY_SECONDS
    number: int = 1

    def __post_init__(self) -> None:
        if not self.every_seconds >= 0:
            raise InputError(f"checkpoint_seconds must be at least 0, received {self.every_seconds}")
        if self.number < 1:
            raise InputError(f"keep must be at least 1, received {self.number}")


@dataclass
class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: the run's; they lie below it.
        checkpointing: how many and how often.
    """

    folder: Path
    checkpointing: CheckpointConfig
    _written: float = field(default_factory=lambda: time.monotonic())

    @property
    def paths(self) -> list[Path]:
        """The files, oldest first."""
        return sorted((self.folder / FOLDER).glob("*.safetensors"))

    @property
    def due(self) -> bool:
        """Whether enough time has passed since the last one."""
        return time.monotonic() - self._written >= self.checkpointing.every_seconds

    def save(self, step: int, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        """Write a checkpoint, then remove those that are too many.

        Args:
            step: how many steps were made.
            tensors: by name.
            about: all else, JSON-serialisable.
        """
        # Copies, because safetensors refuses tensors that share memory.
        copies = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        # Ten digits, so that the order of names is that of steps.
        with replacing(self.folder / FOLDER / f"{step:010}.safetensors") as temporary:
            save_file(copies, temporary, {METADATA: json.dumps(about)})
        for path in self.paths[: -self.checkpointing.number]:
            path.unlink()
        self._written = time.monotonic()

    def latest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The tensors and all else of the last checkpoint; `None` if there is none.

        If a failing disk has damaged a file, an older one is read instead.

        Raises:
            InputError: all are damaged.
        """
        damage = ""
        for path in reversed(self.paths):
            try:
                with safe_open(path, framework="pt") as stream:
                    about = json.loads((stream.metadata() or {})[METADATA])
                    return {name: stream.get_tensor(name) for name in stream.keys()}, about  # noqa: SIM118
            except (SafetensorError, OSError, KeyError, ValueError) as error:
                damage = damage or f"{path}: not a readable checkpoint: {error}; remove it to begin again"
                _logger.warning("passing over %s: %s", path, error)
        if damage:
            raise InputError(damage)
        return None

    def clear(self) -> None:
        """Remove all, because the training is finished and its result written."""
        # With what a process that was killed while it wrote has left there.
        if (self.folder / FOLDER).is_dir():
            shutil.rmtree(self.folder / FOLDER)
