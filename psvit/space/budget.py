"""Budgets: inclusive limits on what a network may cost and on how long it may take, as an engineer writes them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from psvit.arch.architecture import Architecture
from psvit.arch.costs import ADDITIVE, Cost, cost
from psvit.errors import InputError
from psvit.io.arguments import several
from psvit.io.documents import Value
from psvit.io.shipped import shipped
from psvit.space.members import Members
from psvit.space.pricing import Batch

Runtime = Literal["eager", "compile", "onnxruntime"]
Precision = Literal["float32", "bfloat16", "float16"]

MAX_THREADS = 1024
"""More threads than this are a slip of the pen, over which OpenMP ends the process."""


def _is_a_device(device: str) -> str:
    if not re.fullmatch(r"cpu|mps|(cuda|xpu)(:\d{1,3})?", device, re.ASCII):
        raise ValueError(f"must be cpu, cuda, mps or xpu, or one of several such as cuda:1, received {device!r}")
    return device


Device = Annotated[str, AfterValidator(_is_a_device)]
Threads = Annotated[int, Field(ge=1, le=MAX_THREADS)]

SPENT = 0.9
"""Of a limit without a lower end, the share that a search spends at least, if any architecture does."""

_PREFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_METRICS = {"FLOPs": "macs", "MACs": "macs", "params": "num_params", "B": "activation_bytes"}
_USUAL = {
    prefix + unit: (prefix if prefix == "k" else prefix.upper()) + name
    for name in _METRICS
    for unit in (name.lower(), name.lower().removesuffix("s"))
    for prefix in _PREFIXES
}
"""By unit in lower case: how it is usually written."""

_UNITS = {
    prefix + unit: (metric, scale)
    for name, metric in _METRICS.items()
    for unit in (name.lower(), name.lower().removesuffix("s"))
    for prefix, scale in _PREFIXES.items()
} | {f"{prefix}ib": ("activation_bytes", 2 ** (10 * power)) for power, prefix in enumerate("kmgt", start=1)}
"""By unit in lower case: the cost, and how much of it one unit is."""

_MILLISECONDS = {"us": Decimal("0.001"), "ms": Decimal(1), "s": Decimal(1000)}
_SETTINGS = {"batch": "batch_size", "threads": "threads", "runtime": "runtime", "precision": "precision"}

_NUMBER = r"\d{1,24}(?:\.\d{1,24})?"
_RANGE = rf"(?:(?P<lower>{_NUMBER})\.\.)?(?P<upper>{_NUMBER})"
_SPACE = re.compile(r"(?<!\d)\s+|\s+(?!\d)", re.ASCII)
_COST = re.compile(rf"{_RANGE}(?P<unit>[a-z]*)", re.I | re.ASCII)
_SHARE = re.compile(rf"{_RANGE}%(?:of(?P<arch>.+))?", re.I | re.ASCII)
_SETTING = re.compile(r"(?P<device>[^:]+(?::\d+)?)(?P<settings>:.*)?", re.ASCII)
_LATENCY = re.compile(
    rf"{_RANGE}(?P<unit>{'|'.join(_MILLISECONDS)})@(?P<setting>[^:]+(?::\d+)?(?::.*)?)", re.I | re.ASCII
)
_EXAMPLES = (
    "2GFLOPs, 2GMACs (the same: FLOPs are multiply-accumulates), 22Mparams, 5MB (of activations), 1.2..1.4GFLOPs, "
    "60% (of the space's largest MACs), 60%ofdeit-small, 5ms@cpu, 5ms@cuda:batch=32"
)
_PERMITTED = "a text such as '2GFLOPs'"
_LARGEST_FIRST = (("G", 10**9), ("M", 10**6), ("k", 10**3))
_SHOWN = {"macs": ("FLOPs", 10**9, "G"), "num_params": ("params", 10**6, "M"), "activation_bytes": ("B", 10**9, "G")}


def as_usual(text: str) -> str:
    """A limit as it is usually written, so that equal runs are found equal: `2 Gflop` is `2GFLOPs`."""
    compact = _compact(text)
    if match := _COST.fullmatch(compact):
        return compact[: match.start("unit")] + _USUAL.get(match["unit"].lower(), match["unit"])
    is_understood = _LATENCY.fullmatch(compact) or _SHARE.fullmatch(compact)
    return compact if is_understood else text.strip()


def _compact(text: str) -> str:
    """A limit without spaces, as in `1.2 .. 1.4 GFLOPs` and `5 ms@cpu`; what a share is of keeps those in its path."""
    limit, percent, of = text.partition("%")
    return _SPACE.sub("", limit) + percent + re.sub(r"^of\s+", "of", of.strip(), flags=re.I)


class Limit(Value):
    """Inclusive bounds on one cost.

    Attributes:
        metric: the name of the cost.
        lower: the least permitted; `None` if none was given, which is not the same as a given 0. Activation memory
            has none.
        upper: the most permitted.
    """

    metric: Literal["macs", "num_params", "activation_bytes"]
    lower: int | None = None
    upper: int

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.metric == "activation_bytes" and self.lower is not None:
            raise ValueError("activation memory takes an upper limit only")
        return self

    @classmethod
    def parse(cls, text: str, space: Members | None = None) -> Self:
        """Read one limit such as `2GFLOPs`, `22Mparams`, `300MB`, `1.2..1.4GFLOPs` or `60%`, in upper or lower case.

        Args:
            text: the limit; `60%` is of the MACs of the largest architecture, `60%ofdeit-small` of a shipped one's, or
                of that in a .yaml file.
            space: the space whose largest is meant.

        Raises:
            InputError: not a limit; names the forms that are. Or a share of the largest, and no space.
        """
        text, compact = text.strip(), _compact(text)
        match = _COST.fullmatch(compact)
        if match and match["unit"].lower() in _PREFIXES:
            if match["unit"] or Decimal(match["upper"]) >= 1000:
                raise InputError(f"budget {text!r}: of what? give {compact}FLOPs or {compact}params")
            raise InputError(f"budget {text!r}: of what? give {compact}GFLOPs, {compact}Mparams or {compact}%")
        if "," in text.partition("%")[0]:
            raise InputError(f"budget {text!r}: write 2.5 with a point, and give each limit on its own")
        if match and match["unit"].lower() in _MILLISECONDS:
            raise InputError(f"budget {text!r}: on what? give {compact}@cpu or {compact}@cuda")
        if match and match["unit"].lower() in _UNITS:
            metric, scale = _UNITS[match["unit"].lower()]
        elif match := _SHARE.fullmatch(compact):
            metric, scale = "macs", cost(_reference(text, match["arch"], space)).macs
        else:
            raise InputError(f"budget {text!r}: not understood; permitted are forms like {_EXAMPLES}")
        hundredths = 1 if match.re is _COST else 100
        lower = math.ceil(Decimal(match["lower"]) * scale / hundredths) if match["lower"] else None
        upper = math.floor(Decimal(match["upper"]) * scale / hundredths)
        _check_range(text, lower, upper)
        if metric == "activation_bytes" and lower is not None:
            raise InputError(f"budget {text!r}: activation memory takes an upper limit only, such as 300MB")
        return cls(metric=metric, lower=lower, upper=upper)

    @property
    def text(self) -> str:
        """The limit as `parse` reads it, to the last digit."""
        ends = [end for end in self.ends if end is not None]
        prefix, scale = next(
            ((prefix, scale) for prefix, scale in _LARGEST_FIRST if not any(end % scale for end in ends)), ("", 1)
        )
        return "..".join(str(end // scale) for end in ends) + prefix + _SHOWN[self.metric][0]

    @property
    def subject(self) -> str:
        """What is limited."""
        return self.metric

    @property
    def ends(self) -> tuple[int | None, int]:
        """The lower end, if there is one, and the upper."""
        return self.lower, self.upper

    def deviation(self, value: int | NDArray[np.int64]) -> NDArray[np.float64]:
        """The least share by which the limit has to be relaxed for costs to be within it; shaped like `value`."""
        values = np.asarray(value, dtype=np.float64)
        return np.maximum(1, np.maximum(values / self.upper, (self.lower or 0) / values)) - 1

    def relaxed(self, share: float) -> Self:
        """The same limit with ends farther apart: the upper multiplied by 1 + share, the lower divided by that."""
        lower = None if self.lower is None else math.floor(self.lower / (1 + share))
        return type(self)(metric=self.metric, lower=lower, upper=math.ceil(self.upper * (1 + share)))

    def __str__(self) -> str:
        lower = f"{format_cost(self.metric, self.lower)} to " if self.lower else "at most "
        return lower + format_cost(self.metric, self.upper)


class LatencyLimit(Value):
    """Inclusive bounds on the time of one forward pass, and where and how it is measured.

    Attributes:
        device: where the network runs: `cpu`, `cuda`, `mps` or `xpu`, with a number if there are several (`cuda:1`).
        batch_size: images in one forward pass.
        threads: that it may use; nothing leaves the number to the runtime.
        runtime: what runs it.
        precision: the type of weights and activations.
        lower_ms: the least milliseconds permitted for the whole batch; `None` if none was given.
        upper_ms: the most milliseconds permitted for the whole batch.
    """

    device: Device
    batch_size: PositiveInt = 1
    threads: Threads | None = None
    runtime: Runtime = "eager"
    precision: Precision = "float32"
    lower_ms: NonNegativeFloat | None = None
    upper_ms: PositiveFloat

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if self.lower_ms is not None and self.lower_ms > self.upper_ms:
            raise ValueError(f"lower_ms must not exceed upper_ms, received {self.lower_ms} and {self.upper_ms}")
        return self

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read one limit such as `5ms@cpu`, `4..5ms@cpu` or `5ms@cuda:batch=32,runtime=compile`.

        Raises:
            InputError: not such a limit, or an unknown device or setting; names those that are permitted.
        """
        match = _LATENCY.fullmatch(_compact(text))
        if match is None:
            raise InputError(f"budget {text!r}: not understood; permitted are forms like {_EXAMPLES}")
        scale = _MILLISECONDS[match["unit"].lower()]
        lower = Decimal(match["lower"]) * scale if match["lower"] else None
        upper = Decimal(match["upper"]) * scale
        _check_range(text, lower, upper)
        data = {**read_setting(match["setting"], f"budget {text!r}"), "upper_ms": float(upper)}
        if lower is not None:
            data["lower_ms"] = float(lower)
        return cls.from_dict(data, source=f"budget {text!r}")

    @property
    def text(self) -> str:
        """The limit as `parse` reads it, to the last digit."""
        ends = [format(Decimal(repr(end)), "f") for end in self.ends if end is not None]
        return f"{'..'.join(ends)}ms@{self.setting}"

    @property
    def setting(self) -> str:
        """Where and how it is measured, as it is written after the `@`; settings at their defaults are left out."""
        fields = type(self).model_fields
        changed = [
            f"{name}={getattr(self, field)}"
            for name, field in _SETTINGS.items()
            if getattr(self, field) != fields[field].default
        ]
        return ":".join([self.device, *([",".join(changed)] if changed else [])])

    @property
    def subject(self) -> str:
        """What is limited."""
        return f"latency_ms@{self.setting}"

    @property
    def ends(self) -> tuple[float | None, float]:
        """The lower end, if there is one, and the upper, in milliseconds."""
        return self.lower_ms, self.upper_ms

    def __str__(self) -> str:
        lower = "at most " if self.lower_ms is None else f"{self.lower_ms:g} to "
        return f"{lower}{self.upper_ms:g} ms@{self.setting}"


def read_setting(text: str, source: str) -> dict[str, Any]:
    """Where and how a network runs, as it is written after the `@` of a limit, such as `cpu:batch=8,threads=1`.

    Args:
        text: it.
        source: what to call it in an error.

    Returns:
        Fields of `LatencyLimit`; their values are not checked.

    Raises:
        InputError: it is not written so.
    """
    match = _SETTING.fullmatch(str(text).strip())
    if match is None:
        raise InputError(f"{source}: not understood; permitted are forms like cpu, cpu:batch=8,threads=1 and cuda:1")
    data: dict[str, Any] = {"device": match["device"].lower()}
    for setting in match["settings"][1:].split(",") if match["settings"] else ():
        key, equals, value = setting.partition("=")
        if not equals or key not in _SETTINGS or _SETTINGS[key] in data:
            raise InputError(
                f"{source}: {setting!r} is no setting, or given twice; permitted are "
                f"{', '.join(f'{name}=' for name in _SETTINGS)}, each once, as in 5ms@cpu:batch=8,threads=1"
            )
        data[_SETTINGS[key]] = int(value) if re.fullmatch(r"\d{1,9}", value, re.ASCII) else value
    return data


def _check_range(text: str, lower: Decimal | int | None, upper: Decimal | int) -> None:
    """Make sure that something can lie between the ends, which both belong to the range."""
    if upper <= 0:
        raise InputError(f"budget {text!r}: must be positive")
    if lower is not None and lower > upper:
        raise InputError(f"budget {text!r}: the lower end must not exceed the upper")


def _reference(text: str, arch: str | None, space: Members | None) -> Architecture:
    """The architecture of whose MACs a limit is a share."""
    if arch is None and space is None:
        raise InputError(
            f"budget {text!r}: a share of what? name a network with --init or a space with --space or --supernet, or "
            f"write {text.partition('%')[0]}%ofdeit-small"
        )
    if arch is None:
        assert space is not None
        return space.largest
    # timm writes deit_small where the files have deit-small.
    name = arch.lower().replace("_", "-")
    return Architecture.load(name if name in shipped("arch") else arch)


class Budget(Value):
    """Limits that all have to hold; an empty budget holds always.

    What a network costs follows from its architecture, how long it takes does not: counting, sampling and
    `satisfied_by` look at the limits on costs only.

    Attributes:
        limits: on costs.
        latencies: on latency.
    """

    limits: tuple[Limit, ...] = ()
    latencies: tuple[LatencyLimit, ...] = ()

    @model_validator(mode="after")
    def _limits_each_once(self) -> Self:
        subjects = [limit.subject for limit in self._all]
        if len(set(subjects)) < len(subjects):
            raise ValueError(f"each may be limited once, received limits on {', '.join(subjects)}")
        return self

    @classmethod
    def parse(cls, *texts: str, space: Members | None = None) -> Self:
        """Read limits as on the command line; the same thing may be limited once.

        Args:
            texts: the limits; `Limit.parse` and `LatencyLimit.parse` say how they are written.
            space: whose largest architecture `60%` is a share of.

        Raises:
            InputError: a text is not a limit, two limit the same, or a share has no space.
        """
        several("budget", texts, (str,), _PERMITTED)
        limits = [LatencyLimit.parse(text) if _is_latency(text) else Limit.parse(text, space) for text in texts]
        subjects = [limit.subject for limit in limits]
        for subject in subjects:
            if subjects.count(subject) > 1:
                given = ", ".join(text for text, other in zip(texts, subjects, strict=True) if other == subject)
                raise InputError(f"budget: {subject} may be limited once, received {given}; a range is written 1..2G")
        return cls(
            limits=tuple(limit for limit in limits if isinstance(limit, Limit)),
            latencies=tuple(limit for limit in limits if isinstance(limit, LatencyLimit)),
        )

    @classmethod
    def of(cls, given: Limits) -> Budget:
        """A budget as functions take it: itself, a limit such as `2GFLOPs`, or several.

        Raises:
            InputError: it is none of these, or a limit is not understood.
        """
        return given if isinstance(given, Budget) else cls.parse(*several("budget", given, (str,), _PERMITTED))

    @property
    def texts(self) -> tuple[str, ...]:
        """The limits as `parse` reads them, to the last digit."""
        return tuple(limit.text for limit in self._all)

    @property
    def _all(self) -> tuple[Limit | LatencyLimit, ...]:
        return (*self.limits, *self.latencies)

    @property
    def resolved(self) -> dict[str, list[float | None]]:
        """By what is limited, the ends as numbers: what shares such as `60%` came to."""
        return {limit.subject: list(limit.ends) for limit in self._all}

    def limit(self, metric: str) -> Limit | None:
        """The limit on one cost, if there is one."""
        return next((limit for limit in self.limits if limit.metric == metric), None)

    def satisfied_by(self, cost: Cost) -> bool:
        """Whether every limit on costs holds; a cost equal to a limit is within it."""
        return not self.violations(cost)

    def violations(self, cost: Cost) -> list[str]:
        """One sentence for every limit on a cost that does not hold."""
        return [
            f"{format_cost(limit.metric, getattr(cost, limit.metric))} is not {limit}"
            for limit in self.limits
            if not (limit.lower or 0) <= getattr(cost, limit.metric) <= limit.upper
        ]

    def deviation(self, cost: Cost | Batch) -> NDArray[np.float64]:
        """The least share by which the limits have to be relaxed for costs to be within all of them.

        Args:
            cost: of one network, or of several.

        Returns:
            Shares, 0 where no limit has to be, () or (n,).
        """
        deviations = [limit.deviation(getattr(cost, limit.metric)) for limit in self.limits]
        return np.maximum.reduce([np.zeros(np.shape(cost.macs)), *deviations])

    def relaxed(self, share: float) -> Self:
        """The same budget with every limit on a cost relaxed by a share."""
        return type(self)(limits=tuple(limit.relaxed(share) for limit in self.limits), latencies=self.latencies)

    def spent(self, fraction: float) -> Self:
        """The same budget with a lower end, this fraction of the upper, for its first limit on MACs or parameters.

        A range that was given stays as it is: `0..2GFLOPs` asks for everything up to the limit.
        """
        first = next((limit for limit in self.limits if limit.metric in ADDITIVE), None)
        if first is None or first.lower is not None:
            return self
        spent = Limit(metric=first.metric, lower=math.ceil(fraction * first.upper), upper=first.upper)
        limits = tuple(spent if limit is first else limit for limit in self.limits)
        return type(self)(limits=limits, latencies=self.latencies)

    def __str__(self) -> str:
        return " and ".join(str(limit) for limit in self._all) or "no limit"


Limits = Budget | str | Sequence[str]
"""A budget, a limit as it reads it, or several."""


def as_texts(limit: str | Budget) -> list[str]:
    """What is limited, each as it is usually written."""
    return [as_usual(text) for text in (limit.texts if isinstance(limit, Budget) else (limit,))]


def _is_latency(text: str) -> bool:
    """Whether a text is meant as a limit on latency; the path in `60%of...yaml` may hold an @ as well."""
    return "@" in text.partition("%")[0]


def format_cost(metric: str, value: int) -> str:
    """A cost for people, with four digits: `1.258 GFLOPs`, `5.717 Mparams`; small ones with a smaller prefix."""
    unit, scale, prefix = _SHOWN[metric]
    while prefix in "GM" and value < scale:
        scale, prefix = scale // 1000, {"G": "M", "M": "k"}[prefix]
    return f"{value / scale:.4g} {prefix}{unit}"
