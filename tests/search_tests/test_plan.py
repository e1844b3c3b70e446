"""Plans: by which recipes is trained what."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch

from psvit.data import open_data
from psvit.errors import InputError
from psvit.train.choices import choose_recipe
from psvit.train.recipe import Recipe, SupernetRecipe

CPU = torch.device("cpu")

SETTINGS = {
    "lr": 1e-7,
    "crop_scale": (0.5, 0.9),
    "ema_decay": None,
    "interpolation": "bilinear",
    "hflip": 0,
    "epochs": 8,
}


OWN = Recipe(epochs=12, batch_size=32, lr=0.004, warmup_epochs=3, drop_path_rate=0.2, auto_augment=None)


@pytest.mark.parametrize("recipe", [None, "cifar", OWN])
def test_the_next_command_trains_by_the_recipe_and_the_settings(plan, recipe):
    from psvit.cli import read_settings
    from psvit.retrain.cli import command

    planned = plan(recipe=recipe, settings=SETTINGS)
    name, *words = shlex.split(planned.next_command(Path("my run/best.yaml")))
    given = command.make_context(name, words).params
    assert (name, given["architectures"], given["data"]) == ("psvit-retrain", (Path("my run/best.yaml"),), "digits")
    read = choose_recipe(
        given["recipe"],
        read_settings(given["settings"]),
        planned.data,
        planned.space.image_size,
        supernet=False,
        device=planned.device,
    )
    assert read == planned.asked.final_recipe(planned.space, planned.data, planned.device)
    assert all(getattr(read, key) == value for key, value in SETTINGS.items())


def test_candidates_train_by_the_settings_for_a_quarter_of_the_epochs(plan):
    planned = plan(settings={"epochs": 80, "lr": 0.003})
    assert (planned.training.epochs, planned.training.lr) == (20, 0.003)
    assert planned.retraining_epochs == 80
    assert planned.supernet_recipe is None


def test_a_supernet_has_settings_of_its_own(plan):
    both = {"settings": {"lr": 0.003}, "supernet_settings": {"lr": 0.004, "epochs": 7}}
    planned = plan(evaluator="inherited", **both)
    assert (planned.supernet_recipe.lr, planned.supernet_recipe.epochs) == (0.004, 7)
    assert planned.training.lr == 0.003
    assert planned.training.epochs == plan().training.epochs


def test_a_recipe_of_ones_own_with_settings(plan):
    planned = plan(recipe=Recipe(epochs=40, batch_size=64, lr=0.001), settings={"lr": 0.002})
    assert (planned.training.epochs, planned.training.lr) == (10, 0.002)


def test_a_precision_that_is_asked_for_is_repeated_wherever_it_is_usual(plan):
    assert "precision=float32" in plan(recipe=OWN.override({"precision": "float32"})).next_command(Path("best.yaml"))
    assert "precision=auto" in plan(recipe=OWN.override({"precision": "auto"})).next_command(Path("best.yaml"))


@pytest.mark.parametrize("recipe", ["supernet-digits", SupernetRecipe.load("supernet-digits")])
def test_a_supernets_recipe_trains_no_network(plan, recipe):
    with pytest.raises(InputError, match="is for supernets; a search takes it as --supernet-recipe"):
        plan(recipe=recipe)
    assert plan(evaluator="inherited", supernet_recipe=recipe).supernet_recipe


def test_a_supernets_value_is_no_networks():
    with pytest.raises(InputError, match=r"sampling: unknown key; .* --supernet-set"):
        choose_recipe(None, {"sampling": "sandwich"}, open_data("digits"), (8, 8), supernet=False, device=CPU)


def test_an_error_says_whose_recipe_is_wrong(plan):
    with pytest.raises(InputError, match=r"^supernet recipe: lr"):
        plan(evaluator="inherited", supernet_settings={"lr": -1})
    with pytest.raises(InputError, match=r"^recipe: lr"):
        plan(evaluator="inherited", settings={"lr": -1})
