"""Augmentation of whole batches: by Pillow's arithmetic, and from timm's distributions."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from psvit.data import Decoded, Labelled
from psvit.data import tensor_operations as operations
from psvit.data.augmentation import training_transform
from psvit.data.augmentation_plan import LEVELS, NAMES, Draws, Planner
from psvit.data.batch_augmentation import (
    MOVING,
    WITH_VALUE,
    WITHOUT_VALUE,
    BatchAugmentation,
    augmented,
    erased,
    normal_noise,
)
from psvit.errors import InputError
from psvit.train.recipe import Recipe

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
FILL = tuple(round(255 * value) for value in MEAN)
DEIT = {
    "scale": (0.08, 1.0),
    "ratio": (0.75, 4 / 3),
    "hflip": 0.5,
    "color_jitter": 0.3,
    "auto_augment": "rand-m9-mstd0.5-inc1",
    "re_prob": 0.25,
    "interpolation": "bicubic",
}


def pictures(number=6, size=(24, 33), colour=True, seed=0):
    """Smooth and noisy images with flat parts: what operations differ on."""
    rng = np.random.default_rng(seed)
    shape = (number, *size, 3) if colour else (number, *size)
    small = rng.integers(0, 256, (number, 5, 5, 3), dtype=np.uint8)
    smooth = np.stack([np.asarray(Image.fromarray(one).resize(size[::-1], Image.Resampling.BICUBIC)) for one in small])
    pixels = smooth if colour else smooth[..., 0]
    pixels = (pixels // 2 + rng.integers(0, 60, shape)).astype(np.uint8)
    pixels[0, : size[0] // 2] = 7
    return pixels


def as_batch(pixels):
    pixels = pixels if pixels.ndim == 4 else pixels[..., None]
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float()


def agree(found, expected, exact=0.97):
    """Whole numbers that are at most 1 apart, and nearly all equal."""
    away = (found - as_batch(np.stack([np.asarray(picture) for picture in expected]))).abs()
    assert (found == found.floor()).all()
    assert away.max() <= 1
    assert (away == 0).float().mean() >= exact


@pytest.mark.parametrize("colour", [True, False])
@pytest.mark.parametrize(
    ("kernel", "bicubic"), [(InterpolationMode.BILINEAR, False), (InterpolationMode.BICUBIC, True)]
)
@pytest.mark.parametrize("size", [(16, 16), (40, 28), (24, 33)])
def test_crops_are_resized_as_pillow_does_it(kernel, bicubic, size, colour):
    pixels = pictures(colour=colour)
    boxes = [(0, 0, 24, 33), (3, 5, 17, 11), (10, 0, 1, 33), (0, 20, 24, 2), (1, 2, 22, 30), (6, 7, 16, 16)]
    expected = [
        F.resized_crop(Image.fromarray(one), *box, list(size), kernel) for one, box in zip(pixels, boxes, strict=True)
    ]
    found = operations.resized_crop(as_batch(pixels), np.array(boxes), np.full(6, bicubic), size)
    # Where sides are halved, every second sum lies between two whole numbers.
    agree(found, expected, exact=0.85)


@pytest.mark.parametrize("colour", [True, False])
@pytest.mark.parametrize("name", sorted({NAMES.get(name, name) for name in LEVELS}))
def test_operations_do_what_timms_do(name, colour):
    pixels = pictures(colour=colour)
    fill = FILL if colour else FILL[:1]
    values = {
        "Posterize": [0, 1, 3, 4, 7, 8],
        "Solarize": [0, 256, 128, 70, 30, 200],
        "SolarizeAdd": [0, 110, 50, 128, 1, 27],
        "Rotate": [0, 30, -30, 12.5, -1.5, 7],
    }.get(name, [0.0, 0.3, -0.3, 0.45, -0.45, 0.123] if name in MOVING else [0.1, 0.5, 1.0, 1.9, 0.93, 1.27])
    for bicubic in (False, True) if name in MOVING else (False,):
        options = {"fillcolor": fill, "resample": Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR}
        timms = auto_augment.NAME_TO_OP[name + ("Rel" if name.startswith("Translate") else "")]
        expected = []
        for one, value in zip(pixels, values, strict=True):
            picture = Image.fromarray(one)
            if name in WITHOUT_VALUE:
                expected.append(timms(picture, **options))
            elif name == "Posterize" and value < 1:
                expected.append(Image.new(picture.mode, picture.size))
            else:
                expected.append(timms(picture, value, **options))
        images, given = as_batch(pixels), torch.tensor(values, dtype=torch.float32)
        if name in WITHOUT_VALUE:
            found = WITHOUT_VALUE[name](images)
        elif name in WITH_VALUE:
            found = WITH_VALUE[name](images, given)
        else:
            found = MOVING[name](images, given, torch.full((6,), bicubic), torch.tensor(fill, dtype=torch.float32))
        agree(found, expected, exact=0.9 if name in MOVING else 0.97)


@pytest.mark.parametrize("name", sorted(LEVELS))
@pytest.mark.parametrize("positive", [True, False])
def test_strengths_are_timms(name, positive, monkeypatch):
    monkeypatch.setattr(auto_augment.random, "random", lambda: 0.1 if positive else 0.9)
    settings = {"translate_const": 14, "translate_pct": 0.45}
    levels = np.array([0, 0.5, 3, 7.7, 9, 10])
    level_of = auto_augment.LEVEL_TO_ARG[name]
    expected = []
    for level in levels:
        found = level_of(level, settings) if level_of else 0
        expected.append(found[0] if isinstance(found, tuple) else found)
    found = LEVELS[name](levels / 10, np.full(6, 1.0 if positive else -1.0), settings, (32, 40))
    if name in ("TranslateX", "TranslateY"):
        found = found * (40 if name == "TranslateX" else 32)
    assert found == pytest.approx(np.array(expected, dtype=float))


def planner(**options):
    return Planner(training_transform((3, 32, 32), MEAN, STD, **{**DEIT, **options}))


def seeds(number, seed=0):
    return np.random.default_rng(seed).integers(2**32, size=number, dtype=np.uint32)


def test_draws_are_uniform_and_independent():
    found = Draws(seeds(4000)).uniform(6)
    assert abs(found.mean(axis=0) - 0.5).max() < 4 * np.sqrt(1 / 12 / 4000)
    assert abs(found.var(axis=0) - 1 / 12).max() < 0.005
    assert abs(np.corrcoef(found.T) - np.eye(6)).max() < 0.07
    # Neighbouring seeds are no worse than others.
    near = Draws(np.arange(4000, dtype=np.uint32)).uniform(2)
    assert abs(np.corrcoef(near[:-1, 0], near[1:, 0])[0, 1]) < 0.07
    assert len(np.unique(near)) == 8000


@pytest.mark.parametrize(
    ("scale", "ratio"), [((0.08, 1.0), (0.75, 4 / 3)), ((0.5, 1.0), (0.75, 4 / 3)), ((0.9, 1.0), (3.0, 4.0))]
)
def test_crops_are_drawn_from_timms_distribution(scale, ratio):
    crop, size = RandomResizedCropAndInterpolation((32, 32), scale=scale, ratio=ratio), (28, 40)
    picture = Image.new("RGB", size[::-1])
    random.seed(1)
    expected = np.array([crop.get_params(picture, crop.scale, crop.ratio) for _ in range(4000)])
    found = planner(scale=scale, ratio=ratio).plan(seeds(4000), size, (32, 32)).boxes
    error = np.sqrt((expected.var(axis=0) + found.var(axis=0)) / 4000)
    assert (abs(expected.mean(axis=0) - found.mean(axis=0)) <= 4.5 * error + 1e-9).all()
    assert expected.std(axis=0) == pytest.approx(found.std(axis=0), rel=0.08, abs=1e-9)
    assert (found[:, :2] >= 0).all()
    assert (found[:, :2] + found[:, 2:] <= size).all()


def test_a_plan_has_as_many_operations_as_timms_policies():
    plan = planner().plan(seeds(6000), (32, 32), (32, 32))
    counts = {}
    for step in plan.steps:
        counts[step.name] = counts.get(step.name, 0) + len(step.images)
    # Two layers of 15 operations, each of which happens half of the time.
    assert len(counts) == 15
    assert all(abs(count - 400) < 5 * np.sqrt(400) for count in counts.values())
    assert abs(plan.flips.mean() - 0.5) < 0.03
    assert abs((plan.erased[:, 2] > 0).mean() - 0.25) < 0.03


def test_policies_of_pairs_keep_their_order():
    plan = planner(auto_augment="original").plan(seeds(500), (32, 32), (32, 32))
    policy = next(
        part
        for part in training_transform((3, 32, 32), MEAN, STD, **{**DEIT, "auto_augment": "original"}).transforms
        if hasattr(part, "policy")
    ).policy
    pairs = {tuple(NAMES.get(op.name, op.name) for op in pair) for pair in policy}
    for image in range(500):
        names = [step.name for step in plan.steps if image in step.images]
        assert any(names in ([], [a], [b], [a, b]) for a, b in pairs)


@pytest.mark.parametrize("policy", ["augmix-m3-w3", "3a", "rand-m9-tweights"])
def test_what_batches_cannot_be_augmented_with_is_refused(policy):
    with pytest.raises(InputError, match="augment_batches=false"):
        planner(auto_augment=policy)
    values = {"epochs": 1, "batch_size": 8, "lr": 0.1, "auto_augment": policy}
    Recipe.from_dict(values)
    with pytest.raises(InputError, match="augment_batches"):
        Recipe.from_dict({**values, "augment_batches": True})


@pytest.mark.parametrize("options", [{}, {"auto_augment": None}, {"interpolation": "random", "auto_augment": "v0"}])
def test_the_plan_of_an_image_does_not_depend_on_others(options):
    several, drawn = planner(**options), seeds(20)
    images = as_batch(pictures(20))
    fill, noise = torch.tensor(FILL, dtype=torch.float32), normal_noise(3 * 16 * 16, torch.device("cpu"))

    def made(which):
        plan = several.plan(drawn[which], (24, 33), (16, 16))
        return erased(augmented(images[which], plan, (16, 16), fill) / 255, plan.erased, drawn[which], noise)

    together = made(np.arange(20))
    for one in range(20):
        torch.testing.assert_close(made(np.array([one]))[0], together[one], atol=1.01 / 255, rtol=0)
        assert (made(np.array([one]))[0] == together[one]).float().mean() > 0.99


def test_what_is_erased_is_normal_noise_and_every_images_own():
    images, noise = torch.full((60, 3, 20, 30), 9.0), normal_noise(1800, torch.device("cpu"))
    boxes = np.array([[2, 3, 10, 20]] * 50 + [[0, 0, 0, 0]] * 10)
    found = erased(images.clone(), boxes, seeds(60), noise)
    inside = torch.zeros(20, 30, dtype=torch.bool)
    inside[2:12, 3:23] = True
    assert (found[..., ~inside] == 9).all()
    assert (found[50:] == 9).all()
    drawn = found[:50][..., inside].flatten(1)
    assert abs(drawn.mean()) < 0.03
    assert abs(drawn.std() - 1) < 0.03
    assert abs(np.corrcoef(drawn.numpy()) - np.eye(50)).max() < 0.2


@pytest.mark.parametrize("colour", [True, False])
def test_without_augmentation_images_are_what_they_are_one_by_one(colour):
    pixels = pictures(20, colour=colour)
    labels = np.arange(20) % 3
    mean, std = (MEAN, STD) if colour else (MEAN[:1], STD[:1])
    plain = {
        "scale": (1.0, 1.0),
        "ratio": (33 / 24, 33 / 24),
        "hflip": 0.0,
        "color_jitter": 0.0,
        "interpolation": "bilinear",
    }
    transform = training_transform((3 if colour else 1, 12, 20), mean, std, **plain)
    images = Labelled(Decoded(pixels), labels, rows=np.arange(19, -1, -2))
    source = BatchAugmentation(images, transform, (12, 20), mean, std, torch.device("cpu"))
    ((found, classes),) = source.batches([(np.array([3, 0, 9]), seeds(3))])
    one_by_one = images.transformed(transform)
    expected = [one_by_one[row] for row in (3, 0, 9)]
    assert classes.tolist() == [label for _, label in expected]
    torch.testing.assert_close(found, torch.stack([image for image, _ in expected]), atol=1.01 / 255 / min(std), rtol=0)


def test_batches_look_like_images_that_are_augmented_one_by_one():
    pixels = pictures(1, size=(32, 32)).repeat(1500, axis=0)
    images = Labelled(Decoded(pixels), np.zeros(1500, dtype=np.int64))
    transform = training_transform((3, 32, 32), MEAN, STD, **DEIT)
    source = BatchAugmentation(images, transform, (32, 32), MEAN, STD, torch.device("cpu"))
    ((found, _),) = source.batches([(np.arange(1500), seeds(1500))])
    one_by_one = images.transformed(transform)
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    expected = torch.stack([one_by_one[row][0] for row in range(1500)])
    for measure in (lambda x: x.mean(dim=(1, 2, 3)), lambda x: x.std(dim=(1, 2, 3)), lambda x: x[:, 0, 16, 8]):
        a, b = measure(found), measure(expected)
        assert abs(a.mean() - b.mean()) < 4.5 * ((a.var() + b.var()) / 1500) ** 0.5
        assert a.std() == pytest.approx(b.std(), rel=0.15)
