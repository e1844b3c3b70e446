"""Small spaces and cheap scores for the tests of the search."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from torch import nn

from psvit.arch.architecture import Architecture
from psvit.arch.costs import cost
from psvit.data import ImageData, open_data
from psvit.search.candidates import Candidates
from psvit.search.history import History
from psvit.search.latency.measure import Latency, Setting, fingerprint
from psvit.search.latency.model import Calibration, Figures, HeldOut, LatencyModel, TimedPart
from psvit.search.latency.parts import parts_in
from psvit.search.plan import SearchPlan, plan_search
from psvit.search.proposal import Proposal
from psvit.search.report.references import deit_references
from psvit.search.report.report import Report
from psvit.search.result_cache import ResultCache
from psvit.search.run import _request, run_search
from psvit.search.selection.finalist import Finalist, Look
from psvit.search.study import Study
from psvit.search.trial import Score, State, Trial
from psvit.space.budget import Budget
from psvit.space.search_space import SearchSpace


class SmoothScore:
    """A score with one peak inside the space: the closer to some depth and width, the better.

    Stands in for a supernet where a test is about searching; counts what it evaluates, and remembers the best scores
    that it was told beside every population.
    """

    def __init__(self) -> None:
        self.evaluated: list[Architecture] = []
        self.populations: list[list[Architecture]] = []
        self.best: list[list[float]] = []

    def evaluate(self, archs: Sequence[Architecture], best: Sequence[float] = (), parts: int = 1) -> list[Score]:
        self.evaluated += archs
        self.populations.append(list(archs))
        self.best.append(list(best))
        return [self.score(arch) for arch in archs]

    def score(self, arch: Architecture) -> Score:
        return Score(value=self.value(arch), images=144)

    @staticmethod
    def value(arch: Architecture) -> float:
        score = -0.3 * sum(pool != "conv" for pool in arch.pools)
        for stage, width in zip(arch.stages, (2, 3.5, 5), strict=False):
            score -= (stage.depth - 3) ** 2 + (stage.embed_dim / 32 - width) ** 2
            score -= 0.5 * (len(stage.groups) - 2) ** 2 + (stage.mlp_ratio - 3) ** 2
        return score

    def describe(self) -> dict[str, Any]:
        return {"kind": "smooth score"}


class MixedScore(SmoothScore):
    """Gives up on some architectures and fails with some, which ones depends on the architecture alone."""

    def score(self, arch: Architecture) -> Score:
        value = self.value(arch)
        kind = sum(stage.embed_dim // 8 + 3 * stage.depth + 5 * len(stage.groups) for stage in arch.stages) % 5
        if kind == 0:
            return Score(value=value + 1000, images=16, state="raced")
        if kind == 1:
            return Score(value=None, state="failed", reason="the logits are no numbers")
        return Score(value=value, images=144)


@pytest.fixture
def score() -> Callable[[], SmoothScore]:
    return SmoothScore


@pytest.fixture
def mixed_score() -> Callable[[], MixedScore]:
    """Scores of all three states; those of what was raced would be the best."""
    return MixedScore


@pytest.fixture
def evaluated(score: Callable[[], SmoothScore]) -> Callable[..., History]:
    """Makes a history of architectures or proposals, in this order, by the smooth score."""

    def make(
        candidates: Candidates, archs: Iterable[Architecture | Proposal], evaluator: SmoothScore | None = None
    ) -> History:
        known = [candidates.space.decode(arch.row) if isinstance(arch, Proposal) else arch for arch in archs]
        trials = []
        for number, (arch, one) in enumerate(zip(known, (evaluator or score()).evaluate(known), strict=True)):
            (proposal,) = candidates.propose([arch], "uniform")
            trials.append(
                Trial(
                    number=number,
                    arch=arch,
                    cost=cost(arch),
                    score=one,
                    objectives=(one.value,) if one.state == "complete" and one.value is not None else (),
                    row=proposal.row,
                    constraints=proposal.constraints,
                )
            )
        return History(trials)

    return make


@pytest.fixture
def contents() -> Callable[[Study], list[tuple[Any, ...]]]:
    """Makes a value of all trials of a study, without what differs between equal searches: times and processes."""

    def of(study: Study) -> list[tuple[Any, ...]]:
        trials = [
            (trial.number, trial.row, trial.score, trial.objectives, trial.origin, trial.constraints, trial.attrs)
            for trial in study.history
        ]
        rejected = [
            (one.number, p.row, None, (), p.origin, p.constraints, p.attrs)
            for one in study.history.rejected
            for p in [one.proposal]
        ]
        return sorted(trials + rejected, key=lambda trial: trial[0])

    return of


@pytest.fixture
def cache() -> ResultCache:
    """Those of a study that knows nothing yet."""
    return ResultCache(optuna.create_study())


@pytest.fixture(scope="session")
def few_digits() -> ImageData:
    """Few of the digits."""
    digits = open_data("digits")
    numbers = {"train": 64, "search": 64, "verdict": 40, "val": 20}
    return replace(digits, **{name: getattr(digits, name).take(np.arange(n)) for name, n in numbers.items()})


@pytest.fixture(scope="session")
def digits_space() -> SearchSpace:
    """The smallest shipped space, 6,468 members."""
    return SearchSpace.load("psvit-2d-digits")


@pytest.fixture(scope="session")
def tiny_space() -> SearchSpace:
    """Two layouts, few enough members to evaluate them all.

    2 widths; and 3 pairs of widths x 2 poolings x 3 groupings x 2 ratios: 2 + 36 members.
    """
    one = {"begin": 0, "embed_dim": [8, 16], "mlp_ratio": [2.0]}
    last = {"begin": 1, "embed_dim": [8, 16], "depth": [1, 2], "max_group": 2, "mlp_ratio": [2.0, 3.0]}
    return SearchSpace.from_dict(
        {
            "name": "tiny",
            "variant": "1d",
            "image_size": [8, 8],
            "in_chans": 1,
            "num_classes": 3,
            "patch_size": 4,
            "patch_stride": 4,
            "head_dim": 4,
            "layouts": [
                {"stages": [{**one, "depth": [3], "max_group": 1}]},
                {"stages": [{**one, "depth": [1], "max_group": 1}, last], "pools": [["max", "conv"]]},
            ],
        }
    )


@pytest.fixture(scope="session")
def made_up_model() -> Callable[..., LatencyModel]:
    """A latency model of a space whose parts take arbitrary times, each factor of its calibration another one."""

    def make(space: SearchSpace, setting: Setting | None = None, seed: int = 0) -> LatencyModel:
        rng, setting = np.random.default_rng(seed), setting or Setting()
        stages = max(len(layout.stages) for layout in space.layouts)
        perfect = Figures(mape=0.0, kendall_tau=1.0, r2=1.0)
        return LatencyModel(
            space=space.name,
            space_digest=space.digest,
            setting=setting,
            fingerprint=fingerprint(setting),
            seed=0,
            rounds=1,
            calibrated_on=8,
            calibration=Calibration(
                constant_ms=0.25, ends=1.5, poolings=0.75, groups=tuple(1 + 0.125 * i for i in range(stages))
            ),
            validation=perfect,
            ridge=perfect,
            held_out=(HeldOut(index=3, measured_ms=1.0, predicted_ms=1.1, ridge_ms=1.2),),
            parts=tuple(TimedPart(part=part, ms=float(rng.uniform(0.1, 1))) for part in parts_in(space)),
        )

    return make


class CountingClock:
    """Stands in for the measuring function: as many milliseconds as a network's operators give elements.

    That adds up over parts as real latency nearly does. Remembers what it measured; `factor` says how much longer
    something takes than that, and may raise.
    """

    def __init__(self, factor: Callable[[nn.Module], float] = lambda network: 1.0) -> None:
        self.factor = factor
        self.measured: list[nn.Module] = []

    def __call__(
        self, network: nn.Module, input_shape: tuple[int, ...], setting: Setting, seconds: float = 0.0
    ) -> Latency:
        elements = 0

        def count(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
            nonlocal elements
            elements += output.numel()

        operators = (nn.Linear, nn.LayerNorm, nn.Conv1d, nn.Conv2d, nn.MaxPool1d, nn.MaxPool2d)
        handles = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, operators)]
        with torch.inference_mode():
            network(torch.zeros(setting.batch_size, *input_shape))
        for handle in handles:
            handle.remove()
        factor = self.factor(network)
        self.measured.append(network)
        return Latency(
            median_ms=1e-3 * elements * factor,
            iqr_ms=1e-6 * elements,
            repeats=9,
            attempts=1,
            setting=setting,
            fingerprint=fingerprint(setting),
        )


@pytest.fixture(scope="session")
def clock() -> type[CountingClock]:
    return CountingClock


def made_up_percent(arch: Architecture) -> float:
    """A smooth score in percent that likes depth, width and separate maps in the middle; nothing was measured."""
    score = 40.0 + 4 * len(arch.stages)
    for place, stage in enumerate(arch.stages):
        score += 1.6 * np.log2(stage.embed_dim) + 1.1 * np.sqrt(stage.depth) + 0.35 * len(stage.groups)
        score -= 0.5 * (stage.mlp_ratio - 3) ** 2 + 0.3 * abs(place - 1)
    return score + sum(0.8 * (pool == "conv") for pool in arch.pools)


@pytest.fixture
def made_up_report() -> Callable[..., Report]:
    """A report of a search that never was: in `psvit-2d-nano`, with better candidates the longer it lasted.

    Every seventh candidate was raced and two failed. Fields of the report may be replaced.
    """

    def make(trials: int = 256, drawn: int = 64, **changes: Any) -> Report:
        space = SearchSpace.load("psvit-2d-nano")
        rng = np.random.default_rng(0)
        budget = Budget.parse("15..40MFLOPs", space=space)
        pool = space.sample(rng, 4 * trials + drawn, budget)
        archs = list(dict.fromkeys(pool[number] for number in range(len(pool))))

        def trial(number: int, arch: Architecture, state: State, origin: str) -> Trial:
            value = made_up_percent(arch)
            scores = {
                "complete": Score(value=value, images=5000),
                "raced": Score(value=value - 9, images=512, state="raced"),
                "failed": Score(value=None, state="failed", reason="out of memory"),
            }
            objectives = (value,) if state == "complete" else ()
            return Trial(
                number=number, arch=arch, cost=cost(arch), score=scores[state], objectives=objectives, origin=origin
            )

        control, others = archs[:drawn], archs[drawn:]
        history = []
        for number in range(trials):
            origin = "uniform" if number < 50 else ("mutation", "crossover")[number % 2]
            # Later candidates are the best of several, as if something had been learnt.
            several = 1 if number < 50 else min(3, len(others) // (trials - number))
            arch = max(others[:several], key=made_up_percent)
            others = others[several:]
            state: State = "failed" if number in (7, 90) else "raced" if number % 7 == 6 else "complete"
            history.append(trial(number, arch, state, origin))
        complete = sorted((t for t in history if t.is_complete), key=lambda t: -t.objectives[0])
        finalists = [
            Finalist(
                trial=one,
                looks=(
                    Look(epoch=2, accuracies=(60.0 - place,)),
                    *([Look(epoch=6, accuracies=tuple(82 - 0.2 * place + rng.normal(0, 0.3, 3)))] if place < 2 else []),
                ),
            )
            for place, one in enumerate(complete[:5])
        ]
        fields: dict[str, Any] = {
            "title": "The best network of 15 to 40 MFLOPs",
            "command": "psvit-search --supernet runs/supernet --budget 15..40MFLOPs --seed 0 --out runs/nano",
            "config": {"budget": ["15..40MFLOPs"], "space": space.name, "searcher": "evolution", "seed": 0},
            "space": space,
            "budget": ("15..40MFLOPs",),
            "searcher": "evolution",
            "history": history,
            "control": [trial(trials + n, arch, "complete", "uniform") for n, arch in enumerate(control)],
            "scored_by": "inherited",
            "description": {
                "kind": "inherited accuracy",
                "meaning": "top-1 in percent with the supernet's weights, on images held out from training",
                "images": 5000,
            },
            "unit": "%",
            "finalists": sorted(finalists, key=lambda one: -(one.accuracy or 0)),
            "references": deit_references(space),
            "versions": {"psvit": "0.1.0", "torch": "2.15.0"},
        }
        return Report(**{**fields, **changes})

    return make


@pytest.fixture
def plan() -> Callable[..., SearchPlan]:
    """Plans a search of digits by short trainings."""

    def make(**changes: Any) -> SearchPlan:
        bound = inspect.signature(run_search).bind(**{"budget": "0.5MFLOPs", "data": "digits", **changes})
        bound.apply_defaults()
        return plan_search(_request(bound.arguments))

    return make
