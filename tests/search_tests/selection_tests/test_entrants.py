"""Entrants: the best of every variant and stem, the best of all, and every reference."""

from __future__ import annotations

import numpy as np
import pytest

from psvit.arch.costs import cost
from psvit.search.selection.entrants import entrants
from psvit.search.trial import Score, Trial
from psvit.space.search_space import SearchSpace


@pytest.fixture(scope="module")
def ranked():
    """Trials of all variants and stems, best first; the third and the last are references."""
    archs = SearchSpace.load("psvit-nano").sample(np.random.default_rng(0), 40)
    return [
        Trial(
            number=100 + place,
            arch=arch,
            cost=cost(arch),
            score=Score(value=90.0 - place),
            origin="reference" if place in (2, 39) else "uniform",
        )
        for place, arch in enumerate(archs)
    ]


def stratum(trial):
    return trial.arch.variant, trial.arch.stem


@pytest.mark.parametrize("wanted", [1, 4, 7, 100])
def test_every_stratum_enters_with_its_best(ranked, wanted):
    chosen = entrants(ranked, wanted)
    found = [trial for trial in chosen if trial.origin != "reference"]
    others = [trial for trial in ranked if trial.origin != "reference"]
    strata = {stratum(trial) for trial in others}
    assert len(strata) == 4
    for one in strata:
        assert next(trial for trial in others if stratum(trial) == one) in found
    assert len(found) == min(max(wanted, 4), 38)
    # What is left of the places goes to the best.
    firsts = {next(trial.number for trial in others if stratum(trial) == one) for one in strata}
    rest = [trial for trial in others if trial.number not in firsts]
    assert {trial.number for trial in found} - firsts == {trial.number for trial in rest[: max(0, wanted - 4)]}


def test_references_enter_in_any_case_and_the_order_stays(ranked):
    chosen = entrants(ranked, 1)
    assert [trial for trial in chosen if trial.origin == "reference"] == [ranked[2], ranked[39]]
    assert [trial.number for trial in chosen] == sorted(trial.number for trial in chosen)
