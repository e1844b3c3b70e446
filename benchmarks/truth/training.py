"""Trainings of the truth table: what runs them, and how each becomes a row."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path

import numpy as np
import timm
import torch

import psvit
from psvit.data import Decoded, ImageData, open_data
from psvit.errors import InputError
from psvit.executors.executor import Portable
from psvit.io.run_folder import RunFolder
from psvit.nn.network import PSViT
from psvit.train.job_runner import JobRunner, images_of, initial_network
from psvit.train.training_job import TrainingJob, TrainingResult
from truth import rows
from truth.networks import Network
from truth.rows import Row

THREADS = 1
"""Of PyTorch in every training."""

EVALUATION_BATCH = 500
DIGITS = 4


@cache
def open_images(name: str) -> ImageData:
    """The images, kept for the trainings that follow in this process.

    Raises:
        InputError: they do not fit in memory, or differ in size.
    """
    # The table was begun when there were no verdict images; what is trained on stays the same.
    data = open_data(name).without_verdict()
    if not all(isinstance(part.pictures, Decoded) for part in (data.train, data.search, data.val)):
        raise InputError(f"data {name!r}: the truth table needs images of one size that fit in memory")
    return data


def digest_of(data: ImageData) -> str:
    """Of all pixels and labels, in the order of the parts."""
    hashed = hashlib.sha256(json.dumps(data.classes).encode())
    for part in (data.train, data.search, data.val):
        assert isinstance(part.pictures, Decoded)
        hashed.update(np.ascontiguousarray(part.pictures.pixels[part.rows]).tobytes())
        hashed.update(part.labels.tobytes())
    return hashed.hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class TruthRunner(JobRunner):
    """Runs the jobs of the table, with one thread each and in folders of their own.

    Attributes:
        networks: those of the list.
    """

    networks: tuple[Network, ...]

    def place(self, job: TrainingJob) -> Path:
        """See `JobRunner`; the name says which network it is."""
        return self.folder / f"{network_of(job, self.networks).name}-{'-'.join(map(str, rows.key_of(job)))}"

    def __call__(self, job: TrainingJob) -> TrainingResult:
        """See `JobRunner`.

        Raises:
            InputError: another process trains the network in the same work folder, or the images cannot be used.
            DivergedError: the loss became NaN or infinite.
        """
        torch.set_num_threads(THREADS)
        images = images_of(self.data.get(), job.split, job.num_images)
        network = network_of(job, self.networks).to_dict()
        about = {"network": network, "recipe": job.recipe.to_dict(), "images": len(images), "seed": job.seed}
        # As long as this object lives, no other process can train the network in this folder.
        held = RunFolder(self.place(job), "truth", about)
        result = super().__call__(job)
        del held
        return result


def runner_of(
    data: str,
    device: str,
    work: Path,
    networks: Sequence[Network],
    initial: Callable[[TrainingJob], PSViT] = initial_network,
) -> TruthRunner:
    """What runs the jobs of the table.

    Args:
        data: name of the images, as `psvit.data.open_data` takes it.
        device: where to train.
        work: folder for what unfinished trainings need to go on.
        networks: of the list.
        initial: see `JobRunner`.
    """
    work.mkdir(parents=True, exist_ok=True)
    return TruthRunner(
        data=Portable(partial(open_images, data)),
        device=device,
        folder=work,
        parts=("val",),
        watched=("search",),
        batch_size=EVALUATION_BATCH,
        # In the process that trains: others would take the core that another training has.
        processes=0,
        initial=initial,
        networks=tuple(networks),
    )


def network_of(job: TrainingJob, networks: Sequence[Network]) -> Network:
    """The network of a job in the list."""
    return next(network for network in networks if network.arch == job.arch)


class TableStore:
    """The table's file as a result store.

    Args:
        path: the file.
        runner: of the jobs.
    """

    def __init__(self, path: Path, runner: TruthRunner) -> None:
        self._path = path
        self._runner = runner

    def get(self, job: TrainingJob) -> TrainingResult | None:
        """See `psvit.train.result_store.ResultStore`; rows may have come from other processes and machines."""
        row = next((row for row in rows.read(self._path) if row.job_key == rows.key_of(job)), None)
        if row is None:
            return None
        return TrainingResult(
            accuracies={"search": row.search_accuracy[-1], "val": row.val_accuracy},
            losses={"search": row.search_loss[-1], "val": row.val_loss},
        )

    def put(self, job: TrainingJob, result: TrainingResult) -> None:
        """See `psvit.train.result_store.ResultStore`; called where the job was run, or on a machine like that."""
        rows.append(self._path, self.row(job, result))

    def row(self, job: TrainingJob, result: TrainingResult) -> Row:
        """The row of a training that ended now."""
        network, data = network_of(job, self._runner.networks), self._runner.data.get()

        def curve(name: str) -> tuple[float, ...]:
            return tuple(round(epoch[name], DIGITS) for epoch in result.log)

        return Row(
            name=network.name,
            macs_budget=network.macs,
            origin=network.origin,
            stratum=network.stratum,
            arch=json.dumps(job.arch.to_dict(), separators=(",", ":")),
            arch_digest=job.arch.digest,
            recipe_digest=job.recipe.digest,
            lr=job.recipe.lr,
            data=Path(data.name).name,
            data_digest=digest_of(data),
            images=len(images_of(data, job.split, job.num_images)),
            epochs=job.recipe.epochs,
            seed=job.seed,
            initial=job.init,
            train_loss=curve("loss"),
            search_accuracy=curve("search_accuracy"),
            search_loss=curve("search_loss"),
            val_accuracy=round(result.accuracies["val"], DIGITS),
            val_loss=round(result.losses["val"], DIGITS),
            seconds=round(sum(epoch["seconds"] for epoch in result.log), 1),
            processor_seconds=round(sum(epoch["processor_seconds"] for epoch in result.log), 1),
            device=_device_name(torch.device(self._runner.device)),
            threads=THREADS,
            versions=_versions(),
            commit=_commit(),
            date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        )


def quiet() -> None:
    """Of many trainings in turn only warnings are told."""
    logging.getLogger("psvit").setLevel(logging.WARNING)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _versions() -> str:
    return (
        f"psvit {psvit.__version__}, torch {torch.__version__}, timm {timm.__version__}, numpy {np.__version__}, "
        f"python {platform.python_version()}"
    )


@cache
def _commit() -> str:
    """Of the working tree that this file lies in; `unknown` in a copy without history."""
    asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
