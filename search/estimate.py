"""Estimate: how long a search will take on this machine, from a few measured steps."""

from __future__ import annotations

import bisect
import itertools
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from psvit.arch.architecture import Architecture
from psvit.arch.costs import cost
from psvit.executors.choose_executor import executor_for
from psvit.io.progress import in_time
from psvit.nn.network import PSViT
from psvit.search.indicators import DSS
from psvit.search.latency.build import seconds_to_build
from psvit.search.latency.waiting import answered
from psvit.search.plan import SearchPlan
from psvit.search.scoring import batch_size
from psvit.search.selection.rungs import after_scores, going_on, rungs_of
from psvit.search.time_limit import TimeLimit, elapsed
from psvit.supernet.sampling import architectures
from psvit.train.job_runner import initial_network, inputs_for, train_job
from psvit.train.recipe import Recipe, SupernetRecipe
from psvit.train.training_job import TrainingJob

MEASURED = 2
"""Networks that are measured; of supernet trainings, steps."""

BATCH, FEWEST_IMAGES = 64, 8
"""The most images in a measured step, enough to tell what an image costs. On a processor, a large network tells it with
fewer images, down to the second number."""

CONTROLS = 32
"""Networks for comparison that are scored together, see `psvit.search.search.draw_control`."""

STEPS, WORK = (2, 12), 10e9
"""Fewest and most steps of a measured epoch, and how many multiply-accumulates of passes forward are wanted in it, so
that it takes about a second on a processor and what an epoch begins with matters little."""

EPOCHS = 3
"""Measured epochs. The first warms up, and of the others the faster counts, because something else may have run
beside the slower."""

GENTLE = 1e-6
"""The greatest learning rate of measured steps."""

FORWARD = 1 / 3
"""What a teacher's pass costs relative to training on an image, which is a pass forward and about two backward."""

FEWEST_TRIALS, MOST_TRIALS = 6, 480
FEWEST_EPOCHS = 3
"""Of trials, and of the selection's schedule, as far as a time limit changes them. Three epochs have two rungs."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The seconds that the steps of a search will take.

    Attributes:
        latency: to build latency models, in this process.
        supernet: to train a supernet, in this process.
        scoring: to score candidates, at most.
        selection: to train finalists.
        at_once: how many networks are trained at the same time.
    """

    latency: float = 0.0
    supernet: float = 0.0
    scoring: float = 0.0
    selection: float = 0.0
    at_once: int = 1

    @property
    def total(self) -> float:
        """The whole search."""
        return self.latency + self.supernet + self.scoring + self.selection

    def __str__(self) -> str:
        named = {
            "latency model": self.latency,
            "supernet": self.supernet,
            "scoring": self.scoring,
            "selection": self.selection,
        }
        steps = [f"{name} {in_time(value)}" for name, value in named.items() if value]
        at_once = f", {self.at_once} networks at once" if self.at_once > 1 else ""
        return f"{in_time(self.total)} ({', '.join(steps)}{at_once})"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured of the steps of a search, and of the cluster where they are done.

    Attributes:
        an_image: seconds in which a worker trains on an image.
        latency: seconds in which latency models are built.
        at_once: how many networks are trained at the same time.
    """

    an_image: float
    latency: float
    at_once: int

    @classmethod
    def of(cls, plan: SearchPlan) -> Measured:
        """Measure a few steps here.

        Raises:
            InputError: there is no cluster where it was said to be.
        """
        trains = plan.is_trained or plan.selects
        uses_workers = trains or plan.scored_by != "own"  # of a user's own scores nothing can be told
        return cls(
            an_image=_seconds_an_image(plan) if trains else 0.0,
            latency=sum(map(seconds_to_build, plan.latency_plans)),
            at_once=executor_for(plan.asked.workers, plan.scoring_device).at_once() if uses_workers else 1,
        )


def estimate(plan: SearchPlan, measured: Measured | None = None) -> Estimate | None:
    """How long a search will take; `None` if nothing of it can be told.

    Args:
        plan: the plan.
        measured: what was measured before.

    Raises:
        InputError: there is no cluster where it was said to be.
    """
    if plan.scored_by == "rule":
        return None
    measured = measured or Measured.of(plan)
    passing: list[float] = []
    if plan.data and plan.training:
        epochs = epochs_of(plan, plan.trials, plan.training.epochs, _references(plan), measured.at_once)
        passing = [measured.an_image * len(plan.data.train) * number for number in epochs]
    found = Estimate(
        latency=measured.latency,
        supernet=_supernet_seconds(plan) if plan.supernet_recipe else 0.0,
        scoring=passing[0] if plan.is_trained else _seconds_to_score_all(plan) / measured.at_once,
        selection=sum(passing[1:] if plan.is_trained else passing),
        at_once=measured.at_once,
    )
    return found if found.total else None


def into_time(plan: SearchPlan, limit: TimeLimit) -> tuple[SearchPlan, Estimate | None]:
    """The plan of a search by short trainings, changed so that it fits into what is left of its time, and its estimate.

    If there is too little time, the schedule gets shorter and there are fewer candidates, both in proportion: many
    candidates on a short schedule are compared by trainings that have hardly begun. If there is more than enough time,
    there are more candidates.
    """
    assert plan.data is not None
    assert plan.training is not None
    measured, others = Measured.of(plan), _references(plan)
    an_epoch, seconds = measured.an_image * len(plan.data.train), limit.left - measured.latency

    def fits(trials: int, epochs: int) -> bool:
        return sum(epochs_of(plan, trials, epochs, others, measured.at_once)) * an_epoch <= seconds

    usual, few = plan.training.epochs, min(FEWEST_TRIALS, plan.trials)

    def in_proportion(epochs: int) -> int:
        """The trials that go with a schedule."""
        return plan.trials if plan.asked.trials else max(few, round(plan.trials * epochs / usual))

    epochs = usual
    while epochs > FEWEST_EPOCHS and not fits(in_proportion(epochs), epochs):
        epochs -= 1
    trials = in_proportion(epochs)
    if plan.asked.trials is None:
        most = MOST_TRIALS if epochs == usual else in_proportion(epochs + 1)
        most = min(most, plan.space.count(plan.limits) - others)
        numbers = range(few, max(most, trials) + 1)
        trials = numbers[max(0, bisect.bisect_left(numbers, True, key=lambda number: not fits(number, epochs)) - 1)]
    planned = plan.planned_with(trials, plan.training.with_epochs(epochs))
    return planned, estimate(planned, measured)


def scoring_share(plan: SearchPlan, at_once: int) -> float:
    """The part of the time of a search by short trainings in which candidates are scored."""
    assert plan.training is not None
    epochs = list(epochs_of(plan, plan.trials, plan.training.epochs, _references(plan), at_once))
    return epochs[0] / sum(epochs)


def epochs_of(plan: SearchPlan, trials: int, epochs: int, references: int, at_once: int) -> Iterator[float]:
    """The epochs that pass at each step: to score candidates, then for each rung.

    Args:
        plan: the plan.
        trials: how many candidates there are, besides references.
        epochs: of the selection's schedule.
        references: how many there are.
        at_once: how many networks are trained at the same time.
    """
    if not plan.is_trained and not plan.selects:
        return
    # Of references and of the others the best goes on in any case, so there may be one more than the rule says.
    besides = 1 if references else 0
    networks = references + (trials if plan.is_trained else plan.asked.finalists)
    rungs, before = rungs_of(epochs), 0
    if plan.is_trained:
        scored_at, size = rungs[0].epoch, plan.searcher.batch_size
        # References are a population of their own, and no population begins before the last has ended.
        populations = [min(size, of - begun) for of in (references, trials) for begun in range(0, of, size)]
        populations += [
            min(CONTROLS, of - begun) for of in [plan.control_of(trials)] for begun in range(0, of, CONTROLS)
        ]
        yield sum(elapsed(population * [scored_at], at_once) for population in populations)
        if not plan.selects:
            return
        networks, before = min(networks, going_on(networks, to_last=len(rungs) <= 2) + besides), scored_at
        rungs = after_scores(epochs)
    for number, rung in enumerate(rungs, start=1):
        trainings = networks * [rung.epoch - before] + (rung.seeds - 1) * networks * [rung.epoch]
        yield elapsed(trainings, at_once)
        left = going_on(networks, to_last=number == len(rungs) - 1) + besides
        networks, before = min(networks, left), rung.epoch


def _references(plan: SearchPlan) -> int:
    return len(plan.references(plan.limits))


def _seconds_an_image(plan: SearchPlan) -> float:
    """Seconds in which a worker trains on an image, the mean over some candidates."""
    assert plan.training is not None
    with _as_a_worker(plan):
        return float(np.mean([_measured(plan, arch, plan.training) for arch in _some_candidates(plan)]))


@contextmanager
def _as_a_worker(plan: SearchPlan) -> Iterator[None]:
    """Compute as a worker does in a block, if there are any: with one thread."""
    threads = torch.get_num_threads()
    if plan.asked.workers:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _seconds_to_score_all(plan: SearchPlan) -> float:
    """Seconds in which a worker scores all candidates without training them; 0 where that cannot be told."""
    trials = min(plan.trials, plan.space.count(plan.limits))
    number = trials + min(plan.control_of(plan.trials), trials)  # none is scored twice
    if plan.scored_by == "dss":
        return number * _seconds_to_indicate(plan)
    if plan.scored_by == "inherited" and plan.data:
        return number * len(plan.data.search) * _seconds_to_score(plan)
    return 0.0


def _seconds_to_indicate(plan: SearchPlan) -> float:
    """Seconds to score a candidate by the indicator, the mean over some candidates."""
    with _as_a_worker(plan):
        indicator = DSS(plan.space, plan.asked.seed, plan.device)
        clock = time.perf_counter()
        indicator.evaluate(_some_candidates(plan))
    return (time.perf_counter() - clock) / MEASURED


def _some_candidates(plan: SearchPlan) -> list[Architecture]:
    return list(plan.space.sample(np.random.default_rng(0), MEASURED, plan.limits))


def _seconds_to_score(plan: SearchPlan) -> float:
    """Seconds to score a candidate on an image with a supernet's weights, the mean over some candidates.

    Images are prepared once for all of them. What candidates have in common, and who is given up early, saves more.
    """
    device, space = plan.device, plan.space
    size = batch_size(device, space.image_size)
    images = torch.zeros(size, space.in_chans, *space.image_size, device=device)
    seconds = []
    with torch.inference_mode(), _as_a_worker(plan):
        for arch in _some_candidates(plan):
            network = PSViT(arch).to(device).eval()
            run = answered(partial(network, images), device)
            run()
            clock = time.perf_counter()
            run()
            seconds.append((time.perf_counter() - clock) / size)
    return float(np.mean(seconds))


def _supernet_seconds(plan: SearchPlan) -> float:
    """Seconds to train the supernet."""
    assert plan.supernet_recipe is not None
    assert plan.data is not None
    recipe = SupernetRecipe.of(plan.supernet_recipe)
    steps = [architectures(plan.space, recipe, plan.asked.seed, step) for step in range(MEASURED)]
    an_image = sum(_measured(plan, arch, plan.supernet_recipe) for arch in itertools.chain(*steps)) / MEASURED
    if plan.original and recipe.needs_teacher:
        an_image += FORWARD * _measured(plan, plan.original.arch, plan.supernet_recipe)
    return an_image * len(plan.data.train) * recipe.epochs


def _measured(plan: SearchPlan, arch: Architecture, recipe: Recipe) -> float:
    """Seconds to train a network on an image, in short epochs."""
    assert plan.data is not None
    size, wanted = min(recipe.batch_size, BATCH), WORK / cost(arch).macs
    if plan.device.type == "cpu":
        # Even, because a recipe may mix images in pairs; its own batch size is even then.
        size = min(size, max(FEWEST_IMAGES, 2 * round(wanted / STEPS[0] / 2)))
    brief = Recipe.from_dict(
        {
            **{name: getattr(recipe, name) for name in Recipe.model_fields},
            **{"epochs": EPOCHS, "warmup_epochs": 0, "batch_size": size, "accumulate": 1, "target": "labels"},
            # Without a warm-up the recipe's rate may be too large; how long a step takes does not depend on it.
            "lr": min(recipe.lr, GENTLE),
        }
    )
    steps = min(max(round(wanted / size), STEPS[0]), STEPS[1])
    job = TrainingJob(arch=arch, recipe=brief, seed=0, num_images=steps * size, label="measuring training steps")
    with tempfile.TemporaryDirectory(prefix="psvit-") as folder:
        # The devices of a cluster may not be here.
        inputs = inputs_for(plan.data, job, plan.device)
        network = initial_network(job)
        trained = train_job(job, plan.data, network, inputs=inputs, device=plan.device, folder=Path(folder))
    return 1 / max(epoch["images_per_second"] for epoch in trained.log[1:])
