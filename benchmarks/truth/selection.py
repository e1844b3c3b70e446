"""Selection by training, simulated on the recorded curves: successive halving against training fewer networks whole.

A search that can train draws networks, looks at them on the search images after some epochs, and goes on with the
better ones. What it delivers is judged by its truth, on the validation images: the *regret* is by how much the best
network of the budget is ahead of it. What it costs is processor time as recorded: an epoch of a network costs its
training's share. Schedules of an early rung are those of the whole training, as a run that shares one schedule has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from truth.entries import Entry

# --- thresholds

RESAMPLES = 1000
LEAST = 18
"""Networks of a budget below which nothing is simulated."""

WANTED_REGRET = 0.5
"""Points that a selection may lose on average."""

WANTED_SHARE = 0.25
"""Of what training all networks takes."""

RUNGS = (1, 3, 12)
"""Epochs at which two thirds of the entrants are left behind; the last one's best is delivered."""

ENTRANTS = (9, 18, 27)
KEPT = 3
"""One of so many goes on."""


def selection_lines(some: Sequence[Entry]) -> Iterator[str]:
    """The table of simulated selections for the networks of a budget."""
    if len(some) < LEAST:
        yield f"Simulated selection: {LEAST} networks are needed, {len(some)} are there."
        return
    whole = sum(entry.first.processor_seconds for entry in some)
    best = max(entry.truth for entry in some)
    yield "| selection | mean regret in points | 95 % of resamples | share of training all | wanted |"
    yield "|---|---|---|---|---|"
    for name, entrants, select in _selections(len(some)):
        rng = np.random.default_rng(0)
        orders = [rng.permutation(len(some))[:entrants] for _ in range(RESAMPLES)]
        outcomes = [select([some[place] for place in order]) for order in orders]
        regrets = np.array([best - entry.truth for entry, _ in outcomes])
        share = float(np.mean([seconds for _, seconds in outcomes])) / whole
        low, high = np.quantile(regrets, [0.025, 0.975])
        reached = "reached" if regrets.mean() <= WANTED_REGRET and share <= WANTED_SHARE else "not reached"
        yield f"| {name} | {regrets.mean():.2f} | {low:.2f} to {high:.2f} | {share:.2f} | {reached} |"


Outcome = tuple[Entry, float]
"""What is delivered, and the processor seconds that it took."""


def _selections(number: int) -> Iterator[tuple[str, int, Callable[[Sequence[Entry]], Outcome]]]:
    """All selections that are compared: what they are called, how many random networks enter, and what is done."""
    for entrants in ENTRANTS:
        if entrants <= number:
            yield f"halving of {entrants} random networks", entrants, halving
    # As many whole as halving has tell what halving loses, and fewer what else its time is good for.
    for entrants in (1, 2, 4, 8, *ENTRANTS):
        if entrants <= number:
            yield f"best of {entrants} random networks, trained whole", entrants, whole


def halving(entrants: Sequence[Entry]) -> Outcome:
    """Successive halving (arXiv 1502.07943): of each rung the best third goes on, by accuracy on the search images."""
    seconds, before = 0.0, 0
    for rung in RUNGS:
        seconds += sum(_seconds(entry, rung - before) for entry in entrants)
        before = rung
        ranked = sorted(entrants, key=partial(_accuracy_at, rung), reverse=True)
        entrants = ranked[: max(1, len(ranked) // KEPT)]
    return entrants[0], seconds


def whole(entrants: Sequence[Entry]) -> Outcome:
    """All are trained to the end, and the best on the search images is taken."""
    best = max(entrants, key=partial(_accuracy_at, 0))
    return best, sum(entry.first.processor_seconds for entry in entrants)


def _accuracy_at(epoch: int, entry: Entry) -> float:
    """On the search images after so many epochs, or after the last for 0."""
    return entry.first.search_accuracy[epoch - 1]


def _seconds(entry: Entry, epochs: int) -> float:
    return entry.first.processor_seconds * epochs / entry.first.epochs
