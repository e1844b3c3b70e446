"""Building a latency model: measure the parts of a space, calibrate their sum on whole networks, validate it on others.

Everything is measured in several rounds, each in an order of its own, so that a machine that slows down for a while
slows down parts and networks of all kinds alike, and medians leave it out.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from psvit.arch.architecture import Architecture
from psvit.arch.costs import METRICS, cost
from psvit.errors import InputError, NoisyMachineError
from psvit.io.documents import remove_unfinished_file
from psvit.io.journal import Journal
from psvit.io.progress import progress_bar
from psvit.io.run_folder import differences
from psvit.search.latency.measure import SECONDS, Fingerprint, Latency, Setting, fingerprint, seconds_to_measure
from psvit.search.latency.model import Calibration, Figures, HeldOut, LatencyModel, TimedPart
from psvit.search.latency.parts import Bench, Mixed, Part, parts_in, parts_of
from psvit.search.latency.tables import Floats
from psvit.space.search_space import SearchSpace
from psvit.supernet.sampling import draw

PRIOR = 0.003
"""How strongly factors are drawn towards 1, in shares of the evidence that one architecture gives."""

LEAST = 4
"""Architectures of a space that can have a model: half of them for the calibration, half for the validation."""

MOST_PARTS = 2000
"""Parts of a space. The file of a model with many more could not be read again, see `psvit.io.bounded`."""

TRIED = 3
"""Parts, and architectures, from which the time of a build is estimated; one of each where they are compiled."""

PATIENCE = 4
"""Measurements in a row for which the machine may be too noisy, so that a build outlasts a busy minute."""


@dataclass(frozen=True, kw_only=True)
class LatencyPlan:
    """Everything that decides a latency model, before it is built.

    Attributes:
        space: the space.
        setting: where and how networks run.
        seed: of the architectures that are measured.
        rounds: how often everything is measured.
        calibrated_on: architectures for the calibration.
        held_out: architectures for the validation.
    """

    space: SearchSpace
    setting: Setting
    seed: int = 0
    rounds: int
    calibrated_on: int = 48
    held_out: int = 64

    @classmethod
    def of(cls, space: SearchSpace, setting: Setting, seed: int) -> LatencyPlan:
        """The usual plan. Where each network has to be exported or compiled, that is what takes the time.

        Raises:
            InputError: the space is too small to fit a model and to validate it, or has too many parts.
        """
        if space.size < LEAST:
            raise InputError(
                f"space {space.name}: has {space.size} architectures, and a latency model needs {LEAST} to be fitted "
                "and validated; measure them one by one"
            )
        if (parts := len(parts_in(space))) > MOST_PARTS:
            raise InputError(
                f"space {space.name}: networks have {parts:,} different parts, and a latency model holds at most "
                f"{MOST_PARTS:,}; give the space fewer widths, MLP ratios or layouts"
            )
        if setting.runtime == "eager":
            return cls(space=space, setting=setting, seed=seed, rounds=3)
        return cls(space=space, setting=setting, seed=seed, rounds=1, calibrated_on=32, held_out=32)

    def config(self, here: Fingerprint) -> dict[str, Any]:
        """Everything that decides the model, JSON-serialisable."""
        calibration, held_out = self.architectures
        return {
            "space": self.space.name,
            "space_digest": self.space.digest,
            "setting": self.setting.to_dict(),
            "fingerprint": here.to_dict(),
            "seed": self.seed,
            "rounds": self.rounds,
            "calibrated_on": len(calibration),
            "held_out": len(held_out),
        }

    @cached_property
    def architectures(self) -> tuple[list[Architecture], list[Architecture]]:
        """The architectures for the calibration and those for the validation; none is in both.

        Those for the validation are uniform draws from the space. Nearly all of them are deep, while a search asks for
        all sizes; so those for the calibration are drawn choice by choice, as a supernet is trained.
        """
        held_out = self._distinct(self.held_out, set(), lambda n: self.space.sample(_generator(self.seed, 1, n), 1)[0])
        known = set(held_out)
        return self._distinct(self.calibrated_on, known, lambda n: draw(self.space, self.seed, n)), held_out

    def _distinct(
        self, count: int, seen: set[Architecture], drawn: Callable[[int], Architecture]
    ) -> list[Architecture]:
        """Different architectures, as many as wanted or as a small space yields."""
        found: dict[Architecture, None] = {}
        for attempt in range(20 * count):
            if len(found) == min(count, self.space.size // 2):
                break
            arch = drawn(attempt)
            if arch not in seen:
                found[arch] = None
        return list(found)


def build_model(plan: LatencyPlan, out: Path, measure: Callable[..., Latency]) -> tuple[LatencyModel, bool]:
    """Build a latency model and write it, or find it written.

    What is measured is kept in a journal beside the file, so that a build that was stopped continues.

    Args:
        plan: of what.
        out: the model's file.
        measure: the measuring function.

    Returns:
        The model, and whether it had been there before.

    Raises:
        InputError: the file or the journal is of something else (the differences are named), or cannot be written.
        NoisyMachineError: the machine was too noisy; the same call continues.
    """
    config = plan.config(fingerprint(plan.setting))
    kept = out.with_name(f"{out.name}.journal")
    if (found := _built(plan, out, config)) is not None:
        if kept.exists():  # of a process that was killed after it had written the model
            with contextlib.suppress(InputError):
                Journal(kept, config).remove()
        return found, True
    calibration, held_out = plan.architectures
    journal = Journal(kept, config)
    remove_unfinished_file(out)
    subjects: list[Part | Architecture] = [*parts_in(plan.space), *calibration, *held_out]
    try:
        # Again, because another build may have ended before the journal was locked.
        found = _built(plan, out, config)
        model = found or fit(plan, _measured(plan, subjects, journal, measure), calibration, held_out)
    except InputError:
        if not journal.records:
            journal.remove()
        raise
    if found is None:
        model.save(out)
    journal.remove()
    return model, found is not None


def seconds_to_build(plan: LatencyPlan) -> float:
    """How long it takes to build a latency model on a quiet machine, from a few of its parts and architectures.

    Raises:
        InputError, MismatchError: something cannot be measured in the setting.
    """
    eager = plan.setting.runtime == "eager"
    bench, total = Bench(plan.space, eager), 0.0
    calibration, held_out = plan.architectures
    alike: list[Part] | list[Architecture]
    for alike in (parts_in(plan.space), [*calibration, *held_out]):
        tried = _generator(plan.seed, 3).permutation(len(alike))[: TRIED if eager else 1]
        seconds = 0.0
        for i in tried:
            clock = time.perf_counter()
            network, input_shape, _ = bench.subject(alike[i])
            seconds += time.perf_counter() - clock
            seconds += seconds_to_measure(network, input_shape, plan.setting, seconds=SECONDS / plan.rounds)
        total += plan.rounds * len(alike) * seconds / len(tried)
    return total


def _built(plan: LatencyPlan, out: Path, config: dict[str, Any]) -> LatencyModel | None:
    """The model that is there already.

    Raises:
        InputError: it is of something else (the differences are named), or not whole.
    """
    if not os.path.exists(out):  # a name that cannot be is refused when it is written
        return None
    model = LatencyModel.load(out)
    if found := differences(_config_of(model), config):
        raise InputError(
            f"{out}: holds a latency model of something else ({'; '.join(found)}); name another file, or delete it"
        )
    model.check_whole(plan.space, source=str(out))
    return model


def _config_of(model: LatencyModel) -> dict[str, Any]:
    fields = model.to_dict()
    names = ("space", "space_digest", "setting", "fingerprint", "seed", "rounds", "calibrated_on")
    return {**{name: fields[name] for name in names}, "held_out": len(model.held_out)}


def _measured(
    plan: LatencyPlan, subjects: list[Part | Architecture], journal: Journal, measure: Callable[..., Latency]
) -> dict[Part | Architecture, float]:
    """The latency of every part and architecture by itself in milliseconds, the median of the rounds."""
    bench = Bench(plan.space, eager=plan.setting.runtime == "eager")
    known = {(record["round"], record["what"]): record["ms"] for record in journal.records}
    everything = len(subjects) * plan.rounds
    with progress_bar("latency", everything, "measurements", done=len(known)) as advance:
        for number in range(plan.rounds):
            order = _generator(plan.seed, 2, number).permutation(len(subjects))
            waiting = deque(subjects[i] for i in order if (number, _name(subjects[i])) not in known)
            failures = 0
            while waiting:
                subject = waiting.popleft()
                network, input_shape, copies = bench.subject(subject)
                try:
                    latency = measure(network, input_shape, plan.setting, seconds=SECONDS / plan.rounds)
                except NoisyMachineError:
                    failures += 1
                    if failures == PATIENCE:
                        raise
                    waiting.append(subject)
                    continue
                failures = 0
                record = {"round": number, "what": _name(subject), "ms": latency.median_ms / copies}
                journal.add(record)
                known[number, record["what"]] = record["ms"]
                advance(1, f"{record['ms']:.3g} ms")
    return {
        subject: float(np.median([known[number, _name(subject)] for number in range(plan.rounds)]))
        for subject in subjects
    }


def _name(subject: Part | Architecture) -> str:
    """A name for the journal, different for different parts and architectures."""
    return json.dumps({key: value for key, value in subject.to_dict().items() if value is not None}, sort_keys=True)


def fit(
    plan: LatencyPlan,
    ms: dict[Part | Architecture, float],
    calibration: list[Architecture],
    held_out: list[Architecture],
) -> LatencyModel:
    """The model of these measurements.

    Args:
        plan: what they are of.
        ms: of every part and architecture by itself, in milliseconds.
        calibration: the architectures to fit to.
        held_out: the architectures to validate with.
    """
    # Loading it takes a second, which a search that builds no model need not wait for.
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    stages = max(len(layout.stages) for layout in plan.space.layouts)
    train = np.array([ms[arch] for arch in calibration])
    test = np.array([ms[arch] for arch in held_out])
    mixed = frozenset(plan.space.mixed)
    sums = {arch: _sums(arch, ms, stages, mixed) for arch in [*calibration, *held_out]}
    factors = calibrate(np.array([sums[arch] for arch in calibration]), train)
    predicted = np.array([sums[arch] for arch in held_out]) @ factors

    # A ridge on what every tool knows of a network. Weighted, so that it too minimises relative errors.
    ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-6, 3, 28)))
    ridge.fit(_costs(calibration), train, ridgecv__sample_weight=train**-2.0)
    baseline = ridge.predict(_costs(held_out))

    constant_ms, ends, poolings, *groups = map(float, factors)
    return LatencyModel(
        space=plan.space.name,
        space_digest=plan.space.digest,
        setting=plan.setting,
        fingerprint=fingerprint(plan.setting),
        seed=plan.seed,
        rounds=plan.rounds,
        calibrated_on=len(calibration),
        calibration=Calibration(constant_ms=constant_ms, ends=ends, poolings=poolings, groups=tuple(groups)),
        validation=figures(predicted, test),
        ridge=figures(baseline, test),
        held_out=tuple(
            HeldOut(index=plan.space.index(arch), measured_ms=one, predicted_ms=two, ridge_ms=three)
            for arch, one, two, three in zip(
                held_out, test.tolist(), predicted.tolist(), baseline.tolist(), strict=True
            )
        ),
        parts=tuple(TimedPart(part=part, ms=time) for part, time in ms.items() if isinstance(part, Part)),
    )


def _sums(arch: Architecture, ms: dict[Part | Architecture, float], stages: int, mixed: Mixed) -> list[float]:
    """What the factors of the calibration multiply: 1, then milliseconds of ends, poolings, and groups by stage."""
    total: dict[Any, float] = defaultdict(float)
    for part in parts_of(arch, mixed):
        total[part.stage if part.kind == "group" else part.kind] += ms[part]
    return [1.0, total["stem"] + total["head"], total["pooling"], *(total[stage] for stage in range(stages))]


def calibrate(sums: Floats, measured: Floats) -> Floats:
    """Factors (k,) that make sums (n, k) the measured latencies (n,): non-negative least squares of relative errors.

    A weak pull towards a constant of 0 and factors of 1 decides what the architectures leave open.
    """
    from scipy.optimize import nnls

    relative = sums / measured[:, None]
    # What no architecture has gets a share too, or nothing would say that its factor is 1.
    share = np.sqrt(PRIOR * len(measured)) * np.maximum(relative.mean(axis=0), 1e-6)
    towards = np.array([0.0, *np.ones(sums.shape[1] - 1)])
    factors: Floats = nnls(
        np.vstack([relative, np.diag(share)]), np.concatenate([np.ones(len(measured)), share * towards])
    )[0]
    return factors


def figures(predicted: Floats, measured: Floats) -> Figures:
    """How well predictions (n,) agree with measurements (n,)."""
    from scipy.stats import kendalltau

    tau = float(kendalltau(predicted, measured).statistic)
    variance = float(np.sum((measured - measured.mean()) ** 2))
    return Figures(
        mape=100 * float(np.mean(np.abs(predicted / measured - 1))),
        kendall_tau=None if math.isnan(tau) else tau,
        r2=1 - float(np.sum((predicted - measured) ** 2)) / variance if variance else None,
    )


def _costs(archs: list[Architecture]) -> Floats:
    """What the baseline knows of architectures: costs, layers, attention groups, stages, (n, features)."""
    return np.array(
        [
            [
                *(getattr(cost(arch), metric) for metric in METRICS),
                arch.depth,
                sum(len(stage.groups) for stage in arch.stages),
                len(arch.stages),
            ]
            for arch in archs
        ],
        dtype=float,
    )


def _generator(*key: int) -> np.random.Generator:
    return np.random.default_rng(list(key))
