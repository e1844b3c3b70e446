"""Selection by training, simulated on the recorded curves: successive halving against training fewer networks whole.

A search that can train draws networks, looks at them on the search images after some epochs, and goes on with the
better ones. What it delivers is judged by its truth, on the validation images: the *regret* is by how much the best
network of the budget is ahead of it. What it costs is processor time as recorded: an epoch of a network costs its
training's share. Schedules of an early rung are those of the whole training, as a run that shares one schedule has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from truth.entries import Entry
from truth.rows import Row
from truth.supernets import LEARNING, Inherited, by_supernet, supernet_work

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

SCREENED = 2
"""One of so many enters, where a supernet has scored all."""

FINALISTS = 5
"""As many were trained in version 0.1."""

SEARCH_IMAGES = 5000
"""Images that a supernet scores a network on."""


@dataclass(frozen=True)
class Spent:
    """What a selection took.

    Attributes:
        seconds: processor seconds.
        work: multiply-accumulates times images; three times where weights are learnt.
    """

    seconds: float = 0.0
    work: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.seconds + other.seconds, self.work + other.work)


Outcome = tuple[Entry, Spent]
"""What is delivered, and what it took."""


@dataclass(frozen=True)
class Selection:
    """A way to select.

    Attributes:
        name: of it.
        entrants: how many networks it is given, drawn at random.
        select: what it does with them.
    """

    name: str
    entrants: int
    select: Callable[[Sequence[Entry]], Outcome]


def selection_lines(
    some: Sequence[Entry], inherited: Sequence[Inherited] = (), rows: Sequence[Row] = ()
) -> Iterator[str]:
    """The tables of simulated selections for the networks of a budget: of all, then of those with inherited scores.

    Args:
        some: the networks.
        inherited: what they reach with the weights of supernets.
        rows: among them, short trainings from such weights.
    """
    if len(some) < LEAST:
        yield f"Simulated selection: {LEAST} networks are needed, {len(some)} are there."
        return
    yield from _table(some, _by_trainings(len(some)))
    for scores in by_supernet(inherited, some[0].budget):
        pool = [entry for entry in some if entry.arch.digest in scores]
        tuned = {row.arch_digest: row for row in rows if row.initial == next(iter(scores.values())).supernet}
        trained = [entry for entry in pool if entry.arch.digest in tuned]
        for part in (pool, trained) if len(trained) < len(pool) else (pool,):
            if len(part) >= LEAST:
                yield ""
                yield from _table(part, _by_supernet(part, scores, tuned))


def _table(pool: Sequence[Entry], selections: Iterator[Selection]) -> Iterator[str]:
    """A row a selection; regret and shares are of the pool."""
    everything = Spent()
    for entry in pool:
        everything += _trained(entry, entry.first.epochs)
    best = max(entry.truth for entry in pool)
    head = f"selection from {len(pool)} networks"
    yield f"| {head} | mean regret in points | 95 % of resamples | share of training all | of its work | wanted |"
    yield "|---|---|---|---|---|---|"
    for one in selections:
        rng = np.random.default_rng(0)
        orders = [rng.permutation(len(pool))[: one.entrants] for _ in range(RESAMPLES)]
        outcomes = [one.select([pool[place] for place in order]) for order in orders]
        regrets = np.array([best - entry.truth for entry, _ in outcomes])
        share = float(np.mean([spent.seconds for _, spent in outcomes])) / everything.seconds
        work = float(np.mean([spent.work for _, spent in outcomes])) / everything.work
        low, high = np.quantile(regrets, [0.025, 0.975])
        reached = "reached" if regrets.mean() <= WANTED_REGRET and share <= WANTED_SHARE else "not reached"
        yield (
            f"| {one.name} | {regrets.mean():.2f} | {low:.2f} to {high:.2f} | {share:.2f} | {work:.2f} | {reached} |"
        )


def _by_trainings(number: int) -> Iterator[Selection]:
    """Without a supernet, from so many networks."""
    for entrants in ENTRANTS:
        if entrants <= number:
            yield Selection(f"halving of {entrants} random networks", entrants, halving)
    # As many whole as halving has tell what halving loses, and fewer what else its time is good for.
    for entrants in (1, 2, 4, 8, *ENTRANTS):
        if entrants <= number:
            yield Selection(f"best of {entrants} random networks, trained whole", entrants, whole)


def _by_supernet(
    pool: Sequence[Entry], scores: Mapping[str, Inherited], tuned: Mapping[str, Row]
) -> Iterator[Selection]:
    """With the scores of a supernet, and halving of as many without."""
    for entrants in ENTRANTS:
        if entrants > len(pool):
            return
        yield Selection(f"halving of {entrants} random networks", entrants, halving)
        name = f"the best {entrants // SCREENED} of {entrants} by inherited accuracy, then halving"
        yield Selection(name, entrants, partial(screened, scores))
        if all(entry.arch.digest in tuned for entry in pool):
            name = f"{FINALISTS} of {entrants} by inherited accuracy, an epoch each from inherited weights"
            yield Selection(name, entrants, partial(finalists, scores, tuned))


def halving(entrants: Sequence[Entry]) -> Outcome:
    """Successive halving (arXiv 1502.07943): of each rung the best third goes on, by accuracy on the search images."""
    spent, before = Spent(), 0
    for rung in RUNGS:
        for entry in entrants:
            spent += _trained(entry, rung - before)
        before = rung
        ranked = sorted(entrants, key=partial(_accuracy_at, rung), reverse=True)
        entrants = ranked[: max(1, len(ranked) // KEPT)]
    return entrants[0], spent


def whole(entrants: Sequence[Entry]) -> Outcome:
    """All are trained to the end, and the best on the search images is taken."""
    best, spent = max(entrants, key=partial(_accuracy_at, 0)), Spent()
    for entry in entrants:
        spent += _trained(entry, entry.first.epochs)
    return best, spent


def screened(scores: Mapping[str, Inherited], entrants: Sequence[Entry]) -> Outcome:
    """A supernet is trained and scores all; halving begins with those that are best by it."""
    ranked, spent = _ranked(scores, entrants)
    best, more = halving(ranked[: max(1, len(ranked) // SCREENED)])
    return best, spent + more


def finalists(scores: Mapping[str, Inherited], tuned: Mapping[str, Row], entrants: Sequence[Entry]) -> Outcome:
    """A supernet is trained and scores all; the best by it are trained shortly from its weights, as in version 0.1."""
    ranked, spent = _ranked(scores, entrants)
    chosen = ranked[:FINALISTS]
    for entry in chosen:
        spent += _trained(entry, 1)
    return max(chosen, key=lambda entry: tuned[entry.arch.digest].search_accuracy[0]), spent


def _ranked(scores: Mapping[str, Inherited], entrants: Sequence[Entry]) -> tuple[list[Entry], Spent]:
    """The entrants by inherited accuracy, the best first, and what training the supernet and scoring them took."""
    some = next(iter(scores.values()))
    spent = Spent(some.processor_seconds, supernet_work(some.drawn, some.macs_budget, some.epochs))
    for entry in entrants:
        share = SEARCH_IMAGES / (LEARNING * entry.first.images)
        spent += Spent(_seconds(entry, 1) * share, entry.costs["macs"] * SEARCH_IMAGES)
    return sorted(entrants, key=lambda entry: scores[entry.arch.digest].search_accuracy, reverse=True), spent


def _trained(entry: Entry, epochs: int) -> Spent:
    return Spent(_seconds(entry, epochs), LEARNING * entry.costs["macs"] * entry.first.images * epochs)


def _accuracy_at(epoch: int, entry: Entry) -> float:
    """On the search images after so many epochs, or after the last for 0."""
    return entry.first.search_accuracy[epoch - 1]


def _seconds(entry: Entry, epochs: int) -> float:
    return entry.first.processor_seconds * epochs / entry.first.epochs
