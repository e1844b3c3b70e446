"""TrainLog: what people can watch while something trains: TensorBoard, a table of epochs, the commands' log."""

from __future__ import annotations

import csv
import io
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter

from psvit.io.documents import write_atomic
from psvit.io.folders_in_use import check_in_use

_logger = logging.getLogger(__name__)

EVERY_SECONDS = 5.0
"""Least time between two points of a curve within an epoch; reading a loss makes a GPU wait."""

FILE_NAME = "log.csv"
FOLDER = "tensorboard"


class TrainLog:
    """The log of a run, continued where it was interrupted.

    Args:
        folder: the run's: it gets `log.csv`, one row for each epoch, and `tensorboard/`.
        rows: the epochs so far; the caller adds to them.
        step: steps so far; points that an interrupted run wrote beyond it are taken back.
    """

    def __init__(self, folder: Path, rows: list[dict[str, float]], step: int) -> None:
        self.rows = rows
        self._path = folder / FILE_NAME
        check_in_use(self._path)  # TensorBoard makes folders that are missing
        self._writer = SummaryWriter(str(folder / FOLDER), purge_step=step + 1)
        self._written = time.monotonic()
        if rows:
            # A run may have been interrupted between its last checkpoint and this.
            self._write_table()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    @property
    def due(self) -> bool:
        """Whether it is time for another point."""
        return time.monotonic() - self._written >= EVERY_SECONDS

    def point(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to the curves of values within epochs."""
        for name, value in values.items():
            self._writer.add_scalar(f"step/{name}", value, step)
        self._written = time.monotonic()

    def row(self, step: int) -> None:
        """Show the epoch that `rows` ends with."""
        values = self.rows[-1]
        _logger.info("%s", ", ".join(f"{key} {value:.4g}" for key, value in values.items()))
        for name, value in values.items():
            self._writer.add_scalar(f"epoch/{name}", value, step)
        self._writer.flush()
        self._write_table()

    def _write_table(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(self.rows[0]))
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomic(self._path, text.getvalue())
