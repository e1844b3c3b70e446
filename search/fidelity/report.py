"""The report of a fidelity run: figures, tables and sentences on one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psvit.arch.costs import METRICS
from psvit.data import Baseline
from psvit.io.documents import dump_yaml, write_atomic
from psvit.report.chart import BLUE, GREY, ORANGE, Chart, Figure, as_text, library, padded_range
from psvit.report.formatting import DASH, in_words, number
from psvit.report.page import page
from psvit.search.fidelity.formatting import CEILING, HEADER, conclusions, name_of, rows
from psvit.search.fidelity.measures import SECOND, MeasuredNetwork
from psvit.search.fidelity.record import INHERITED, Fidelity, SetFidelity
from psvit.space.budget import Budget, Limit, format_cost

TEMPLATE = "psvit.search.fidelity/fidelity.html.j2"

STANDALONE = "standalone accuracy (%)"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One of the two sets, as the page shows it.

    Attributes:
        name: what it is.
        color: of its points.
        measured: what was measured.
        networks: on which.
    """

    name: str
    color: str
    measured: SetFidelity
    networks: Sequence[MeasuredNetwork]

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The table of its scores."""
        return rows(self.measured)


def write_report(
    path: Path,
    fidelity: Fidelity,
    networks: Sequence[MeasuredNetwork],
    command: str,
    config: dict[str, Any],
    failures: Sequence[str] = (),
    baseline: Baseline | None = None,
) -> None:
    """Write the report, whole or not at all.

    Args:
        path: of the file.
        fidelity: what was measured.
        networks: on which.
        command: the shell line that repeats it.
        config: the resolved configuration, JSON-serialisable.
        failures: why networks have no accuracy, one line each.
        baseline: logistic regression on the same images.

    Raises:
        InputError: the place cannot be written.
    """
    write_atomic(path, render(fidelity, networks, command, config, failures, baseline))


def render(
    fidelity: Fidelity,
    networks: Sequence[MeasuredNetwork],
    command: str,
    config: dict[str, Any],
    failures: Sequence[str] = (),
    baseline: Baseline | None = None,
) -> str:
    """The report as one HTML document that loads nothing; equal arguments give equal text."""
    near = [network for network in networks if network.is_within]
    sets = [Compared(name="within the budget", color=BLUE, measured=fidelity.within, networks=near)]
    if fidelity.spread is not None:
        far = [network for network in networks if network.is_spread]
        sets.append(Compared(name="over the whole range", color=GREY, measured=fidelity.spread, networks=far))
    names = list(networks[0].all_scores)
    return page(
        TEMPLATE,
        fidelity=fidelity,
        limits=_limits(fidelity.within),
        reach=_limits(fidelity.spread) if fidelity.spread else "",
        conclusions=conclusions(fidelity.within, baseline),
        ceiling=CEILING if fidelity.within.ceiling else "",
        header=HEADER,
        sets=sets,
        taus=taus_figure(sets),
        inherited=scatter_figure(INHERITED, sets),
        others=[scatter_figure(name, sets) for name in names if name != INHERITED],
        seeds=_seeds_figure(sets[0]) if fidelity.within.ceiling else None,
        names=[name_of(name) for name in networks[0].scores],
        network_rows=[_row(network) for network in networks],
        failures=failures,
        command=command,
        config=dump_yaml(config),
        library=library(),
    )


def _limits(measured: SetFidelity) -> str:
    limits = [
        Limit.from_dict({"metric": metric, "lower": ends[0], "upper": ends[1]})
        for metric, ends in measured.limits.items()
    ]
    return str(Budget(limits=tuple(limits)))


def scatter_figure(score: str, sets: Sequence[Compared]) -> Figure:
    """Standalone accuracy against a score, one point a network."""
    title = f"{name_of(score)} (%)" if score == INHERITED else name_of(score)
    figure = Chart(title, STANDALONE)
    told = []
    # The set that counts is drawn last, above the other.
    for one in reversed(sets):
        known = [network for network in one.networks if network.all_scores[score] is not None]
        _points(figure, one, known, [network.all_scores[score] for network in known])
        told.append(f"{len(known)} networks {one.name}")
    label = f"Standalone accuracy against {name_of(score)}: {' and '.join(reversed(told))}; the table has the numbers."
    return Figure(name=f"scatter-{score}", label=label, json=figure.to_json())


def _seeds_figure(within: Compared) -> Figure:
    """Two trainings of the same networks against each other."""
    figure = Chart("accuracy of a second training (%)", STANDALONE)
    twice = [network for network in within.networks if network.second is not None]
    _points(figure, within, twice, [network.second for network in twice])
    label = f"Two trainings of {len(twice)} networks with different seeds against each other."
    return Figure(name="seeds", label=label, json=figure.to_json())


def _points(figure: Chart, one: Compared, networks: Sequence[MeasuredNetwork], places: Sequence[float | None]) -> None:
    figure.add_scatter(
        x=list(places),
        y=[network.standalone for network in networks],
        mode="markers",
        marker={"size": 8, "color": one.color, "symbol": "circle" if one.color == BLUE else "diamond-open"},
        name=f"{one.name} ({len(networks)})",
        text=[_hover(network) for network in networks],
        hovertemplate="%{text}<extra></extra>",
        showlegend=True,
    )


def taus_figure(sets: Sequence[Compared]) -> Figure:
    """The tau of every score with its interval, by set, and the ceiling."""
    figure = Chart("Kendall's tau with standalone accuracy, 95 % interval", "")
    lines = [as_text(name_of(one.score)) for one in sets[0].measured.agreements]
    ends = [0.0, 1.0]
    for one in reversed(sets):
        taus = [(name_of(each.score), each.kendall_tau) for each in one.measured.agreements]
        if one.measured.ceiling is not None:
            taus.append((name_of(SECOND), one.measured.ceiling.kendall_tau))
        known = [(as_text(name), tau) for name, tau in taus if tau.value is not None]
        values = [tau.value or 0.0 for _, tau in known]
        lower, upper = ([(tau.interval or (tau.value,) * 2)[end] for _, tau in known] for end in (0, 1))
        ends += [value for value in (*lower, *upper) if value is not None]
        figure.add_scatter(
            x=values,
            y=[name for name, _ in known],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [(end or 0.0) - value for end, value in zip(upper, values, strict=True)],
                "arrayminus": [value - (end or 0.0) for end, value in zip(lower, values, strict=True)],
                "color": one.color,
            },
            mode="markers",
            marker={"size": 9, "color": one.color, "symbol": "circle" if one.color == BLUE else "diamond-open"},
            name=one.name,
            hovertemplate="%{y}: %{x:.3f}<extra></extra>",
            showlegend=True,
        )
    if sets[0].measured.ceiling is not None:
        lines.append(as_text(name_of(SECOND)))
    figure.add_vertical(0, {"color": ORANGE, "width": 1, "dash": "dot"})
    figure.layout["xaxis"]["range"] = padded_range(ends)
    figure.layout["yaxis"] |= {"type": "category", "categoryorder": "array", "categoryarray": lines[::-1]}
    figure.layout["height"] = 150 + 44 * len(lines)
    label = "How well scores rank networks by their standalone accuracy; the tables hold the same numbers."
    return Figure(name="taus", label=label, json=figure.to_json())


def _hover(network: MeasuredNetwork) -> str:
    costs = ", ".join(format_cost(metric, getattr(network.cost, metric)) for metric in METRICS)
    inherited = network.scores[INHERITED]
    told = "" if inherited is None else f", inherited {number(inherited)}"
    standalone = DASH if network.standalone is None else number(network.standalone)
    stages = "<br>".join(as_text(part) for part in in_words(network.arch))
    return f"<b>standalone {standalone}</b>{told}<br>{costs}<br>{stages}"


def _row(network: MeasuredNetwork) -> dict[str, Any]:
    def cell(value: float | None) -> str:
        return DASH if value is None else number(value)

    return {
        "index": network.index,
        "set": " and ".join(
            name for name, is_in in (("budget", network.is_within), ("range", network.is_spread)) if is_in
        ),
        "standalone": cell(network.standalone),
        "second": cell(network.second),
        "scores": [cell(value) for value in network.scores.values()],
        "macs": format_cost("macs", network.cost.macs),
        "params": format_cost("num_params", network.cost.num_params),
        "arch": in_words(network.arch),
    }
