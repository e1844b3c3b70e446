"""A fidelity run: draw networks, score them, train each alone, compare, and write the result beside the supernet."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from psvit.arch.architecture import Architecture
from psvit.arch.costs import METRICS, cost
from psvit.data import Baseline, ImageData, logistic_regression, open_data
from psvit.errors import InputError, RunError
from psvit.executors.choose_executor import check_workers, executor_for
from psvit.executors.executor import Portable
from psvit.io.announcements import announce
from psvit.io.arguments import several, whole
from psvit.io.documents import Place, path_of, write_atomic
from psvit.io.journal import Journal
from psvit.io.progress import progress_bar
from psvit.io.run_folder import RunFolder, default_folder
from psvit.io.tables import Table, html_table
from psvit.search.evaluator import Evaluator
from psvit.search.fidelity.drawing import around
from psvit.search.fidelity.formatting import HEADER, conclusions, rows
from psvit.search.fidelity.measures import MeasuredNetwork, fidelity_of
from psvit.search.fidelity.record import (
    FILE_NAME,
    INHERITED,
    Fidelity,
    SetFidelity,
    file_beside,
    leave_beside,
    read_fidelities,
    write_fidelities,
)
from psvit.search.fidelity.trainings import Trainings, check_numbers
from psvit.search.indicators import INDICATORS
from psvit.search.scoring import Scoring, batch_size, portable_supernet
from psvit.search.spaces import choose_space
from psvit.space.budget import Budget, Limits, as_texts
from psvit.space.search_space import SearchSpace
from psvit.supernet.provenance import read_provenance, read_space, supernet_digest, supernet_file
from psvit.train.choices import choose_devices, choose_recipe
from psvit.train.job_runner import JobRunner, images_of, run_jobs
from psvit.train.recipe import Recipe
from psvit.train.result_store import JournalStore

COMMAND = "psvit-fidelity"

TRAININGS, SCORES, TABLE, REPORT = "trainings.journal", "scores.journal", "fidelity.csv", "fidelity.html"

BASELINE = "logistic_regression"
"""The name of the record with the baseline, in the journal of scores."""


@dataclass(frozen=True, kw_only=True)
class MeasuredFidelity:
    """The result of a fidelity run.

    Attributes:
        fidelity: the measurement.
        limits: the limits within which networks were drawn around the budget.
        networks: the networks that it rests on.
        folder: the folder of the run.
        file: the file of the measurement in the run.
        beside: the file beside the supernet, which searches with this supernet read.
        kept: the measurement that stayed in that file, because it rests on more networks; `None` if this one was
            written.
        failures: why some networks have no accuracy, one line each.
        baseline: logistic regression on the images that accuracies rest on; `None` if images are not small.
    """

    fidelity: Fidelity
    limits: Budget
    networks: list[MeasuredNetwork] = field(repr=False)
    folder: Path
    file: Path
    beside: Path
    kept: Fidelity | None
    failures: list[str]
    baseline: Baseline | None

    @property
    def report(self) -> Path:
        """The page that shows all of it."""
        return self.folder / REPORT

    @property
    def tables(self) -> list[tuple[str, SetFidelity]]:
        """The sets of networks, those that count last, and what each is."""
        within = sum(network.is_within for network in self.networks)
        spread = sum(network.is_spread for network in self.networks)
        near = (f"{within} networks within {self.limits}, the ones that count", self.fidelity.within)
        if not self.fidelity.spread:
            return [near]
        return [(f"{spread} networks over the whole range, which mostly measures MACs", self.fidelity.spread), near]

    @property
    def conclusions(self) -> list[str]:
        """What was found, in sentences."""
        return conclusions(self.fidelity.within, self.baseline)

    def _repr_html_(self) -> str:
        parts = [html_table(rows(measured), HEADER, title) for title, measured in self.tables]
        parts += [f"<p>{html.escape(sentence)}</p>" for sentence in self.conclusions]
        return f"<div>{''.join(parts)}</div>"


def measure_fidelity(
    supernet: Place,
    budget: Limits,
    *,
    data: ImageData | str | Path | None = None,
    recipe: Recipe | str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    within: int = 30,
    spread: int = 15,
    second_seeds: int | None = None,
    images: int | None = None,
    workers: str | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    command: str | None = None,
) -> MeasuredFidelity:
    """Train networks on their own and compare their accuracies with those that they inherit from a supernet.

    The result is written in the run, and beside the supernet, where searches find it. The same call continues a run
    that was interrupted. With larger numbers, networks are added to those that are there. Validation images are not
    looked at.

    Args:
        supernet: a trained supernet: its folder, its file, or what `train_supernet` returned.
        budget: where networks are compared: within 5 % of `2GFLOPs` or `22Mparams`, or in a range no wider, such as
            `1.3..1.4GFLOPs`; other limits may be added.
        data: images: an `ImageData`, or what `psvit.ImageData.open` takes. By default, those that the supernet was
            trained on.
        recipe: how each network is trained: a recipe, the name of a shipped one, or a file. By default, it goes by the
            images.
        settings: values of the recipe to replace, such as `{"epochs": 10}`.
        within: how many networks are trained around the budget, at least 2.
        spread: how many networks are trained over the whole range of multiply-accumulates.
        second_seeds: how many of those around the budget are trained with a second seed. By default 10, or all if there
            are fewer.
        images: how many of the training images each is trained on. By default, all.
        workers: a Ray cluster that trains: `ray`, or `ray://host:port`; behind it the share of a GPU that each worker
            takes, as in `ray:gpus=0.25`. By default, this process trains.
        out: the run's folder. By default, one below `runs/`, which is announced.
        seed: the seed of everything random, at least 0.
        device: where to compute. By default, a GPU if there is one.
        command: the line that repeats the run, for the report. By default, a call of this function.

    Raises:
        InputError: an argument cannot be used, or the folder belongs to another run; nothing is written.
        RunError: fewer than two networks around the budget could be trained; the message says why the last was not.
    """
    given = several("budget", budget, (str, Budget), "a text such as '2GFLOPs' or a Budget")
    budgets, seed = tuple(text for limit in given for text in as_texts(limit)), whole("seed", seed)
    # What is quick to check first.
    space = read_space(supernet)
    space.check(around(Budget.parse(*budgets, space=space)))
    second_seeds = check_numbers(within, spread, second_seeds)
    check_workers(workers)
    read_fidelities(file_beside(supernet))
    source = data or read_provenance(supernet).get("data")
    if not source:
        raise InputError(f"supernet {str(path_of(supernet))!r}: does not say what it was trained on; give --data")
    here, there = choose_devices(device, workers)
    opened = open_data(source)
    opened.check_search()
    chosen = choose_recipe(recipe, settings, opened, space.image_size, supernet=False, device=there)
    trainings = Trainings(
        space=choose_space(None, str(path_of(supernet)), opened, budgets),
        data=opened,
        budget=budgets,
        recipe=chosen,
        images=None if images is None else whole("images", images, 2),
        seed=seed,
        device=here,
        training_device=there,
        within=within,
        spread=spread,
        second_seeds=second_seeds,
        workers=workers,
    )
    if len(trainings.networks.within) < 2:
        raise InputError(
            f"budget: a single architecture is within {trainings.limits}; two are needed to rank; name a wider range"
        )
    config = {**trainings.config, "supernet": supernet_digest(supernet)}
    folder = RunFolder(Path(out or default_folder(f"fidelity-{'-'.join(budgets)}", config)), COMMAND, config)
    announce(f"run: {folder.path}")
    drawn = trainings.networks
    announce(
        f"drew {len(drawn.within)} of {space.count(trainings.limits):,} architectures within {trainings.limits}, and "
        f"{len(drawn.spread)} over the whole range (FLOPs are multiply-accumulates): "
        f"{len(trainings.jobs)} trainings of {chosen.epochs} epochs"
    )
    command = command or f"psvit.measure_fidelity({str(path_of(supernet))!r}, {budgets!r}, out={str(folder.path)!r})"
    return train_and_compare(trainings, supernet, folder.path, command)


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
        data=Portable(trainings.data.reopen, trainings.data),
        device=str(trainings.trained_on),
        folder=(folder / "trainings").resolve(),
        batch_size=batch_size(trainings.trained_on, space.image_size),
    )
    failures = []
    done = sum(store.get(job) is not None for job in jobs)
    with progress_bar("networks", len(jobs), "networks", done=done) as advance:
        for job, outcome in run_jobs(jobs, runner, executor_for(trainings.workers, trainings.trained_on), store):
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


def inherited(trainings: Trainings, supernet: Place) -> Callable[[], Evaluator]:
    """A function that makes the evaluator of inherited accuracy, on the images of standalone accuracy."""
    return lambda: Scoring(
        space=trainings.space,
        seed=trainings.seed,
        device=str(trainings.device),
        supernet=portable_supernet(supernet_file(supernet), trainings.device),
        data=Portable(trainings.data.reopen, trainings.data),
    )()


def compare(
    trainings: Trainings,
    supernet: Place,
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


def train_and_compare(
    trainings: Trainings, supernet: Place, folder: Path, command: str, trained_in: Path | None = None
) -> MeasuredFidelity:
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

    config = {**trainings.config, "supernet": str(path_of(supernet))}
    baseline = _baseline(trainings.data, journal)
    write_report(folder / REPORT, fidelity, networks, command, config, failures, baseline)
    beside = leave_beside(supernet, fidelity)
    there = next(one for one in read_fidelities(beside) if one.subject == fidelity.subject)
    return MeasuredFidelity(
        fidelity=fidelity,
        limits=trainings.limits,
        networks=networks,
        folder=folder,
        file=folder / FILE_NAME,
        beside=beside,
        kept=None if there == fidelity else there,
        failures=failures,
        baseline=baseline,
    )


def _baseline(data: ImageData, journal: Journal) -> Baseline | None:
    """What networks are read beside. It is kept with the scores, so that a finished run need not wait for it."""
    known = next((record for record in journal.records if record["score"] == BASELINE), None)
    if known is None:
        found = logistic_regression(data.train, data.search)
        known = {"score": BASELINE, "value": asdict(found) if found else None}
        journal.add(known)
    return Baseline(**known["value"]) if known["value"] else None


def table(networks: Iterable[MeasuredNetwork]) -> str:
    """One row a network, as CSV; empty where a score or an accuracy is missing."""
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
    return Table(rows, list(rows[0])).to_csv()
