"""LatencyModel: predicts the latency of a space's members on one device as a calibrated sum over their parts."""

from __future__ import annotations

import math
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Self

import numpy as np
from pydantic import Field

from psvit.arch.architecture import Architecture
from psvit.errors import InputError
from psvit.io.documents import Value, dump_yaml, read_yaml, write_atomic
from psvit.io.run_folder import differences
from psvit.search.latency.measure import Fingerprint, Setting
from psvit.search.latency.parts import Mixed, Part, mixed_among, part_macs, parts_in, parts_of
from psvit.search.latency.tables import Floats, PartSums
from psvit.space.members import Members
from psvit.space.pricing import Batch
from psvit.space.search_space import SearchSpace

SCHEMA = "psvit/latency/1"

PICOSECONDS = 9
"""Decimals of predicted milliseconds: sums differ beyond them by the order in which they are added up."""

PRICES = tuple(2.0 ** (exponent / 2) for exponent in range(-8, 9))
"""Prices that `macs_within` tries, relative to the milliseconds per MAC between the extremes of the space."""


_MOST = 1e12
"""Of milliseconds and of factors: no time that anybody waits for, and sums of products stay numbers."""

Factor = Annotated[float, Field(ge=0, le=_MOST)]


class TimedPart(Value):
    """A part with its latency in milliseconds, as measured by itself."""

    part: Part
    ms: Annotated[float, Field(gt=0, le=_MOST)]


class Calibration(Value):
    """What the parts, timed by themselves, contribute to whole networks: factors fitted by least squares.

    Attributes:
        constant_ms: what every network takes beside its parts.
        ends: factor of stem and head.
        poolings: factor of poolings.
        groups: factors of attention groups, by stage.
    """

    constant_ms: Factor
    ends: Factor
    poolings: Factor
    groups: tuple[Factor, ...]

    def factor(self, part: Part) -> float:
        """The factor of a part."""
        if part.kind == "group":
            return self.groups[part.stage]
        return self.poolings if part.kind == "pooling" else self.ends


class Figures(Value):
    """How well predictions agree with measurements of architectures that they were not fitted to.

    Attributes:
        mape: mean absolute percentage error.
        kendall_tau: rank correlation; `None` if all are predicted, or measured, to take equally long.
        r2: share of the variance that is explained; `None` if there is no variance.
    """

    mape: float
    kendall_tau: float | None
    r2: float | None


class HeldOut(Value):
    """An architecture of the validation.

    Attributes:
        index: its number in the space.
        measured_ms: median of the rounds.
        predicted_ms: by the model.
        ridge_ms: by the baseline.
    """

    index: int
    measured_ms: float
    predicted_ms: float
    ridge_ms: float


class LatencyModel(Value):
    """A latency model of one space in one setting on one device.

    Attributes:
        space: the space's name.
        space_digest: its digest.
        setting: where and how networks were run.
        fingerprint: of device, runtime and versions; elsewhere the model is not valid.
        seed: of the architectures that were measured.
        rounds: how often everything was measured; medians count.
        calibrated_on: number of architectures that the calibration was fitted to.
        calibration: the fit.
        validation: of the model, on held-out random architectures.
        ridge: of the baseline, a ridge regression on costs, fitted and validated on the same architectures.
        held_out: the architectures of the validation.
        parts: the table.
    """

    space: str
    space_digest: str
    setting: Setting
    fingerprint: Fingerprint
    seed: int
    rounds: int
    calibrated_on: int
    calibration: Calibration
    validation: Figures
    ridge: Figures
    held_out: tuple[HeldOut, ...]
    parts: tuple[TimedPart, ...]

    # --- files

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a latency model.

        Raises:
            InputError: the file cannot be read or breaks a rule.
        """
        return cls.from_dict(read_yaml(Path(path), SCHEMA), source=str(path))

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all."""
        fields = self.to_dict()
        fields["parts"] = [
            {"part": {key: value for key, value in entry["part"].items() if value is not None}, "ms": entry["ms"]}
            for entry in fields["parts"]
        ]
        write_atomic(Path(path), dump_yaml({"schema": SCHEMA, **fields}))

    def check(self, space: SearchSpace, setting: Setting, here: Fingerprint, source: str) -> None:
        """Make sure that the model holds for a space and a setting on this device.

        Args:
            space: the space whose latencies are wanted.
            setting: in which they are wanted.
            here: of this device, from `fingerprint`.
            source: what to call the model in an error.

        Raises:
            InputError: it does not; names everything that differs.
        """
        there = {"space": self.space, "space_digest": self.space_digest, "setting": self.setting.to_dict()}
        wanted = {"space": space.name, "space_digest": space.digest, "setting": setting.to_dict()}
        there |= self.fingerprint.to_dict()
        wanted |= here.to_dict()
        if found := differences(there, wanted):
            data = f", with --data where its images have other classes or channels than those of {space.name}"
            raise InputError(
                f"{source}: a latency model of something else ({'; '.join(found)}); make one here with psvit-latency"
                f"{data if self.space == space.name and self.space_digest != space.digest else ''}"
            )
        self.check_whole(space, source)

    def check_whole(self, space: SearchSpace, source: str) -> None:
        """Make sure that the model knows all that its space has.

        Raises:
            InputError: parts or factors are missing or too many, or something takes no time.
        """
        wanted, found = set(parts_in(space)), {entry.part for entry in self.parts}
        stages = max(len(layout.stages) for layout in space.layouts)
        if found != wanted or len(self.calibration.groups) != stages:
            raise InputError(
                f"{source}: not whole: {len(wanted & found)} of {len(wanted)} parts of {space.name}, "
                f"{len(found - wanted)} others and factors of {len(self.calibration.groups)} of {stages} "
                "stages; delete it, and make it again with psvit-latency"
            )
        if not self.reach(space)[0] > 0:
            raise InputError(f"{source}: calibration: by these factors some network takes no time")

    # --- predictions

    @cached_property
    def part_ms(self) -> dict[Part, float]:
        """What every part contributes to a network, calibrated."""
        return {entry.part: self.calibration.factor(entry.part) * entry.ms for entry in self.parts}

    @cached_property
    def _mixed(self) -> Mixed:
        return mixed_among(self.part_ms)

    def predict(self, arch: Architecture) -> float:
        """The latency of a member of the space in milliseconds.

        Raises:
            ValueError: not a member.
        """
        parts = list(parts_of(arch, self._mixed))
        unknown = [part for part in parts if part not in self.part_ms]
        if unknown:
            raise ValueError(f"not a member of {self.space}: no member has {unknown[0]!r}")
        return float(np.round(self.calibration.constant_ms + sum(self.part_ms[part] for part in parts), PICOSECONDS))

    def predict_all(self, batch: Batch) -> Floats:
        """The latencies of some members of the space in milliseconds, (n,), by looking up tables.

        Raises:
            ValueError: they are of another space.
        """
        return np.round(self.calibration.constant_ms + _part_sums(self, batch.space).of(batch.rows), PICOSECONDS)

    def reach(self, space: SearchSpace) -> tuple[float, float]:
        """The least and the greatest latency that is predicted for a member of the space in milliseconds, exact.

        Raises:
            ValueError: another space.
        """
        ends = np.round(self.calibration.constant_ms + np.array(_part_sums(self, space).reach()), PICOSECONDS)
        return float(ends[0]), float(ends[1])

    def macs_within(self, space: SearchSpace, lower_ms: float, upper_ms: float) -> tuple[int, int]:
        """Limits on MACs that every member keeps whose predicted latency is between two limits.

        For any price in milliseconds per MAC, no member's latency less the price of its MACs is below the least of
        the space, so a latency of at most `upper_ms` leaves at most (upper_ms - least) / price MACs; and the other
        way round. The tightest of some prices are taken.

        Args:
            space: the model's space.
            lower_ms: the least latency.
            upper_ms: the greatest.

        Raises:
            ValueError: another space.
        """
        macs = {part: part_macs(space, part) for part in self.part_ms}
        fewest, most = PartSums(space, macs).reach()
        fastest, slowest = self.reach(space)
        low, high = fewest, most
        for tilt in PRICES if most > fewest else ():
            price = tilt * (slowest - fastest) / (most - fewest)
            if price > 0:
                rest = PartSums(space, {part: ms - price * macs[part] for part, ms in self.part_ms.items()})
                least, greatest = (self.calibration.constant_ms + end for end in rest.reach())
                low, high = max(low, (lower_ms - greatest) / price), min(high, (upper_ms - least) / price)
        # A limit may be passed over by rounding alone, so there is one MAC of room.
        return math.floor(low) - 1, math.ceil(high) + 1


@lru_cache(maxsize=8)
def _part_sums(model: LatencyModel, space: Members) -> PartSums:
    """The tables, kept because searches ask again and again.

    Raises:
        ValueError: another space than the model's.
    """
    if model.space_digest != space.digest:
        raise ValueError(f"a latency model of {model.space} ({model.space_digest}), received {space.name}")
    return PartSums(space, model.part_ms)
