"""How long the retraining of a winner will take, from what its own trainings in the search took."""

from __future__ import annotations

from psvit.search.prepared import Prepared
from psvit.search.selection.finalist import Finalist
from psvit.search.selection.selection import Selection
from psvit.search.study import Study


def retraining_seconds(prepared: Prepared, study: Study, winner: Finalist) -> float | None:
    """How many seconds `SearchPlan.next_command` will train on this machine.

    Args:
        prepared: the search.
        study: its study, which knows how long trainings took.
        winner: the network.

    Returns:
        The seconds; `None` if no training of the network was timed, or if another machine may have timed it.
    """
    plan = prepared.plan
    if plan.training is None or plan.asked.workers or plan.asked.storage:
        return None
    assert plan.data is not None
    selection = Selection.of(prepared, study)
    for rung in reversed(selection.trainings.rungs):
        known = [selection.store.get(job) for job in selection.trainings.jobs(winner.arch, rung)]
        timed = [result.seconds for result in known if result and result.seconds is not None]
        if timed:
            an_image = sum(timed) / (len(timed) * rung.epoch * len(plan.data.train))
            assert plan.retraining_epochs is not None
            return an_image * len(plan.data.all_train) * plan.retraining_epochs
    return None
