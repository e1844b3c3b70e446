"""Budgets: inclusive limits on what a network may cost, as an engineer writes them."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Self

from psvit.costs import METRICS, Cost
from psvit.documents import Value
from psvit.errors import InputError

_UNITS = {"flops": "macs", "macs": "macs", "params": "num_params"}
_PREFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_NUMBER = r"\d+(?:\.\d+)?"
_PATTERN = re.compile(
    rf"(?:(?P<lower>{_NUMBER})\.\.)?(?P<upper>{_NUMBER})(?P<prefix>[kmgt]?)(?P<unit>{'|'.join(_UNITS)})",
    re.I | re.ASCII,
)
_EXAMPLES = "2GFLOPs, 2GMACs (the same: FLOPs are multiply-accumulates), 22Mparams, 1.2..1.4GFLOPs"
_SHOWN = {"macs": ("FLOPs", 10**9, "G"), "num_params": ("params", 10**6, "M")}


class Limit(Value):
    """Inclusive bounds on one cost.

    Attributes:
        metric: the name of the cost.
        lower: the least permitted; nothing where none was given, which is not the same as a given 0.
        upper: the most permitted.
    """

    metric: str
    lower: int | None = None
    upper: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read one limit such as `2GFLOPs`, `22Mparams` or `1.2..1.4GFLOPs`; letter case does not matter.

        Raises:
            InputError: not a limit; names the forms that are.
        """
        match = _PATTERN.fullmatch(text.strip())
        if match is None:
            raise InputError(f"budget {text!r}: not understood; permitted are forms like {_EXAMPLES}")
        scale = _PREFIXES[match["prefix"].lower()]
        lower = math.ceil(Decimal(match["lower"]) * scale) if match["lower"] else None
        upper = math.floor(Decimal(match["upper"]) * scale)
        if upper <= 0:
            raise InputError(f"budget {text!r}: must be positive")
        if lower is not None and lower > upper:
            raise InputError(f"budget {text!r}: the lower end must not exceed the upper")
        return cls(metric=_UNITS[match["unit"].lower()], lower=lower, upper=upper)

    def __str__(self) -> str:
        lower = "at most " if self.lower is None else f"{format_cost(self.metric, self.lower)} to "
        return lower + format_cost(self.metric, self.upper)


class Budget(Value):
    """Limits that all have to hold; an empty budget holds always."""

    limits: tuple[Limit, ...] = ()

    @classmethod
    def parse(cls, *texts: str) -> Self:
        """Read limits as on the command line; the same cost may be limited once.

        Raises:
            InputError: a text is not a limit, or two limit the same cost.
        """
        limits = tuple(Limit.parse(text) for text in texts)
        metrics = [limit.metric for limit in limits]
        for metric in METRICS:
            if metrics.count(metric) > 1:
                given = ", ".join(text for text, limit in zip(texts, limits, strict=True) if limit.metric == metric)
                raise InputError(f"budget: {metric} may be limited once, received {given}; a range is written 1..2G")
        return cls(limits=limits)

    def limit(self, metric: str) -> Limit | None:
        """The limit on one cost, if there is one."""
        return next((limit for limit in self.limits if limit.metric == metric), None)

    def satisfied_by(self, cost: Cost) -> bool:
        """Whether every limit holds; a cost equal to a limit is within it."""
        return not self.violations(cost)

    def violations(self, cost: Cost) -> list[str]:
        """One sentence for every limit that does not hold."""
        return [
            f"{format_cost(limit.metric, getattr(cost, limit.metric))} is not {limit}"
            for limit in self.limits
            if not (limit.lower or 0) <= getattr(cost, limit.metric) <= limit.upper
        ]

    def spent(self, fraction: float) -> Self:
        """The same budget with a lower end, this fraction of the upper, for its first limit if that has none.

        A range that was given stays as it is: `0..2GFLOPs` asks for everything up to the limit.
        """
        if not self.limits or self.limits[0].lower is not None:
            return self
        first, *others = self.limits
        lower = math.ceil(fraction * first.upper)
        return type(self)(limits=(Limit(metric=first.metric, lower=lower, upper=first.upper), *others))

    def __str__(self) -> str:
        return " and ".join(str(limit) for limit in self.limits) or "no limit"


def format_cost(metric: str, value: int) -> str:
    """A cost for people, with four digits: `1.258 GFLOPs`, `5.717 Mparams`; small ones with a smaller prefix."""
    unit, scale, prefix = _SHOWN[metric]
    while prefix in "GM" and value < scale:
        scale, prefix = scale // 1000, {"G": "M", "M": "k"}[prefix]
    return f"{value / scale:.4g} {prefix}{unit}"
