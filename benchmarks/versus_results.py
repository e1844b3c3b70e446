"""What families of networks came to, side by side: accuracies, differences with intervals, and a picture of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from baselines import BOTH, SHARING
from error_bars import Series, draw_error_bars
from scipy.stats import t as student

from psvit import Architecture, cost
from psvit.report.formatting import DASH
from psvit.space.references import DEIT, HVT, PIT

RANDOM, FOUND = "random PSViT", "found PSViT"

FAMILIES = (DEIT.name, PIT.name, HVT.name, RANDOM, FOUND)
"""The found one, and those that it is to be better than; others tell what pooling and sharing do by themselves."""

WANTED = 6.6
"""Points above DeiT that the PSViT paper (arXiv 2108.03428) claims at most, on ImageNet."""

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is tuned.

    Attributes:
        candidate: the number of the network, where a family has several.
        lr: peak learning rate.
        drop_path: stochastic depth of the last layer.
    """

    candidate: int
    lr: float
    drop_path: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a family.

    Attributes:
        name: of the family.
        archs: its networks, by seed.
        setting: that was chosen.
        tuning: accuracy in percent on the search images, with the first seed.
        accuracies: in percent on the validation images, by seed; those that failed are left out.
        seconds: of one training, the mean over the seeds.
    """

    name: str
    archs: tuple[Architecture, ...]
    setting: Setting
    tuning: float
    accuracies: tuple[float, ...]
    seconds: float

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return mean(self.accuracies)

    @property
    def spread(self) -> float | None:
        """The standard deviation over the seeds."""
        return stdev(self.accuracies) if len(self.accuracies) > 1 else None

    @property
    def macs(self) -> float:
        """Multiply-accumulates, the mean where every seed has a network of its own."""
        return mean(cost(arch).macs for arch in self.archs)


def difference(one: Sequence[float], other: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """The difference of two means, and its interval by Welch's t (Biometrika 34, 1947).

    Not paired: networks that differ have nothing in common but the order of their images.

    Args:
        one: values.
        other: values.

    Returns:
        Nothing for the interval where one side has a single value, or both do not vary.
    """
    apart = mean(one) - mean(other)
    if min(len(one), len(other)) < 2 or stdev(one) == stdev(other) == 0:
        return apart, None
    of_means = [stdev(values) ** 2 / len(values) for values in (one, other)]
    freedom = sum(of_means) ** 2 / sum(
        part**2 / (len(values) - 1) for part, values in zip(of_means, (one, other), strict=True)
    )
    half = float(student.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(sum(of_means))
    return apart, (apart - half, apart + half)


def interaction(neither: float, pooling: float, sharing: float, both: float) -> float:
    """By how much the effect of both differs from the sum of the two effects."""
    return both - pooling - sharing + neither


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    first, *others = (f"| {' | '.join(line)} |\n" for line in (header, *rows))
    return "".join([first, f"|{'---|' * len(header)}\n", *others])


def families_table(results: Sequence[Result]) -> str:
    """What every family is and came to."""
    header = (
        "family",
        "MACs",
        "parameters",
        "layers",
        "stem",
        "lr",
        "drop path",
        "tuning top-1",
        "top-1",
        "seeds",
        "training",
    )
    return table(header, [_row(one) for one in sorted(results, key=lambda one: -one.mean)])


def _row(one: Result) -> tuple[str, ...]:
    costs = [cost(arch) for arch in one.archs]
    return (
        one.name,
        _range([price.macs / 1e6 for price in costs], "{:.4g}", " M"),
        _range([price.num_params / 1e6 for price in costs], "{:.3g}", " M"),
        _range([arch.depth for arch in one.archs], "{:d}", ""),
        _range([arch.stem for arch in one.archs], "{}", ""),
        f"{one.setting.lr:g}",
        f"{one.setting.drop_path:g}",
        f"{one.tuning:.2f}",
        f"{one.mean:.2f}{'' if one.spread is None else f' ± {one.spread:.2f}'}",
        str(len(one.accuracies)),
        duration(one.seconds),
    )


def _range(values: Sequence[Any], form: str, unit: str) -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"


def differences_table(results: Sequence[Result], of: str, names: Sequence[str]) -> str:
    """By how much one family is above others."""
    by_name = {one.name: one for one in results}
    rows = []
    for name in names:
        apart, interval = difference(by_name[of].accuracies, by_name[name].accuracies)
        rows.append((name, f"{apart:+.2f}", DASH if interval is None else f"{interval[0]:+.2f} to {interval[1]:+.2f}"))
    return table((f"{of} minus", "points", "95 %"), rows)


def verdict(results: Sequence[Result]) -> str:
    """Whether what was wanted is reached."""
    by_name = {one.name: one for one in results}
    found, deit = by_name[FOUND], by_name[DEIT.name]
    best = max((by_name[name] for name in FAMILIES if name not in (FOUND, DEIT.name)), key=lambda one: one.mean)
    ahead = found.mean - best.mean
    lines = [
        f"{WANTED} points above {DEIT.name} were wanted: {_reached(found.mean - deit.mean >= WANTED)} "
        f"({found.mean - deit.mean:+.2f})."
    ]
    if found.spread is None or best.spread is None:
        lines.append(f"Above the best of the others, {best.name}: {ahead:+.2f}; one seed has no spread.")
    else:
        spread = max(found.spread, best.spread)
        lines.append(
            f"More above the best of the others, {best.name}, than the seeds' spread was wanted: "
            f"{_reached(ahead > spread)} ({ahead:+.2f}, the larger standard deviation of the two is {spread:.2f})."
        )
    return "\n".join(lines) + "\n"


def _reached(is_reached: bool) -> str:
    return "reached" if is_reached else "missed"


def ablation_table(results: Sequence[Result]) -> str:
    """What pooling and sharing do, alone and together."""
    by_name = {one.name: one for one in results}
    four = [by_name[one.name] for one in (DEIT, PIT, SHARING, BOTH)]
    neither = four[0]
    rows = []
    for label, one in zip(("neither", "pooling only", "sharing only", "both"), four, strict=True):
        apart, interval = difference(one.accuracies, neither.accuracies)
        told = DASH if interval is None else f"{interval[0]:+.2f} to {interval[1]:+.2f}"
        cells = (DASH, DASH) if one is neither else (f"{apart:+.2f}", told)
        rows.append((label, *_row(one)[1:5], _row(one)[8], *cells))
    header = ("", "MACs", "parameters", "layers", "stem", "top-1", "minus neither", "95 %")
    both = interaction(*(one.mean for one in four))
    return table(header, rows) + f"\nTogether they do {both:+.2f} points more than the sum of what each does alone.\n"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, in two digits or more."""
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= 10 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def picture(results: dict[str, list[Result]], data: str) -> str:
    """Accuracy over multiply-accumulates, a mark for every family and budget."""
    names = [one.name for one in next(iter(results.values()))]
    series = []
    for name in names:
        # At one place for a budget, because the little by which families differ would only mix them up.
        points = [
            (mean(other.macs for other in some) / 1e6, one.mean, one.spread)
            for some in results.values()
            for one in some
            if one.name == name
        ]
        series.append(Series(name, tuple(points)))
    title = f"Networks of equal cost on {Path(data).name}"
    return draw_error_bars(
        title, "multiply-accumulates, millions", "top-1, %, and standard deviation over seeds", series
    )
