"""The prior: what it sees of networks, and which candidates a search draws by it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from psvit.arch.architecture import Architecture
from psvit.arch.costs import cost
from psvit.search.candidates import Candidates
from psvit.search.history import History, Seen
from psvit.search.prediction import predictor
from psvit.search.prior import WEIGHTS, promise, structure
from psvit.search.proposal import PROMISING, STRATIFIED
from psvit.search.searchers.evolution import Evolution
from psvit.space.budget import Budget
from psvit.space.search_space import SearchSpace

LIMITS = Budget.parse("4.9..5.1MFLOPs")


@pytest.fixture(scope="module")
def candidates():
    return Candidates(SearchSpace.for_images((32, 32), 3, 10, "5MFLOPs"), LIMITS)


def network(*pools, variant="2d"):
    stages = [{"embed_dim": 32 * 2**place, "groups": [2, 1], "mlp_ratio": 2.0 + place} for place in range(3)]
    return Architecture.from_dict(
        {
            "variant": variant,
            "image_size": [32, 32],
            "in_chans": 3,
            "num_classes": 10,
            "patch_size": 4,
            "patch_stride": 4,
            "head_dim": 16,
            "stages": stages,
            "pools": list(pools),
        }
    )


def test_what_is_seen_of_a_network():
    arch = network("max", "conv")
    seen = structure(arch)
    assert seen.keys() == WEIGHTS.keys()
    assert math.exp(seen["log macs"]) == pytest.approx(cost(arch).macs)
    assert math.exp(seen["log last width"]) == pytest.approx(128)
    assert (seen["layers"], seen["stages"], seen["mlp_ratio"]) == (9, 3, pytest.approx(3))
    assert (seen["maps a layer"], seen["layers in the last stage"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert {name for name, value in seen.items() if "pool" in name and value} == {
        *("max pools", "conv pools", "first pool max", "last of several pools conv", "2d, last of several pools conv")
    }


def test_the_order_of_poolings_counts():
    # The trainings that the prior was fitted on: one network but for its poolings, 68.0 and 63.7 %.
    assert promise(network("max", "conv")) > promise(network("conv", "max")) > promise(network("avg", "avg"))


def kind(arch):
    return arch.variant, arch.stem, len(arch.stages)


def test_the_most_promising_of_many_is_drawn_from_every_kind(candidates):
    drawn = candidates.draw_promising(20, Seen(History()), np.random.default_rng(0), (), predictor(()))
    assert len({kind(arch) for arch in drawn}) == len(drawn) == 12
    others = candidates.draw_stratified(600, History(), np.random.default_rng(1))
    for arch in drawn:
        alike = [promise(other) for other in others if kind(other) == kind(arch)]
        assert promise(arch) >= np.quantile(alike, 0.9)
        assert LIMITS.satisfied_by(cost(arch))


def test_kinds_that_have_a_promising_one_are_passed_over(candidates):
    known = candidates.draw_promising(5, Seen(History()), np.random.default_rng(0), (), predictor(()))
    drawn = candidates.draw_promising(12, Seen(History()), np.random.default_rng(1), known, predictor(()))
    assert len(drawn) == 7
    assert not {kind(arch) for arch in drawn} & {kind(arch) for arch in known}


def searched(candidates, evaluated, batch_size, batches, held=()):
    """The proposals of a search, batch by batch."""
    searcher = Evolution(batch_size, first=24, stratified=True, predicts=True)
    history, proposals, found = History(), [], []
    for number in range(batches):
        history.held = frozenset(held)
        found.append(searcher.propose(batch_size, history, candidates, np.random.default_rng(number)))
        proposals += found[-1]
        trials = zip(evaluated(candidates, proposals), proposals, strict=True)
        history = History([replace(trial, origin=proposal.origin) for trial, proposal in trials])
    return found


@pytest.mark.parametrize("batch_size", [5, 8, 12, 24])
def test_a_search_draws_one_promising_network_of_every_kind(candidates, evaluated, batch_size):
    batches = searched(candidates, evaluated, batch_size, 24 // batch_size + 1)
    for batch in batches:
        assert sum(one.origin == PROMISING for one in batch) <= math.ceil(batch_size / 2)
    promising = [one for batch in batches for one in batch if one.origin == PROMISING]
    kinds = [kind(candidates.space.decode(one.row)) for one in promising]
    assert len(kinds) == len(set(kinds)) == 12


def test_half_of_the_first_batches_is_drawn_and_then_all_is_bred(candidates, evaluated):
    drawn = [
        sum(one.origin in (PROMISING, STRATIFIED) for one in batch) for batch in searched(candidates, evaluated, 12, 4)
    ]
    assert drawn == [12, 6, 0, 0]  # there are no references, so the first batch has nothing to be bred from


def test_processes_that_share_a_study_do_not_draw_the_same_kinds(candidates, evaluated):
    ((*one,),) = searched(candidates, evaluated, 12, 1)
    held = [candidates.space.decode(proposal.row) for proposal in one]
    ((*other,),) = searched(candidates, evaluated, 12, 1, held)
    # Which of the held ones are promising is not known, so none of their kinds has another.
    assert {proposal.origin for proposal in other} == {STRATIFIED}
