"""Trainings: which networks a fidelity is measured on, and how each is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from psvit.data import ImageData, Inputs
from psvit.errors import InputError
from psvit.search.fidelity.drawing import Drawn, around, draw_spread, draw_within
from psvit.space.budget import Budget
from psvit.space.search_space import SearchSpace
from psvit.train.device_checks import check_device
from psvit.train.job_runner import images_of
from psvit.train.recipe import Recipe
from psvit.train.training_job import TrainingJob
from psvit.train.training_loader import training_loader

SECOND_SEEDS = 10
"""How many networks are trained twice, where nothing is said and there are as many."""


@dataclass(frozen=True, kw_only=True)
class Trainings:
    """Which networks are trained, and how; supernets are compared on the same ones.

    Attributes:
        space: the space, with the data's classes and channels.
        data: the images.
        budget: the limits as given.
        recipe: how networks are trained.
        images: on how many of the training images; on all if not given.
        seed: of the networks that are drawn, and of their trainings.
        device: where this process computes.
        within: how many networks are drawn around the budget.
        spread: how many over the whole reach of MACs.
        second_seeds: how many of those around the budget are trained with a second seed.
        workers: see `psvit.executors.workers.Workers`; without any, this process trains.
        training_device: where networks are trained, if workers have another device than this process.
        limits: within which networks are drawn around the budget.
        config: all that decides what comes out for a network, JSON-serialisable; networks may be added, and elsewhere.
        networks: the networks.
        jobs: every network with the first seed, and some of those around the budget with the second.

    Raises:
        InputError: no network can be drawn around the budget, or none can be trained so.
    """

    space: SearchSpace
    data: ImageData
    budget: tuple[str, ...]
    recipe: Recipe
    images: int | None
    seed: int
    device: torch.device
    within: int
    spread: int
    second_seeds: int
    workers: str | None = None
    training_device: torch.device | None = None
    limits: Budget = field(init=False)
    config: dict[str, Any] = field(init=False, repr=False)
    networks: Drawn = field(init=False, repr=False)
    jobs: tuple[TrainingJob, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        limits = around(Budget.parse(*self.budget, space=self.space))
        self.space.check(limits)
        self._check_training()
        networks = Drawn(
            within=draw_within(self.space, limits, self.within, self.seed),
            spread=draw_spread(self.space, self.spread, self.seed),
        )
        resolved = {
            "limits": limits,
            "config": self._config(limits),
            "networks": networks,
            "jobs": self._jobs(networks),
        }
        for name, value in resolved.items():
            object.__setattr__(self, name, value)

    @property
    def trained_on(self) -> torch.device:
        """Where networks are trained."""
        return self.training_device or self.device

    def _check_training(self) -> None:
        if not self.workers:  # their devices may not be here
            check_device(self.device, self.recipe)
        inputs = Inputs.of(self.data, self.space.image_size)
        loader = training_loader(images_of(self.data, "train", self.images), inputs, self.recipe)
        loader.check(self.recipe.accumulate, self.recipe.mixes)

    def _config(self, limits: Budget) -> dict[str, Any]:
        return {
            "space": self.space.name,
            "space_digest": self.space.digest,
            "data": self.data.name,
            "data_digest": self.data.digest,
            "budget": list(self.budget),
            "limits": limits.resolved,
            "recipe": self.recipe.to_dict(),
            "images": self.images,
            "seed": self.seed,
            "device": self.trained_on.type,
        }

    def _jobs(self, networks: Drawn) -> tuple[TrainingJob, ...]:
        wanted = [(arch, self.seed) for arch in networks.all]
        wanted += [(arch, self.seed + 1) for arch in networks.within[: self.second_seeds]]
        return tuple(
            TrainingJob(
                arch=arch,
                recipe=self.recipe,
                seed=seed,
                num_images=self.images,
                label=f"training {number} of {len(wanted)}, seed {seed}",
            )
            for number, (arch, seed) in enumerate(wanted, start=1)
        )


def check_numbers(within: int, spread: int, second_seeds: int | None) -> int:
    """Make sure that so many networks can be compared.

    Returns:
        How many of those around the budget are trained twice.

    Raises:
        InputError: they cannot.
    """
    if within < 2:
        raise InputError(f"--within {within}: at least 2 networks are needed to rank")
    if spread < 0:
        raise InputError(f"--spread {spread}: must be at least 0")
    if second_seeds is None:
        return min(SECOND_SEEDS, within)
    if not 0 <= second_seeds <= within:
        raise InputError(f"--second-seeds {second_seeds}: there are --within {within} networks; give no more than that")
    return second_seeds
