"""Limits on latency in a search: predicted for what is proposed, measured for what is reported."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from psvit.arch.architecture import Architecture
from psvit.errors import InputError, UnmetBudgetError
from psvit.search.bounds import includes
from psvit.search.latency.measure import Fingerprint, Latency, Setting, fingerprint
from psvit.search.latency.model import LatencyModel
from psvit.search.latency.parts import fresh
from psvit.search.latency.tables import Floats
from psvit.search.result_cache import ResultCache
from psvit.search.trial import Trial
from psvit.space.budget import Budget, LatencyLimit
from psvit.space.pricing import Batch
from psvit.space.search_space import SearchSpace

log = logging.getLogger(__name__)

FINALISTS = 16
"""Trials that are measured before a search gives up on its limits on latency."""

UNCORRECTED = 8
"""Trials that are measured beyond a limit before predictions are mistrusted. Searches crowd at a limit, so after these
predictions are corrected by what was measured, and trials that are now predicted beyond the limit are left out."""

HOPELESS = 2.0
"""A limit this many times below the smallest architecture's latency is refused before a model is built for it."""


@dataclass(frozen=True)
class PredictedLimit:
    """A limit on latency with the model that predicts it: a `Bound`.

    Attributes:
        limit: the limit.
        model: a latency model in the limit's setting.
    """

    limit: LatencyLimit
    model: LatencyModel

    @property
    def subject(self) -> str:
        """See `Bound`."""
        return self.limit.subject

    @property
    def ends(self) -> tuple[float | None, float]:
        """See `Bound`; in milliseconds."""
        return self.limit.ends

    @property
    def draws(self) -> None:
        """Predictions take no time worth mentioning."""

    def value(self, arch: Architecture) -> float:
        """The predicted latency of a member in milliseconds."""
        return self.model.predict(arch)

    def values(self, batch: Batch) -> Floats:
        """See `Bound`."""
        return self.model.predict_all(batch)

    def macs(self, space: SearchSpace) -> tuple[int, int]:
        """See `Bound`."""
        return self.model.macs_within(space, self.limit.lower_ms or 0.0, self.limit.upper_ms)

    def check(self, space: SearchSpace) -> None:
        """See `Bound`."""
        least, greatest = self.model.reach(space)
        if self.limit.upper_ms < least or (self.limit.lower_ms or 0.0) > greatest:
            raise InputError(f"budget: no architecture of {space.name} takes {self.limit}; {self.reach(space)}")

    def __str__(self) -> str:
        return str(self.limit)

    def reach(self, space: SearchSpace) -> str:
        """See `Bound`."""
        least, greatest = self.model.reach(space)
        return f"the space reaches {least:.4g} to {greatest:.4g} ms@{self.limit.setting} as predicted"


def models_by_setting(
    paths: Sequence[Path], models: Sequence[LatencyModel], space: SearchSpace, limits: Budget, is_improved: bool
) -> dict[str, LatencyModel]:
    """Latency models by the setting of the limit that each is for.

    Raises:
        InputError: a model belongs to another space, device or version, or there is no limit that it could predict.
    """
    found: dict[str, LatencyModel] = {}
    settings = {Setting.of(limit): limit.setting for limit in limits.latencies}
    for path, model in zip(paths, models, strict=True):
        if not settings and is_improved:
            settings[model.setting] = str(model.setting)
        if not settings:
            raise InputError(f"--latency {path}: there is no limit on latency, such as 5ms@cpu, for it to predict")
        wanted = model.setting if model.setting in settings else next(iter(settings))
        model.check(space, wanted, fingerprint(wanted), source=f"--latency {path}")
        if settings[wanted] in found:
            raise InputError(f"--latency {path}: a second model of {settings[wanted]}; name one for each limit")
        found[settings[wanted]] = model
    return found


def check_hopeful(limit: LatencyLimit, space: SearchSpace, measure: Callable[..., Latency]) -> None:
    """Refuse a limit far below what the smallest architecture takes, which saves building a model to learn it.

    Args:
        limit: the limit.
        space: where it shall be kept.
        measure: the measuring function.

    Raises:
        InputError: the smallest takes more than `HOPELESS` times the limit.
    """
    arch = space.smallest
    latency = measure(fresh(arch), (arch.in_chans, *arch.image_size), Setting.of(limit))
    if latency.median_ms > HOPELESS * limit.upper_ms:
        raise InputError(
            f"budget: no architecture of {space.name} takes {limit}; the smallest takes {latency.median_ms:.4g} ms here"
        )


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Trials that were measured within the limits.

    Attributes:
        trials: with, by the limit's setting, what was predicted and what was measured, for the architecture file.
        passed_over: trials that would have been chosen and were measured beyond a limit.
    """

    trials: list[tuple[Trial, dict[str, Any]]]
    passed_over: int


def first_within(
    trials: Sequence[Trial],
    choose: Callable[[list[Trial]], list[Trial]],
    limits: Sequence[PredictedLimit],
    cache: ResultCache,
    measure: Callable[..., Latency] | None,
) -> Kept:
    """Measure what would be chosen until all of it keeps all limits.

    What is measured beyond a limit makes place for others: for the next in a ranking, and on a Pareto front for what
    it alone dominated. See `FINALISTS` and `UNCORRECTED` for how many are measured.

    Measurements are kept in the study's cache, so that the same call on the same machine gives the same trials again.

    Args:
        trials: of which some are wanted.
        choose: picks them from those that are left, in the order in which they are measured.
        limits: on latency.
        cache: of the trials' study.
        measure: the measuring function; without it, what was not measured before counts as predicted.

    Raises:
        NoisyMachineError: the machine was too noisy; the same call continues.
        UnmetBudgetError: none that was measured keeps the limits.
    """
    here = [fingerprint(Setting.of(limit.limit)) for limit in limits]
    times: list[list[float]] = [[] for _ in limits]
    ratios: list[list[float]] = [[] for _ in limits]

    within: dict[int, dict[str, Any]] = {}

    def keeps(trial: Trial) -> bool:
        latencies: dict[str, Any] = {}
        for limit, machine, of_limit, ratio in zip(limits, here, times, ratios, strict=True):
            latency = latencies[limit.limit.setting] = _latency(trial, limit, machine, cache, measure)
            if (measured_ms := latency.get("measured_ms")) is None:
                continue
            of_limit.append(measured_ms)
            ratio.append(measured_ms / latency["predicted_ms"])
            if not includes(limit, measured_ms):
                log.info("trial %d takes %.4g ms, which is not %s", trial.number, measured_ms, limit.limit)
                return False
        within[trial.number] = latencies
        return True

    def is_hopeful(trial: Trial) -> bool:
        return all(
            includes(limit, median(ratio or [1.0]) * limit.value(trial.arch))
            for limit, ratio in zip(limits, ratios, strict=True)
        )

    left = list(trials)
    passed_over = 0
    while passed_over < FINALISTS:
        chosen = choose(left)
        beyond = next((trial for trial in chosen if trial.number not in within and not keeps(trial)), None)
        if beyond is None:
            break
        passed_over += 1
        left = [
            trial
            for trial in left
            if trial is not beyond and (passed_over < UNCORRECTED or trial.number in within or is_hopeful(trial))
        ]
    if kept := [(trial, within[trial.number]) for trial in chosen if trial.number in within]:
        return Kept(trials=kept, passed_over=passed_over)
    taken = (
        f"{min(ms):.4g} to {max(ms):.4g} ms@{limit.limit.setting}"
        for limit, ms in zip(limits, times, strict=True)
        if ms
    )
    is_above = any(max(ms) > limit.limit.upper_ms for limit, ms in zip(limits, times, strict=True) if ms)
    raise UnmetBudgetError(
        f"budget: of the best architectures {passed_over} were measured and none keeps "
        f"{' and '.join(str(limit.limit) for limit in limits)}; they take {' and '.join(taken)}; "
        f"name a {'slightly lower' if is_above else 'wider'} limit, or more trials in another folder"
    )


def _latency(
    trial: Trial,
    limit: PredictedLimit,
    machine: Fingerprint,
    cache: ResultCache,
    measure: Callable[..., Latency] | None,
) -> dict[str, Any]:
    """A trial's latency as predicted and as measured, for the architecture file."""
    arch, setting = trial.arch, Setting.of(limit.limit)
    name = f"latency:{arch.digest}:{setting.digest}:{machine.digest}"

    def find() -> dict[str, Any]:
        assert measure is not None
        return measure(fresh(arch), (arch.in_chans, *arch.image_size), setting).to_dict()

    found = cache.get_or_compute(name, find) if measure else cache.get(name)
    predicted = {"predicted_ms": limit.model.predict(arch)}
    if found is None:
        return predicted
    try:
        latency = Latency.from_dict(found)
    except InputError as error:
        raise cache.damaged(name, str(error)) from None
    return {
        **predicted,
        "measured_ms": latency.median_ms,
        "iqr_ms": latency.iqr_ms,
        **({} if latency.queued_ms is None else {"queued_ms": latency.queued_ms}),
        "repeats": latency.repeats,
        "setting": latency.setting.to_dict(),
        "fingerprint": latency.fingerprint.to_dict(),
    }
