"""What a search leaves in its run folder: the winner with its evidence, its weights, the history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import psvit
from psvit.architecture import ArchitectureFile
from psvit.documents import replacing, write_atomic
from psvit.search.study import Study
from psvit.search.trial import Trial
from psvit.supernet.supernet import Supernet


def write_winner(
    folder: Path,
    trial: Trial,
    *,
    score: dict[str, Any],
    budget: tuple[str, ...],
    provenance: dict[str, Any],
    supernet: Supernet | None,
) -> Path:
    """Write `best.yaml` and, where there is a trained supernet, `best.safetensors`; equal searches write equal bytes.

    Args:
        folder: the run's.
        trial: the winner.
        score: what the evaluator says of its scores.
        budget: the limits, as given.
        provenance: where the result comes from; versions are added.
        supernet: the weights that the winner inherits.

    Returns:
        The path of `best.yaml`.
    """
    versions = {"psvit": psvit.__version__, "torch": torch.__version__}
    file = folder / "best.yaml"
    if supernet is not None:
        network = supernet.extract(trial.arch)
        with replacing(file.with_suffix(".safetensors")) as temporary:
            save_file(network.state_dict(), temporary, {"format": "pt"})
    ArchitectureFile(
        arch=trial.arch,
        score={"value": trial.score, **score},
        budget=budget,
        provenance={**provenance, "trial": trial.number, "versions": versions},
    ).save(file)
    return file


def write_history(folder: Path, study: Study) -> None:
    """Write `history.csv`."""
    write_atomic(folder / "history.csv", study.to_csv())
