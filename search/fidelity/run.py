"""A fidelity run: draw networks, score them, train each of them alone, compare, and say so where a search looks."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from psvit.arch.architecture import Architecture
from psvit.arch.costs import METRICS, cost
from psvit.data import ImageData, open_data
from psvit.errors import RunError
from psvit.executors.choose_executor import executor_for
from psvit.executors.executor import Portable
from psvit.io.documents import write_atomic
from psvit.io.journal import Journal
from psvit.io.progress import progress_bar
from psvit.search.evaluator import Evaluator
from psvit.search.fidelity.drawing import Drawn, around, draw_spread, draw_within
from psvit.search.fidelity.measures import MeasuredNetwork, fidelity_of
from psvit.search.fidelity.record import (
    FILE_NAME,
    INHERITED,
    Fidelity,
    leave_beside,
    read_fidelities,
    write_fidelities,
)
from psvit.search.indicators import INDICATORS
from psvit.search.scoring import BATCH_SIZE, Scoring, portable_supernet
from psvit.space.budget import Budget
from psvit.space.search_space import SearchSpace
from psvit.supernet.supernet import supernet_digest, supernet_file
from psvit.train.job_runner import JobRunner, images_of, run_jobs
from psvit.train.recipe import Recipe
from psvit.train.result_store import JournalStore
from psvit.train.training_job import TrainingJob

TRAININGS, SCORES, TABLE, REPORT = "trainings.journal", "scores.journal", "fidelity.csv", "fidelity.html"


@dataclass(frozen=True, kw_only=True)
class Trainings:
    """Which networks are trained, and how; supernets are compared on the same ones.

    Attributes:
        space: the space, with the data's classes and channels.
        data: the images.
        budget: the limits as given.
        recipe: how networks are trained.
        images: on how many of the training images; all where not given.
        seed: of the networks that are drawn, and of their trainings.
        device: where to compute.
        within: how many networks are drawn around the budget.
        spread: how many over the whole reach of MACs.
        second_seeds: how many of those around the budget are trained with a second seed.
        workers: `ray` or the address of a Ray cluster; without it, this process trains.
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

    @property
    def config(self) -> dict[str, Any]:
        """All that decides what comes out for a network, JSON-serialisable; networks may be added, and elsewhere."""
        return {
            "space": self.space.name,
            "space_digest": self.space.digest,
            "data": self.data.name,
            "data_digest": self.data.digest,
            "budget": list(self.budget),
            "limits": self.limits.resolved,
            "recipe": self.recipe.to_dict(),
            "images": self.images,
            "seed": self.seed,
            "device": self.device.type,
        }

    @cached_property
    def limits(self) -> Budget:
        """Within which networks are drawn around the budget."""
        return around(Budget.parse(*self.budget, space=self.space))

    @cached_property
    def networks(self) -> Drawn:
        """The networks."""
        return Drawn(
            within=draw_within(self.space, self.limits, self.within, self.seed),
            spread=draw_spread(self.space, self.spread, self.seed),
        )

    @cached_property
    def jobs(self) -> list[TrainingJob]:
        """Every network with the first seed, and some of those around the budget with the second."""
        wanted = [(arch, self.seed) for arch in self.networks.all]
        wanted += [(arch, self.seed + 1) for arch in self.networks.within[: self.second_seeds]]
        return [
            TrainingJob(
                arch=arch,
                recipe=self.recipe,
                seed=seed,
                num_images=self.images,
                label=f"training {number} of {len(wanted)}, seed {seed}",
            )
            for number, (arch, seed) in enumerate(wanted, start=1)
        ]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a run came to.

    Attributes:
        fidelity: the measurement.
        networks: what it rests on.
        file: where it is written in the run.
        beside: where what is known is written for searches with this supernet.
        kept: what stayed there, because it rests on more networks; `None` if the measurement was written.
        failures: why networks have no accuracy, one line each.
    """

    fidelity: Fidelity
    networks: list[MeasuredNetwork]
    file: Path
    beside: Path
    kept: Fidelity | None
    failures: list[str]


def train_networks(trainings: Trainings, folder: Path) -> tuple[dict[tuple[Architecture, int], float], list[str]]:
    """Train every network alone that is not in the journal yet, and write each down when it is trained.

    Args:
        trainings: which and how.
        folder: for the journal and for what trainings need meanwhile.

    Returns:
        Standalone accuracies by network and seed; and why others have none, one line each. Those are tried again by
        the next call.

    Raises:
        InputError: the journal is of other trainings.
    """
    space, jobs = trainings.space, trainings.jobs
    store = JournalStore(
        folder / TRAININGS, trainings.config, lambda job: {"network": space.index(job.arch), "seed": job.seed}
    )
    runner = JobRunner(
        data=Portable(partial(open_data, trainings.data.name), trainings.data),
        device=str(trainings.device),
        folder=(folder / "trainings").resolve(),
        batch_size=BATCH_SIZE,
    )
    failures = []
    done = sum(store.get(job) is not None for job in jobs)
    with progress_bar("networks", len(jobs), "networks", done=done) as advance:
        for job, outcome in run_jobs(jobs, runner, executor_for(trainings.workers, trainings.device), store):
            if outcome.failure:
                failures.append(f"network {space.index(job.arch)}, seed {job.seed}: {outcome.failure}")
            advance(1, "")
    known = {(job.arch, job.seed): store.get(job) for job in jobs}
    return {key: result.accuracies["search"] for key, result in known.items() if result}, failures


def score_networks(
    archs: Sequence[Architecture],
    space: SearchSpace,
    scorers: dict[str, Callable[[], Evaluator]],
    journal: Journal,
) -> dict[str, dict[Architecture, float | None]]:
    """Score networks that are not in a journal yet, and write the scores down.

    Args:
        archs: the networks.
        space: of them.
        scorers: by the name of a score, what makes its evaluator.
        journal: of these scores.

    Returns:
        By name and network the score; `None` if scoring failed.
    """
    known: dict[str, dict[Architecture, float | None]] = {name: {} for name in scorers}
    for record in journal.records:
        if record["score"] in known:
            known[record["score"]][space[record["network"]]] = record["value"]
    for name, make in scorers.items():
        missing = [arch for arch in archs if arch not in known[name]]
        if not missing:
            continue
        for arch, score in zip(missing, make().evaluate(missing), strict=True):
            journal.add({"score": name, "network": space.index(arch), "value": score.value})
            known[name][arch] = score.value
    return known


def inherited(trainings: Trainings, supernet: str) -> Callable[[], Evaluator]:
    """What makes the evaluator of inherited accuracy, on the images that standalone accuracy is measured on."""
    return lambda: Scoring(
        space=trainings.space,
        seed=trainings.seed,
        device=str(trainings.device),
        supernet=portable_supernet(supernet_file(supernet), trainings.device),
        data=Portable(trainings.data.reopen, trainings.data),
    )()


def compare(
    trainings: Trainings,
    supernet: str,
    accuracies: dict[tuple[Architecture, int], float],
    scores: dict[str, dict[Architecture, float | None]],
) -> tuple[Fidelity, list[MeasuredNetwork]]:
    """The fidelity of a supernet from scores and standalone accuracies of networks; and the networks, each once.

    Raises:
        RunError: fewer than two networks around the budget have an accuracy.
    """
    drawn, seed = trainings.networks, trainings.seed
    within, spread = set(drawn.within), set(drawn.spread)
    networks = [
        MeasuredNetwork(
            index=trainings.space.index(arch),
            arch=arch,
            cost=cost(arch),
            is_within=arch in within,
            is_spread=arch in spread,
            scores={name: values[arch] for name, values in scores.items()},
            standalone=accuracies.get((arch, seed)),
            second=accuracies.get((arch, seed + 1)),
        )
        for arch in drawn.all
    ]
    near = [network for network in networks if network.is_within]
    far = [network for network in networks if network.is_spread]
    trained = sum(network.standalone is not None for network in near)
    if trained < 2:
        raise RunError(f"{trained} of {len(near)} networks around the budget could be trained; two are needed to rank")
    libraries = ("psvit", "torch", "timm", "numpy")
    fidelity = Fidelity(
        supernet_digest=supernet_digest(supernet),
        space=trainings.space.name,
        space_digest=trainings.space.digest,
        data=trainings.data.name,
        search_images=len(trainings.data.search),
        budget=trainings.budget,
        seed=seed,
        images=len(images_of(trainings.data, "train", trainings.images)),
        recipe=trainings.recipe.to_dict(),
        within=fidelity_of(near, {limit.metric: (limit.lower, limit.upper) for limit in trainings.limits.limits}),
        spread=fidelity_of(far, {"macs": trainings.space.reach("macs")}) if far else None,
        versions={name: version(name) for name in libraries},
    )
    return fidelity, networks


def measure_fidelity(
    trainings: Trainings, supernet: str, folder: Path, command: str, trained_in: Path | None = None
) -> Measured:
    """Train and score what is missing, compare, and write what came out, in the run and beside the supernet.

    Args:
        trainings: which networks are trained, and how.
        supernet: its run folder or file.
        folder: of the run.
        command: the shell line that repeats it, for the report.
        trained_in: the folder of the trainings, where several supernets share them; that of the run by default.

    Raises:
        RunError: fewer than two networks around the budget could be trained; says why the last was not.
    """
    scorers: dict[str, Callable[[], Evaluator]] = {
        INHERITED: inherited(trainings, supernet),
        **{name: partial(make, trainings.space, trainings.seed, trainings.device) for name, make in INDICATORS.items()},
    }
    journal = Journal(folder / SCORES, {**trainings.config, "supernet": supernet_digest(supernet)})
    scores = score_networks(trainings.networks.all, trainings.space, scorers, journal)
    accuracies, failures = train_networks(trainings, trained_in or folder)
    try:
        fidelity, networks = compare(trainings, supernet, accuracies, scores)
    except RunError as error:
        raise RunError(f"{error}; {failures[-1]}" if failures else str(error)) from None
    write_atomic(folder / TABLE, table(networks))
    write_fidelities(folder / FILE_NAME, (fidelity,))
    from psvit.search.fidelity.report import write_report

    write_report(folder / REPORT, fidelity, networks, command, {**trainings.config, "supernet": supernet}, failures)
    beside = leave_beside(supernet, fidelity)
    there = next(one for one in read_fidelities(beside) if one.subject == fidelity.subject)
    return Measured(
        fidelity=fidelity,
        networks=networks,
        file=folder / FILE_NAME,
        beside=beside,
        kept=None if there == fidelity else there,
        failures=failures,
    )


def table(networks: Iterable[MeasuredNetwork]) -> str:
    """One row a network, as CSV; empty where a score or an accuracy is missing."""
    text = io.StringIO()
    rows = [
        {
            "network": network.index,
            "within": int(network.is_within),
            "spread": int(network.is_spread),
            **{metric: getattr(network.cost, metric) for metric in METRICS},
            **network.scores,
            "standalone": network.standalone,
            "standalone_second_seed": network.second,
        }
        for network in networks
    ]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
