"""Write the winner with its weights and picture, and every point of a Pareto front with its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

import psvit
from psvit.arch.architecture import Architecture, ArchitectureFile
from psvit.classifier import write_weights
from psvit.data import ImageData
from psvit.errors import InputError
from psvit.io.documents import replacing_folder, write_atomic
from psvit.nn.picture import draw
from psvit.search.objectives import Objectives
from psvit.search.result import BEST, FRONT
from psvit.search.selection.finalist import Finalist
from psvit.supernet.supernet import Supernet


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The facts that every architecture file of a search holds besides the architecture.

    Attributes:
        verdict: by how much the winner is ahead of its best rival; empty if that was not found out.
        budget: the limits as given.
        description: what a score is.
        provenance: where the architectures come from.
        objectives: what was improved.
    """

    budget: tuple[str, ...]
    verdict: dict[str, Any] = field(default_factory=dict)
    description: dict[str, Any]
    provenance: dict[str, Any]
    objectives: Objectives

    def file(
        self, finalist: Finalist, provenance: dict[str, Any], verdict: dict[str, Any] | None = None
    ) -> ArchitectureFile:
        """The architecture file of a finalist, its score beside what its trainings in the selection reached."""
        trial = finalist.trial
        raw = dict(zip(self.objectives.names, self.objectives.raw(trial.objectives), strict=True))
        several = {"objectives": raw} if len(raw) > 1 else {}
        reached = {}
        if finalist.accuracy is not None:
            accuracy, look = round(finalist.accuracy, 4), finalist.looks[-1]
            reached = {
                "after_selection": {"accuracy": accuracy, "epochs": look.epoch, "trainings": len(look.accuracies)}
            }
        return ArchitectureFile(
            arch=trial.arch,
            verdict=verdict or {},
            score={"value": trial.score.value, **self.description, "images": trial.score.images, **several, **reached},
            latency=finalist.latencies,
            budget=self.budget,
            provenance={
                **self.provenance,
                "trial": trial.number,
                **provenance,
                "versions": {"psvit": psvit.__version__, "torch": torch.__version__},
            },
        )


def write_winner(
    folder: Path, evidence: Evidence, finalists: Sequence[Finalist], weights: Mapping[str, Tensor] | None, title: str
) -> Path:
    """Write `best.yaml`, its picture and its weights, if there are any.

    Equal searches write equal bytes, except for measured latencies.

    Args:
        folder: the run's.
        evidence: what is said beside it.
        finalists: the best trials, the winner first.
        weights: of the winner.
        title: of the picture.
    """
    file = folder / BEST
    winner = finalists[0]
    trained = [finalist.to_dict() for finalist in finalists if finalist.looks or finalist.failure]
    if weights is not None:
        write_weights(file, weights)
    write_atomic(file.with_suffix(".svg"), draw(winner.trial.arch, titles=[title]))
    finalists_known = {"finalists": trained} if trained else {}
    evidence.file(winner, finalists_known, evidence.verdict).save(file)
    return file


def write_front(
    folder: Path, evidence: Evidence, front: Sequence[Finalist], supernet: Supernet | None
) -> list[Finalist]:
    """Write one architecture file a point, numbered from the best by the first objective; others are removed.

    The front that was there stays until the new one is whole.

    Args:
        folder: the run's.
        evidence: what is said beside each.
        front: the points.
        supernet: whose weights they inherit; these are written beside each, as beside the winner.

    Returns:
        The points, with their files.
    """
    digits = len(str(len(front) - 1))
    names = [f"{number:0{digits}}.yaml" for number in range(len(front))]
    with replacing_folder(folder / FRONT) as place:
        for name, point in zip(names, front, strict=True):
            file = place / name
            if supernet is not None:
                write_weights(file, inherited(supernet, point.arch))
            evidence.file(point, {}).save(file)
    return [replace(point, written=folder / FRONT / name) for name, point in zip(names, front, strict=True)]


def delivered_weights(folder: Path, arch: Architecture) -> Mapping[str, Tensor] | None:
    """The weights of an architecture that a finished run delivered; `None` if it delivered none of it."""
    file = folder / BEST
    weights = file.with_suffix(".safetensors")
    if not file.is_file() or not weights.is_file() or Architecture.load(file) != arch:
        return None
    try:
        return load_file(weights)
    except (SafetensorError, OSError):
        return None


def delivered_images(folder: Path, data: ImageData) -> dict[str, Any] | None:
    """What a run that delivered said of these images (`ImageData.describe`); `None` if it delivered nothing."""
    try:
        known = ArchitectureFile.load(folder / BEST).provenance.get("data")
    except InputError:
        return None
    return known if isinstance(known, dict) and known.get("digest") == data.digest else None


def inherited(supernet: Supernet, arch: Architecture) -> Mapping[str, Tensor]:
    """The weights that an architecture inherits."""
    return supernet.extract(arch).cpu().state_dict()
