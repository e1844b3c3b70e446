"""TrainingJob: the training of one network as a value; and what came of it.

A job says all that decides what a network becomes, besides the images and the kind of device. `psvit.train.job_runner`
trains it, `psvit.executors.executor` says where, `psvit.train.result_store` remembers what came of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from psvit.arch.architecture import Architecture
from psvit.train.recipe import Recipe

TrainedOn = Literal["train", "all_train"]
"""On which images a network is trained: those of training, or those of training and searching together."""

ScoredOn = Literal["search", "val"]
"""On which images it is scored; a network that was trained on `all_train` can only be scored on `val`."""

RANDOM = "random"

DIGEST_DIGITS = 16


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """One training of one network.

    Attributes:
        arch: the network.
        recipe: how it is trained.
        seed: of everything random.
        init: the weights that it begins with: `random`, or a name for those that it inherits, such as their digest.
        split: on which images it is trained.
        num_images: on how many of them; on all if it is `None`.
        label: what a progress bar says. It decides nothing: jobs that differ only in it are equal.
    """

    arch: Architecture
    recipe: Recipe
    seed: int
    init: str = RANDOM
    split: TrainedOn = "train"
    num_images: int | None = None
    label: str = field(default="", compare=False)

    @property
    def digest(self) -> str:
        """Equal jobs have equal ones."""
        about: list[Any] = [self.arch.to_dict(), self.recipe.to_dict(), self.seed, self.num_images]
        if (self.init, self.split) != (RANDOM, "train"):
            # Left out otherwise, so that the digests in journals of version 0.1 stay what they are.
            about += [self.init, self.split]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:DIGEST_DIGITS]

    def to_dict(self) -> dict[str, Any]:
        """The job, JSON-serialisable."""
        return {**vars(self), "arch": self.arch.to_dict(), "recipe": self.recipe.to_dict()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """What `to_dict` described.

        Raises:
            InputError: the architecture or the recipe breaks a rule.
        """
        values = {"arch": Architecture.from_dict(fields["arch"]), "recipe": Recipe.from_dict(fields["recipe"])}
        return cls(**{**fields, **values})


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What came of a job.

    Attributes:
        accuracies: top-1 in percent after the last epoch, by the images that the network was scored on.
        losses: cross entropy without smoothing there; empty where a store does not keep it.
        seconds: how long the training took, scoring left out; `None` where a store does not keep it.
        log: one row for each epoch, see `psvit.train.training.Trained`; empty where a store does not keep it.
    """

    accuracies: Mapping[ScoredOn, float]
    losses: Mapping[ScoredOn, float] = field(default_factory=dict)
    seconds: float | None = None
    log: tuple[Mapping[str, float], ...] = ()
