"""Prepare a search: build, train and load what its plan needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from psvit.data import Inputs
from psvit.executors.executor import Portable
from psvit.io.run_folder import RunFolder
from psvit.search.candidates import Candidates
from psvit.search.fidelity.record import known_fidelity
from psvit.search.latency.build import LatencyPlan, build_model
from psvit.search.latency.limits import PredictedLimit
from psvit.search.latency.measure import Setting, measure
from psvit.search.latency.model import LatencyModel
from psvit.search.objectives import LATENCY, Objective, Objectives
from psvit.search.plan import SUPERNET, SearchPlan
from psvit.search.scoring import Scoring, portable_supernet
from psvit.search.time_limit import TimeLimit
from psvit.space.budget import Budget, LatencyLimit, Limit
from psvit.space.references import Reference
from psvit.supernet.provenance import supernet_digest, supernet_file
from psvit.supernet.supernet import Supernet
from psvit.supernet.train import begun_as, fit_supernet
from psvit.train.original import ORIGINAL_FILE

ANY_LATENCY_MS = 1e9
"""A limit that every network meets. If latency is improved but not limited, it makes the search measure the front."""

SHARES = (1.0, 0.85, 0.7, 0.55, 0.4)
"""Shares of the limit on MACs at which references are looked for that also keep other limits."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A plan with everything that it needs, built, trained and loaded.

    Attributes:
        plan: the plan.
        folder: the folder of the run.
        latencies: limits on latency. If latency is improved without a limit, its model is here as well.
        objectives: the objectives.
        candidates: the architectures that may be proposed.
        references: those of them that are hand-made.
        scoring: makes evaluators.
        supernet: the supernet whose weights score or are inherited; `None` without one.
        digest: the digest of its weights.
        limit: of the time for trainings.
    """

    plan: SearchPlan
    folder: RunFolder
    latencies: list[PredictedLimit]
    objectives: Objectives
    candidates: Candidates
    references: tuple[Reference, ...]
    scoring: Scoring
    supernet: Portable[Supernet] | None
    digest: str | None
    limit: TimeLimit


def prepare(plan: SearchPlan, folder: RunFolder, limit: TimeLimit) -> Prepared:
    """Build and train what the plan needs, unless it was given."""
    # Latency comes before the supernet is trained, because a limit that nothing can meet shows here.
    latencies = _predicted_limits(plan, folder)
    improved = _improved_latency(plan, folder, latencies)
    others = {one.name: one for one in plan.own}
    if improved:
        others[LATENCY] = Objective(LATENCY, improved.value)
    candidates = Candidates(plan.space, plan.limits, [*latencies, *plan.bounds])
    if plan.original and plan.data and not (folder / ORIGINAL_FILE).exists():
        plan.original.save(folder / ORIGINAL_FILE, plan.data)
    file = _supernet_file(plan, folder)
    # Weights are hashed once: those that were given, by the plan.
    digest = plan.supernet_digest or (supernet_digest(file) if file else None)
    loaded = Supernet.load(file, plan.device) if file else None
    supernet = portable_supernet(file, plan.scoring_device, digest, loaded) if file else None
    scoring = Scoring(
        space=plan.space,
        seed=plan.asked.seed,
        device=str(plan.scoring_device),
        own=plan.evaluator,
        supernet=supernet if plan.scored_by == "inherited" else None,
        data=Portable(plan.data.reopen, plan.data) if plan.data else None,
        share_prefixes=plan.asked.share_prefixes,
        race=plan.race,
        fidelity=known_fidelity(file, plan.limits, digest) if file and plan.scored_by == "inherited" else None,
    )
    return Prepared(
        plan=plan,
        folder=folder,
        latencies=[*latencies, *([improved] if improved and not latencies else [])],
        objectives=Objectives(
            names=plan.objectives, others=tuple(others[name] for name in plan.objectives if name in others)
        ),
        candidates=candidates,
        references=_references(plan, candidates, has_bounds=bool(latencies or plan.bounds)),
        scoring=scoring,
        supernet=supernet,
        digest=digest,
        limit=limit,
    )


def _references(plan: SearchPlan, candidates: Candidates, has_bounds: bool) -> tuple[Reference, ...]:
    """Hand-made networks within all limits. Where bounds permit none of a kind, smaller ones of it are tried."""
    if not has_bounds:
        return plan.references(candidates.budget)
    found: dict[tuple[str, str], Reference] = {}
    for share in SHARES:
        for reference in plan.references(_macs_up_to(candidates.budget, share)):
            if candidates.permits(reference.arch):
                found.setdefault((reference.family, reference.arch.stem), reference)
    return tuple(found.values())


def _macs_up_to(budget: Budget, share: float) -> Budget:
    """The budget with a share of its upper limit on MACs."""
    limits = []
    for limit in budget.limits:
        upper = int(share * limit.upper) if limit.metric == "macs" else limit.upper
        limits.append(Limit(metric=limit.metric, lower=min(limit.lower or 0, upper) or None, upper=upper))
    return Budget(limits=tuple(limits))


def _predicted_limits(plan: SearchPlan, folder: RunFolder) -> list[PredictedLimit]:
    """The limits on latency with their models. A model that was not given is built inside the run."""
    models = plan.latency_models
    return [
        PredictedLimit(limit, models.get(limit.setting) or _latency_model(plan, folder, Setting.of(limit), number))
        for number, limit in enumerate(plan.limits.latencies, start=1)
    ]


def _improved_latency(plan: SearchPlan, folder: RunFolder, latencies: list[PredictedLimit]) -> PredictedLimit | None:
    """The prediction of latency, if latency is an objective: by the model of the first limit, or by the given model."""
    if LATENCY not in plan.objectives:
        return None
    if latencies:
        return latencies[0]
    model = next(iter(plan.latency_models.values()), None)
    if model is None:
        assert plan.latency_setting is not None
        model = _latency_model(plan, folder, plan.latency_setting, 1)
    limit = LatencyLimit.from_dict({**model.setting.to_dict(), "upper_ms": ANY_LATENCY_MS})
    return PredictedLimit(limit, model)


def _latency_model(plan: SearchPlan, folder: RunFolder, setting: Setting, number: int) -> LatencyModel:
    of_space = LatencyPlan.of(plan.space, setting, plan.asked.seed)
    return build_model(of_space, folder / f"latency-{number}.yaml", measure)[0]


def _supernet_file(plan: SearchPlan, folder: RunFolder) -> Path | None:
    """The file of the supernet. If one is needed and none was given, it is trained inside the run."""
    if plan.asked.supernet is not None:
        return supernet_file(plan.asked.supernet)
    original, place = plan.original, folder / SUPERNET
    if plan.supernet_recipe is None:
        return begun_as(plan.space, original, place) if original else None
    assert plan.data is not None
    teaches = original is not None and plan.supernet_recipe.needs_teacher
    return fit_supernet(
        plan.space,
        plan.data,
        plan.supernet_recipe,
        seed=plan.asked.seed,
        device=plan.device,
        folder=place,
        init=original,
        teacher=original.teacher(Inputs.of(plan.data, plan.space.image_size)) if original and teaches else None,
    )
