"""Rungs: when networks are compared, how many go on, and how much shorter their schedule is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psvit.search.selection.rungs import SEEDS, going_on, leading, rungs_of, selection_recipe
from psvit.train.recipe import Recipe, shipped_recipes


@given(st.integers(1, 1000))
def test_rungs_rise_to_the_end_of_the_schedule(epochs):
    rungs = rungs_of(epochs)
    assert [rung.epoch for rung in rungs] == sorted({rung.epoch for rung in rungs})
    assert rungs[-1].epoch == epochs
    assert [rung.seeds for rung in rungs] == [1] * (len(rungs) - 1) + [SEEDS]
    assert len(rungs) == 3 or epochs < 5


def test_each_rung_is_three_times_the_one_before():
    assert [rung.epoch for rung in rungs_of(27)] == [3, 9, 27]
    assert [rung.epoch for rung in rungs_of(2)] == [1, 2]
    assert [rung.epoch for rung in rungs_of(1)] == [1]


@pytest.mark.parametrize(("networks", "on"), [(1, 1), (2, 2), (3, 2), (6, 2), (7, 3), (9, 3), (18, 6)])
def test_a_third_goes_on_but_no_one_alone(networks, on):
    assert going_on(networks, to_last=False) == on
    assert going_on(networks, to_last=True) == min(on, 3)


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(1, 12))
def test_the_best_of_both_kinds_lead(kinds, wanted):
    ranked = list(enumerate(kinds))
    led = leading(ranked, wanted, lambda one: one[1])
    assert led == sorted(led)
    assert led[:wanted] == ranked[:wanted]
    assert {kind for _, kind in led} == set(kinds)
    # Nobody else goes on.
    assert all(one not in led or ranked.index(one) == kinds.index(one[1]) for one in ranked[wanted:])


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if not name.startswith("supernet")])
def test_the_schedule_is_a_quarter_of_the_recipes_with_all_its_parts(name):
    recipe = Recipe.load(name)
    short = selection_recipe(recipe)
    assert short.epochs == round(recipe.epochs / 4)
    assert short.warmup_epochs == pytest.approx(recipe.warmup_epochs * short.epochs / recipe.epochs, abs=0.01)
    if recipe.ema_decay:
        # The average reaches back over the same share of the training.
        assert short.ema_decay == pytest.approx(recipe.ema_decay ** (recipe.epochs / short.epochs), abs=1e-6)
    changes = {name: getattr(recipe, name) for name in ("epochs", "warmup_epochs", "ema_decay")}
    assert short.override(changes) == recipe


def test_the_first_comparison_is_not_all_warm_up():
    for name in ("cifar", "digits"):
        for epochs in (3, 6, 10):
            short = Recipe.load(name).with_epochs(epochs)
            assert 0 < short.warmup_epochs < rungs_of(epochs)[0].epoch


def test_there_is_a_shortest_schedule():
    recipe = Recipe.load("cifar")
    assert recipe.with_epochs(1).epochs == 1
    assert selection_recipe(recipe.override({"epochs": 1, "warmup_epochs": 0})).epochs == 1
