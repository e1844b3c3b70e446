"""What the benchmarks' command lines share."""

import pytest
from command_line import chosen_recipe

from psvit.space.search_space import SearchSpace
from psvit.train.recipe import Recipe


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 0), (2, 1), (3, 2), (9, 2)])
def test_fewer_epochs_keep_as_much_warm_up_as_they_have_room_for(epochs, warmup):
    space = SearchSpace.load("psvit-2d-nano")
    assert Recipe.load("cifar").warmup_epochs == 2
    expected = Recipe.load("cifar").override({"epochs": epochs, "warmup_epochs": warmup})
    assert chosen_recipe("cifar", epochs, space) == expected


def test_a_recipe_is_chosen_by_the_size_of_the_images():
    assert chosen_recipe(None, None, SearchSpace.load("psvit-2d-digits")) == Recipe.load("digits")
    assert chosen_recipe(None, None, SearchSpace.load("psvit-2d-nano")) == Recipe.load("cifar")
