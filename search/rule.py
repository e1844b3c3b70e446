"""The rule: which network of a space is taken for a budget if there are no images to compare any on."""

from __future__ import annotations

import numpy as np

import psvit
from psvit.arch.architecture import Architecture, ArchitectureFile
from psvit.arch.costs import cost
from psvit.io.documents import write_atomic
from psvit.io.run_folder import RunFolder
from psvit.io.tables import Table
from psvit.nn.picture import draw
from psvit.search.candidates import Candidates
from psvit.search.history import History, Seen
from psvit.search.plan import SearchPlan
from psvit.search.result import BEST, SearchResult
from psvit.search.selection.finalist import Finalist
from psvit.search.trial import Score, Trial
from psvit.space.references import DEIT, HVT, PIT, references

FAMILIES = (HVT, PIT, DEIT)
"""In the order in which their networks did in the truth table (docs/benchmarks.md): behind conv stems, 66.1, 60.6 and
60.9 % at 5 MFLOPs, and behind patch stems 64.2, 61.5 and 56.6 %."""

STEMS = ("conv", "patch")

DRAWN = 48
"""Of a space without references, so many members are drawn, and the most expensive one is taken."""


def deliver_by_rule(plan: SearchPlan, folder: RunFolder) -> SearchResult:
    """Write the network that the rule takes. Nothing is scored, so there are no trials and there is no report."""
    name, arch = by_rule(plan)
    trial = Trial(number=0, arch=arch, cost=cost(arch), score=Score(value=None), origin="rule")
    found = Finalist(trial=trial, name=name)
    file = folder / BEST
    write_atomic(file.with_suffix(".svg"), draw(arch, titles=[f"For {' and '.join(plan.budget)}: {name}"]))
    ArchitectureFile(
        arch=arch,
        budget=plan.budget,
        provenance={
            "space": plan.space.name,
            "space_digest": plan.space.digest,
            "rule": name,
            "limits": plan.limits.resolved,
            "versions": {"psvit": psvit.__version__},
        },
    ).save(file)
    return SearchResult(
        folder=folder.path,
        file=file,
        finalists=[found],
        verdict=None,
        compression=None,
        front=[],
        trials=Table([], ()),
        html=None,
        objectives=plan.objectives,
        kind="none",
        fidelity="not measured",
        wanted=0,
        passed_over=0,
        data=plan.data.name if plan.data else None,
        next_command=plan.next_command(file),
        next_seconds=None,
        stopped=None,
    )


def by_rule(plan: SearchPlan) -> tuple[str, Architecture]:
    """The network that is taken and its name: the first reference by family and stem; of two, the one that spends more.

    In a space without references it is the most expensive of some members, drawn from every kind of network in turn.
    """
    found = references(plan.space, plan.limits)
    for family in FAMILIES:
        for stem in STEMS:
            ours = [one for one in found if (one.family, one.arch.stem) == (family.name, stem)]
            if ours:
                taken = max(ours, key=lambda one: cost(one.arch).macs)
                return taken.name, taken.arch
    candidates = Candidates(plan.space, plan.limits)
    drawn = candidates.draw_stratified(DRAWN, Seen(History()), np.random.default_rng(plan.asked.seed))
    return f"the most expensive of {DRAWN} random members", max(drawn, key=lambda arch: cost(arch).macs)
