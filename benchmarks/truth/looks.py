"""Looks: the networks of the table after their first epoch, with a shorter warm-up than the table's recipe has.

What a search by short trainings begins with is such a look. The table's own rows say what a network has after an epoch
that is all warm-up; these rows say what it has if the warm-up ends earlier, and all else is equal. They also tell what
`psvit.search.prediction` is worth, which a search fits on such looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from psvit import Architecture, cost
from psvit.search.fidelity.measures import kendall_tau
from psvit.search.prediction import predictor
from psvit.search.trial import Score, Trial
from psvit.train.recipe import Recipe
from psvit.train.training_job import TrainingJob
from truth.entries import Entry
from truth.networks import Network, job_of
from truth.rows import Row
from truth.taus import advantage, as_cells, strata_of, taus

WARMUPS = (0.4,)
"""Epochs of warm-up."""

EPOCH = 1
"""After which networks are looked at."""

FEWEST = 8
"""Networks below which nothing is said."""

FITTED, DIVISIONS = (9, 15, 21, 30), 100
"""Numbers of networks that the prediction is fitted on, and random divisions into these and those that are ranked."""


def with_warmup(recipe: Recipe, warmup: float) -> Recipe:
    """The table's recipe with another warm-up."""
    return recipe.override({"warmup_epochs": warmup})


def jobs(networks: Sequence[Network], recipe: Recipe, warmup: float) -> list[TrainingJob]:
    """One look at every network of some, with the first seed."""
    some = (job_of(network, with_warmup(recipe, warmup), network.seeds[0]) for network in networks)
    return [replace(job, until=EPOCH) for job in some]


def look_lines(
    some: Sequence[Entry], looks: Sequence[Row], recipe: Recipe, prior: Callable[[Architecture], float] | None
) -> Iterator[str]:
    """How well a look ranks networks of a budget, beside the table's own first epoch, and what a fit on looks is worth.

    Args:
        some: the networks.
        looks: rows of looks.
        recipe: of the table.
        prior: fitted on the networks of other budgets, if there are any.
    """
    for warmup in WARMUPS:
        digest = with_warmup(recipe, warmup).digest
        by_arch = {row.arch_digest: row for row in looks if row.recipe_digest == digest}
        known = [entry for entry in some if entry.arch.digest in by_arch]
        if len(known) < FEWEST:
            continue
        truths, strata = np.array([entry.truth for entry in known]), strata_of(known)
        mine = np.array([by_arch[entry.arch.digest].search_accuracy[EPOCH - 1] for entry in known])
        own = np.array([entry.first.search_accuracy[EPOCH - 1] for entry in known])
        yield (
            f"| {len(known)} networks, after {EPOCH} epoch | mean accuracy | tau within strata | 95 % | tau over "
            "strata | 95 % |"
        )
        yield "|---|---|---|---|---|---|"
        for name, values in ((f"{recipe.warmup_epochs:g}", own), (f"{warmup:g}", mine)):
            cells = " | ".join(as_cells(estimate, " | ") for estimate in taus(values, truths, strata))
            yield f"| {name} epochs of warm-up | {values.mean():.2f} | {cells} |"
        yield ""
        yield f"Within strata, {warmup:g} is ahead by {as_cells(advantage(mine, own, truths, strata))}."
        yield ""
        yield "| predicted after looks at so many others | prior | tau within strata | tau over them |"
        yield "|---|---|---|---|"
        for number in FITTED:
            if number > len(known) - FEWEST:
                break
            for name, one in (("none", lambda arch: 0.0), ("of the other budgets", prior)):
                if one:
                    within, over = _predicted(known, mine, number, one)
                    yield f"| {number} | {name} | {within:.2f} | {over:.2f} |"
        yield ""


def _predicted(
    some: Sequence[Entry], scores: np.ndarray, number: int, prior: Callable[[Architecture], float]
) -> tuple[float, float]:
    """How well the prediction ranks the networks that it was not fitted on: mean taus within strata and over them."""
    rng, found = np.random.default_rng(0), []
    for _ in range(DIVISIONS):
        order = rng.permutation(len(some))
        fitted, left = order[:number].tolist(), [some[place] for place in order[number:].tolist()]
        trials = [
            Trial(number=place, arch=some[place].arch, cost=cost(some[place].arch), score=Score(value=scores[place]))
            for place in fitted
        ]
        predicted = predictor(trials, prior)([entry.arch for entry in left])
        truths = np.array([entry.truth for entry in left])
        found.append([float(kendall_tau(predicted, truths, strata=strata)[0]) for strata in (strata_of(left), None)])
    within, over = np.nanmean(found, axis=0)
    return float(within), float(over)
