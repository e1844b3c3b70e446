"""LatencyModel: predicts the latency of a space's members on one device as a calibrated sum over their parts."""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeFloat, PositiveFloat

from psvit import compositions
from psvit.architecture import Architecture
from psvit.documents import Value, dump_yaml, read_yaml, write_atomic
from psvit.errors import InputError
from psvit.run_folder import differences
from psvit.search.latency.measure import Fingerprint, Setting
from psvit.search.latency.parts import Part, parts_of, stage_tokens
from psvit.search_space import GENES_PER_STAGE, SearchSpace

SCHEMA = "psvit/latency/1"

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class TimedPart(Value):
    """A part with its latency in milliseconds, as measured by itself."""

    part: Part
    ms: PositiveFloat


class Calibration(Value):
    """What the parts, timed by themselves, contribute to whole networks: factors fitted by least squares.

    Attributes:
        constant_ms: what every network takes beside its parts.
        ends: factor of stem and head.
        poolings: factor of poolings.
        groups: factors of attention groups, by stage.
    """

    constant_ms: NonNegativeFloat
    ends: NonNegativeFloat
    poolings: NonNegativeFloat
    groups: tuple[NonNegativeFloat, ...]

    def factor(self, part: Part) -> float:
        """The factor of a part."""
        if part.kind == "group":
            return self.groups[part.stage]
        return self.poolings if part.kind == "pooling" else self.ends


class Figures(Value):
    """How well predictions agree with measurements of architectures that they were not fitted to.

    Attributes:
        mape: mean absolute percentage error.
        kendall_tau: rank correlation.
        r2: share of the variance that is explained.
    """

    mape: float
    kendall_tau: float
    r2: float


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
            raise InputError(
                f"{source}: a latency model of something else ({'; '.join(found)}); make one here with psvit-latency"
            )

    # --- predictions

    @cached_property
    def part_ms(self) -> dict[Part, float]:
        """What every part contributes to a network, calibrated."""
        return {entry.part: self.calibration.factor(entry.part) * entry.ms for entry in self.parts}

    def predict(self, arch: Architecture) -> float:
        """The latency of a member of the space in milliseconds.

        Raises:
            ValueError: not a member.
        """
        parts = list(parts_of(arch))
        unknown = [part for part in parts if part not in self.part_ms]
        if unknown:
            raise ValueError(f"not a member of {self.space}: no member has {unknown[0]!r}")
        return self.calibration.constant_ms + sum(self.part_ms[part] for part in parts)

    def predict_rows(self, space: SearchSpace, rows: Ints) -> Floats:
        """The latencies of encoded members of the space, (n, genes) to (n,) milliseconds, by looking up tables.

        Raises:
            ValueError: another space.
        """
        return _predictor(self, space).predict(rows)

    def reach(self, space: SearchSpace) -> tuple[float, float]:
        """The least and the greatest latency that is predicted for a member of the space in milliseconds, exact.

        Raises:
            ValueError: another space.
        """
        return _predictor(self, space).reach()


class _StageTables:
    """What a stage of a layout takes, by the genes of an encoded architecture.

    Attributes:
        counts: groups of each length from 1 on, for all groupings of all depths, (groupings, lengths).
        begin: place of a depth's first grouping in `counts`, (depths,).
        group_ms: one group, (widths, MLP ratios, lengths).
        before_ms: what stands before the stage: the stem, (widths,), or the pooling, (operators, widths before,
            widths), infinite where the width would shrink.
    """

    def __init__(self, model: LatencyModel, space: SearchSpace, layout: int, stage: int) -> None:
        choices = space.layouts[layout].stages[stage]
        common = {"stage": stage, "tokens": stage_tokens(space)[stage]}
        groupings = [
            [compositions.unrank_any(number, depth, choices.max_group) for number in range(size)]
            for depth in choices.depth
            for size in [compositions.size(depth, choices.max_group)]
        ]
        self.begin = np.cumsum([0, *map(len, groupings)])[:-1]
        self.counts = np.array(
            [np.bincount(groups, minlength=choices.max_group + 1)[1:] for of_depth in groupings for groups in of_depth]
        )

        def ms(**fields: Any) -> float:
            return model.part_ms[Part(**common, **fields)]

        self.group_ms = np.array(
            [
                [
                    [
                        ms(kind="group", embed_dim=width, hidden_dim=round(width * ratio), length=length)
                        for length in range(1, choices.max_group + 1)
                    ]
                    for ratio in choices.mlp_ratio
                ]
                for width in choices.embed_dim
            ]
        )
        if stage == 0:
            self.before_ms = np.array([ms(kind="stem", embed_dim=width) for width in choices.embed_dim])
            return
        self.before_ms = np.array(
            [
                [
                    [
                        ms(kind="pooling", pool=pool, embed_dim_before=before, embed_dim=width)
                        if before <= width
                        else np.inf
                        for width in choices.embed_dim
                    ]
                    for before in space.layouts[layout].stages[stage - 1].embed_dim
                ]
                for pool in space.layouts[layout].pools[stage - 1]
            ]
        )

    def layers_ms(self, width: Ints, depth: Ints, mlp_ratio: Ints, grouping: Ints) -> Floats:
        """The groups of a stage for many architectures, genes (n,) to (n,) milliseconds."""
        counts = self.counts[self.begin[depth] + grouping]
        return np.einsum("nl,nl->n", counts, self.group_ms[width, mlp_ratio])

    def extremes(self) -> tuple[Floats, Floats]:
        """The least and the greatest that the groups can take, by width, (widths,) each."""
        every = np.einsum("gl,wrl->wgr", self.counts, self.group_ms)
        return every.min(axis=(1, 2)), every.max(axis=(1, 2))


class _Predictor:
    """The tables of a latency model for the encoded members of its space."""

    def __init__(self, model: LatencyModel, space: SearchSpace) -> None:
        if model.space_digest != space.digest:
            raise ValueError(f"a latency model of {model.space} ({model.space_digest}), received {space.name}")
        self._constant_ms = model.calibration.constant_ms
        self._layouts = [
            [_StageTables(model, space, layout, stage) for stage in range(len(choices.stages))]
            for layout, choices in enumerate(space.layouts)
        ]
        self._heads = [
            np.array(
                [
                    model.part_ms[Part(kind="head", stage=last, tokens=stage_tokens(space)[last], embed_dim=width)]
                    for width in choices.stages[last].embed_dim
                ]
            )
            for choices in space.layouts
            for last in [len(choices.stages) - 1]
        ]

    def predict(self, rows: Ints) -> Floats:
        """Encoded architectures (n, genes) to milliseconds (n,)."""
        total = np.full(len(rows), self._constant_ms)
        for layout, (stages, head_ms) in enumerate(zip(self._layouts, self._heads, strict=True)):
            mine = np.flatnonzero(rows[:, 0] == layout)
            genes = rows[mine, 1:].reshape(len(mine), -1, len(GENES_PER_STAGE))
            for index, tables in enumerate(stages):
                pool, width, depth, mlp_ratio, grouping = genes[:, index].T
                before = tables.before_ms[pool, genes[:, index - 1, 1], width] if index else tables.before_ms[width]
                total[mine] += before + tables.layers_ms(width, depth, mlp_ratio, grouping)
            total[mine] += head_ms[width]
        return total

    def reach(self) -> tuple[float, float]:
        """The least and the greatest total, stage by stage: what comes later depends on the width alone."""
        ends = []
        for stages, head_ms in zip(self._layouts, self._heads, strict=True):
            # By width at the end so far.
            first = stages[0]
            least, greatest = (first.before_ms + layers for layers in first.extremes())
            for tables in stages[1:]:
                low, high = tables.extremes()
                shortest = tables.before_ms.min(axis=0)
                longest = np.where(np.isinf(tables.before_ms), -np.inf, tables.before_ms).max(axis=0)
                least = (least[:, None] + shortest).min(axis=0) + low
                greatest = (greatest[:, None] + longest).max(axis=0) + high
            ends.append(((least + head_ms).min(), (greatest + head_ms).max()))
        return (
            self._constant_ms + float(min(low for low, _ in ends)),
            self._constant_ms + float(max(high for _, high in ends)),
        )


@lru_cache(maxsize=8)
def _predictor(model: LatencyModel, space: SearchSpace) -> _Predictor:
    """The tables, kept because searches ask again and again."""
    return _Predictor(model, space)
