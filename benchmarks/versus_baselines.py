r"""Is the search worth it? The network that it finds against others of equal multiply-accumulates, trained alike.

    python benchmarks/versus_baselines.py --data torch/cifar10 --supernet runs/supernet \
        --budget 10MFLOPs --budget 20MFLOPs --epochs 10 --workers ray --out runs/versus

Compared are, within 2 % of each budget: networks made by hand after DeiT, PiT and HVT (see `baselines.py`), one drawn
uniformly from the supernet's space, another for each seed, and the one that `psvit-search` finds there with the
supernet. Two more take part because, with the DeiT-like and the PiT-like network, they tell what token pooling and
attention sharing do by themselves.

Every family is given the same grid of learning rate and drop path, and as many epochs. The setting is chosen with the
first seed, by accuracy on the search images, on which nothing is trained; then the other seeds are trained with it. For
networks made by hand several --depth may be given: then that is tuned as well, which the others have no part in. What
is reported are accuracies on the validation images, which are looked at for the chosen settings only.

The same line continues an interrupted run: every training goes on from its last checkpoint, and an accuracy that is
known is not measured again. More budgets, seeds, rates or epochs add to what is there, so a first look is to be had
with few of them. It ends with Markdown tables, which are written to versus.md as well, and a picture, versus.svg.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from baselines import BOTH, DEIT, HVT, PIT, SHARING, TOLERANCE, Proportions, fit
from command_line import at_least, chosen_recipe, run_script
from versus_results import (
    FOUND,
    RANDOM,
    Result,
    Setting,
    ablation_table,
    differences_table,
    duration,
    families_table,
    picture,
    table,
    verdict,
)

from psvit import Architecture, Budget, SearchSpace
from psvit.architecture import ArchitectureFile
from psvit.cli import read_device, read_workers
from psvit.data import Batches, ImageData, Inputs, Labelled, accuracy, open_data, training_loader
from psvit.documents import write_atomic
from psvit.errors import InputError, RunError
from psvit.progress import progress_bar
from psvit.recipe import Recipe, SupernetRecipe
from psvit.run_folder import RunFolder
from psvit.search.cli import SUPERNET_TRIALS
from psvit.search.failures import score_of
from psvit.search.fidelity.training import alone_inputs, initial_network, train_network, training_images
from psvit.search.latency.journal import Journal
from psvit.search.run import SearchRun, choose_space, run_search
from psvit.search.scoring import BATCH_SIZE
from psvit.search.trial import Score
from psvit.supernet.supernet import read_provenance, supernet_digest, supernet_file

HAND_MADE = (DEIT, PIT, HVT, SHARING, BOTH)

Part = Literal["search", "val"]


# --- what is trained


@dataclass(frozen=True, kw_only=True)
class Training:
    """All that decides what a network becomes, but for the images and the kind of device.

    Attributes:
        arch: the network.
        recipe: how it is trained.
        seed: of everything random.
        images: on how many of the training images; all where not given.
    """

    arch: Architecture
    recipe: Recipe
    seed: int
    images: int | None

    @property
    def digest(self) -> str:
        """Equal trainings have equal ones."""
        about = [self.arch.to_dict(), self.recipe.to_dict(), self.seed, self.images]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The accuracy of a trained network on a part of the images that it was not trained on."""

    training: Training
    part: Part

    @property
    def key(self) -> tuple[str, str]:
        """What it is known by in the journal."""
        return self.training.digest, self.part


class Reader:
    """Trains networks and reads their accuracies; an evaluator whose networks are `Reading`s.

    Args:
        data: the images.
        device: where to compute.
        folder: for the trainings, each in a folder of its own that stays.
    """

    def __init__(self, data: ImageData, device: torch.device, folder: Path) -> None:
        self._data = data
        self._device = device
        self._folder = folder

    def evaluate(self, readings: Sequence[Reading], best: Sequence[float] = (), parts: int = 1) -> list[Score]:
        """Accuracies in percent; failed are trainings that diverge or run out of memory."""
        return [score_of(partial(self._read, one), len(getattr(self._data, one.part))) for one in readings]

    def _read(self, reading: Reading) -> float:
        training = reading.training
        network = train_network(
            initial_network(training.arch, training.recipe, training.seed),
            self._data,
            training_images(self._data, training.images),
            training.recipe,
            seed=training.seed,
            device=self._device,
            folder=self._folder / training.digest,
            description=f"training, seed {training.seed}",
        )
        inputs = alone_inputs(self._data, training.arch, self._device)
        return accuracy(network, Batches(getattr(self._data, reading.part), inputs, BATCH_SIZE, self._device))

    def describe(self) -> dict[str, Any]:
        """Says what an accuracy is."""
        return {"kind": "standalone accuracy"}


def open_reader(data: str, device: str, folder: str) -> Reader:
    """The reader of a worker, which opens the images by their name."""
    return Reader(open_data(data), torch.device(device), Path(folder))


class Accuracies:
    """What is known of trainings, and what trains the rest.

    Args:
        folder: of the run.
        config: what all trainings have in common.
        data: the images.
        device: where to train.
        workers: a Ray cluster; without it this process trains, one network after the other.
    """

    def __init__(
        self, folder: Path, config: dict[str, Any], data: ImageData, device: torch.device, workers: str | None
    ) -> None:
        self._folder = folder
        self._journal = Journal(folder / "trainings.journal", config)
        self._data = data
        self._device = device
        self._workers = workers
        self._known = {(record["training"], record["part"]): record for record in self._journal.records}
        self._asked: set[Reading] = set()
        self.failures: dict[tuple[str, str], str] = {}

    def __getitem__(self, reading: Reading) -> float | None:
        """The accuracy, or nothing where it failed."""
        record = self._known.get(reading.key)
        return None if record is None else record["accuracy"]

    def seconds(self, readings: Iterable[Reading]) -> float:
        """How long trainings took, each counted once."""
        trainings = {reading.training.digest: self._known.get(reading.key) for reading in readings}
        return sum(record["seconds"] for record in trainings.values() if record)

    @property
    def asked(self) -> tuple[int, float]:
        """How many trainings were asked for, known ones included, and how long they took in all."""
        return len({reading.training for reading in self._asked}), self.seconds(self._asked)

    def read(self, readings: Sequence[Reading]) -> Iterator[Reading]:
        """Train and measure what is not known; what fails is tried again by the next run.

        Args:
            readings: all that is wanted.

        Yields:
            Each of those that were not known, when it is.
        """
        self._asked.update(readings)
        missing = [one for one in dict.fromkeys(readings) if one.key not in self._known]
        if not missing:
            return
        with self._arrivals(missing) as arrivals:
            for position, score in arrivals:
                reading = missing[position]
                if score.value is None:
                    self.failures[reading.key] = score.reason
                else:
                    self._add(reading, score.value)
                yield reading

    def forget(self, trainings: Iterable[Training]) -> None:
        """Remove the weights of trainings of which no more is wanted."""
        for training in trainings:
            shutil.rmtree(self._place(training), ignore_errors=True)

    @property
    def _trainings(self) -> Path:
        return (self._folder / "trainings").resolve()

    def _place(self, training: Training) -> Path:
        return self._trainings / training.digest

    def _add(self, reading: Reading, value: float) -> None:
        training = reading.training
        images = training_images(self._data, training.images)
        record = {
            "training": training.digest,
            "part": reading.part,
            "accuracy": value,
            # From the log, which an interrupted training continues.
            "seconds": logged_seconds(
                self._place(training) / "log.csv",
                images,
                Inputs.of(self._data, training.arch.image_size),
                training.recipe,
            ),
            # For people.
            "arch": training.arch.digest,
            "lr": training.recipe.lr,
            "drop_path_rate": training.recipe.drop_path_rate,
            "epochs": training.recipe.epochs,
            "seed": training.seed,
            "images": training.images,
        }
        self._journal.add(record)
        self._known[reading.key] = record

    @contextmanager
    def _arrivals(self, readings: Sequence[Reading]) -> Iterator[Iterator[tuple[int, Score]]]:
        """Accuracies as they come, by this process or by workers on a cluster."""
        if self._workers is None:
            reader = Reader(self._data, self._device, self._trainings)
            yield ((position, reader.evaluate([one])[0]) for position, one in enumerate(readings))
            return
        from psvit.search.ray_backend import RayEvaluator, one_by_one

        with RayEvaluator(
            partial(open_reader, self._data.name, str(self._device), str(self._trainings)),
            cut=one_by_one,
            address=self._workers,
            gpus_per_worker=1 if self._device.type == "cuda" else 0,
            folder=self._folder / "ray",
        ) as workers:
            yield workers.arrivals(readings)


def logged_seconds(log: Path, images: Labelled, inputs: Inputs, recipe: Recipe) -> float:
    """How long training took by its log.csv, what is measured between epochs left out.

    Args:
        log: the file.
        images: that were trained on.
        inputs: how they were prepared.
        recipe: how it was trained.
    """
    loader = training_loader(images, inputs, recipe)
    with log.open(newline="") as stream:
        rates = [float(row["images_per_second"]) for row in csv.DictReader(stream)]
    return sum(loader.steps * loader.batch_size / rate for rate in rates)


# --- families and how they are tuned


@dataclass(frozen=True, kw_only=True)
class Family:
    """Networks of one kind within one budget.

    Attributes:
        name: of the kind.
        budget: as given.
        candidates: by seed, the networks among which one is chosen by tuning.
    """

    name: str
    budget: str
    candidates: Callable[[int], Sequence[Architecture]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How all families are trained.

    Attributes:
        recipe: of all, but for what is tuned.
        images: on how many of the training images; all where not given.
        rates: learning rates.
        drop_paths: rates of stochastic depth.
        seeds: how many; the first tunes.
    """

    recipe: Recipe
    images: int | None
    rates: tuple[float, ...]
    drop_paths: tuple[float, ...]
    seeds: int

    def grid(self, family: Family) -> list[Setting]:
        """All settings of a family."""
        candidates = range(len(family.candidates(0)))
        return [
            Setting(candidate=candidate, lr=lr, drop_path=drop_path)
            for candidate, lr, drop_path in product(candidates, self.rates, self.drop_paths)
        ]

    def reading(self, family: Family, setting: Setting, seed: int, part: Part) -> Reading:
        """What is to be known of a family."""
        recipe = self.recipe.override({"lr": setting.lr, "drop_path_rate": setting.drop_path})
        arch = family.candidates(seed)[setting.candidate]
        return Reading(training=Training(arch=arch, recipe=recipe, seed=seed, images=self.images), part=part)


def tuned(settings: Sequence[Setting], accuracies: Sequence[float | None]) -> Setting | None:
    """The setting with the best accuracy, of equals the earlier one; nothing where all failed."""
    known = [(value, -number) for number, value in enumerate(accuracies) if value is not None]
    return settings[-max(known)[1]] if known else None


def families_of(budget: str, space: SearchSpace, found: Architecture, depths: Sequence[float]) -> list[Family]:
    """All families within a budget.

    Args:
        budget: as given.
        space: of random networks, and whose images and patches all have.
        found: what a search found.
        depths: layers of networks made by hand, relative to the papers'.

    Raises:
        InputError: there is no such network within the budget.
    """
    macs, limits = around(budget, space)
    space.check(Budget.parse(limits))

    def by_hand(proportions: Proportions) -> Family:
        # Two depths may lead to one network.
        archs = tuple(dict.fromkeys(fit(proportions, space, macs, depth) for depth in depths))
        return Family(name=proportions.name, budget=budget, candidates=lambda seed: archs)

    @cache
    def drawn(seed: int) -> tuple[Architecture, ...]:
        return (space.sample(np.random.default_rng([seed, macs]), 1, Budget.parse(limits))[0],)

    return [
        *map(by_hand, HAND_MADE),
        Family(name=RANDOM, budget=budget, candidates=drawn),
        Family(name=FOUND, budget=budget, candidates=lambda seed: (found,)),
    ]


def tune(plan: Plan, families: Sequence[Family], known: Accuracies) -> dict[Family, Setting]:
    """The best setting of every family by the search images, with the first seed.

    Raises:
        RunError: a family could not be trained with any.
    """
    readings = {
        family: [plan.reading(family, setting, 0, "search") for setting in plan.grid(family)] for family in families
    }
    everything = [one for some in readings.values() for one in some]

    def best() -> dict[Family, Setting | None]:
        return {family: tuned(plan.grid(family), [known[one] for one in readings[family]]) for family in families}

    with counted("tuning", everything, known) as advance:
        for _ in known.read(everything):
            # Of weights, only those of the best so far are of use later.
            wanted = {plan.reading(family, one, 0, "val").training for family, one in best().items() if one}
            known.forget({one.training for one in everything if known[one] is not None} - wanted)
            advance()
    chosen = {}
    for family, setting in best().items():
        if setting is None:
            reasons = sorted({known.failures.get(one.key, "") for one in readings[family]})
            raise RunError(f"{family.name}, {family.budget}: no setting could be trained: {'; '.join(reasons)}")
        chosen[family] = setting
    return chosen


def compare(plan: Plan, families: Sequence[Family], known: Accuracies) -> dict[str, list[Result]]:
    """Tune every family, train the chosen settings with all seeds, and read the validation images.

    Args:
        plan: how.
        families: of all budgets.
        known: accuracies.

    Returns:
        By budget the families' results.

    Raises:
        RunError: a family could not be trained at all.
    """
    chosen = tune(plan, families, known)
    readings = {
        family: [plan.reading(family, setting, seed, "val") for seed in range(plan.seeds)]
        for family, setting in chosen.items()
    }
    everything = [one for some in readings.values() for one in some]
    with counted("final trainings", everything, known) as advance:
        for _ in known.read(everything):
            advance()
    known.forget({one.training for one in everything if known[one] is not None})
    results: dict[str, list[Result]] = {}
    for family, setting in chosen.items():
        accuracies = [value for one in readings[family] if (value := known[one]) is not None]
        if not accuracies:
            raise RunError(f"{family.name}, {family.budget}: {known.failures[readings[family][0].key]}")
        tuning = known[plan.reading(family, setting, 0, "search")]
        assert tuning is not None, "the setting was chosen by it"
        result = Result(
            name=family.name,
            archs=tuple(one.training.arch for one in readings[family]),
            setting=setting,
            tuning=tuning,
            accuracies=tuple(accuracies),
            seconds=known.seconds(readings[family]) / len(accuracies),
        )
        results.setdefault(family.budget, []).append(result)
    return results


@contextmanager
def counted(description: str, readings: Sequence[Reading], known: Accuracies) -> Iterator[Callable[[], None]]:
    """A progress bar over readings."""
    wanted = list(dict.fromkeys(readings))
    done = sum(known[one] is not None for one in wanted)
    with progress_bar(description, len(wanted), "trainings", done=done) as advance:
        yield lambda: advance(1, "")


# --- the search


def search(
    options: argparse.Namespace, data: ImageData, device: torch.device, times: Journal, budget: str
) -> Architecture:
    """What `psvit-search` finds, in a run of its own below --out that the command itself could continue."""
    name = search_name(options.supernet, budget)
    run = SearchRun(
        space=choose_space(None, options.supernet, data, (budget,)),
        budget=(budget,),
        data=data,
        supernet=options.supernet,
        recipe=None,
        searcher="evolution",
        trials=options.trials,
        seed=0,
        device=device,
        finalists=options.finalists,
        control=options.trials // 4,
        workers=options.workers,
    )
    folder = RunFolder(options.out / name, "psvit-search", run.config)
    record = {"search": name, "trials": options.trials}
    if any(record.items() <= known.items() and known["finished"] for known in times.records):
        return ArchitectureFile.load(folder / "best.yaml").arch
    arguments = ["--supernet", options.supernet, "--data", data.name, "--budget", budget, "--out", str(folder.path)]
    arguments += ["--trials", str(options.trials), "--finalists", str(options.finalists)]
    arguments += ["--workers", options.workers] if options.workers else []
    began, finished = time.perf_counter(), False
    try:
        found = run_search(run, folder, shlex.join(["psvit-search", *arguments]))
        if found.stopped:
            raise found.stopped
        finished = True
    finally:
        # An interrupted search is timed in parts; a part that was killed is not in the sum.
        times.add({**record, "budget": budget, "seconds": time.perf_counter() - began, "finished": finished})
    return found.winner.trial.arch


def search_name(supernet: str, budget: str) -> str:
    """What the folder of a search is called."""
    return f"search-{budget.replace('..', '-')}-{supernet_digest(supernet)[:8]}"


def around(budget: str, space: SearchSpace) -> tuple[int, str]:
    """A budget in multiply-accumulates, and the range around it that all networks keep.

    Raises:
        InputError: it is not a single limit on multiply-accumulates.
    """
    limits = Budget.parse(budget, space=space)
    limit = limits.limit("macs")
    if limit is None or limit.lower is not None or limits.latencies:
        raise InputError(f"--budget {budget!r}: give one number of multiply-accumulates, such as 10MFLOPs")
    low, high = ((1 + sign * TOLERANCE) * limit.upper / 1e6 for sign in (-1, 1))
    return limit.upper, f"{low:.10g}..{high:.10g}MFLOPs"


# --- the run


def times_table(
    options: argparse.Namespace, data: ImageData, space: SearchSpace, times: Journal, known: Accuracies
) -> str:
    """How long everything took."""
    rows = []
    log = supernet_file(options.supernet).parent / "log.csv"
    if log.exists():
        recipe = SupernetRecipe.from_dict(read_provenance(options.supernet)["recipe"], source=str(log.parent))
        seconds = logged_seconds(log, data.train, Inputs.of(data, space.image_size), recipe)
        rows.append((f"supernet, {recipe.epochs} epochs", duration(seconds)))
    for budget in options.budget:
        name = search_name(options.supernet, around(budget, space)[1])
        parts = [record for record in times.records if record["search"] == name]
        label = f"search for {budget}, {parts[-1]['trials']} trials and {options.finalists} finalists"
        rows.append((label, duration(sum(part["seconds"] for part in parts))))
    number, seconds = known.asked
    rows.append((f"{number} trainings, the time of each added up", duration(seconds)))
    return table(("", "time"), rows)


def share(text: str) -> float:
    """A positive number."""
    if not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not positive")
    return float(text)


def main() -> None:
    """Search, train what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the images that the supernet was trained on")
    parser.add_argument("--supernet", required=True, help="run folder of psvit-supernet")
    parser.add_argument("--budget", action="append", required=True, help="multiply-accumulates, such as 10MFLOPs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=at_least(1), help="train on so many of the training images; default: all")
    parser.add_argument("--recipe", help="of every training; default: by the size of the images")
    parser.add_argument(
        "--epochs", type=at_least(1), help="in place of the recipe's; with less warm-up where that is as long"
    )
    parser.add_argument("--lr", type=float, nargs="+", default=[0.0005, 0.001, 0.002])
    parser.add_argument("--drop-path", type=float, nargs="+", default=[0.0, 0.1])
    parser.add_argument("--depth", type=share, nargs="+", default=[0.5], help="layers made by hand, of the papers'")
    parser.add_argument("--seeds", type=at_least(1), default=3)
    parser.add_argument("--trials", type=at_least(1), default=SUPERNET_TRIALS, help="of each search")
    parser.add_argument("--finalists", type=int, default=5, help="of each search")
    parser.add_argument("--workers", help="train on a Ray cluster: ray, or ray://host:port")
    parser.add_argument("--device", help="where to compute; default: cuda where there is one")
    parser.add_argument("--picture", type=Path, help="where the picture goes; default: versus.svg in --out")
    options = parser.parse_args()
    options.budget = list(dict.fromkeys(options.budget))
    run_script(parser, run, options)


def run(options: argparse.Namespace) -> None:
    """Everything, as the options say."""
    device = read_device(options.device)
    read_workers(options.workers)
    data = open_data(options.data)
    space = choose_space(None, options.supernet, data, ())
    plan = Plan(
        recipe=chosen_recipe(options.recipe, options.epochs, space),
        images=options.images,
        rates=tuple(options.lr),
        drop_paths=tuple(options.drop_path),
        seeds=options.seeds,
    )
    # What cannot be made by hand or trained is found out before anything is searched.
    for budget in options.budget:
        for family in families_of(budget, space, space.smallest, options.depth):
            for setting in plan.grid(family):
                plan.reading(family, setting, 0, "search")
    config = {"data": data.name, "data_digest": data.digest, "device": device.type}
    folder = RunFolder(options.out, "versus_baselines", config)
    times = Journal(folder / "searches.journal", config)
    families = []
    for budget in options.budget:
        found = search(options, data, device, times, around(budget, space)[1])
        families += families_of(budget, space, found, options.depth)
    known = Accuracies(folder.path, config, data, device, options.workers)
    results = compare(plan, families, known)
    text = [
        f"Trained for {plan.recipe.epochs} epochs on {len(training_images(data, plan.images)):,} images; tuned on "
        f"{len(data.search):,} others; top-1 on {len(data.val):,} validation images, mean and standard deviation over "
        "seeds.\n"
    ]
    for budget, some in results.items():
        others = [one.name for one in some if one.name != FOUND]
        text += [f"### {budget}\n", families_table(some), differences_table(some, FOUND, others)]
        text += [verdict(some), ablation_table(some)]
    text += ["### Time\n", times_table(options, data, space, times, known)]
    text += [f"Failed: {reason}\n" for reason in sorted(set(known.failures.values()))]
    write_atomic(folder / "versus.md", "\n".join(text))
    write_atomic(options.picture or folder / "versus.svg", picture(results, data.name))
    sys.stdout.write("\n".join(text))


if __name__ == "__main__":
    main()
