"""JobRunner: trains the network of a job, or continues an interrupted training, times it, and scores it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from psvit.data import Batches, ImageData, Inputs, Labelled
from psvit.executors.executor import Executor, Outcome, Portable
from psvit.nn.network import PSViT
from psvit.nn.precision import float32_products
from psvit.nn.registration import Registration, register_missing, registered
from psvit.nn.seeding import seeded
from psvit.train.checkpoints import CheckpointConfig
from psvit.train.distributed import World
from psvit.train.result_store import ResultStore
from psvit.train.tasks import Classification, TaughtClassification
from psvit.train.teacher import Teacher
from psvit.train.training import train
from psvit.train.training_job import ScoredOn, TrainedOn, TrainingJob, TrainingResult
from psvit.train.training_loader import training_loader


def images_of(data: ImageData, split: TrainedOn, number: int | None) -> Labelled:
    """The images of a split, or a number of them, always the same ones."""
    images: Labelled = getattr(data, split)
    if number is None or number >= len(images):
        return images
    return images.take(np.sort(np.random.default_rng(0).permutation(len(images))[:number]))


def initial_network(job: TrainingJob) -> PSViT:
    """The network of a job with random weights, as training from scratch begins with it."""
    with seeded(job.seed):
        return PSViT(job.arch, drop_path_rate=job.recipe.drop_path_rate)


def inputs_for(data: ImageData, job: TrainingJob, device: torch.device, processes: int | None = None) -> Inputs:
    """How the images of a job are prepared.

    Args:
        data: the images.
        job: the job.
        device: the device that the job is trained on.
        processes: the most processes that prepare images. By default, if a CPU computes, as many as PyTorch has
            threads: a worker on a cluster has one thread, and leaves the other cores to other workers.
    """
    inputs = Inputs.of(data, job.arch.image_size)
    if processes is None:
        if device.type != "cpu":
            return inputs
        processes = torch.get_num_threads()
    return replace(inputs, workers=min(inputs.workers, processes))


@dataclass(frozen=True)
class TrainedNetwork:
    """The trained network of a job.

    Attributes:
        network: ready to be evaluated.
        log: one row for each epoch.
        seconds: how long it took, what is done between epochs left out; of an interrupted training the sum.
    """

    network: PSViT
    log: list[dict[str, float]]
    seconds: float


def train_job(
    job: TrainingJob,
    data: ImageData,
    network: PSViT,
    *,
    inputs: Inputs,
    device: torch.device,
    folder: Path,
    held_out: Callable[[nn.Module], dict[str, float]] | None = None,
    teacher: Teacher | None = None,
    checkpointing: CheckpointConfig | None = None,
    world: World | None = None,
) -> TrainedNetwork:
    """Train the network of a job to the end, from the beginning or from where an interrupted run in `folder` stopped.

    Args:
        job: what is trained, and how.
        data: the images.
        network: it, with the weights that it begins with.
        inputs: how images are prepared.
        device: where to train.
        folder: for checkpoints and log; one in which it was trained before gives the network back.
        held_out: see `psvit.train.training.train`.
        teacher: what is learnt from besides the labels, on the device.
        checkpointing: how often checkpoints are written and how many are kept.
        world: the processes that train together.

    Raises:
        DivergedError: the loss became NaN or infinite.
        InputError: see `psvit.train.training.train`.
    """
    task = Classification(network)
    if teacher:
        task = TaughtClassification(network, teacher, inputs, job.recipe)
    loader = training_loader(images_of(data, job.split, job.num_images), inputs, job.recipe, device)
    trained = train(
        task,
        loader,
        job.recipe,
        num_classes=len(data.classes),
        seed=job.seed,
        device=device,
        folder=folder,
        description=job.label,
        until=job.until,
        held_out=held_out,
        checkpointing=checkpointing,
        world=world,
    )
    assert isinstance(trained.model, PSViT)
    seconds = loader.seconds(row["images_per_second"] for row in trained.log)
    return TrainedNetwork(trained.model.eval(), trained.log, seconds)


@dataclass(frozen=True, kw_only=True)
class JobRunner:
    """Runs jobs, and scores the trained networks. It pickles, so that an executor can send it to other processes.

    Attributes:
        data: the images.
        device: where to compute.
        folder: a folder in the run, for the checkpoints of unfinished trainings. On a machine that does not see the
            run, which is where there is not even the folder that it is in, a temporary folder is used, and an
            interrupted training begins anew.
        initial: makes the network of a job, with the weights that it begins with.
        parts: the images that networks are scored on after the last epoch.
        watched: the images that they are scored on after every epoch. The log then says how long each epoch took, with
            the scoring.
        batch_size: how many images are scored at once. By default, as many as a training step takes.
        processes: see `inputs_for`.
        operators: operators of a user's own, which networks may have.
    """

    data: Portable[ImageData]
    device: str
    folder: Path
    initial: Callable[[TrainingJob], PSViT] = initial_network
    parts: tuple[ScoredOn, ...] = ("search",)
    watched: tuple[ScoredOn, ...] = ()
    batch_size: int | None = None
    processes: int | None = None
    operators: Mapping[str, Registration] = field(default_factory=registered)

    def __call__(self, job: TrainingJob) -> TrainingResult:
        """Train the network of a job, or continue its interrupted training, and score it.

        Raises:
            ValueError: it would be scored on images that it was trained on.
            DivergedError: the loss became NaN or infinite.
            InputError: an image or a folder cannot be used.
        """
        if job.split == "all_train" and {*self.parts, *self.watched} != {"val"}:
            raise ValueError("a network that is trained on all_train has seen all images but val; score it on these")
        register_missing(self.operators)
        data, device = self.data.get(), torch.device(self.device)
        inputs = inputs_for(data, job, device, self.processes)
        size = self.batch_size or job.recipe.batch_size
        watched = {part: Batches(getattr(data, part), inputs, size, device) for part in self.watched}
        with self._place(job) as folder:
            trained = train_job(
                job,
                data,
                self.initial(job),
                inputs=inputs,
                device=device,
                folder=folder,
                held_out=_watching(watched) if watched else None,
            )
        batches = {part: Batches(getattr(data, part), inputs, size, device) for part in self.parts}
        found = {part: right_and_loss(trained.network, some) for part, some in batches.items()}
        return TrainingResult(
            accuracies={part: 100 * int(right.sum()) / len(right) for part, (right, _) in found.items()},
            losses={part: loss for part, (_, loss) in found.items()},
            right={part: right for part, (right, _) in found.items()},
            seconds=trained.seconds,
            log=tuple(trained.log),
        )

    def trained(self, job: TrainingJob) -> PSViT | None:
        """The network of a job that was run to its end and kept; `None` if it is not in the runner's folder."""
        if not self.place(job).is_dir():
            return None
        data, device = self.data.get(), torch.device(self.device)
        inputs = inputs_for(data, job, device, self.processes)
        return train_job(job, data, self.initial(job), inputs=inputs, device=device, folder=self.place(job)).network

    def place(self, job: TrainingJob) -> Path:
        """The folder for what a job needs to go on, wherever it pauses."""
        return self.folder / replace(job, until=None).digest

    @contextmanager
    def _place(self, job: TrainingJob) -> Iterator[Path]:
        if self.folder.parent.is_dir():
            yield self.place(job)
        else:
            with tempfile.TemporaryDirectory(prefix="psvit-") as temporary:
                yield Path(temporary)

    def forget(self, jobs: Iterable[TrainingJob]) -> None:
        """Remove the checkpoints of jobs, including trained weights."""
        for job in jobs:
            shutil.rmtree(self.place(job), ignore_errors=True)


def is_done(job: TrainingJob, store: ResultStore, parts: Collection[str]) -> bool:
    """Whether the result of a job is known, with its accuracies on all of some parts of the images."""
    known = store.get(job)
    return known is not None and known.accuracies.keys() >= set(parts)


def run_jobs(
    jobs: Iterable[TrainingJob], runner: JobRunner, executor: Executor, store: ResultStore, *, keep: bool = False
) -> Iterator[tuple[TrainingJob, Outcome[TrainingResult]]]:
    """Run the jobs whose results are not known, and store each result as soon as it is there.

    Failures are not stored, because the machine may have caused them; the next call tries again.

    Args:
        jobs: all jobs that are wanted. Each is asked for only when an executor can begin with it.
        runner: runs the jobs.
        executor: decides where they run.
        store: keeps their results.
        keep: whether trained weights stay in the runner's folder, to be scored on other images.

    Yields:
        Each job that was run, with its outcome, as soon as it is known.
    """

    def missing() -> Iterator[TrainingJob]:
        begun = set()
        for job in jobs:
            # The store is asked only now, because other processes may have run the job meanwhile.
            if job not in begun and not is_done(job, store, runner.parts):
                begun.add(job)
                yield job

    for job, outcome in executor.run(runner, missing()):
        if outcome.value is not None:
            store.put(job, outcome.value)
            if not keep:
                runner.forget([job])
        yield job, outcome


@torch.inference_mode()
@float32_products("highest")
def right_and_loss(network: nn.Module, batches: Batches) -> tuple[NDArray[np.bool_], float]:
    """Which images a network recognises, (images,), and its mean cross entropy; its mode stays as it was."""
    was_training = network.training
    network.eval()
    right, loss = [], 0.0
    for images, labels in batches:
        logits = network(images)
        right.append((logits.argmax(dim=1) == labels).cpu())
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
    network.train(was_training)
    found: NDArray[np.bool_] = torch.cat(right).numpy()
    return found, loss / batches.num_images


def _watching(batches: dict[ScoredOn, Batches]) -> Callable[[nn.Module], dict[str, float]]:
    """What the log says of every epoch besides; times are since the last look, so that an interrupted run adds up."""
    clocks = [time.perf_counter(), time.process_time()]

    def look(model: nn.Module) -> dict[str, float]:
        row = {}
        for part, some in batches.items():
            right, row[f"{part}_loss"] = right_and_loss(model, some)
            row[f"{part}_accuracy"] = 100 * int(right.sum()) / len(right)
        now: Sequence[float] = [time.perf_counter(), time.process_time()]
        row["seconds"], row["processor_seconds"] = (after - before for after, before in zip(now, clocks, strict=True))
        clocks[:] = now
        return row

    return look
