"""Finalists: the best of a search, trained briefly, because inherited scores cannot tell near-ties apart."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from psvit.arch.architecture import Architecture
from psvit.arch.costs import METRICS, Cost
from psvit.errors import InputError
from psvit.executors.executor import Executor
from psvit.nn.picture import draw
from psvit.search.trial import Trial
from psvit.space.budget import format_cost
from psvit.train.job_runner import JobRunner, run_jobs
from psvit.train.recipe import Recipe
from psvit.train.result_store import ResultStore
from psvit.train.training_job import TrainingJob

_logger = logging.getLogger(__name__)

SEEDS = 3
"""Trainings of every finalist, which differ in the order of the images, in augmentation and in stochastic depth."""

SHARE = 0.05
"""Epochs of a finalist's training relative to the recipe's."""


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """One of the best trials of a search.

    Attributes:
        trial: the trial.
        latencies: by the limit's setting, what was predicted and what was measured.
        accuracies: top-1 in percent on the search images, one for each brief training; empty if it was not trained.
        failure: why a training of it failed; empty if none did. After a failure there are no accuracies.
        written: its architecture file, once that is written.
    """

    trial: Trial
    latencies: dict[str, Any] = field(default_factory=dict)
    accuracies: tuple[float, ...] = ()
    failure: str = ""
    written: Path | None = None

    @property
    def file(self) -> Path:
        """Its architecture file.

        Raises:
            InputError: it was not written, because it is neither the winner nor on a front of several objectives.
        """
        if self.written is None:
            raise InputError(f"trial {self.trial.number}: has no architecture file; take its .arch")
        return self.written

    @property
    def arch(self) -> Architecture:
        """The architecture."""
        return self.trial.arch

    @property
    def cost(self) -> Cost:
        """Its costs."""
        return self.trial.cost

    @property
    def score(self) -> float | None:
        """Its score."""
        return self.trial.score.value

    @property
    def accuracy(self) -> float | None:
        """The mean accuracy over the brief trainings, in percent; `None` if it was not trained."""
        return mean(self.accuracies) if self.accuracies else None

    @property
    def spread(self) -> float | None:
        """The standard deviation over the brief trainings; `None` if there are fewer than two."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """What the report and the winner's file say of it, JSON-serialisable."""
        return {
            "trial": self.trial.number,
            "inherited": self.trial.score.value,
            "accuracies": list(self.accuracies),
            "macs": self.trial.cost.macs,
            "num_params": self.trial.cost.num_params,
            **({"failed": self.failure} if self.failure else {}),
        }

    def _repr_html_(self) -> str:
        costs = ", ".join(format_cost(metric, getattr(self.cost, metric)) for metric in METRICS)
        return f"{draw(self.arch, titles=[f'Trial {self.trial.number}'])}<p>score {self.score:.6g}, {costs}</p>"


def brief(recipe: Recipe) -> Recipe:
    """The recipe of a finalist's training: that of a network, with a twentieth of the epochs.

    The training usually begins with inherited weights, so it needs less time. It does not average weights, because the
    average would reach further back than the training lasts, and it does not warm up.
    """
    epochs = max(1, round(SHARE * recipe.epochs))
    return recipe.override({"epochs": epochs, "warmup_epochs": 0, "ema_decay": None})


def train_finalists(
    finalists: Sequence[Finalist],
    runner: JobRunner,
    executor: Executor,
    store: ResultStore,
    *,
    recipe: Recipe,
    init: str,
    seed: int,
) -> list[Finalist]:
    """Train every finalist briefly on the training images, compare them on the search images.

    An interrupted training is continued. If a search is extended, it may have other finalists; those that stay are not
    trained again. If one training of a finalist diverges or runs out of memory, the finalist cannot win, and its other
    trainings are left out.

    Args:
        finalists: the best trials.
        runner: trains them, from the weights that they inherit.
        executor: says where.
        store: of the trials' study.
        recipe: how they are trained, see `brief`.
        init: the digest of the weights that they begin with.
        seed: of the first training of each finalist; the others have the next seeds.

    Returns:
        The finalists with their accuracies, best mean first; of equal ones the one that was better before. Those that
        failed come last, in their order.
    """
    jobs = {
        finalist.trial.arch: [
            TrainingJob(
                arch=finalist.trial.arch,
                recipe=recipe,
                seed=seed + number,
                init=init,
                label=f"finalists, training {position * SEEDS + number + 1} of {len(finalists) * SEEDS}",
            )
            for number in range(SEEDS)
        ]
        for position, finalist in enumerate(finalists)
    }
    failures: dict[Architecture, str] = {}
    hopeful = (job for some in jobs.values() for job in some if job.arch not in failures)
    for job, outcome in run_jobs(hopeful, runner, executor, store):
        if outcome.failure:
            failures.setdefault(job.arch, outcome.failure)
    told = []
    for finalist in finalists:
        arch = finalist.trial.arch
        if failure := failures.get(arch, ""):
            _logger.warning(
                "finalist %d cannot win, because a training of it failed: %s", finalist.trial.number, failure
            )
            told.append(replace(finalist, failure=failure))
        else:
            known = [store.get(job) for job in jobs[arch]]
            told.append(replace(finalist, accuracies=tuple(one.accuracies["search"] for one in known if one)))
    # This also removes unfinished trainings of former finalists.
    shutil.rmtree(runner.folder, ignore_errors=True)
    return sorted(told, key=lambda finalist: -mean(finalist.accuracies or [-1.0]))
