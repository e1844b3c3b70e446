"""The figures of a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from psvit.arch.costs import METRICS
from psvit.report.chart import BLUE, GREEN, GREY, ORANGE, VIOLET, Chart, Figure, as_text, faint, padded_range
from psvit.report.formatting import count, in_words, number
from psvit.search.report.best_of_draws import BestOfDraws
from psvit.search.report.references import Reference
from psvit.search.report.report import Report, score_of
from psvit.search.selection.finalist import Finalist
from psvit.search.trial import Trial
from psvit.space.budget import format_cost

WINNER = {"symbol": "star", "size": 17, "color": ORANGE}
FOUND = {"symbol": "circle", "size": 10, "color": BLUE}
HAND_MADE = {"symbol": "square", "size": 9, "color": VIOLET}

ACCURACY_TITLE = "top-1 on the search images (%)"
"""Of an axis of accuracies that networks of a search are compared by."""

NEAR = 2.0
"""References that cost up to this factor less or more than the candidates are drawn, others only named."""

MOST_POINTS = 500
"""The most candidates, random ones and given up ones that a figure draws, of each; so a page stays small."""

_COST_NAMES = {
    "macs": ("FLOPs", "multiply-accumulates"),
    "num_params": ("params", "parameters"),
    "activation_bytes": ("B", "activation memory"),
}
_PREFIXES = ((10**9, "G"), (10**6, "M"), (10**3, "k"))


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What is laid along the horizontal axis of a front.

    Attributes:
        title: of the axis.
        of: its value of a trial, in the units of the title.
        of_reference: its value of a reference; `None` if that is not known.
    """

    title: str
    of: Callable[[Trial], float]
    of_reference: Callable[[Reference], float | None] = lambda reference: None


def cost_axis(metric: str, trials: Sequence[Trial]) -> Axis:
    """An axis of one of the costs, in units that suit the trials."""
    assert metric in METRICS
    unit, name = _COST_NAMES[metric]
    most = max((getattr(trial.cost, metric) for trial in trials), default=1)
    scale, prefix = next(((scale, prefix) for scale, prefix in _PREFIXES if most >= scale), (1, ""))
    return Axis(
        title=f"{name} ({prefix}{unit})",
        of=lambda trial: getattr(trial.cost, metric) / scale,
        of_reference=lambda reference: getattr(reference.cost, metric) / scale,
    )


def front_figure(name: str, axis: Axis, report: Report, history: Sequence[Trial], connected: bool) -> Figure:
    """Score against a cost: candidates, those drawn at random, references, and what was best.

    That is the winner and the other networks of the last comparison, by the accuracies that they had then, if scores
    are accuracies on the same images. Otherwise it is the front, and the winner by its score.

    Args:
        name: of the figure.
        axis: the cost.
        report: the report.
        history: what is drawn of what was searched.
        connected: whether the front is a front in these two quantities, so that a line through it means something.
    """
    complete = [trial for trial in history if trial.is_complete]
    raced = [trial for trial in history if trial.score.state == "raced"]
    drawn = [trial for trial in report.control if trial.is_complete]
    compared = report.drawn_finalists
    figure = Chart(axis.title, ACCURACY_TITLE if compared else report.score_title)
    _points(figure, axis, raced, "given up early", {"symbol": "circle-open", "size": 6, "color": GREY, "opacity": 0.45})
    _points(figure, axis, drawn, "random control", {"symbol": "diamond", "size": 6, "color": GREEN, "opacity": 0.55})
    kind = as_text(str(report.description.get("kind", "score"))) if compared else "candidates"
    _points(figure, axis, complete, kind, {"symbol": "circle", "size": 6, "color": GREY, "opacity": 0.75})
    if compared:
        on_front = []
        _compared(figure, axis, compared)
        label = f"the winner has {number(accuracy_of(compared[0]))} at {number(axis.of(compared[0].trial))}"
    else:
        on_front = sorted(report.front, key=lambda trial: (axis.of(trial), -score_of(trial)))
        marker = {"symbol": "circle", "size": 9, "color": BLUE}
        _points(figure, axis, on_front, "front", marker, line={"color": BLUE, "width": 1.5} if connected else None)
        label = f"{len(on_front)} of them on the front"
        if report.winner is not None:
            winner = report.winner.trial
            _points(figure, axis, [winner], "winner", WINNER)
            label += f"; the winner has {number(score_of(winner))} at {number(axis.of(winner))}"
    places = [axis.of(trial) for trial in (*complete, *raced, *drawn, *on_front)]
    shown = [(place, reference) for place, reference in _near(axis, report.references, places)]
    for place, reference in shown:
        _reference(figure, place, reference)
    heights = [score_of(trial) for trial in (*complete, *drawn, *on_front)]
    heights += [accuracy_of(finalist) for finalist in compared]
    heights += [reference.score for _, reference in shown if reference.score is not None]
    # Scores on a few images scatter widely, and would press all others together.
    if heights:
        figure.layout["yaxis"]["range"] = padded_range(heights)
    views = {}
    if shown and places:
        around = padded_range([*places, *(place for place, _ in shown)])
        figure.layout["xaxis"]["range"] = around
        if around != padded_range(places):
            views = {"candidates only": padded_range(places), "with references": around}
    label = f"Score against {axis.title}: {len(complete)} candidates, {label}."
    return Figure(name=name, label=label, json=figure.to_json(), views=views)


def progress_figure(
    name: str,
    searcher: str,
    score_title: str,
    history: Sequence[Trial],
    random: BestOfDraws | None,
) -> Figure:
    """The best score so far over the evaluations of the searcher, and the expected best of as many random draws."""
    figure = Chart("architectures evaluated", score_title)
    if random is not None:
        draws, (low, high) = random.draws.tolist(), random.band
        band = {"mode": "lines", "line": {"width": 0, "color": GREEN}, "hoverinfo": "skip"}
        figure.add_scatter(x=draws, y=random.lower.tolist(), showlegend=False, **band)
        figure.add_scatter(
            x=draws,
            y=random.upper.tolist(),
            fill="tonexty",
            fillcolor=faint(GREEN),
            name=f"random, {100 * low:.0f} to {100 * high:.0f} %",
            **band,
        )
        figure.add_scatter(
            x=draws,
            y=random.expected.tolist(),
            mode="lines+markers" if len(draws) == 1 else "lines",
            line={"color": GREEN, "width": 2, "dash": "dash"},
            name="random, expected best",
            hovertemplate="best of %{x} draws: %{y:.5g}<extra></extra>",
        )
    steps = best_so_far(history)
    figure.add_scatter(
        x=[evaluations for evaluations, _ in steps],
        y=[score for _, score in steps],
        mode="lines+markers" if len(steps) == 1 else "lines",
        line={"color": BLUE, "width": 2.5, "shape": "hv"},
        name=f"{as_text(searcher)}, best so far",
        hovertemplate="after %{x}: %{y:.5g}<extra></extra>",
    )
    heights = [score for _, score in steps] + (random.expected.tolist() if random is not None else [])
    if heights:  # a single draw may be so bad that nothing else could be told apart
        figure.layout["yaxis"]["range"] = padded_range(heights)
    label = f"Best score over {len(history)} evaluations of the searcher {searcher}"
    if steps:
        label += f", {number(steps[-1][1])} in the end"
    if random is not None:
        label += f"; the best of {random.draws[-1]} random draws is {number(float(random.expected[-1]))}"
    return Figure(name=name, label=label + ".", json=figure.to_json())


def best_so_far(history: Sequence[Trial]) -> list[tuple[int, float]]:
    """After how many evaluations the best score became what; the last evaluation included. Empty without a score."""
    steps: list[tuple[int, float]] = []
    for evaluations, trial in enumerate(history, start=1):
        if trial.is_complete and (not steps or score_of(trial) > steps[-1][1]):
            steps.append((evaluations, score_of(trial)))
    if steps and steps[-1][0] < len(history):
        steps.append((len(history), steps[-1][1]))
    return steps


def hypervolume_figure(name: str, hypervolume: Sequence[tuple[int, float]]) -> Figure:
    """The hypervolume of the front over evaluations."""
    figure = Chart("architectures evaluated", "hypervolume")
    figure.add_scatter(
        x=[evaluations for evaluations, _ in hypervolume],
        y=[volume for _, volume in hypervolume],
        mode="lines+markers" if len(hypervolume) == 1 else "lines",
        line={"color": BLUE, "width": 2.5, "shape": "hv"},
        name="hypervolume",
        hovertemplate="after %{x}: %{y:.5g}<extra></extra>",
    )
    evaluations, volume = hypervolume[-1]
    label = f"Hypervolume of the front over evaluations, {number(volume)} after {evaluations}."
    return Figure(name=name, label=label, json=figure.to_json())


def selection_figure(name: str, finalists: Sequence[Finalist]) -> Figure:
    """What the trainings of the finalists reached at each rung, one line a finalist: winner, references, others."""
    figure = Chart("epochs of training", ACCURACY_TITLE)
    for finalist in reversed(finalists):
        is_winner = finalist is finalists[0]
        kind = "winner" if is_winner else "hand-made" if finalist.is_reference else "found"
        dash = "dot" if finalist.is_reference else "solid"
        figure.add_scatter(
            x=[look.epoch for look in finalist.looks],
            y=[look.mean for look in finalist.looks],
            mode="lines+markers",
            line={"color": ORANGE if is_winner else GREY, "width": 3 if is_winner else 1, "dash": dash},
            marker={"size": 8 if is_winner else 5},
            name=kind,
            legendgroup=kind,
            showlegend=kind not in {trace["name"] for trace in figure.traces},
            hovertemplate=f"{finalist.name} after %{{x}}: %{{y:.4g}} %<extra></extra>",
        )
    label = f"Accuracies of {len(finalists)} finalists while they were trained; the table holds the same numbers."
    return Figure(name=name, label=label, json=figure.to_json())


def near_references(axis: Axis, references: Sequence[Reference], trials: Sequence[Trial]) -> list[Reference]:
    """The references that a front shows: those near the trials, and those that have a score."""
    return [reference for _, reference in _near(axis, references, [axis.of(trial) for trial in trials])]


# --- parts of a figure


def _points(
    figure: Chart,
    axis: Axis,
    trials: Sequence[Trial],
    name: str,
    marker: dict[str, Any],
    line: dict[str, Any] | None = None,
) -> None:
    """Trials as points, with what they are where the pointer rests; nothing is drawn if there are none.

    Of many some are drawn, evenly spread over the search; of a front with its line all.
    """
    if not trials:
        return
    known = f" ({len(trials):,})" if len(trials) > 1 else ""
    if line is None and len(trials) > MOST_POINTS:
        known = f" ({MOST_POINTS} of {len(trials):,})"
        trials = [trials[place * len(trials) // MOST_POINTS] for place in range(MOST_POINTS)]
    figure.add_scatter(
        x=[axis.of(trial) for trial in trials],
        y=[score_of(trial) for trial in trials],
        mode="lines+markers" if line else "markers",
        marker=marker,
        line={**line, "shape": "hv"} if line else None,
        name=f"{name}{known}",
        text=[_hover(trial) for trial in trials],
        hovertemplate="%{text}<extra></extra>",
    )


def _compared(figure: Chart, axis: Axis, compared: Sequence[Finalist]) -> None:
    """What the networks of the last comparison had then, each joined to its score."""
    across, up = [], []
    for finalist in compared:
        across += [axis.of(finalist.trial)] * 2 + [None]
        up += [score_of(finalist.trial), accuracy_of(finalist), None]
    line = {"color": GREY, "width": 1.5, "dash": "dot"}
    figure.add_scatter(x=across, y=up, mode="lines", line=line, hoverinfo="skip", showlegend=False)
    winner, *others = compared
    after = f"after {count(winner.looks[-1].epoch, 'epoch')}"
    for name, finalists, marker in (
        (f"found, {after}", [one for one in others if not one.is_reference], FOUND),
        (f"hand-made, {after}", [one for one in others if one.is_reference], HAND_MADE),
        (f"winner, {after}", [winner], WINNER),
    ):
        if finalists:
            figure.add_scatter(
                x=[axis.of(one.trial) for one in finalists],
                y=[accuracy_of(one) for one in finalists],
                mode="markers",
                marker=marker,
                name=f"{name} ({len(finalists)})" if len(finalists) > 1 else name,
                text=[f"<b>{as_text(one.name)}</b> {accuracy_of(one):.2f} % {after}" for one in finalists],
                hovertemplate="%{text}<extra></extra>",
            )


def accuracy_of(finalist: Finalist) -> float:
    """The accuracy at the last comparison, of a finalist that was trained."""
    assert finalist.accuracy is not None
    return finalist.accuracy


def _reference(figure: Chart, place: float, reference: Reference) -> None:
    """A line at the cost of a reference, and a point if it was scored."""
    name = as_text(reference.name)
    figure.add_vertical(place, {"color": VIOLET, "width": 1.5, "dash": "dot"}, reference.name)
    if reference.score is not None:
        figure.add_scatter(
            x=[place],
            y=[reference.score],
            mode="markers",
            marker={"symbol": "x", "size": 11, "color": VIOLET},
            name=name,
            hovertemplate=f"{name}: %{{y:.5g}}<extra></extra>",
        )


def _near(axis: Axis, references: Sequence[Reference], places: Sequence[float]) -> list[tuple[float, Reference]]:
    found = []
    for reference in references:
        place = axis.of_reference(reference)
        if place is None or not places:
            continue
        if reference.score is not None or min(places) / NEAR <= place <= max(places) * NEAR:
            found.append((place, reference))
    return found


def _hover(trial: Trial) -> str:
    costs = ", ".join(format_cost(metric, getattr(trial.cost, metric)) for metric in METRICS)
    given_up = f" on {trial.score.images} images" if trial.score.state == "raced" else ""
    return f"<b>#{trial.number}</b> {number(score_of(trial))}{given_up}<br>{costs}<br>" + "<br>".join(
        as_text(part) for part in in_words(trial.arch)
    )
