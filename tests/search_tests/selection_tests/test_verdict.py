"""The verdict: the winner against its best rival of the other kind, on images that nothing was chosen by."""

from __future__ import annotations

import numpy as np
import optuna
import pytest

from psvit.arch.costs import cost
from psvit.search.result_cache import ResultCache, StudyStore
from psvit.search.selection.finalist import Finalist, Look
from psvit.search.selection.halving import Trainings
from psvit.search.selection.verdict import judge
from psvit.search.trial import Score, Trial
from psvit.train.bootstrap import compared
from psvit.train.recipe import Recipe
from psvit.train.training_job import TrainingResult

IMAGES = 400
RECIPE = Recipe.load("digits").override({"epochs": 9})
TRAININGS = Trainings(recipe=RECIPE, init="random", seed=3)
LAST = TRAININGS.rungs[-1]


@pytest.fixture
def finalists(digits_space):
    """Makes finalists of the last rung, the winner first, from their origins."""

    def make(*origins):
        archs = digits_space.sample(np.random.default_rng(0), len(origins))
        return [
            Finalist(
                trial=Trial(
                    number=number,
                    arch=arch,
                    cost=cost(arch),
                    score=Score(value=1.0),
                    origin=origin,
                ),
                name=f"{origin} {number}",
                looks=(Look(epoch=LAST.epoch, accuracies=(1.0,) * 3),),
            )
            for number, (arch, origin) in enumerate(zip(archs, origins, strict=True))
        ]

    return make


@pytest.fixture
def store():
    return StudyStore(ResultCache(optuna.create_study()))


def answered(store, finalist, share, images=IMAGES):
    """Stores what the trainings of a finalist recognise: about this share of the images."""
    rng = np.random.default_rng(int(1000 * share))
    rows = rng.random((LAST.seeds, images)) < share
    for job, right in zip(TRAININGS.jobs(finalist.arch, LAST), rows, strict=True):
        store.put(job, TrainingResult(accuracies={"search": 1.0, "verdict": 1.0}, right={"verdict": right}))
    return rows


@pytest.mark.parametrize(
    ("origins", "shares", "text"),
    [
        (("found", "reference"), (0.9, 0.6), "The found network (found 0) gained"),
        (("found", "reference"), (0.6, 0.9), "lost"),
        (("found", "reference"), (0.7, 0.7004), "cannot be told from the best hand-made network (reference 1)."),
        (("reference", "found"), (0.9, 0.6), "over the best found network (found 1)."),
    ],
)
def test_the_verdict_is_the_paired_bootstrap(finalists, store, origins, shares, text):
    some = finalists(*origins)
    rows = [answered(store, one, share) for one, share in zip(some, shares, strict=True)]
    verdict = judge(some, TRAININGS, store)
    assert verdict is not None
    _, expected = compared(["b", "a"], rows[::-1], 10_000, 0.95, TRAININGS.seed)
    assert (verdict.points, verdict.interval) == (expected.difference.points, expected.difference.interval)
    assert verdict.points == pytest.approx(100 * (rows[0].mean() - rows[1].mean()))
    assert verdict.accuracies == pytest.approx((100 * rows[0].mean(), 100 * rows[1].mean()))
    assert (verdict.images, verdict.seeds, verdict.is_found) == (IMAGES, 3, origins[0] == "found")
    assert text in str(verdict)
    assert verdict.to_dict()["interval"] == list(verdict.interval)


def test_the_rival_is_the_best_of_the_other_kind(finalists, store):
    some = finalists("found", "found", "reference", "reference")
    for one, share in zip(some, (0.9, 0.85, 0.8, 0.7), strict=True):
        answered(store, one, share)
    verdict = judge(some, TRAININGS, store)
    assert (verdict.winner, verdict.rival) == ("found 0", "reference 2")


def test_there_is_no_verdict_without_a_rival_or_images(finalists, store):
    some = finalists("found", "found")
    for one in some:
        answered(store, one, 0.5)
    assert judge(some, TRAININGS, store) is None
    others = finalists("found", "reference")
    # Trained, but not scored on verdict images.
    for one in others:
        for job in TRAININGS.jobs(one.arch, LAST):
            store.put(job, TrainingResult(accuracies={"search": 1.0}))
    assert judge(others[1:], TRAININGS, store) is None


def test_answers_come_back_bit_for_bit(store, finalists):
    (one,) = finalists("found")
    rows = answered(store, one, 0.3, images=77)
    found = [store.get(job).right["verdict"] for job in TRAININGS.jobs(one.arch, LAST)]
    assert np.array_equal(np.stack(found), rows)
