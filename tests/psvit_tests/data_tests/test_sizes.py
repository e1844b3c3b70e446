"""At which size networks see images, and what a run says about it."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from psvit.data import ImageData, Inputs, describe_images, evaluation_transform, read_image_size, seen_size
from psvit.errors import InputError


def noise(height, width):
    rng = np.random.default_rng([height, width])
    return rng.integers(0, 256, size=(height, width), dtype=np.uint8)


def images_of(*sizes):
    """Grey images of these heights and widths, over and over."""
    made = [(noise(*sizes[index % len(sizes)]), index % 2) for index in range(24 * len(sizes))]
    data = ImageData.from_datasets(made, made[:4])
    return replace(data, statistics=lambda: ((0.0,), (1.0,)))


def seen(data, image_size, picture):
    """What a network sees of a picture, as whole grey levels."""
    (channel,) = evaluation_transform(Inputs.of(data, image_size))(Image.fromarray(picture))
    return (channel.numpy() * 255).round()


def middle(picture, image_size):
    top, left = (round((side - kept) / 2) for side, kept in zip(picture.shape, image_size, strict=True))
    return picture[top : top + image_size[0], left : left + image_size[1]]


def resized(picture, size):
    return np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BICUBIC))


# --- what is seen


@pytest.mark.parametrize("size", [(96, 64), (8, 8), (512, 512), (400, 500)])
def test_images_are_seen_at_their_own_size(size):
    assert seen_size(size) == size


@pytest.mark.parametrize(
    ("size", "smaller"),
    [
        ((480, 640), (224, 299)),
        ((640, 480), (299, 224)),
        ((1024, 1024), (224, 224)),
        # The smaller side is not enlarged for it, nor is the other left too long.
        ((600, 100), (512, 85)),
        ((300, 2000), (77, 512)),
        # In proportion they would be too thin.
        ((4000, 20), (512, 8)),
        ((4, 6), (8, 8)),
    ],
)
def test_images_that_no_space_is_made_for_are_seen_at_another_size(size, smaller):
    assert seen_size(size) == smaller


@pytest.mark.parametrize("given", [224, "224", (224, 224)])
def test_one_number_is_both_sides(given):
    assert read_image_size(given) == (224, 224)


@pytest.mark.parametrize("given", ["96x64", (96, 64), [96, 64]])
def test_height_comes_before_width(given):
    assert read_image_size(given) == (96, 64)


@pytest.mark.parametrize(
    "given", ["", "x", "96x", "96x64x3", "-5", "0", 0, -3, "9.5", (1, 2, 3), (96.0, 64), "1e3", None]
)
def test_what_is_no_size_is_refused(given):
    with pytest.raises(InputError, match="must be a side in pixels, or height and width, as in 224 and 96x64"):
        read_image_size(given)


def test_the_typical_size_is_the_median_of_heights_and_of_widths():
    assert images_of((10, 20)).image_size == (10, 20)
    assert images_of((10, 20), (30, 8), (14, 9)).image_size == (14, 9)


# --- what is said


@pytest.mark.parametrize(
    ("size", "image_size"),
    [
        ((96, 64), (96, 64)),
        ((28, 28), (27, 27)),
        ((48, 64), (24, 32)),
        ((48, 64), (24, 24)),
        ((60, 80), (99, 72)),
        ((31, 45), (30, 45)),
        ((20, 10), (40, 20)),
    ],
)
def test_what_is_said_of_images_of_one_size_is_what_is_done_to_them(size, image_size):
    data = images_of(size)
    found, done = describe_images(data, image_size)
    assert f"all of {size[0]} x {size[1]} pixels" in found
    assert f"{len(data.all_train)} for training and {len(data.val)} for validation, of 2 classes, grey" in found
    picture = noise(*size)
    expected = picture
    if told := re.search(r"resized to (\d+) x (\d+) pixels", done):
        expected = resized(picture, (int(told[1]), int(told[2])))
    else:
        assert "as they are" in done
    if told := re.search(r"of each the middle (\d+) x (\d+) pixels", done):
        assert (int(told[1]), int(told[2])) == image_size
        expected = middle(expected, image_size)
    np.testing.assert_allclose(seen(data, image_size, picture), expected, atol=1)


@pytest.mark.parametrize("image_size", [(24, 24), (30, 20), (16, 40)])
def test_what_is_said_of_images_of_many_sizes_is_what_is_done_to_each(image_size):
    sizes = [(20, 30), (40, 24), (33, 33)]
    data = images_of(*sizes)
    found, done = describe_images(data, image_size)
    assert "looked at are 20 to 40 pixels high and 24 to 33 wide" in found
    told = re.search(r"each is resized until it just covers (\d+) x (\d+) pixels, of which its middle is seen", done)
    assert (int(told[1]), int(told[2])) == image_size
    for size in sizes:
        scale = max(wanted / side for wanted, side in zip(image_size, size, strict=True))
        # A side that covers more than is wanted may be rounded either way.
        either = [[rounded(scale * side + 1e-9) for side in size] for rounded in (math.floor, round)]
        pictures = [middle(resized(noise(*size), one), image_size) for one in either]
        found = seen(data, image_size, noise(*size))
        assert min(np.abs(found - picture).max() for picture in pictures) <= 1


def test_images_that_were_not_looked_at_are_not_spoken_for():
    made = [(noise(8, 8), index % 2) for index in range(200)]
    made[1] = (noise(16, 8), 1)
    found, done = describe_images(ImageData.from_datasets(made, made[:4]), (8, 8))
    assert re.search(r"\d+ looked at are all of 8 x 8 pixels", found)
    assert "as they are; any of another size is resized until it just covers 8 x 8 pixels" in done


def test_it_is_said_if_validation_images_are_held_out():
    made = [(noise(8, 8), index % 2) for index in range(200)]
    found, _ = describe_images(ImageData.from_datasets(made), (8, 8))
    assert "160 for training and 40 for validation (held out: a fifth of every class), of 2 classes" in found
    assert "held out" not in describe_images(ImageData.from_datasets(made, made), (8, 8))[0]


@pytest.mark.parametrize(
    ("counts", "said"),
    [((70, 30), "70.0%"), ((30, 70), "70.0%"), ((55, 45), ""), ((25, *[10] * 9), "21.7%"), ((15, *[10] * 9), "")],
)
def test_it_is_said_what_naming_one_class_for_every_image_is_worth(counts, said):
    labels = np.repeat(range(len(counts)), counts)
    names = [f"class {number}" for number in range(len(counts))]
    made = [(noise(8, 8), int(label)) for label in labels]
    told = [
        line for line in describe_images(ImageData.from_datasets(made, made, names), (8, 8)) if "of the class" in line
    ]
    assert [said in line and f"'class {np.argmax(counts)}'" in line for line in told] == [True] * bool(said)
