"""What the benchmarks' command lines share."""

import sys
from pathlib import Path

import pytest

from psvit.recipe import Recipe
from psvit.search_space import SearchSpace


@pytest.fixture
def chosen_recipe(monkeypatch):
    """The benchmarks are scripts, whose folder is on the path when they are run."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    yield __import__("command_line").chosen_recipe
    sys.modules.pop("command_line")


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 0), (2, 1), (3, 2), (9, 2)])
def test_fewer_epochs_keep_as_much_warm_up_as_they_have_room_for(chosen_recipe, epochs, warmup):
    space = SearchSpace.load("psvit-2d-nano")
    assert Recipe.load("cifar").warmup_epochs == 2
    expected = Recipe.load("cifar").override({"epochs": epochs, "warmup_epochs": warmup})
    assert chosen_recipe("cifar", epochs, space) == expected


def test_a_recipe_is_chosen_by_the_size_of_the_images(chosen_recipe):
    assert chosen_recipe(None, None, SearchSpace.load("psvit-2d-nano")) == Recipe.load("cifar")
    assert chosen_recipe(None, None, SearchSpace.load("psvit-2d-small")) == Recipe.load("imagenet")
