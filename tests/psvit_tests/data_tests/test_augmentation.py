"""Augmentation: every policy runs on every image, and timm stays as it is for others."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment, create_transform

from psvit.data.augmentation import operations, training_transform
from psvit.nn.seeding import seeded
from psvit.train.recipe import Recipe, SupernetRecipe, shipped_recipes


def load(name: str) -> Recipe:
    return (SupernetRecipe if name.startswith("supernet-") else Recipe).load(name)


SHIPPED = [name for name in shipped_recipes() if load(name).auto_augment]

NAMED = [
    *("rand-m0", "rand-m9-mstd0.5-inc1", "rand-m10-inc1", "rand-m5-mstd101", "rand-m30-mmax30-mstd5-inc1"),
    *("rand-m30-mmax30", "rand-m9-n3-mstd0.5-tweights", "rand-m9-t3aw-n3"),
    *("augmix-m3-w3", "augmix-m10-w2-d2-mstd0.5", "augmix-m10-b1"),
    *("original", "originalr-mstd0.5", "v0", "v0r", "v0-mstd5", "3a"),
]
"""Policies that users may name, of every kind that timm has, and with magnitudes at both ends."""


def transform_of(recipe: Recipe, channels: int, side: int = 32):
    return training_transform((channels, side, side), (0.5,) * channels, (0.25,) * channels, **recipe.augmentation)


def with_policy(policy: str) -> Recipe:
    return Recipe(epochs=1, batch_size=2, lr=0.1, auto_augment=policy)


def picture(channels: int, side: int = 32, seed: int = 0) -> Image.Image:
    shape = (side, side) if channels == 1 else (side, side, channels)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def check_operations(transform, image, levels=21):
    """Run every operation with certainty at levels from the lowest to the highest, in either direction."""
    found = list(operations(transform))
    assert found
    for operation in found:
        always = copy.copy(operation)
        always.prob, always.magnitude_std = 1.0, 0
        for level in np.linspace(0, operation.magnitude_max or 10, levels):
            always.magnitude = float(level)
            for _ in range(2):
                changed = always(image)
                assert (changed.mode, changed.size) == (image.mode, image.size)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", SHIPPED)
def test_every_operation_of_a_shipped_recipe_runs_at_every_level(name, channels):
    with seeded(0):
        check_operations(transform_of(load(name), channels), picture(channels), levels=101)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", NAMED)
def test_every_operation_of_a_policy_that_a_user_names_runs_at_every_level(policy, channels):
    transform = transform_of(with_policy(policy), channels)
    with seeded(0):
        check_operations(transform, picture(channels, 8))
        for _ in range(20):
            assert transform(picture(channels, 40)).shape == (channels, 32, 32)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_a_thousand_images_are_augmented_by_a_shipped_recipe(name):
    transform = transform_of(load(name), 3)
    for number in range(1_000):
        with seeded(number):
            assert torch.isfinite(transform(picture(3, 48, number))).all()


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("bits", range(-8, 9))
def test_posterizing_keeps_the_highest_bits_and_of_none_a_black_image(mode, bits):
    image = picture(3).convert(mode)
    (posterize, *_) = [one for one in operations(transform_of(with_policy("v0"), 3)) if one.name == "Posterize"]
    expected = np.asarray(image) & (0xFF00 >> max(0, bits) & 0xFF)
    found = posterize.aug_fn(image, bits, **posterize.kwargs)
    assert found.mode == mode
    assert np.array_equal(np.asarray(found), expected)


def test_a_whole_policy_of_timm_whose_posterizing_keeps_no_bits_runs():
    # At level 10 "increasing" posterizing keeps 0 bits; with probability 1 and one operation it comes soon.
    transform = transform_of(with_policy("rand-m10-n1-p1-inc1"), 3)
    bright = Image.new("RGB", (32, 32), (200, 180, 160))
    black = (0 - 0.5) / 0.25
    with seeded(0):
        results = [transform(bright) for _ in range(200)]
    assert any((result == black).all() for result in results)


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "original", "augmix-m3-w3"])
def test_where_timms_own_transform_runs_it_gives_the_same(policy):
    ours = transform_of(with_policy(policy), 3)
    theirs = create_transform(
        (3, 32, 32), is_training=True, scale=(1.0, 1.0), hflip=0.0, color_jitter=0.0, auto_augment=policy,
        interpolation="bicubic", mean=(0.5,) * 3, std=(0.25,) * 3,
    )  # fmt: skip
    for number in range(30):
        with seeded(number):
            try:
                expected = theirs(picture(3, 40, number))
            except ValueError:  # of Pillow, at 0 bits
                continue
        with seeded(number):
            assert torch.equal(ours(picture(3, 40, number)), expected)


def test_timm_stays_as_it_is_for_others():
    transform_of(with_policy("v0"), 3)
    assert auto_augment.NAME_TO_OP["Posterize"] is auto_augment.posterize
    others = create_transform(32, is_training=True, auto_augment="v0")
    assert all(one.aug_fn is auto_augment.NAME_TO_OP[one.name] for one in operations(others))


def test_a_process_that_is_sent_the_transform_has_it_whole():
    transform = pickle.loads(pickle.dumps(transform_of(with_policy("rand-m0"), 3)))
    with seeded(0):
        check_operations(transform, picture(3, 8))


def test_without_a_policy_there_are_no_operations():
    assert list(operations(transform_of(Recipe(epochs=1, batch_size=2, lr=0.1), 3))) == []
