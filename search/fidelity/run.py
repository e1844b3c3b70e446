"""A fidelity run: draw networks, score them, train each of them alone, compare, and say so where a search looks."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from psvit.architecture import Architecture
from psvit.budget import Budget
from psvit.costs import METRICS, cost
from psvit.data import ImageData
from psvit.documents import write_atomic
from psvit.errors import RunError
from psvit.progress import progress_bar
from psvit.recipe import Recipe
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
from psvit.search.fidelity.training import Standalone, training_images
from psvit.search.indicators import INDICATORS
from psvit.search.latency.journal import Journal
from psvit.search.scoring import Scoring
from psvit.search.trial import Score
from psvit.search_space import SearchSpace
from psvit.supernet.supernet import supernet_digest, supernet_file

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

    @property
    def by_seed(self) -> dict[int, list[Architecture]]:
        """What is trained with each seed."""
        return {self.seed: self.networks.all, self.seed + 1: list(self.networks.within[: self.second_seeds])}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a run came to.

    Attributes:
        fidelity: the measurement.
        networks: what it rests on.
        file: where it is written in the run.
        beside: where what is known is written for searches with this supernet.
        kept: what stayed there, because it rests on more networks; nothing where the measurement was written.
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
    journal = Journal(folder / TRAININGS, trainings.config)
    space = trainings.space
    known = {(space[record["network"]], record["seed"]): record["accuracy"] for record in journal.records}
    missing = {seed: [arch for arch in archs if (arch, seed) not in known] for seed, archs in trainings.by_seed.items()}
    wanted = [(arch, seed) for seed, archs in trainings.by_seed.items() for arch in archs]
    failures = []
    with progress_bar(
        "networks", len(wanted), "networks", done=len(wanted) - sum(map(len, missing.values()))
    ) as advance:
        for seed, archs in missing.items():
            for position, score in _trained(trainings, archs, seed, folder):
                index = space.index(archs[position])
                if score.value is None:
                    failures.append(f"network {index}, seed {seed}: {score.reason}")
                else:
                    journal.add({"network": index, "seed": seed, "accuracy": score.value})
                    known[archs[position], seed] = score.value
                advance(1, "")
    return {key: known[key] for key in wanted if key in known}, failures


def _trained(
    trainings: Trainings, archs: Sequence[Architecture], seed: int, folder: Path
) -> Iterator[tuple[int, Score]]:
    """Standalone accuracies with one seed, as they come, by this process or by workers on a cluster."""
    if not archs:
        return
    standalone = Standalone(
        data=trainings.data.name,
        images=trainings.images,
        recipe=trainings.recipe,
        seed=seed,
        device=str(trainings.device),
        folder=str((folder / "trainings").resolve()),
    )
    if trainings.workers is None:
        yield from standalone(trainings.data).arrivals(archs)
        return
    from psvit.search.ray_backend import RayEvaluator, one_by_one

    with RayEvaluator(
        standalone,
        cut=one_by_one,
        address=trainings.workers,
        gpus_per_worker=1 if trainings.device.type == "cuda" else 0,
        folder=folder / "ray",
    ) as workers:
        yield from workers.arrivals(archs)


def score_networks(
    archs: Sequence[Architecture],
    space: SearchSpace,
    scorers: dict[str, Callable[[], Evaluator[Architecture]]],
    journal: Journal,
) -> dict[str, dict[Architecture, float | None]]:
    """Score networks that are not in a journal yet, and write the scores down.

    Args:
        archs: the networks.
        space: of them.
        scorers: by the name of a score, what makes its evaluator.
        journal: of these scores.

    Returns:
        By name and network the score; nothing where it failed.
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


def inherited(trainings: Trainings, supernet: str) -> Callable[[], Evaluator[Architecture]]:
    """What makes the evaluator of inherited accuracy, on the images that standalone accuracy is measured on."""
    return lambda: Scoring(
        space=trainings.space,
        seed=trainings.seed,
        device=str(trainings.device),
        supernet=str(supernet_file(supernet)),
        data=trainings.data.name,
    )(trainings.data)


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
        images=len(training_images(trainings.data, trainings.images)),
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
    scorers: dict[str, Callable[[], Evaluator[Architecture]]] = {
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
