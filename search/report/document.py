"""The one HTML file that says what a report says, offline and with everything inside."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import psvit.search.report.figures as figures
from psvit.io.documents import dump_yaml, write_atomic
from psvit.io.progress import in_time
from psvit.nn.picture import NARROW, draw
from psvit.report.chart import library
from psvit.report.formatting import DASH, count, in_words, joined, number, percent, value_in_words
from psvit.report.page import page
from psvit.search.objectives import COSTS, LATENCY, Objective
from psvit.search.proposal import REFERENCE
from psvit.search.report.best_of_draws import BestOfDraws, best_of_draws
from psvit.search.report.references import published
from psvit.search.report.report import UNIFORM, Report, score_of
from psvit.search.report.selection import look_cells, rung_epochs, selection_text, were_trained
from psvit.search.report.shared_choices import Choice, Group, shared_choices
from psvit.search.searchers.random import Random
from psvit.search.selection.finalist import Finalist
from psvit.search.trial import Trial
from psvit.space.budget import format_cost

TEMPLATE = "psvit.search.report/report.html.j2"

POINTS = 400
"""Of a curve; more cannot be seen."""

DRAWN = 5
"""Networks of a front that are drawn, ends included."""

LARGEST_DIFFERENCES = 5
"""Choices that are named in the sentence above the tables."""


def write_report(path: Path, report: Report) -> None:
    """Write the report, whole or not at all.

    Raises:
        InputError: the place cannot be written.
    """
    write_atomic(path, render(report))


def render(report: Report) -> str:
    """The report as one HTML document that loads nothing; equal reports give equal text."""
    random, scored = _random(report)
    return page(
        TEMPLATE,
        report=report,
        unit=f" {report.unit}" if report.unit else "",
        head=_head(report),
        fronts=_fronts(report),
        other_titles=list(map(_title, report.objectives.others)),
        front_rows=[] if report.drawn_finalists else [_row(report, trial) for trial in report.front],
        reference_rows=_reference_rows(report),
        progress=figures.progress_figure("progress", report.searcher, report.score_title, report.history, random)
        if report.complete
        else None,
        progress_text=_progress_text(report, random, scored),
        hypervolume=figures.hypervolume_figure("hypervolume", report.hypervolume) if report.hypervolume else None,
        pictures=_pictures(report),
        finalist_rows=[_finalist_row(report, finalist) for finalist in report.finalists],
        epochs=rung_epochs(report.finalists),
        # Where candidates are scored by the first comparison, its column has the scores.
        shows_scores=report.scored_by != "trained" or not were_trained(report.finalists),
        selection_figure=figures.selection_figure("selection", report.finalists)
        if were_trained(report.finalists)
        else None,
        selection_text=selection_text(report),
        baseline=report.beside.baseline,
        caution=report.finalists[0].caution(report.beside.baseline) if report.finalists else "",
        next_time=None if report.next_seconds is None else in_time(report.next_seconds),
        latency_rows=_latency_rows(report),
        choices=_choices(report),
        config=dump_yaml(report.config),
        library=library(),
    )


# --- in sentences


def _head(report: Report) -> dict[str, Any]:
    """What a reader wants to know first."""
    states = [trial.score.state for trial in report.history]
    known = {"scored": "complete", "given up early": "raced", "failed": "failed"}
    told = [f"{states.count(state)} {name}" for name, state in known.items() if state in states]
    evaluated = f"{count(len(states), 'architecture')} evaluated: {', '.join(told)}." if told else "None was evaluated."
    if report.control:
        evaluated += f" Beside them {count(len(report.control), 'random architecture')} for comparison."
    several = f" Improved: {joined(_wishes(report))}." if len(report.objectives.names) > 1 else ""
    return {
        "task": f"Budget: {joined(report.budget) or 'none'}. Space: {report.space.name}, {report.space.size:,} "
        f"architectures. Searcher: {report.searcher}.{several}",
        "evaluated": evaluated,
        "result": _result(report),
        "score": _score_facts(report),
    }


def _result(report: Report) -> str:
    """Winner or front in one sentence."""
    if not report.finalists:
        return "Nothing was found."
    if report.winner is None:
        best = report.finalists[0].trial
        return (
            f"A front of {count(len(report.finalists), 'architecture')}, none of which is better than another in "
            f"everything. The best score on it, {_with_unit(report, score_of(best))}, is #{best.number}'s, "
            f"which costs {_costs(best)}."
        )
    trial = report.winner.trial
    if report.winner.looks:
        last = report.winner.looks[-1]
        mean = f", the mean of {len(last.accuracies)} trainings" if len(last.accuracies) > 1 else ""
        return (
            f"The winner is {report.winner.name}: top-1 {last.mean:.2f} % on the search images after "
            f"{count(last.epoch, 'epoch')} of training{mean}. It costs {_costs(trial)}.{_times(report)}"
        )
    is_best = score_of(trial) == max(map(score_of, report.complete))
    reason = f"the best of {len(report.complete)} scored" if is_best else "the best that keeps all limits"
    return (
        f"The winner is {report.winner.name}, {reason}: {report.description.get('kind', 'score')} "
        f"{_with_unit(report, score_of(trial))} at {_costs(trial)}.{_times(report)}"
    )


def _times(report: Report) -> str:
    """How long the winner takes, where nothing else says so."""
    told = [
        f"{milliseconds:.3g} ms for {count(size, 'image')}" for size, milliseconds in report.beside.milliseconds.items()
    ]
    return f" Here it takes {' and '.join(told)} ({report.beside.device})." if told else ""


def _score_facts(report: Report) -> list[tuple[str, str]]:
    """What a score rests on, and that its fidelity was not measured if it was not."""
    known = {"kind": "not said", "meaning": "", "images": "", "fidelity": None, **report.description}
    known["fidelity"] = known["fidelity"] or "not measured"
    if report.scored_by == "trained":  # the selection goes on with the same trainings
        del known["fidelity"]
    if known["images"] == 0:
        known["images"] = "none; the indicator looks at no images"
    return [(name, _fact(value)) for name, value in known.items() if value != "" and name != "unit"]


def _fact(value: Any) -> str:
    """A value of a description for people, nested ones in one line."""
    if isinstance(value, dict):
        return "; ".join(f"{name.replace('_', ' ')} {_fact(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_fact, value))
    return number(value) if isinstance(value, float) else str(value)


def _progress_text(report: Report, random: BestOfDraws | None, scored: int) -> str:
    """On what the curve of random rests."""
    if random is None:
        return "There are no scores of random architectures to compare with."
    own = len([trial for trial in report.history if trial.origin == UNIFORM])
    failed = len(report.uniform) - scored
    twice = ", each counted once" if own + len(report.control) > len(report.uniform) else ""
    without = f"; {failed} that failed are left out" if failed else ""
    text = (
        f"Random: the exact expectation of the best of n, drawn without replacement from {scored} scored architectures "
        f"that were drawn uniformly ({len(report.control)} for comparison, {own} by the searcher itself{twice}{without}"
        f"), and the range that holds nine of ten such draws. It ends at {scored}. Towards its end the range narrows "
        f"because nearly all of the same {scored} are drawn, not because more is known."
    )
    if any(trial.score.state == "raced" for trial in report.uniform):
        text += " Those given up early count with the score that they had by then."
    proposed = [trial for trial in report.history if trial.origin != REFERENCE]
    if proposed and report.complete and all(trial.origin == UNIFORM for trial in proposed):
        who = (
            "The searcher is random itself"
            if report.searcher == Random.name
            else "The searcher begins with random draws and has come no further"
        )
        text += f" {who}: its own curve is one order of the same draws."
    return text


def _wishes(report: Report) -> list[str]:
    """What is improved, in words."""
    known = {"macs": "few MACs", "params": "few parameters", "memory": "little memory", LATENCY: "low latency"}
    ways = {"minimize": "low", "maximize": "high"}
    others = {one.name: f"{ways[one.direction]} {one.name}" for one in report.objectives.others}
    return ["a good score", *({**others, **known}[name] for name in report.objectives.names[1:])]


def _with_unit(report: Report, value: float) -> str:
    return f"{number(value)} {report.unit}".rstrip()


def _costs(trial: Trial) -> str:
    return (
        f"{format_cost('macs', trial.cost.macs)}, {format_cost('num_params', trial.cost.num_params)} and "
        f"{format_cost('activation_bytes', trial.cost.activation_bytes)} of activation memory"
    )


# --- figures and tables


def _fronts(report: Report) -> list[dict[str, Any]]:
    """Score against MACs, and against each other cost that is an objective."""
    if not report.complete:
        return []
    costs = list(dict.fromkeys(["macs", *(COSTS[name] for name in report.objectives.names if name in COSTS)]))
    trials = [*report.history, *report.control]
    axes = [figures.cost_axis(metric, trials) for metric in costs]
    others = {one.name for one in report.objectives.others}
    axes += [figures.Axis(title=_title(one), of=partial(_value, report, one.name)) for one in report.objectives.others]
    names = [*costs, *(one.name for one in report.objectives.others)]
    both = {COSTS.get(name, name) for name in report.objectives.names[1:]} or {"macs"}
    return [
        {
            "figure": figures.front_figure(
                name=f"front-{name}",
                axis=axis,
                report=report,
                history=[trial for trial in report.history if name not in others or trial.is_complete],
                connected=both == {name},
            ),
            "text": _front_text(report, axis, name),
        }
        for name, axis in zip(names, axes, strict=True)
    ]


def _title(objective: Objective) -> str:
    """What an objective that is neither the score nor a cost is called, with its unit."""
    if objective.name == LATENCY:
        return "predicted latency (ms)"
    return f"{objective.name} ({objective.unit})" if objective.unit else objective.name


def _value(report: Report, name: str, trial: Trial) -> float:
    """The value of an objective as people read it."""
    return dict(zip(report.objectives.names, report.objectives.raw(trial.objectives), strict=True))[name]


def _front_text(report: Report, axis: figures.Axis, name: str) -> str:
    """What a front shows, and which references it does not."""
    is_cost = name in COSTS.values()
    if compared := report.drawn_finalists:
        last, networks = compared[0].looks[-1], count(len(compared), "network")
        text = (
            f"Small points: every candidate by its score. Large ones: the {networks} of the last comparison by what "
            f"they had after {count(last.epoch, 'epoch')}, the mean of {count(len(last.accuracies), 'training')} each. "
            "A dotted line joins the two. The winner is the best of the large ones; its score need not be the best."
        )
    elif report.has_one_objective:
        text = "The front: candidates that no other beats at as few multiply-accumulates or fewer."
    else:
        text = f"The front: candidates that no other beats in all of {joined(_wishes(report))}."
    if any(trial.score.state == "raced" for trial in report.history) and is_cost:
        text += " Candidates given up early stand where their score on fewer images puts them, or below the frame."
    if is_cost and report.references:
        trials = [*report.history, *(trial for trial in report.control if trial.is_complete)]
        near = figures.near_references(axis, report.references, [t for t in trials if t.score.state != "failed"])
        drawn = [reference.name for reference in near]
        if drawn:
            text += f" Dotted: what {joined(drawn)} {'costs' if len(drawn) == 1 else 'cost'} on these images."
        far = [reference for reference in report.references if reference not in near]
        if far:
            costs = [f"{each.name} at {format_cost(name, getattr(each.cost, name))}" for each in far]
            text += f" Outside the frame: {joined(costs)}."
        text += _why_no_point(report)
    return text


def _why_no_point(report: Report) -> str:
    """Why some references have no score; empty if all have one."""
    unscored = [reference for reference in report.references if reference.score is None]
    variants = report.space.variants
    wanted = joined(list(variants))
    kinds = {reference.arch.variant for reference in unscored if reference.arch is not None}.difference(variants)
    if kinds:
        return (
            f" DeiT has no point because nothing here can score it: it is a {joined(sorted(kinds))} network, and the "
            f"candidates, and the weights that they share, are {wanted}."
        )
    return " What has no point has no score here." if unscored else ""


def _reference_rows(report: Report) -> list[dict[str, Any]]:
    """The references with what the winner costs in comparison."""
    winner = report.finalists[0].trial if report.finalists else None
    known = published(report.space)
    return [
        {
            "name": reference.name,
            "macs": format_cost("macs", reference.cost.macs),
            "params": format_cost("num_params", reference.cost.num_params),
            "share": percent(winner.cost.macs / reference.cost.macs) if winner else DASH,
            "score": _with_unit(report, reference.score) if reference.score is not None else "not scored",
            "published": f"{known[reference.name]} %" if reference.name in known else "",
        }
        for reference in report.references
    ]


def _random(report: Report) -> tuple[BestOfDraws | None, int]:
    """The expected best of random draws, and on how many scores it rests."""
    scores = [trial.score.value for trial in report.uniform if trial.score.value is not None]
    if not scores:
        return None, 0
    draws = np.unique(np.linspace(1, len(scores), min(POINTS, len(scores))).round().astype(np.int64))
    return best_of_draws(scores, draws), len(scores)


def _pictures(report: Report) -> list[dict[str, Any]]:
    """Winner and finalists, or points of the front, drawn on one scale."""
    if not report.finalists:
        return []

    def picture(finalists: Sequence[Finalist], titles: list[str], caption: str, note: str = "") -> dict[str, Any]:
        drawn = partial(draw, *(finalist.trial.arch for finalist in finalists), titles=titles)
        return {"wide": drawn(), "narrow": drawn(width=NARROW), "caption": caption, "note": note}

    if report.winner is not None:
        pictures = [picture([report.winner], [f"Winner, {report.winner.name}"], "The winner")]
        compared = report.last_compared
        if others := (compared or report.finalists)[1:]:
            titles = [finalist.name[:1].upper() + finalist.name[1:] for finalist in others]
            which = "The others of the last comparison" if compared else "The other finalists"
            pictures.append(picture(others, titles, which))
        return pictures
    places = np.unique(np.linspace(0, len(report.finalists) - 1, min(DRAWN, len(report.finalists))).round().astype(int))
    chosen = [report.finalists[place] for place in places]
    titles = [f"#{finalist.trial.number}, score {number(score_of(finalist.trial))}" for finalist in chosen]
    note = "" if len(chosen) == len(report.finalists) else f"{len(chosen)} of {len(report.finalists)}, ends included."
    return [picture(chosen, titles, "The front", note)]


def _row(report: Report, trial: Trial) -> dict[str, Any]:
    """A trial as a row of a table."""
    return {
        "number": trial.number,
        "score": number(score_of(trial)),
        "macs": format_cost("macs", trial.cost.macs),
        "params": format_cost("num_params", trial.cost.num_params),
        "memory": format_cost("activation_bytes", trial.cost.activation_bytes),
        "others": [number(_value(report, one.name, trial)) for one in report.objectives.others],
        "origin": trial.origin,
        "arch": in_words(trial.arch, report.space.mixed),
        "is_winner": report.winner is not None and trial is report.winner.trial,
    }


def _finalist_row(report: Report, finalist: Finalist) -> dict[str, Any]:
    return {
        **_row(report, finalist.trial),
        "name": finalist.name,
        "looks": look_cells(finalist, rung_epochs(report.finalists)),
    }


def _latency_rows(report: Report) -> list[dict[str, str]]:
    """Predicted and measured milliseconds of the finalists, by setting."""

    def milliseconds(times: dict[str, Any], name: str) -> str:
        return f"{times[name]:.4g}" if isinstance(times.get(name), int | float) else "not measured"

    return [
        {
            "number": str(finalist.trial.number),
            "setting": setting,
            "predicted": milliseconds(times, "predicted_ms"),
            "measured": milliseconds(times, "measured_ms"),
            "iqr": milliseconds(times, "iqr_ms"),
        }
        for finalist in report.finalists
        for setting, times in finalist.latencies.items()
    ]


def _choices(report: Report) -> dict[str, Any] | None:
    """How often each choice occurs among the good, among all and among those drawn uniformly."""
    if not report.complete:
        return None
    good_name = "best tenth" if report.has_one_objective else "front"
    groups = [
        Group(name=good_name, archs=[trial.arch for trial in report.good]),
        Group(name="all scored", archs=[trial.arch for trial in report.complete]),
    ]
    if report.uniform:
        groups.append(Group(name="uniform", archs=[trial.arch for trial in report.uniform]))
    choices = shared_choices(report.space, groups)
    return {
        "names": [group.name for group in groups],
        "sizes": [len(group.archs) for group in groups],
        "tables": choices,
        "differences": _differences(choices),
        "compared": sum(len(choice.values) for choice in choices),
        "one": percent(1 / len(report.good)),
        "left_out": _left_out(report),
    }


def _left_out(report: Report) -> str:
    """Of which candidates the first two groups are not, where there are others."""
    raced = sum(trial.score.state == "raced" for trial in report.history)
    if not raced:
        return ""
    return (
        f"The first two groups are of the {count(len(report.complete), 'candidate')} scored on all images. "
        f"{count(raced, 'candidate')} given up early, so mostly worse, {'is' if raced == 1 else 'are'} in neither."
    )


def _differences(choices: Sequence[Choice]) -> list[str]:
    """The values whose share among the good differs most from that in the last group."""
    found = []
    for choice in choices:
        for place, value in enumerate(choice.values):
            good, other = choice.share(0, place), choice.share(-1, place)
            if good is not None and other is not None and good != other:
                text = f"{choice.name} {value_in_words(value)}: {choice.counts[0][place]} of {choice.totals[0]}"
                found.append((abs(good - other), f"{text} ({percent(good)}) against {percent(other)}"))
    return [text for _, text in sorted(found, key=lambda each: -each[0])[:LARGEST_DIFFERENCES]]
