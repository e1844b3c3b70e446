"""Finalists: the best of a search, trained briefly, because inherited scores cannot tell near-ties apart."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from psvit.architecture import Architecture
from psvit.recipe import Recipe
from psvit.search.trial import Score, Trial

if TYPE_CHECKING:  # those who hand trainings on need none of what it loads
    from psvit.search.facts import Facts

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
        accuracies: top-1 in percent on the search images after brief trainings; empty where there were none.
        failure: why a training of it gave no network; then it has no accuracies.
    """

    trial: Trial
    latencies: dict[str, Any] = field(default_factory=dict)
    accuracies: tuple[float, ...] = ()
    failure: str = ""

    @property
    def accuracy(self) -> float | None:
        """The mean over the trainings."""
        return mean(self.accuracies) if self.accuracies else None

    @property
    def spread(self) -> float | None:
        """The standard deviation over the trainings."""
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


def brief(recipe: Recipe) -> Recipe:
    """The recipe of a finalist's training: a network's, for a twentieth of its epochs.

    It begins with the weights that the network inherits, so it needs less time to show what they can become, and
    neither averages weights over longer than it lasts nor warms up for most of it.
    """
    epochs = max(1, round(SHARE * recipe.epochs))
    return recipe.override({"epochs": epochs, "warmup_epochs": 0, "ema_decay": None})


@dataclass(frozen=True, kw_only=True)
class BriefTraining:
    """One training of a finalist.

    Attributes:
        arch: the finalist's.
        seed: of everything random.
        description: what a progress bar says.
    """

    arch: Architecture
    seed: int
    description: str


Trainer = Callable[[Iterable[BriefTraining]], Iterator[tuple[BriefTraining, Score]]]
"""Does trainings, and gives each with its score when that is known."""


def train_finalists(
    finalists: Sequence[Finalist], trainer: Trainer, *, recipe: Recipe, seed: int, facts: Facts, folder: Path
) -> list[Finalist]:
    """Train every finalist briefly on the training images, compare them on the search images.

    Accuracies are kept among the facts, and a training that was interrupted continues. A search that goes on for
    longer may have other finalists; those that stay are not trained again. One whose training diverges or runs out of
    memory is out, and what a trainer looks for afterwards leaves it out as well. It is no fact, because it may be the
    machine's doing: the next call tries again.

    Args:
        finalists: the best trials.
        trainer: trains them.
        recipe: how it does, see `brief`.
        seed: of the first training of each; the others have the next ones.
        facts: of the trials' study.
        folder: for what the trainings need meanwhile, removed in the end.

    Returns:
        The finalists with their accuracies, best mean first; of equal ones the one that was better before. Those that
        failed come last, in their order.
    """
    seeds = range(seed, seed + SEEDS)
    failures: dict[Architecture, str] = {}

    def missing() -> Iterator[BriefTraining]:
        for position, finalist in enumerate(finalists):
            arch = finalist.trial.arch
            for number, one in enumerate(seeds, start=position * SEEDS + 1):
                # Asked as late as this, because other processes may have trained it meanwhile.
                if arch not in failures and facts.get(_fact(arch, recipe, one)) is None:
                    description = f"finalists, training {number} of {len(finalists) * SEEDS}"
                    yield BriefTraining(arch=arch, seed=one, description=description)

    for training, score in trainer(missing()):
        if score.value is None:
            failures.setdefault(training.arch, score.reason)
        else:
            facts.learn(_fact(training.arch, recipe, training.seed), partial(dict, accuracy=score.value))
    told = []
    for finalist in finalists:
        arch = finalist.trial.arch
        if failure := failures.get(arch, ""):
            _logger.warning("finalist %d is out: %s", finalist.trial.number, failure)
            told.append(replace(finalist, failure=failure))
        else:
            known = [facts.get(_fact(arch, recipe, one)) for one in seeds]
            told.append(replace(finalist, accuracies=tuple(fact["accuracy"] for fact in known if fact)))
    shutil.rmtree(folder, ignore_errors=True)  # with what was begun of those that are no finalists any more
    return sorted(told, key=lambda finalist: -mean(finalist.accuracies or [-1.0]))


def _fact(arch: Architecture, recipe: Recipe, seed: int) -> str:
    """Under which name the accuracy after a training is known."""
    return f"training:{arch.digest}:{recipe.digest}:{seed}"
