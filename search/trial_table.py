"""The trials of a study as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence

from psvit.arch.costs import METRICS
from psvit.io.tables import Table
from psvit.search.bounds import ObjectiveBound
from psvit.search.objectives import LATENCY
from psvit.search.pareto import hypervolumes
from psvit.search.study import Study

HEADINGS = {LATENCY: f"{LATENCY}_ms"}
"""What a column is called that is not called as its objective."""


def trial_table(study: Study, bounds: Sequence[ObjectiveBound] = ()) -> Table:
    """One row a trial: number, score, costs, numbers of a user's own, number in the space, architecture as JSON.

    With several objectives also the hypervolume so far, from the worst of every objective in the whole history.

    Args:
        study: the study.
        bounds: limits on numbers of a user's own, which are told of every trial.
    """
    history, objectives = study.history, study.objectives
    several = len(objectives.names) > 1 and bool(history.complete)
    volumes = iter(hypervolumes(history.objectives, history.objectives.min(axis=0)) if several else [])
    others = {HEADINGS.get(other.name, other.name): other.name for other in objectives.others}
    limited = [bound for bound in bounds if bound.subject not in others]
    rows = []
    for trial in history:
        raw = dict(zip(objectives.names, objectives.raw(trial.objectives), strict=True)) if trial.is_complete else {}
        # A patch stem is left out of an architecture's fields, so it is asked for by itself.
        mixed = {key: getattr(trial.arch, key) for key in study.space.mixed}
        arch = {**mixed, **{key: trial.arch.to_dict()[key] for key in ("stages", "pools")}}
        rows.append(
            {
                "number": trial.number,
                "score": trial.score.value,
                "state": trial.score.state,
                "images": trial.score.images,
                **{metric: getattr(trial.cost, metric) for metric in METRICS},
                **{heading: raw.get(name) for heading, name in others.items()},
                **{bound.subject: bound.value(trial.arch) for bound in limited},
                **({"hypervolume": next(volumes) if trial.is_complete else None} if len(objectives.names) > 1 else {}),
                "origin": trial.origin,
                "index": study.space.index(trial.arch),
                "arch": json.dumps(arch),
            }
        )
    own = [*others, *(bound.subject for bound in limited)]
    volume = ["hypervolume"] if len(objectives.names) > 1 else []
    return Table(rows, ["number", "score", "state", "images", *METRICS, *own, *volume, "origin", "index", "arch"])
