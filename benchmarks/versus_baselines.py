r"""Is the search worth it? The network that it delivers against others of equal multiply-accumulates, trained alike.

    python benchmarks/versus_baselines.py --data torch/cifar10 --budget 5MFLOPs --budget 10MFLOPs --epochs 12 \
        --time 2h --workers ray --out runs/versus

Compared are, within 2 % of each budget: networks made by hand after DeiT, PiT and HVT (see `baselines.py`), one drawn
uniformly from the space that is searched, another for each seed, and the one that `psvit-search` delivers there by its
defaults, within --time if that is given. With --ablation two more take part, because with the DeiT-like and the
PiT-like network they tell what token pooling and attention sharing do by themselves.

Every family is given the same grid of learning rate and drop path, and as many epochs. The setting is chosen with the
first seed, by accuracy on the search images, on which nothing is trained; then the other seeds are trained with it.
Networks made by hand have more to choose from, which the others have no part in: either stem, and each --depth that is
given. What is reported are accuracies on the validation images. Every training is scored on them when it ends, because
its weights are not kept; only those of the chosen settings are looked at.

The same line continues an interrupted run, also on another machine that --out was copied to: there is what was found,
and the accuracy of every training that came to its end. What is unfinished lies in --work. More budgets, seeds, rates
or epochs add to what is there, so a first look is to be had with few of them. It ends with Markdown tables, which are
written to versus.md as well, and a picture, versus.svg.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from command_line import at_least, chosen_recipe, run_script
from versus_families import Family, around, families_of
from versus_results import (
    FOUND,
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

from psvit import Architecture
from psvit.arch.architecture import ArchitectureFile
from psvit.cli import read_duration
from psvit.data import ImageData, open_data
from psvit.errors import RunError
from psvit.executors.choose_executor import check_workers, executor_for
from psvit.executors.executor import Executor, Portable
from psvit.io.documents import write_atomic
from psvit.io.journal import Journal
from psvit.io.progress import progress_bar
from psvit.io.run_folder import RunFolder
from psvit.search.run import run_search
from psvit.search.scoring import BATCH_SIZE
from psvit.search.spaces import choose_space
from psvit.train.choices import choose_device
from psvit.train.job_runner import JobRunner, images_of, run_jobs
from psvit.train.recipe import Recipe
from psvit.train.result_store import JournalStore, ResultStore
from psvit.train.training_job import ScoredOn, TrainingJob

# --- what is trained


class Comparison:
    """Runs the jobs of a comparison; knows what came of them, also in runs before.

    Args:
        runner: trains and scores.
        executor: says where.
        store: what is known.
    """

    def __init__(self, runner: JobRunner, executor: Executor, store: ResultStore) -> None:
        self._runner = runner
        self._executor = executor
        self._store = store
        self._asked: dict[TrainingJob, None] = {}
        self.failures: dict[TrainingJob, str] = {}

    def run(self, jobs: Iterable[TrainingJob], description: str) -> None:
        """Train and score what is not known; what fails is tried again by the next run."""
        wanted = dict.fromkeys(jobs)
        self._asked |= wanted
        done = sum(self._store.get(job) is not None for job in wanted)
        with progress_bar(description, len(wanted), "trainings", done=done) as advance:
            for job, outcome in run_jobs(wanted, self._runner, self._executor, self._store):
                if outcome.failure:
                    self.failures[job] = outcome.failure
                advance(1, "")

    def accuracy(self, job: TrainingJob, part: ScoredOn) -> float | None:
        """The accuracy in percent; `None` if it is not known."""
        known = self._store.get(job)
        return known.accuracies.get(part) if known else None

    def seconds(self, jobs: Iterable[TrainingJob]) -> float:
        """How long trainings took, each counted once."""
        known = [self._store.get(job) for job in dict.fromkeys(jobs)]
        return sum(one.seconds for one in known if one and one.seconds is not None)

    @property
    def asked(self) -> tuple[int, float]:
        """How many trainings were asked for, known ones included, and how long they took in all."""
        return len(self._asked), self.seconds(self._asked)


def open_comparison(
    options: argparse.Namespace, config: dict[str, Any], data: ImageData, device: torch.device
) -> Comparison:
    """The trainings of a run.

    Args:
        options: of the script.
        config: what all trainings have in common.
        data: the images.
        device: where to train.
    """
    options.work.mkdir(parents=True, exist_ok=True)  # by which workers see that they are where the run is
    runner = JobRunner(
        data=Portable(data.reopen, data),
        device=str(device),
        folder=(options.work / "trainings").resolve(),
        parts=("search", "val"),
        batch_size=BATCH_SIZE,
    )
    store = JournalStore(options.out / "trainings.journal", config, record)
    return Comparison(runner, executor_for(options.workers, device), store)


def record(job: TrainingJob) -> dict[str, Any]:
    """What the journal says of a training: by its digest it is found, the rest is for people."""
    return {
        "training": job.digest,
        "arch": job.arch.digest,
        "lr": job.recipe.lr,
        "drop_path_rate": job.recipe.drop_path_rate,
        "epochs": job.recipe.epochs,
        "seed": job.seed,
        "images": job.num_images,
    }


# --- how families are tuned


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

    def job(self, family: Family, setting: Setting, seed: int) -> TrainingJob:
        """The training of a family's network."""
        return TrainingJob(
            arch=family.candidates(seed)[setting.candidate],
            recipe=self.recipe.override({"lr": setting.lr, "drop_path_rate": setting.drop_path}),
            seed=seed,
            num_images=self.images,
            label=f"training, seed {seed}",
        )


def tuned(settings: Sequence[Setting], accuracies: Sequence[float | None]) -> Setting | None:
    """The setting with the best accuracy, of equals the earlier one; `None` if all failed."""
    known = [(value, -number) for number, value in enumerate(accuracies) if value is not None]
    return settings[-max(known)[1]] if known else None


def tune(plan: Plan, families: Sequence[Family], comparison: Comparison) -> dict[Family, Setting]:
    """The best setting of every family by the search images, with the first seed.

    Raises:
        RunError: a family could not be trained with any.
    """
    jobs = {family: [plan.job(family, setting, 0) for setting in plan.grid(family)] for family in families}
    comparison.run([job for some in jobs.values() for job in some], "tuning")
    chosen = {}
    for family, some in jobs.items():
        setting = tuned(plan.grid(family), [comparison.accuracy(job, "search") for job in some])
        if setting is None:
            reasons = sorted({comparison.failures.get(job, "") for job in some})
            raise RunError(f"{family.name}, {family.budget}: no setting could be trained: {'; '.join(reasons)}")
        chosen[family] = setting
    return chosen


def compare(plan: Plan, families: Sequence[Family], comparison: Comparison) -> dict[str, list[Result]]:
    """Tune every family, and train the chosen settings with all seeds.

    Args:
        plan: how.
        families: of all budgets.
        comparison: trains, and knows what was trained before.

    Returns:
        By budget the families' results.

    Raises:
        RunError: a family could not be trained at all.
    """
    chosen = tune(plan, families, comparison)
    jobs = {
        family: [plan.job(family, setting, seed) for seed in range(plan.seeds)] for family, setting in chosen.items()
    }
    comparison.run([job for some in jobs.values() for job in some], "final trainings")
    results: dict[str, list[Result]] = {}
    for family, setting in chosen.items():
        accuracies = [value for job in jobs[family] if (value := comparison.accuracy(job, "val")) is not None]
        if not accuracies:
            raise RunError(f"{family.name}, {family.budget}: {comparison.failures[jobs[family][0]]}")
        tuning = comparison.accuracy(jobs[family][0], "search")
        assert tuning is not None, "the setting was chosen by it"
        result = Result(
            name=family.name,
            archs=tuple(job.arch for job in jobs[family]),
            setting=setting,
            tuning=tuning,
            accuracies=tuple(accuracies),
            seconds=comparison.seconds(jobs[family]) / len(accuracies),
        )
        results.setdefault(family.budget, []).append(result)
    return results


# --- the search


def search(
    options: argparse.Namespace, data: ImageData, device: torch.device, times: Journal, budget: str
) -> Architecture:
    """What `psvit-search` delivers, by a run of its own below --work that the command itself could continue."""
    within, kept = around(budget)[1], options.out / f"found-{budget}.yaml"
    if kept.exists():
        return ArchitectureFile.load(kept).arch
    folder = options.work / f"search-{budget}"
    arguments = ["--data", data.name, "--budget", within, "--out", str(folder)]
    arguments += ["--time", options.time] if options.time else []
    arguments += ["--workers", options.workers] if options.workers else []
    began, finished = time.perf_counter(), False
    try:
        result = run_search(
            budget=within,
            data=data,
            seconds=read_duration("--time", options.time) if options.time else None,
            workers=options.workers,
            out=folder,
            device=device,
            repeated_by=shlex.join(["psvit-search", *arguments]),
        )
        if result.stopped:
            raise result.stopped
        write_atomic(kept, (folder / "best.yaml").read_text())
        finished = True
    finally:
        # An interrupted search is timed in parts; a part that was killed is not in the sum.
        times.add({"search": budget, "seconds": time.perf_counter() - began, "finished": finished})
    return result.best.arch


# --- the run


def times_table(budgets: Sequence[str], times: Journal, comparison: Comparison) -> str:
    """How long everything took."""
    rows = []
    for budget in budgets:
        parts = [record["seconds"] for record in times.records if record["search"] == budget]
        rows.append((f"search for {budget}", duration(sum(parts))))
    number, seconds = comparison.asked
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
    parser.add_argument("--data", required=True, help="the images")
    parser.add_argument("--budget", action="append", required=True, help="multiply-accumulates, such as 10MFLOPs")
    parser.add_argument("--out", type=Path, required=True, help="what was found, and what came of the trainings")
    parser.add_argument("--work", type=Path, default=Path("runs/versus-work"), help="what is unfinished")
    parser.add_argument("--images", type=at_least(1), help="train on so many of the training images; default: all")
    parser.add_argument("--recipe", help="of every training; default: by the size of the images")
    parser.add_argument(
        "--epochs", type=at_least(1), help="in place of the recipe's; with less warm-up where that is as long"
    )
    parser.add_argument("--lr", type=float, nargs="+", default=[0.001, 0.002])
    parser.add_argument("--drop-path", type=float, nargs="+", default=[0.0])
    parser.add_argument("--depth", type=share, nargs="+", default=[0.5], help="layers made by hand, of the papers'")
    parser.add_argument("--seeds", type=at_least(1), default=3)
    parser.add_argument("--time", help="of each search, such as 2h; default: what it takes")
    parser.add_argument("--ablation", action="store_true", help="with what pooling and sharing do by themselves")
    parser.add_argument("--workers", help="train on a Ray cluster: ray, or ray://host:port")
    parser.add_argument("--device", help="where to compute; default: cuda where there is one")
    parser.add_argument("--picture", type=Path, help="where the picture goes; default: versus.svg in --out")
    options = parser.parse_args()
    options.budget = list(dict.fromkeys(options.budget))
    run_script(parser, run, options)


def run(options: argparse.Namespace) -> None:
    """Everything, as the options say."""
    device = choose_device(options.device)
    check_workers(options.workers)
    data = open_data(options.data)
    spaces = {budget: choose_space(None, None, data, (around(budget)[1],)) for budget in options.budget}
    plan = Plan(
        recipe=chosen_recipe(options.recipe, options.epochs, next(iter(spaces.values()))),
        images=options.images,
        rates=tuple(options.lr),
        drop_paths=tuple(options.drop_path),
        seeds=options.seeds,
    )
    # What cannot be made by hand or trained is found out before anything is searched.
    for budget, space in spaces.items():
        for family in families_of(budget, space, space.smallest, options.depth, options.ablation):
            for setting in plan.grid(family):
                plan.job(family, setting, 0)
    config = {"data": data.name, "data_digest": data.digest, "device": device.type}
    folder = RunFolder(options.out, "versus_baselines", config)
    times = Journal(folder / "searches.journal", config)
    families = []
    for budget, space in spaces.items():
        found = search(options, data, device, times, budget)
        families += families_of(budget, space, found, options.depth, options.ablation)
    comparison = open_comparison(options, config, data, device)
    results = compare(plan, families, comparison)
    text = [
        f"Trained for {plan.recipe.epochs} epochs on {len(images_of(data, 'train', plan.images)):,} images; tuned on "
        f"{len(data.search):,} others; top-1 on {len(data.val):,} validation images, mean and standard deviation over "
        "seeds.\n"
    ]
    for budget, some in results.items():
        others = [one.name for one in some if one.name != FOUND]
        text += [f"### {budget}\n", families_table(some), differences_table(some, FOUND, others)]
        text += [verdict(some), *([ablation_table(some)] if options.ablation else [])]
    text += ["### Time\n", times_table(options.budget, times, comparison)]
    text += [f"Failed: {reason}\n" for reason in sorted(set(comparison.failures.values()))]
    write_atomic(folder / "versus.md", "\n".join(text))
    write_atomic(options.picture or folder / "versus.svg", picture(results, data.name))
    sys.stdout.write("\n".join(text))


if __name__ == "__main__":
    main()
