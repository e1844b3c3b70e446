"""What a run says of its images."""

from __future__ import annotations

import math
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from psvit.data import ImageData, Inputs, describe_images, evaluation_transform


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
    found, *_, done = describe_images(data, image_size)
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
    found, *_, done = describe_images(data, image_size)
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
    found, *_, done = describe_images(ImageData.from_datasets(made, made[:4]), (8, 8))
    assert re.search(r"\d+ looked at are all of 8 x 8 pixels", found)
    assert "as they are; any of another size is resized until it just covers 8 x 8 pixels" in done


def test_it_is_said_if_validation_images_are_held_out():
    made = [(noise(8, 8), index % 2) for index in range(200)]
    found, *_ = describe_images(ImageData.from_datasets(made), (8, 8))
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


def told_of_repeated(data):
    return [line for line in describe_images(data, (8, 8)) if "too good" in line]


def test_it_is_said_which_validation_images_are_training_images_as_well():
    made = [(noise(8, 8 + index)[:, -8:], index % 2) for index in range(200)]
    assert not told_of_repeated(ImageData.from_datasets(made))
    assert not told_of_repeated(ImageData.from_datasets(made[:100], made[100:]))
    (told,) = told_of_repeated(ImageData.from_datasets(made[:110], made[100:]))
    assert told.startswith("10 of the validation images are among the training images")
    # A second copy of each is either with the first or in the other part.
    data = ImageData.from_datasets([*made, *made])
    train = {np.asarray(image).tobytes() for image, _ in data.all_train}
    copies = sum(np.asarray(image).tobytes() in train for image, _ in data.val)
    assert told_of_repeated(data)[0].startswith(f"{copies} of the validation images are")


def test_a_file_that_is_copied_into_the_validation_images_is_named(tmp_path):
    for index in range(60):
        path = tmp_path / ("val" if index >= 40 else "train") / f"{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Of two sizes, so they stay in their files.
        Image.fromarray(noise(8 + index % 3, 8 + index)).save(path)
    assert not told_of_repeated(ImageData.open(str(tmp_path)))
    shutil.copy(tmp_path / "train/0/6.png", tmp_path / "val/0/other.png")
    (told,) = told_of_repeated(ImageData.open(str(tmp_path)))
    assert told.startswith(f"1 of the validation images (such as {tmp_path}/val/0/other.png) is among")
    # Images that were not read are not read for this.
    data = ImageData.find(str(tmp_path))
    assert not told_of_repeated(data)
    assert data.val.known is None
