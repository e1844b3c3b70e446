"""The trials of a study as a table."""

from __future__ import annotations

import json

from psvit.arch.costs import METRICS
from psvit.io.tables import Table
from psvit.search.objectives import LATENCY
from psvit.search.pareto import hypervolumes
from psvit.search.study import Study

HEADINGS = {LATENCY: f"{LATENCY}_ms"}
"""What a column is called that is not called as its objective."""


def trial_table(study: Study) -> Table:
    """One row a trial: number, score, costs, other objectives, number in the space, architecture as JSON.

    With several objectives also the hypervolume so far, from the worst of every objective in the whole history.
    """
    history, objectives = study.history, study.objectives
    several = len(objectives.names) > 1 and bool(history.complete)
    volumes = iter(hypervolumes(history.objectives, history.objectives.min(axis=0)) if several else [])
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
                **{HEADINGS.get(other.name, other.name): raw.get(other.name) for other in objectives.others},
                **({"hypervolume": next(volumes) if trial.is_complete else None} if len(objectives.names) > 1 else {}),
                "origin": trial.origin,
                "index": study.space.index(trial.arch),
                "arch": json.dumps(arch),
            }
        )
    others = [HEADINGS.get(other.name, other.name) for other in objectives.others]
    several_columns = ["hypervolume"] if len(objectives.names) > 1 else []
    columns = ["number", "score", "state", "images", *METRICS, *others, *several_columns, "origin", "index", "arch"]
    return Table(rows, columns)
