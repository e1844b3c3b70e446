"""The prediction: what ranks networks that were not trained, and what a search makes of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kendalltau
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from psvit.arch.costs import cost
from psvit.search.candidates import Candidates
from psvit.search.history import History
from psvit.search.prediction import PENALTY, TRUST, predictor
from psvit.search.prior import promise, structure
from psvit.search.proposal import CROSSOVER, MUTATION
from psvit.search.searchers.evolution import Evolution
from psvit.search.trial import Score, Trial
from psvit.space.budget import Budget
from psvit.space.search_space import SearchSpace

LIMITS = Budget.parse("4.9..5.1MFLOPs")


@pytest.fixture(scope="module")
def space():
    return SearchSpace.for_images((32, 32), 3, 10, "5MFLOPs")


def trials_of(archs, score):
    """What a search knows of architectures."""
    return [
        Trial(number=number, arch=arch, cost=cost(arch), score=Score(value=score(arch)), objectives=(score(arch),))
        for number, arch in enumerate(archs)
    ]


def drawn(space, seed, n):
    return [*space.sample(np.random.default_rng(seed), n, LIMITS)]


def of(archs):
    return np.array([promise(arch) for arch in archs])


@pytest.mark.parametrize("known", [0, 1])
def test_before_anything_is_known_the_prior_ranks(space, known):
    archs = drawn(space, 0, 20)
    predicted = predictor(trials_of(archs[:known], lambda arch: 1.0))(archs)
    assert np.argsort(predicted).tolist() == np.argsort(of(archs)).tolist()


def test_it_is_a_ridge_regression_in_which_the_prior_weighs_more(space):
    known, others = drawn(space, 0, 40), drawn(space, 1, 30)

    def columns(archs):
        return [[*structure(arch).values(), promise(arch)] for arch in archs]

    scores = np.random.default_rng(2).normal(40, 3, len(known))
    weigh = StandardScaler().fit(columns(known))
    weigh.scale_[-1] /= TRUST
    reference = make_pipeline(weigh, Ridge(PENALTY))
    reference[-1].fit(weigh.transform(columns(known)), scores)
    by_arch = dict(zip(known, scores, strict=True))
    predicted = predictor(trials_of(known, by_arch.__getitem__))(others)
    assert predicted + scores.mean() == pytest.approx(reference.predict(columns(others)))


def test_it_unlearns_a_prior_that_is_wrong(space):
    others = drawn(space, 1, 200)
    ranks = [
        kendalltau(predictor(trials_of(drawn(space, 0, known), lambda arch: -promise(arch)))(others), of(others))[0]
        for known in (0, 6, 48)
    ]
    assert ranks[0] == pytest.approx(1)
    assert ranks[2] < -0.7


def test_what_is_alike_in_all_known_networks_tells_nothing(space):
    known = [arch for arch in drawn(space, 0, 400) if (arch.variant, arch.stem) == ("2d", "conv")][:10]
    predicted = predictor(trials_of(known, lambda arch: cost(arch).num_params))(drawn(space, 1, 50))
    assert np.isfinite(predicted).all()
    assert np.isfinite(predictor(trials_of(known[:1] * 3, promise))(known)).all()


def test_of_many_children_those_are_taken_that_are_predicted_to_be_the_best(space):
    candidates, known = Candidates(space, LIMITS), drawn(space, 0, 60)
    history = History(trials_of(dict.fromkeys(known), promise))

    def bred(predicts):
        searcher = Evolution(12, first=24, stratified=True, predicts=predicts)
        proposed = [
            one for seed in range(4) for one in searcher.propose(12, history, candidates, np.random.default_rng(seed))
        ]
        assert {one.origin for one in proposed} <= {MUTATION, CROSSOVER}
        archs = [space.decode(one.row) for one in proposed]
        assert not {*archs} & {*known}
        return of(archs).mean()

    spread = of(known).std()
    assert bred(predicts=True) > bred(predicts=False) + spread / 2


def test_it_needs_kinds():
    with pytest.raises(ValueError, match="stratified"):
        Evolution(predicts=True)


def test_only_searches_for_accuracy_by_trainings_from_random_weights_go_by_it(plan):
    assert plan().searcher.predicts
    assert not plan(evaluator="inherited").searcher.predicts
    assert not plan(evaluator="dss").searcher.predicts
    assert not plan(objectives=("accuracy", "macs")).searcher.predicts


def test_a_search_begins_with_relatives_of_the_best_references(space):
    from psvit.space.references import references

    candidates = Candidates(space, LIMITS)
    hand_made = [one.arch for one in references(space, LIMITS)]
    best = [arch for arch in hand_made if arch.variant == "1d" and len(arch.stages) == 3]
    trials = trials_of(hand_made, lambda arch: float(arch in best))
    history = History([replace(trial, origin="reference") for trial in trials])
    for predicts in (False, True):
        searcher = Evolution(12, first=24, stratified=True, predicts=predicts)
        proposed = searcher.propose(12, history, candidates, np.random.default_rng(0))
        relatives = [space.decode(one.row) for one in proposed if one.origin in (MUTATION, CROSSOVER)]
        assert len(relatives) == 6
        alike = sum((arch.variant, len(arch.stages)) == ("1d", 3) for arch in relatives)
        assert alike >= 4
