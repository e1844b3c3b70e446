"""Scoring: how the candidates of a search are scored, as a value that can travel to the processes that do it."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import torch

from psvit.data import Batches, ImageData, Inputs, open_data
from psvit.errors import InputError
from psvit.search.evaluator import Evaluator
from psvit.search.indicators import DSS
from psvit.search.inherited import InheritedAccuracy
from psvit.search.racing import Race
from psvit.space.search_space import SearchSpace
from psvit.supernet.supernet import Supernet, supernet_digest

BATCH_SIZE = 128
"""Images that are scored at once; more would be no faster, and candidates are given up between batches."""


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """Makes evaluators; picklable.

    Attributes:
        space: whose members are scored.
        seed: of the order in which images are looked at, and of the indicator's random weights.
        device: where to compute.
        supernet: its file; without one, a training-free indicator scores.
        digest: of that file, which an evaluator refuses to be made from when it has changed; without one any will do.
        data: the name of the images, where there is a supernet.
        share_prefixes: whether candidates that begin alike are computed together.
        race: when candidates are given up on; never without it.
        fidelity: what is known of how well the supernet ranks, JSON-serialisable.
    """

    space: SearchSpace
    seed: int
    device: str
    supernet: str | None = None
    digest: str | None = None
    data: str | None = None
    share_prefixes: bool = True
    race: Race | None = None
    fidelity: dict[str, Any] | None = None

    def __call__(self, images: ImageData | None = None, supernet: Supernet | None = None) -> Evaluator:
        """An evaluator.

        Args:
            images: those of `data`, where they are open already.
            supernet: the one in the file, where it is loaded already.

        Raises:
            InputError: the supernet in the file is another one by now.
        """
        device = torch.device(self.device)
        if self.supernet is None:
            return DSS(self.space, self.seed, device)
        assert self.data is not None
        images = images or open_data(self.data)
        batches = Batches(images.search, Inputs.of(images, self.space.image_size), BATCH_SIZE, device, self.seed)
        return InheritedAccuracy(
            supernet or load_unchanged(self.supernet, self.digest, device),
            batches,
            share_prefixes=self.share_prefixes,
            race=self.race,
            fidelity=self.fidelity,
        )


def load_unchanged(file: str, digest: str | None, device: torch.device) -> Supernet:
    """The supernet in a file, with the weights that the other processes of a search have as well.

    Args:
        file: the file.
        digest: of the weights; without one any will do.
        device: where to.

    Raises:
        InputError: the weights in the file are others.
    """
    supernet = Supernet.load(file, device)
    # Afterwards, so that a file that is replaced meanwhile is noticed.
    if digest and (found := supernet_digest(file)) != digest:
        raise InputError(
            f"supernet {file}: has changed on {platform.node()} since the search began, or is another one there: "
            f"its digest is {found}, not {digest}; all processes of a search need the same weights"
        )
    return supernet
