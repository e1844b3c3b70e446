"""Scoring: how the candidates of a search are scored, as a value that can be sent to other processes."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from psvit.data import Batches, ImageData, Inputs
from psvit.errors import InputError
from psvit.executors.executor import Portable
from psvit.nn.registration import Registration, register_missing, registered
from psvit.search.evaluator import Evaluator
from psvit.search.indicators import DSS
from psvit.search.inherited import InheritedAccuracy
from psvit.search.racing import Race
from psvit.space.search_space import SearchSpace
from psvit.supernet.provenance import supernet_digest
from psvit.supernet.supernet import Supernet

BATCH_SIZE = 128
"""Images that are scored at once on a CPU. More would not be faster, and candidates are given up between batches."""

LARGEST_BATCH = 1024
BATCH_PIXELS = 2**24
"""On a GPU: as many images as keep it busy, and no more pixels than this. What runs out of memory is tried alone."""


def batch_size(device: torch.device, image_size: tuple[int, int]) -> int:
    """How many images of a height and width are scored at once."""
    if device.type == "cpu":
        return BATCH_SIZE
    height, width = image_size
    return min(LARGEST_BATCH, max(BATCH_SIZE, BATCH_PIXELS // (height * width)))


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """Makes evaluators; picklable.

    Attributes:
        space: the space whose members are scored.
        seed: the seed of the order of the images, and of the indicator's random weights.
        device: where to compute.
        own: an evaluator of a user's own. If there is one, it scores.
        supernet: the supernet whose weights score otherwise. Without it, a training-free indicator scores.
        data: the images, if there is a supernet.
        share_prefixes: whether candidates that begin alike are computed together.
        race: when candidates are given up early; `None` gives up none.
        fidelity: how well the supernet ranks, as far as it was measured, JSON-serialisable.
        operators: operators of a user's own, which networks may have.
    """

    space: SearchSpace
    seed: int
    device: str
    own: Evaluator | None = None
    supernet: Portable[Supernet] | None = None
    data: Portable[ImageData] | None = None
    share_prefixes: bool = True
    race: Race | None = None
    fidelity: dict[str, Any] | None = None
    operators: Mapping[str, Registration] = field(default_factory=registered)

    def __call__(self) -> Evaluator:
        """An evaluator.

        Raises:
            InputError: the supernet in the file has changed.
        """
        register_missing(self.operators)
        device = torch.device(self.device)
        if self.own is not None:
            return self.own
        if self.supernet is None:
            return DSS(self.space, self.seed, device)
        assert self.data is not None
        images = self.data.get()
        size = batch_size(device, self.space.image_size)
        batches = Batches(images.search, Inputs.of(images, self.space.image_size), size, device, self.seed)
        return InheritedAccuracy(
            self.supernet.get(),
            batches,
            share_prefixes=self.share_prefixes,
            race=self.race,
            fidelity=self.fidelity,
        )


def portable_supernet(
    file: str | Path, device: torch.device, digest: str | None = None, loaded: Supernet | None = None
) -> Portable[Supernet]:
    """A supernet that is read from its file wherever it is needed, with the weights that the other processes have.

    Args:
        file: the file.
        device: the device to load it on.
        digest: of the weights. Other weights are refused; without a digest, any will do.
        loaded: the supernet, if this process has it already.
    """
    return Portable(partial(_load, str(file), device, digest), loaded)


def _load(file: str, device: torch.device, digest: str | None) -> Supernet:
    supernet = Supernet.load(file, device)
    # The digest is read after the weights, so that a file that is replaced meanwhile is noticed.
    if digest and (found := supernet_digest(file)) != digest:
        raise InputError(
            f"supernet {file}: has changed on {platform.node()} since the search began, or is another one there: "
            f"its digest is {found}, not {digest}; all processes of a search need the same weights"
        )
    return supernet
