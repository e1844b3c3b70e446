"""Spaces made for images and a budget."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psvit.arch.costs import cost
from psvit.errors import InputError
from psvit.space.budget import SPENT, Budget
from psvit.space.references import references
from psvit.space.search_space import SearchSpace

SCALES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
POSSIBLE = sorted({2**twos * 3**threes for twos in range(6) for threes in range(6 - twos)})
METRICS = {"FLOPs": "macs", "params": "num_params"}

sides = st.integers(8, 512)
images = st.tuples(sides, sides) | sides.map(lambda side: (side, side))


def possible(image_size, in_chans, num_classes, unit) -> tuple[float, float]:
    """The range of budgets that a refusal names."""
    with pytest.raises(InputError, match=r"networks for them are searched for budgets of") as refused:
        SearchSpace.for_images(image_size, in_chans, num_classes, f"1{unit}")
    assert "\n" not in str(refused.value)
    least, most = re.findall(rf"([\d.e+]+) ([kMG]?){unit}", str(refused.value).partition("budgets of")[2])
    # Four digits are shown.
    return 1.001 * float(least[0]) * SCALES[least[1]], 0.999 * float(most[0]) * SCALES[most[1]]


@settings(max_examples=15)
@given(
    images, st.sampled_from([1, 3]), st.sampled_from([2, 10, 1000]), st.sampled_from(sorted(METRICS)), st.floats(0, 1)
)
def test_the_budget_is_within_reach_with_room_on_both_sides(image_size, in_chans, num_classes, unit, share):
    least, most = possible(image_size, in_chans, num_classes, unit)
    upper = round(least ** (1 - share) * most**share)
    space = SearchSpace.for_images(image_size, in_chans, num_classes, f"{upper}{unit}")
    low, high = space.reach(METRICS[unit])
    assert 2 * low <= upper
    assert high >= 1.5 * upper
    # Ends say nothing of what lies between them.
    spent = Budget.parse(f"{upper}{unit}").spent(SPENT)
    assert space.count(spent) >= 500
    assert (space.in_chans, space.num_classes) == (in_chans, num_classes)
    assert space == SearchSpace.for_images(image_size, in_chans, num_classes, f"{upper}{unit}")


@pytest.mark.parametrize(
    ("side", "budget"),
    [(500, "18399083FLOPs"), (505, "17678454FLOPs"), (512, "15.64MFLOPs"), (440, "12.36MFLOPs"), (384, "9.48MFLOPs")],
)
def test_large_images_and_small_budgets_have_references_too(side, budget):
    space = SearchSpace.for_images((side, side), 3, 10, budget)
    spent = Budget.parse(budget).spent(SPENT)
    assert space.count(spent) >= 1000
    assert references(space, spent)


def test_images_are_not_changed_for_the_sake_of_a_family():
    assert SearchSpace.for_images((64, 96), 3, 10, "1.763MFLOPs").image_size == (64, 96)


@settings(max_examples=15)
@given(images, st.floats(0, 1))
def test_patches_give_7_to_16_tokens_a_side_or_about_as_many_in_all(image_size, share):
    least, most = possible(image_size, 3, 10, "FLOPs")
    space = SearchSpace.for_images(image_size, 3, 10, f"{round(least ** (1 - share) * most**share)}FLOPs")
    grid = space.patches.grid
    assert space.patch_stride == space.patch_size
    assert space.image_size == tuple(space.patch_size * number for number in grid)
    assert space.patch_size >= 2
    for side, made in zip(image_size, space.image_size, strict=True):
        assert 0.8 <= made / side <= 1.25
    if all(min(7, side // 2) <= number <= 16 for number, side in zip(grid, image_size, strict=True)):
        return
    grids = [[round(side / size) for side in image_size] for size in POSSIBLE[1:]]
    assert not any(min(one) >= 7 and max(one) <= 16 for one in grids)
    distances = [max(49 / math.prod(one), math.prod(one) / 256, 1) for one in grids if min(one) >= 4]
    assert min(grid) >= 4
    assert max(49 / math.prod(grid), math.prod(grid) / 256, 1) == min(distances)


@pytest.mark.parametrize(
    ("image_size", "budget", "made", "patch_size"),
    [
        ((224, 224), "2GFLOPs", (224, 224), 16),
        ((224, 224), "20MFLOPs", (224, 224), 32),
        ((32, 32), "10MFLOPs", (32, 32), 4),
        ((32, 32), "1GFLOPs", (32, 32), 2),
        ((28, 28), "1MFLOPs", (28, 28), 4),
        ((28, 28), "10MFLOPs", (28, 28), 4),
        ((28, 28), "300MFLOPs", (28, 28), 2),
        ((31, 31), "10MFLOPs", (32, 32), 4),
        ((96, 64), "5MFLOPs", (96, 64), 8),
        ((512, 512), "20GFLOPs", (512, 512), 32),
        ((8, 8), "1MFLOPs", (8, 8), 2),
        ((9, 9), "1MFLOPs", (8, 8), 2),
        ((13, 16), "1MFLOPs", (12, 16), 2),
        ((8, 512), "1GFLOPs", (8, 512), 2),
        ((32, 512), "100MFLOPs", (32, 512), 8),
    ],
)
def test_patches_divide_the_image_or_the_nearest_size(image_size, budget, made, patch_size):
    space = SearchSpace.for_images(image_size, 3, 10, budget)
    assert (space.image_size, space.patch_size) == (made, patch_size)


def test_more_is_spent_on_more_tokens_too():
    budgets = [f"{round(10 ** (power / 4))}MFLOPs" for power in range(4, 18, 2)]
    numbers = [SearchSpace.for_images((384, 384), 3, 10, budget).patches.number for budget in budgets]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) > 1


def test_all_kinds_of_network_are_members():
    space = SearchSpace.for_images((64, 64), 3, 10, "50MFLOPs")
    kinds = {(layout.variant, len(layout.stages), stem) for layout in space.layouts for stem in layout.stem}
    assert kinds == {(v, n, stem) for v in ("1d", "2d") for n in (1, 2, 3) for stem in ("patch", "conv")}
    assert space.size < 2**63
    budget = Budget.parse("50MFLOPs").spent(SPENT)
    drawn = space.sample(np.random.default_rng(0), 200, budget)
    assert {(arch.variant, arch.stem) for arch in drawn} == {(v, s) for v in ("1d", "2d") for s in ("patch", "conv")}
    assert all(budget.satisfied_by(cost(arch)) and space.contains(arch) for arch in drawn)


def test_later_stages_may_be_wider():
    for layout in SearchSpace.for_images((64, 64), 3, 10, "50MFLOPs").layouts:
        widest = [max(stage.embed_dim) for stage in layout.stages]
        assert widest == sorted(set(widest))


@pytest.mark.parametrize(
    ("texts", "name"),
    [
        (["5MFLOPs"], "images-96x64-5MFLOPs"),
        (["5000kMACs"], "images-96x64-5MFLOPs"),
        (["1..5MFLOPs"], "images-96x64-5MFLOPs"),
        (["5MFLOPs", "1MB"], "images-96x64-5MFLOPs"),
        (["5MFLOPs", "80kparams"], "images-96x64-5MFLOPs-80kparams"),
        ([], "images-96x64-245.8MFLOPs"),
        (["5ms@cpu"], "images-96x64-245.8MFLOPs"),
    ],
)
def test_the_name_says_what_the_space_was_made_from(texts, name):
    space = SearchSpace.for_images((96, 64), 3, 10, texts)
    assert space.name == name
    assert space == SearchSpace.for_images((96, 64), 3, 10, Budget.parse(*texts))


@pytest.mark.parametrize(
    ("arguments", "digest"),
    [(((96, 64), 1, 5, "5MFLOPs"), "ae8f7081a3baa773"), (((224, 224), 3, 1000, "2GFLOPs"), "47fa6e90da1075ec")],
)
def test_equal_arguments_give_the_space_of_before(arguments, digest, tmp_path):
    space = SearchSpace.for_images(*arguments)
    # A run is continued only in the same space.
    assert space.digest == digest
    space.save(tmp_path / "space.yaml")
    assert SearchSpace.load(tmp_path / "space.yaml") == space


@pytest.mark.parametrize(
    "texts",
    [["22Mparams", "2GFLOPs"], ["1..2GFLOPs", "22Mparams"], ["2GFLOPs", "100Mparams"]],
)
def test_of_several_limits_the_tightest_decides(texts):
    space = SearchSpace.for_images((224, 224), 3, 1000, texts)
    budget = Budget.parse(*texts)
    assert space.count(budget) > 0
    ends = [(space.reach(limit.metric), limit.upper) for limit in budget.limits]
    assert all(2 * low <= upper for (low, _), upper in ends)
    assert any(high >= 1.5 * upper for (_, high), upper in ends)


@pytest.mark.parametrize(
    ("texts", "rule"),
    [
        (["1kFLOPs"], r"at most 1 kFLOPs does not suit images of 28 x 28 pixels; .*FLOPs to .*FLOPs$"),
        (["10TFLOPs"], r"at most 1e\+04 GFLOPs does not suit images of 28 x 28 pixels; .*FLOPs to .*FLOPs$"),
        (["10TFLOPs", "1kparams"], r"does not suit images .*FLOPs to .*FLOPs and .*params to .*params \(each alone\)$"),
        (["10MFLOPs", "1kB"], r"no architecture of images-28x28-10MFLOPs costs .*the nearest costs"),
        (["60%"], "60%ofdeit-small"),
    ],
)
def test_budgets_that_no_network_can_meet_or_spend_are_refused(texts, rule):
    with pytest.raises(InputError, match=rule) as refused:
        SearchSpace.for_images((28, 28), 1, 10, texts)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("image_size", [(7, 32), (32, 513), (1, 1)])
def test_sides_are_8_to_512_pixels(image_size):
    rule = rf"sides of 8 to 512 pixels, received {image_size[0]} x {image_size[1]}$"
    with pytest.raises(InputError, match=rule):
        SearchSpace.for_images(image_size, 3, 10, "10MFLOPs")


@pytest.mark.parametrize(
    ("image_size", "texts"),
    [(28, ("1MFLOPs", "30kparams")), (224, ("2GFLOPs", "5Mparams")), (32, ("40MFLOPs", "200kparams"))],
)
def test_two_limits_are_met_in_either_order(image_size, texts):
    for limits in (texts, texts[::-1]):
        space = SearchSpace.for_images(image_size, 3, 10, limits)
        budget = Budget.parse(*limits)
        assert space.count(budget) > 1000
        assert all(budget.satisfied_by(cost(arch)) for arch in space.sample(np.random.default_rng(0), 20, budget))


@pytest.mark.parametrize(("in_chans", "num_classes"), [(5000, 10), (3, 20_000_000), (0, 10)])
def test_channels_and_classes_have_ends(in_chans, num_classes):
    with pytest.raises(InputError, match=r"in_chans|num_classes") as refused:
        SearchSpace.for_images(32, in_chans, num_classes, "10MFLOPs")
    assert "\n" not in str(refused.value)
