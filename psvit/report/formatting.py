"""How a report words architectures and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from psvit.arch.architecture import Architecture

DASH = "\N{EN DASH}"
"""Shown in the place of a missing value."""


def in_words(arch: Architecture, mixed: Sequence[str] = ()) -> list[str]:
    """An architecture in short, one text a stage: `max → 96 × [2, 1], MLP 3`, as pooling, width, groups, MLP ratio.

    Args:
        arch: the architecture.
        mixed: `SearchSpace.mixed` of its space; what differs among the members is said first, as `1d, stem conv`.
    """
    said = {"variant": arch.variant, "head_dim": f"heads of {arch.head_dim}", "stem": f"stem {arch.stem}"}
    stages = [", ".join(said[name] for name in mixed)] if mixed else []
    for place, stage in enumerate(arch.stages):
        pool = f"{arch.pools[place - 1]} → " if place else ""
        stages.append(f"{pool}{stage.embed_dim} × {list(stage.groups)}, MLP {stage.mlp_ratio:g}")
    return stages


def number(value: float) -> str:
    """A number with what is worth reading of it, five digits at most."""
    return f"{value:.5g}"


def percent(share: float | None) -> str:
    """A share in whole percent; a dash if it is missing."""
    return DASH if share is None else f"{100 * share:.0f} %"


def count(n: int, one: str, several: str | None = None) -> str:
    """A number with its noun."""
    return f"{n:,} {one}" if n == 1 else f"{n:,} {several or one + 's'}"


def value_in_words(value: str | int | float) -> str:
    """A value of a choice: a pooling by its name, a number without what says nothing."""
    return value if isinstance(value, str) else f"{value:g}"


def joined(texts: Sequence[str]) -> str:
    """An enumeration: `one, two and three`."""
    return " and ".join(part for part in (", ".join(texts[:-1]), *texts[-1:]) if part)


def milliseconds(times: Any) -> str:
    """The latencies of one setting, as an architecture file holds them; a dash if there are none."""
    known = {"measured_ms": "measured", "predicted_ms": "predicted"}
    told = times if isinstance(times, Mapping) else {}
    shown = [f"{told[key]:.4g} ms {how}" for key, how in known.items() if isinstance(told.get(key), int | float)]
    return joined(shown) or DASH
