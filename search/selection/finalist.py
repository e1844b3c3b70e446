"""Finalist: one of the candidates among which a search chooses what it delivers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from psvit.arch.architecture import Architecture
from psvit.arch.costs import METRICS, Cost
from psvit.data import Baseline
from psvit.errors import InputError
from psvit.nn.picture import draw
from psvit.report.formatting import count
from psvit.search.proposal import REFERENCE
from psvit.search.trial import Trial
from psvit.space.budget import format_cost


@dataclass(frozen=True, kw_only=True)
class Look:
    """What trainings of a network had reached at a rung.

    Attributes:
        epoch: the epoch of their schedule.
        accuracies: top-1 in percent on the search images, one for each training.
    """

    epoch: int
    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean accuracy."""
        return mean(self.accuracies)


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """A trial of a search that may be delivered.

    Attributes:
        trial: the trial.
        name: for people: `trial 12`, or what kind of reference it is.
        latencies: by the limit's setting, what was predicted and what was measured.
        looks: what its trainings reached at each rung that it came to; empty if it was not trained.
        failure: why a training of it failed; empty if none did. A network whose training failed cannot win.
        written: its architecture file, once that is written.
    """

    trial: Trial
    name: str = ""
    latencies: dict[str, Any] = field(default_factory=dict)
    looks: tuple[Look, ...] = ()
    failure: str = ""
    written: Path | None = None

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", f"trial {self.trial.number}")

    @property
    def file(self) -> Path:
        """Its architecture file.

        Raises:
            InputError: it was not written, because it is neither the winner nor on a front of several objectives.
        """
        if self.written is None:
            raise InputError(f"{self.name}: has no architecture file; take its .arch")
        return self.written

    @property
    def is_reference(self) -> bool:
        """Whether it is a hand-made network instead of one that the search found."""
        return self.trial.origin == REFERENCE

    @property
    def arch(self) -> Architecture:
        """The architecture."""
        return self.trial.arch

    @property
    def cost(self) -> Cost:
        """Its costs."""
        return self.trial.cost

    @property
    def score(self) -> float | None:
        """Its score."""
        return self.trial.score.value

    @property
    def scored(self) -> str:
        """Its score for people; empty without one."""
        return "" if self.score is None else f"{self.score:.6g}"

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Top-1 in percent on the search images at the last rung that it came to; empty if it was not trained."""
        return self.looks[-1].accuracies if self.looks else ()

    @property
    def accuracy(self) -> float | None:
        """The mean of `accuracies`; `None` if it was not trained."""
        return self.looks[-1].mean if self.looks else None

    @property
    def spread(self) -> float | None:
        """The standard deviation of `accuracies`; `None` if there are fewer than two."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else None

    def caution(self, baseline: Baseline | None) -> str:
        """What to say of a winner that is worse than logistic regression on the same images; empty otherwise."""
        if baseline is None or self.accuracy is None or self.accuracy >= baseline.accuracy:
            return ""
        points, after = baseline.accuracy - self.accuracy, count(self.looks[-1].epoch, "epoch")
        return f"the network that was found is {points:.2f} points worse after {after}"

    def to_dict(self) -> dict[str, Any]:
        """What the report and the winner's file say of it, JSON-serialisable."""
        return {
            "name": self.name,
            "trial": self.trial.number,
            "score": self.trial.score.value,
            "looks": [{"epoch": look.epoch, "accuracies": list(look.accuracies)} for look in self.looks],
            "macs": self.trial.cost.macs,
            "num_params": self.trial.cost.num_params,
            **({"failed": self.failure} if self.failure else {}),
        }

    def _repr_html_(self) -> str:
        costs = ", ".join(format_cost(metric, getattr(self.cost, metric)) for metric in METRICS)
        title = self.name[:1].upper() + self.name[1:]
        return f"{draw(self.arch, titles=[title])}<p>{f'score {self.scored}, ' if self.scored else ''}{costs}</p>"
