"""What the rows say, as Markdown; which figures there are, and their thresholds, was decided before the first row.

All is computed for each budget by itself: over all its networks, and within strata, where only networks of one variant
and stem are compared. Intervals are 95 % percentile bootstraps over networks, the same resamples for all scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from psvit.search.fidelity.record import Estimate
from psvit.train.recipe import Recipe
from truth import supernets
from truth.entries import RANDOM, Entry, entries
from truth.looks import look_lines
from truth.regression import prior_lines, prior_of, regression_lines
from truth.rows import Row
from truth.selection import selection_lines
from truth.supernets import Inherited
from truth.taus import advantage, as_cells, strata_of, taus

# --- thresholds

FEWEST = 8
"""Networks of a budget, or trained twice, below which no figure about ranking is printed."""

CHEAP_TAU = 0.5
"""What the best cheap score's tau within strata should reach."""

LOOKS = (1, 2, 3, 4, 6)
"""Epochs after which the curves are read as scores."""

# A score is called better than another only where the interval of the difference of their taus lies above zero. Of
# scores that cannot be told apart the simplest is used: the earlier in the table, which begins with the cheapest.


def report(rows: Sequence[Row], recipe: Recipe, scores: Path = supernets.FILE, looks: Sequence[Row] = ()) -> str:
    """Everything, as Markdown.

    Args:
        rows: of the table.
        recipe: of the table.
        scores: the file of inherited scores.
        looks: rows of looks, see `truth.looks`.
    """
    found, inherited = entries(rows, recipe.digest), supernets.read(scores)
    lines = [f"{sum(len(entry.rows) for entry in found)} trainings of {len(found)} networks", ""]
    for budget in sorted({entry.budget for entry in found}):
        some = [entry for entry in found if entry.budget == budget]
        lines += [f"## {budget / 1e6:g} MFLOPs: {len(some)} networks", "", *_accuracy_lines(some), ""]
        lines += [*_ceiling_lines(some), ""]
        if len(some) < FEWEST:
            lines += [f"Fewer than {FEWEST} networks: no figures about ranking yet.", ""]
            continue
        others = [entry for entry in found if entry.budget != budget]
        lines += [*_ranking_lines(some), "", *look_lines(some, looks, recipe, prior_of(others))]
        lines += [*inherited_lines(some, inherited), *tuned_lines(some, rows)]
        lines += [*regression_lines(some, found), "", *selection_lines(some, inherited, rows), ""]
    lines += prior_lines(found)
    return "\n".join(lines).rstrip()


def _accuracy_lines(some: Sequence[Entry]) -> Iterator[str]:
    """How accurate random networks of every stratum and the references are."""
    yield "| networks | number | mean validation accuracy | best |"
    yield "|---|---|---|---|"
    for stratum in sorted({entry.first.stratum for entry in some}):
        truths = [entry.truth for entry in some if entry.first.stratum == stratum and entry.first.origin == RANDOM]
        if truths:
            yield f"| random, {stratum} | {len(truths)} | {np.mean(truths):.2f} | {max(truths):.2f} |"
    for entry in some:
        if entry.first.origin != RANDOM:
            yield f"| {entry.first.origin}-like, {entry.first.stratum} | 1 | {entry.truth:.2f} | |"


def _ceiling_lines(some: Sequence[Entry]) -> Iterator[str]:
    """How well a second training with another seed ranks, and how much seeds differ."""
    twice = [entry for entry in some if len(entry.rows) > 1]
    if not twice:
        yield "No network has been trained twice."
        return
    first, second = (np.array([entry.rows[place].val_accuracy for entry in twice]) for place in (0, 1))
    std = float(np.sqrt(np.mean((first - second) ** 2) / 2))
    yield f"{len(twice)} networks trained twice: standard deviation over seeds {std:.2f} points."
    if len(twice) >= FEWEST:
        within, over = taus(second, first, strata_of(twice))
        yield f"Ceiling (tau of a second training): {as_cells(within)} within strata, {as_cells(over)} over them."


def _ranking_lines(some: Sequence[Entry]) -> Iterator[str]:
    """How well scores rank."""
    truths, strata = np.array([entry.truth for entry in some]), strata_of(some)
    scores = {name: np.array([score(entry) for entry in some]) for name, score in SCORES.items()}
    scores["stratum alone"] = stratum_alone(some)
    yield "| score | tau within strata | 95 % | above MACs' | 95 % | tau over strata | 95 % |"
    yield "|---|---|---|---|---|---|---|"
    best = ("", -1.0)
    for name, values in scores.items():
        within, over = taus(values, truths, strata)
        above = advantage(values, scores["macs"], truths, strata) if name != "macs" else Estimate(value=None)
        yield f"| {name} | {as_cells(within, ' | ')} | {as_cells(above, ' | ')} | {as_cells(over, ' | ')} |"
        if name in CHEAP and within.value is not None and within.value > best[1]:
            best = name, within.value
    yield ""
    reached = "reached" if best[1] >= CHEAP_TAU else "not reached"
    yield f"Best cheap score within strata: {best[0]} with tau {best[1]:.2f}; {CHEAP_TAU} is wanted: {reached}."


def inherited_lines(some: Sequence[Entry], inherited: Sequence[Inherited]) -> Iterator[str]:
    """How well accuracy and loss with the weights of supernets rank the networks that they have weights for."""
    found = supernets.by_supernet(inherited, some[0].budget)
    if not found:
        return
    yield (
        "| supernet draws | seed | epochs | processor seconds | networks | accuracy: tau within strata | 95 % | over | "
        "95 % | loss: within | 95 % | over | 95 % | same networks, 2 epochs of their own: within | 95 % |"
    )
    yield "|---" * 15 + "|"
    for by_digest in found:
        of = next(iter(by_digest.values()))
        known = [entry for entry in some if entry.arch.digest in by_digest]
        if len(known) < FEWEST:
            continue
        truths, strata = np.array([entry.truth for entry in known]), strata_of(known)
        scores = [by_digest[entry.arch.digest] for entry in known]
        accuracies = taus(np.array([one.search_accuracy for one in scores]), truths, strata)
        losses = taus(np.array([-one.search_loss for one in scores]), truths, strata)
        own, _ = taus(np.array([_curve("search_accuracy", 2)(entry) for entry in known]), truths, strata)
        cells = " | ".join(as_cells(estimate, " | ") for estimate in (*accuracies, *losses, own))
        yield f"| {of.drawn} | {of.seed} | {of.epochs} | {of.processor_seconds:.0f} | {len(known)} | {cells} |"
    yield ""


def tuned_lines(some: Sequence[Entry], rows: Sequence[Row]) -> Iterator[str]:
    """How well short trainings from the weights of supernets rank, beside the same networks' first epochs alone."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row.macs_budget == some[0].budget and row.initial != RANDOM:
            found.setdefault(row.initial, {})[row.arch_digest] = row
    known = {name: [entry for entry in some if entry.arch.digest in mine] for name, mine in found.items()}
    if all(len(entries) < FEWEST for entries in known.values()):
        return
    yield (
        "| from the weights of | networks | epochs | processor seconds a network | tau within strata | 95 % | over | "
        "95 % | from scratch: within | 95 % | over | 95 % |"
    )
    yield "|---" * 12 + "|"
    for name, mine in found.items():
        if len(known[name]) < FEWEST:
            continue
        tuned = [mine[entry.arch.digest] for entry in known[name]]
        truths, strata = np.array([entry.truth for entry in known[name]]), strata_of(known[name])
        seconds = np.mean([row.processor_seconds for row in tuned])
        for epoch in range(1, tuned[0].epochs + 1):
            after = taus(np.array([row.search_accuracy[epoch - 1] for row in tuned]), truths, strata)
            own = taus(np.array([_curve("search_accuracy", epoch)(entry) for entry in known[name]]), truths, strata)
            cells = " | ".join(as_cells(estimate, " | ") for estimate in (*after, *own))
            yield f"| {name} | {len(tuned)} | {epoch} | {seconds * epoch / tuned[0].epochs:.0f} | {cells} |"
    yield ""


def _training_losses(epochs: int, entry: Entry) -> float:
    return -sum(entry.first.train_loss[:epochs])


def _curve(name: str, epoch: int, sign: int = 1) -> Callable[[Entry], float]:
    return lambda entry: sign * float(getattr(entry.first, name)[epoch - 1])


CHEAP: dict[str, Callable[[Entry], float]] = {
    "macs": lambda entry: entry.costs["macs"],
    "parameters": lambda entry: entry.costs["num_params"],
    "activation memory": lambda entry: entry.costs["activation_bytes"],
    "DSS": lambda entry: entry.dss,
}
"""Scores without training."""

SCORES: dict[str, Callable[[Entry], float]] = {
    **CHEAP,
    **{f"search accuracy, epoch {epoch}": _curve("search_accuracy", epoch) for epoch in LOOKS},
    **{f"search loss, epoch {epoch}": _curve("search_loss", epoch, -1) for epoch in LOOKS},
    **{f"sum of training losses, epoch {epoch}": partial(_training_losses, epoch) for epoch in LOOKS},
    "search accuracy, last epoch": _curve("search_accuracy", 0),
    "search loss, last epoch": _curve("search_loss", 0, -1),
}
"""All scores by name, more is better; the cheapest first."""


def stratum_alone(some: Sequence[Entry]) -> np.ndarray:
    """For every network the mean truth of the others of its stratum: what can be known from variant and stem alone."""
    values = []
    for entry in some:
        others = [one.truth for one in some if one is not entry and one.first.stratum == entry.first.stratum]
        values.append(np.mean(others) if others else np.mean([one.truth for one in some if one is not entry]))
    return np.array(values)
