"""The table of a search that begins with a network: that network, what was delivered, and baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

import numpy as np

from psvit.search.compression.speed import Speed
from psvit.space.budget import format_cost
from psvit.train.bootstrap import CONFIDENCE, Difference
from psvit.train.training_job import ScoredOn

BATCH_SIZES = (1, 32)
"""At which networks are timed: a single request, and many images at once."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network of the table.

    Attributes:
        name: for people.
        epochs: of fine-tuning; 0 without any.
        macs, num_params: its costs.
        accuracies: top-1 in percent, one for each training; empty if it is not known.
        speeds: how fast it is, by batch size; empty if that was not measured.
    """

    name: str
    epochs: int
    macs: int
    num_params: int
    accuracies: tuple[float, ...] = ()
    speeds: Mapping[int, Speed] = field(default_factory=dict)

    @property
    def accuracy(self) -> float | None:
        """The mean of the accuracies; `None` without any."""
        return mean(self.accuracies) if self.accuracies else None


@dataclass(frozen=True, kw_only=True)
class Compression:
    """The table of a search that begins with a network.

    Attributes:
        rows: that network; what was delivered, or the front; then the baselines.
        part: the images of the accuracies.
        images: how many these are.
        device: where networks were timed, in words.
        difference: between that network and the delivered one; `None` if it is not known.
        adapted: that network's top-1 in percent after the supernet, whose largest member it is, was adapted; `None` if
            it was not.
    """

    rows: tuple[Row, ...]
    part: ScoredOn
    images: int
    device: str
    difference: Difference | None = None
    adapted: float | None = None

    @property
    def header(self) -> tuple[str, ...]:
        """What stands above the columns of `cells`."""
        return ("network", "epochs", "top-1", "MACs", "of it", *(f"ms, batch {size}" for size in BATCH_SIZES))

    @property
    def title(self) -> str:
        """What the table shows, and on what."""
        return (
            f"made of {self.rows[0].name}: top-1 on {self.images:,} {self.part} images; milliseconds on {self.device}"
        )

    @property
    def cells(self) -> list[tuple[str, ...]]:
        """The rows in words."""
        return [
            (
                row.name,
                str(row.epochs) if row.epochs else "-",
                "-" if row.accuracy is None else f"{row.accuracy:.2f} %{_spread(row.accuracies)}",
                format_cost("macs", row.macs),
                f"{100 * row.macs / self.rows[0].macs:.0f} %",
                *(_milliseconds(row.speeds.get(size), is_first=row is self.rows[0]) for size in BATCH_SIZES),
            )
            for row in self.rows
        ]

    def __str__(self) -> str:
        """How the delivered network compares with the one that it was made of; empty if that is not known."""
        if self.difference is None:
            return ""
        original, delivered = self.rows[:2]
        said = self.difference.in_words(
            f"The delivered network ({delivered.name})", f"the original network ({original.name})", CONFIDENCE
        )
        return (
            f"{said} It has {100 * delivered.macs / original.macs:.0f} % of the multiply-accumulates. "
            f"Both were tested on {self.images:,} {self.part} images."
        )

    @property
    def kept(self) -> str:
        """What adapting the supernet did to the network; empty if that is not known."""
        before = self.rows[0].accuracy
        if self.adapted is None or before is None:
            return ""
        return f"Adapting the supernet changed the original network itself by {self.adapted - before:+.2f} points."

    @property
    def caveat(self) -> str:
        """What is not known of the first accuracy; empty without one."""
        if self.rows[0].accuracy is None:
            return ""
        return (
            "The original network may have learnt from these images. Then its own accuracy is too good here. "
            "psvit-retrain compares the two on the validation images."
        )

    @property
    def lines(self) -> list[str]:
        """What is known, in sentences."""
        return [line for line in (str(self), self.kept, self.caveat) if line]

    def to_dict(self) -> dict[str, Any]:
        """The table, JSON-serialisable."""
        return {
            "text": str(self),
            "images": {"part": self.part, "number": self.images},
            "device": self.device,
            **({"adapted": round(self.adapted, 4)} if self.adapted is not None else {}),
            "networks": [
                {
                    "name": row.name,
                    "epochs": row.epochs,
                    "macs": row.macs,
                    "num_params": row.num_params,
                    "accuracies": [round(value, 4) for value in row.accuracies],
                    "latency": {
                        f"batch {size}": {
                            "median_ms": round(speed.median_ms, 4),
                            "times_as_fast": round(speed.ratio, 4),
                            "iqr": round(speed.spread, 4),
                        }
                        for size, speed in row.speeds.items()
                    },
                }
                for row in self.rows
            ],
        }


def _spread(accuracies: Sequence[float]) -> str:
    return f" ± {np.std(accuracies, ddof=1):.2f}" if len(accuracies) > 1 else ""


def _milliseconds(speed: Speed | None, is_first: bool) -> str:
    if speed is None:
        return "-"
    return f"{speed.median_ms:.3g}" + ("" if is_first else f" ({speed.ratio:.2f}x)")
