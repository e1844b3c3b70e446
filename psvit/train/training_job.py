"""TrainingJob: the training of one network, as a value. TrainingResult: its outcome.

A job holds everything that decides which weights a training ends with, except for the images and the kind of device.
`psvit.train.job_runner` trains it, `psvit.executors.executor` decides where that is done, and
`psvit.train.result_store` keeps the result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from psvit.arch.architecture import Architecture
from psvit.train.recipe import Recipe

TrainedOn = Literal["train", "all_train"]
"""The images that a network is trained on: the training images, or the search and verdict images as well."""

ScoredOn = Literal["search", "verdict", "val"]
"""The images that a network is scored on. If it was trained on `all_train`, it can only be scored on `val`."""

RANDOM = "random"

DIGEST_DIGITS = 16


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """One training of one network.

    Attributes:
        arch: the architecture of the network.
        recipe: how it is trained.
        seed: the seed of everything random in the training.
        init: the weights that it begins with: `random`, or a name for inherited weights, such as their digest.
        split: the images that it is trained on.
        num_images: the number of these images to use; `None` uses all.
        until: the epoch of the recipe at which the training pauses; `None` trains to the end. A job that pauses later
            goes on from there.
        label: the text of the progress bar. Jobs that differ only in the label are equal.
    """

    arch: Architecture
    recipe: Recipe
    seed: int
    init: str = RANDOM
    split: TrainedOn = "train"
    num_images: int | None = None
    until: int | None = None
    label: str = field(default="", compare=False)

    @property
    def digest(self) -> str:
        """A short hash of the job. Equal jobs have equal digests."""
        about: list[Any] = [self.arch.to_dict(), self.recipe.to_dict(), self.seed, self.num_images]
        if (self.init, self.split) != (RANDOM, "train"):
            # The defaults are left out, so that the digests in journals of version 0.1 are still found.
            about += [self.init, self.split]
        if self.until is not None:
            about.append({"until": self.until})
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:DIGEST_DIGITS]

    def to_dict(self) -> dict[str, Any]:
        """The job, JSON-serialisable."""
        return {**vars(self), "arch": self.arch.to_dict(), "recipe": self.recipe.to_dict()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The job that `to_dict` described.

        Raises:
            InputError: the architecture or the recipe breaks a rule.
        """
        values = {"arch": Architecture.from_dict(fields["arch"]), "recipe": Recipe.from_dict(fields["recipe"])}
        return cls(**{**fields, **values})


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The outcome of a job.

    A store may keep the accuracies alone; the other attributes then have their defaults.

    Attributes:
        accuracies: top-1 in percent after the last epoch, by the images that the network was scored on.
        losses: cross entropy without label smoothing, by the same images.
        right: which images it recognises, (images,), by the same images.
        seconds: how long the training took, without scoring.
        log: one row for each epoch, see `psvit.train.training.Trained`.
    """

    accuracies: Mapping[ScoredOn, float]
    losses: Mapping[ScoredOn, float] = field(default_factory=dict)
    right: Mapping[ScoredOn, NDArray[np.bool_]] = field(default_factory=dict, compare=False)
    seconds: float | None = None
    log: tuple[Mapping[str, float], ...] = ()
