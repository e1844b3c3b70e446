"""The prior: what it sees of networks, and which candidates a search draws by it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from psvit.arch.architecture import Architecture
from psvit.arch.costs import cost
from psvit.search.candidates import Candidates
from psvit.search.history import History
from psvit.search.prior import WEIGHTS, promise, structure
from psvit.search.proposal import CROSSOVER, MUTATION, PROMISING, STRATIFIED
from psvit.search.searchers import make_searcher
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


def test_the_most_promising_of_many_is_drawn_from_every_kind(candidates):
    drawn = candidates.draw_stratified(12, History(), np.random.default_rng(0), promising=True)
    assert len({(arch.variant, arch.stem, len(arch.stages)) for arch in drawn}) == candidates.num_strata == 12
    others = candidates.draw_stratified(600, History(), np.random.default_rng(1))
    for arch in drawn:
        alike = [
            promise(other)
            for other in others
            if (other.variant, other.stem, len(other.stages)) == (arch.variant, arch.stem, len(arch.stages))
        ]
        assert promise(arch) >= np.quantile(alike, 0.9)
        assert LIMITS.satisfied_by(cost(arch))


def test_a_search_by_trainings_begins_with_the_promising_of_every_kind(candidates, evaluated):
    searcher = make_searcher("evolution", few=True, prior=True)
    history, proposals, origins = History(), [], []
    for batch in range(4):
        proposals += searcher.propose(searcher.batch_size, history, candidates, np.random.default_rng(batch))
        origins.append({proposal.origin for proposal in proposals[-searcher.batch_size :]})
        trials = zip(evaluated(candidates, proposals), proposals, strict=True)
        history = History([replace(trial, origin=proposal.origin) for trial, proposal in trials])
    assert origins[:2] == [{PROMISING}, {STRATIFIED}]
    assert {MUTATION, CROSSOVER} <= origins[2] & origins[3]


def test_only_trainings_from_random_weights_go_by_the_prior(plan):
    assert plan().searcher.prior
    assert not plan(evaluator="inherited").searcher.prior
    assert not plan(evaluator="dss").searcher.prior
