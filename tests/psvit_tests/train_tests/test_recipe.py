"""Recipes as values and files."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from psvit.errors import InputError
from psvit.io.documents import dump_yaml
from psvit.io.run_folder import differences
from psvit.train.choices import choose_recipe
from psvit.train.recipe import Recipe, SupernetRecipe, default_recipe, shipped_recipes

MANY = SimpleNamespace(all_train=range(10**6), in_chans=3)
"""Images, as far as a recipe is chosen by them."""

PLAIN = {"epochs": 10, "batch_size": 32, "lr": 0.001}


def write(path, **values):
    path.write_text(yaml.safe_dump({"schema": "psvit/recipe/1", **values}))
    return path


# --- round trips

fractions = st.floats(0, 1)
positive = st.floats(1e-9, 1e3)


@st.composite
def recipes(draw) -> Recipe:
    epochs = draw(st.integers(1, 1000))
    return Recipe(
        epochs=epochs,
        batch_size=2 * draw(st.integers(1, 2048)),
        opt=draw(st.sampled_from(["adamw", "sgd", "lamb"])),
        lr=draw(positive),
        min_lr=draw(st.floats(0, 1)),
        warmup_epochs=draw(st.integers(0, epochs - 1) | st.floats(0, epochs, exclude_max=True)),
        warmup_lr=draw(st.none() | st.floats(0, 1)),
        clip_grad=draw(st.none() | positive),
        smoothing=draw(fractions),
        ema_decay=draw(st.none() | st.floats(0, 1, exclude_max=True)),
        crop_scale=tuple(sorted(draw(st.tuples(st.floats(1e-9, 1), st.floats(1e-9, 1))))),
        crop_ratio=tuple(sorted(draw(st.tuples(positive, positive)))),
        auto_augment=draw(st.none() | st.just("rand-m9-mstd0.5-inc1")),
        mixup=draw(st.floats(0, 2)),
        cutmix=draw(st.floats(0, 2)),
        interpolation=draw(st.sampled_from(["bilinear", "bicubic", "random"])),
    )


@settings(max_examples=30)
@given(recipes())
def test_round_trips(tmp_path_factory, recipe):
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(dump_yaml({"schema": "psvit/recipe/1", **recipe.to_dict()}))
    assert Recipe.load(path) == recipe
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert Recipe.from_dict(recipe.to_dict()).digest == recipe.digest


@settings(max_examples=10)
@given(recipes())
def test_one_that_was_stored_before_warm_up_had_a_rate_of_its_own_means_what_it_meant(recipe):
    stored = recipe.override({"warmup_lr": None}).to_dict()
    older = {key: value for key, value in stored.items() if key != "warmup_lr"}
    assert Recipe.from_dict(older).to_dict() == stored
    # So a run that it was stored in goes on.
    assert differences(older, stored) == []


# --- shipped recipes


def test_every_recipe_ships_for_networks_and_for_supernets():
    names = shipped_recipes()
    assert {"digits", "cifar", "imagenet"} <= set(names)
    assert {f"supernet-{name}" for name in names if not name.startswith("supernet-")} - set(names) == {
        # There is nothing that a supernet could inherit.
        "supernet-inherited",
        "supernet-inherited-digits",
    }


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_read(name):
    recipe = (SupernetRecipe if name.startswith("supernet-") else Recipe).load(name)
    assert recipe.epochs > recipe.warmup_epochs
    # Drawn depths are a supernet's stochastic depth, and averaged weights would mix networks of many shapes.
    if name.startswith("supernet-"):
        assert recipe.drop_path_rate == 0
        assert recipe.ema_decay is None
        # Until another rule is measured to be better. A supernet that begins as a network learns from it and keeps it.
        wanted = ("anchored", "soft") if "compress" in name else ("uniform", "labels")
        assert (recipe.sampling, recipe.target) == wanted


def test_the_recipe_for_inherited_weights_changes_early_layers_least():
    for name, other in (("inherited", "cifar"), ("inherited-digits", "digits")):
        recipe = Recipe.load(name)
        assert recipe.layer_decay < 1
        assert recipe.lr < Recipe.load(other).lr
        assert recipe.epochs <= Recipe.load(other).epochs


def test_deits_recipe_is_whole():
    # Table 9 of arXiv 2012.12877.
    recipe = Recipe.load("imagenet")
    assert (recipe.epochs, recipe.opt, recipe.warmup_epochs, recipe.weight_decay) == (300, "adamw", 5, 0.05)
    assert recipe.lr == 5e-4 * recipe.batch_size / 512
    # Not in the table: defaults of its published code.
    assert (recipe.warmup_lr, recipe.min_lr) == (1e-6, 1e-5)
    assert (recipe.smoothing, recipe.drop_path_rate, recipe.repeated_augmentation) == (0.1, 0.1, 3)
    assert (recipe.auto_augment, recipe.mixup, recipe.cutmix) == ("rand-m9-mstd0.5-inc1", 0.8, 1.0)
    assert recipe.random_erasing == 0.25


def test_digits_are_not_mirrored():
    assert all(Recipe.load(name).hflip == 0 for name in ("digits", "supernet-digits", "inherited-digits"))


@pytest.mark.parametrize(
    ("image_size", "images", "name"),
    [
        (8, 1437, "digits"),
        (15, 10**6, "digits"),
        (16, 50_000, "cifar"),
        (95, 10**6, "cifar"),
        (224, 199_999, "cifar"),
        (96, 200_000, "imagenet"),
    ],
)
def test_the_default_goes_by_size_and_number_of_the_images(image_size, images, name):
    assert default_recipe(image_size, images, 3, supernet=False) == Recipe.load(name)
    assert default_recipe(image_size, images, 3, supernet=True) == SupernetRecipe.load(f"supernet-{name}")


@pytest.mark.parametrize("begin", ["random", "inherited", "original"])
@pytest.mark.parametrize(("image_size", "images"), [(8, 1000), (28, 60_000), (224, 10**6)])
def test_grey_images_are_changed_less_by_default(image_size, images, begin):
    for supernet in (False, True):
        colour = default_recipe(image_size, images, 3, supernet=supernet, begin=begin)
        grey = default_recipe(image_size, images, 1, supernet=supernet, begin=begin)
        assert (grey.hflip, grey.color_jitter, grey.auto_augment, grey.crop_scale) == (0, 0, None, (0.7, 1))
        same = {name: getattr(colour, name) for name in ("hflip", "color_jitter", "auto_augment", "crop_scale")}
        assert grey.override(same) == colour


@given(epochs=st.integers(1, 60), shorter=st.integers(1, 60), hundredths=st.integers(0, 6000))
def test_warm_up_keeps_its_share_of_the_epochs(epochs, shorter, hundredths):
    warmup = min(hundredths / 100, epochs - 0.01)
    recipe = Recipe(epochs=epochs, batch_size=8, lr=0.01, warmup_epochs=warmup)
    short = recipe.with_epochs(shorter)
    assert 0 <= short.warmup_epochs < short.epochs
    expected = max(warmup * shorter / epochs, min(warmup, 0.5))
    assert short.warmup_epochs == pytest.approx(expected, abs=0.0101)
    # A whole number is one in the file as well, so that the recipe has the digest that a person's has.
    assert isinstance(short.warmup_epochs, int) or short.epochs == epochs or short.warmup_epochs % 1


def test_of_fewer_images_there_are_more_epochs_and_fewer_steps():
    usual = Recipe.load("cifar")
    few = default_recipe(28, 5000, 3, supernet=False)
    assert few.epochs == round(usual.epochs * 10**0.5)
    assert few.warmup_epochs == pytest.approx(usual.warmup_epochs * few.epochs / usual.epochs, abs=0.01)
    assert few.override({"epochs": 30, "warmup_epochs": 2}) == usual
    assert default_recipe(224, 2, 3, supernet=False).epochs == 500


@pytest.mark.parametrize(
    ("device", "has_gpu", "can", "precision"),
    [
        ("cpu", False, False, "float32"),
        ("cpu", True, True, "float32"),
        ("cuda", True, True, "bfloat16"),
        ("cuda", True, False, "float32"),
        ("cuda", False, False, "bfloat16"),  # of workers elsewhere
    ],
)
def test_automatic_precision_is_decided_by_the_device(monkeypatch, device, has_gpu, can, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: can)
    place = torch.device(device)
    chosen = choose_recipe("imagenet", {}, MANY, (224, 224), supernet=False, device=place)
    assert chosen == Recipe.load("imagenet").override({"precision": precision})
    given = choose_recipe("imagenet", {"precision": "float16"}, MANY, (224, 224), supernet=False, device=place)
    assert given.precision == "float16"


@pytest.mark.parametrize(
    ("settings", "epochs", "warmup"),
    [
        ({"epochs": 1}, 1, 0.5),
        ({"epochs": 2}, 2, 0.5),
        ({"epochs": 12}, 12, 0.8),
        ({"epochs": 15}, 15, 1),
        ({"epochs": 45}, 45, 2),
        ({"epochs": 2, "warmup_epochs": 0}, 2, 0),
    ],
)
def test_whoever_asks_for_few_epochs_need_not_know_the_warm_up(settings, epochs, warmup):
    chosen = choose_recipe("cifar", settings, MANY, (32, 32), supernet=False, device=torch.device("cpu"))
    assert (chosen.epochs, chosen.warmup_epochs) == (epochs, warmup)


@pytest.mark.parametrize(("image_size", "name"), [(8, "inherited-digits"), (32, "inherited"), (224, "inherited")])
def test_a_network_that_begins_with_inherited_weights_has_a_recipe_of_its_own(image_size, name):
    assert default_recipe(image_size, 5000, 3, supernet=False, begin="inherited") == Recipe.load(name)


def test_an_unknown_name_is_answered_with_the_shipped_ones():
    with pytest.raises(InputError, match=r"recipe 'cigar': unknown; permitted are .*cifar.*, or a .yaml file$"):
        Recipe.load("cigar")


# --- values


def test_overriding_replaces_values_and_leaves_the_rest():
    recipe = Recipe(**PLAIN)
    other = recipe.override({"lr": 0.01, "crop_scale": [0.5, 1.0]})
    assert other == Recipe(epochs=10, batch_size=32, lr=0.01, crop_scale=(0.5, 1.0))
    assert recipe == Recipe(**PLAIN)
    assert recipe.override({}) == recipe


@pytest.mark.parametrize(
    ("mixup", "cutmix", "mixes"), [(0, 0, False), (0.8, 0, True), (0, 1.0, True), (1.0, 1.0, True)]
)
def test_either_alpha_mixes(mixup, cutmix, mixes):
    assert Recipe(**PLAIN, mixup=mixup, cutmix=cutmix).mixes is mixes


BROKEN = [
    ({"epochs": 0}, "epochs", "greater than 0"),
    ({"epochs": "10"}, "epochs", 'valid integer, received "10"'),
    ({"epochs": 1.5}, "epochs", "valid integer, received 1.5"),
    ({"epochs": 10**12}, "epochs", "less than or equal to 100000, received 1000000000000"),
    ({"batch_size": 10**12}, "batch_size", "less than or equal to 1048576, received 1000000000000"),
    ({"batch_size": -1}, "batch_size", "greater than 0"),
    ({"lr": 0.0}, "lr", "greater than 0"),
    ({"lr": "fast"}, "lr", 'valid number, received "fast"'),
    ({"lr": math.nan}, "lr", "received NaN"),
    ({"min_lr": -1e-5}, "min_lr", "greater than or equal to 0"),
    ({"warmup_lr": -1e-6}, "warmup_lr", "greater than or equal to 0"),
    ({"warmup_epochs": 10}, "", "warmup_epochs must be fewer than epochs 10, received 10"),
    ({"smoothing": 1.1}, "smoothing", "less than or equal to 1"),
    ({"hflip": -0.1}, "hflip", "greater than or equal to 0"),
    ({"clip_grad": 0.0}, "clip_grad", "greater than 0"),
    ({"mixup": 0.8, "batch_size": 31}, "", "batch_size must be even for mixup and cutmix, received 31"),
    ({"interpolation": "nearest"}, "", "interpolation must be bilinear, bicubic or random, received 'nearest'"),
    ({"auto_augment": "rand-m-1"}, "", "auto_augment must be a policy of timm's"),
    ({"auto_augment": "rand-m9-n20-tweights"}, "", "received 'rand-m9-n20-tweights'"),
    ({"crop_scale": [1.0, 0.5]}, "", "crop_scale must ascend, received [1.0, 0.5]"),
    ({"crop_ratio": [2.0, 1.0]}, "", "crop_ratio must ascend, received [2.0, 1.0]"),
    ({"crop_scale": 0.5}, "crop_scale", "valid array, received 0.5"),
    ({"crop_scale": [0.5]}, "crop_scale.1", "required"),
    ({"accumulate": 3}, "", "batch_size must be a multiple of accumulate 3, received 32"),
    ({"precision": "int8"}, "precision", "'float32', 'bfloat16', 'float16' or 'auto', received \"int8\""),
    ({"target": "inplace"}, "", "target must be labels, soft or hard, received 'inplace', which is for supernets"),
    ({"target": "friend"}, "target", "'labels', 'inplace', 'soft' or 'hard', received \"friend\""),
    ({"temperature": 0.0}, "temperature", "greater than 0"),
    ({"teacher_weight": 1.5}, "teacher_weight", "less than or equal to 1"),
    ({"layer_decay": 0.0}, "layer_decay", "greater than 0"),
    ({"repeated_augmentation": 0}, "repeated_augmentation", "greater than 0"),
    ({"sampling": "sandwich"}, "sampling", "unknown key; permitted keys: epochs, batch_size, accumulate"),
    (
        {"learning_rate": 0.1},
        "learning_rate",
        "unknown key; permitted keys: epochs, batch_size, accumulate, precision, opt, opt_betas",
    ),
]


@pytest.mark.parametrize(("values", "key", "message"), BROKEN)
def test_a_file_that_breaks_a_rule_is_answered_with_file_key_and_rule(tmp_path, values, key, message):
    path = write(tmp_path / "recipe.yaml", **{**PLAIN, **values})
    with pytest.raises(InputError) as error:
        Recipe.load(path)
    assert str(error.value).startswith(f"{path}: {key}: " if key else f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("values", "key", "message"), BROKEN)
def test_overriding_keeps_to_the_same_rules(values, key, message):
    with pytest.raises(InputError) as error:
        Recipe(**PLAIN).override(values)
    assert str(error.value).startswith(f"recipe: {key}: " if key else "recipe: ")
    assert message in str(error.value)


@pytest.mark.parametrize("key", ["lr", "min_lr", "weight_decay", "clip_grad", "mixup"])
def test_nothing_is_infinite(key):
    with pytest.raises(InputError, match=f"recipe: {key}: .*finite"):
        Recipe(**PLAIN).override({key: math.inf})


def test_what_is_needed_is_named(tmp_path):
    with pytest.raises(InputError, match=r"recipe\.yaml: lr: Field required$"):
        Recipe.load(write(tmp_path / "recipe.yaml", epochs=10, batch_size=32))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.yaml: cannot be read: No such file"):
        Recipe.load(tmp_path / "nowhere.yaml")


# --- recipes of supernets


@pytest.mark.parametrize(
    ("values", "key", "message"),
    [
        ({"sampling": "random"}, "sampling", "'uniform', 'anchored', 'sandwich' or 'macs', received \"random\""),
        ({"sandwich_random": 0}, "sandwich_random", "greater than 0"),
        ({"layer_decay": 0.7}, "", "layer_decay must be null for a supernet"),
        ({"smapling": "macs"}, "smapling", "unknown key; permitted keys: epochs"),
        ({"smapling": "macs"}, "smapling", "sampling, sandwich_random"),
    ],
)
def test_a_supernets_recipe_that_breaks_a_rule_is_answered_with_the_rule(values, key, message):
    with pytest.raises(InputError) as error:
        SupernetRecipe(**PLAIN).override(values)
    assert str(error.value).startswith(f"recipe: {key}: " if key else "recipe: ")
    assert message in str(error.value)


def test_a_supernets_recipe_is_made_of_a_networks():
    plain = Recipe(**PLAIN, smoothing=0.1)
    made = SupernetRecipe.of(plain)
    assert (made.sampling, made.target, made.smoothing) == ("uniform", "labels", 0.1)
    assert SupernetRecipe.of(made) is made
    with pytest.raises(InputError, match="layer_decay"):
        SupernetRecipe.of(plain.override({"layer_decay": 0.5}))


def test_what_an_optimiser_has_not_cannot_be_given_for_it():
    for changes, expected in [
        ({"opt": "sgd", "opt_betas": [0.8, 0.95]}, "opt_betas must be null for sgd, which has none"),
        ({"opt": "lion", "opt_eps": 1e-6}, "opt_eps must be null for lion, which has none"),
        ({"opt_betas": [0.9, 1.0]}, r"opt_betas\.1: .*less than 1"),
    ]:
        with pytest.raises(InputError, match=expected):
            Recipe.from_dict({**PLAIN, **changes})
