"""What a budget leaves of a space, against the enumeration: counted, numbered and drawn exactly."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from psvit.arch.costs import METRICS, cost
from psvit.errors import InputError
from psvit.space.budget import Budget
from psvit.space.feasible import feasible_set
from psvit.space.search_space import Layout, SearchSpace, StageChoices, shipped_spaces


@pytest.fixture(scope="module")
def priced(small_space, brute_force):
    """All members of the small space with their costs, by an enumeration that knows nothing of budgets."""
    return [(arch, cost(arch)) for arch in brute_force(small_space)]


def within(priced, macs=(0, 10**18), num_params=(0, 10**18), activation_bytes=10**18):
    return [
        arch
        for arch, value in priced
        if macs[0] <= value.macs <= macs[1]
        and num_params[0] <= value.num_params <= num_params[1]
        and value.activation_bytes <= activation_bytes
    ]


def budget_of(macs=None, num_params=None, activation_bytes=None) -> Budget:
    texts = []
    for window, unit in ((macs, "FLOPs"), (num_params, "params")):
        if window:
            texts.append(f"{window[0]}..{window[1]}{unit}")
    return Budget.parse(*texts, *([f"{activation_bytes}B"] if activation_bytes else []))


def windows(values, rng, n):
    """Windows between actual values and beside them, from single values to everything."""
    ends = np.sort(rng.choice(values, size=(n, 2)), axis=1) + rng.integers(-1, 2, size=(n, 2))
    return [(max(0, int(low)), max(1, int(low), int(high))) for low, high in ends]


# Each shipped space: small counts and the largest there are. The second largest takes a quarter of the time of all.
LARGE = ("-small", "-base")
EVERY = [pytest.param(name, marks=[pytest.mark.slow] if name.endswith(LARGE) else []) for name in shipped_spaces()]


# --- counting


def test_without_limits_everything_counts(small_space):
    assert small_space.count(Budget()) == small_space.size


@pytest.mark.parametrize("name", EVERY)
def test_without_limits_all_of_a_shipped_space_counts(name):
    space = SearchSpace.load(name)
    assert space.count(Budget()) == space.size
    # Limits that everything meets, by the general way of counting and by the shortcut for MACs alone.
    high, most = space.reach("macs")[1], space.reach("num_params")[1]
    assert space.count(Budget.parse(f"{high}FLOPs")) == space.size
    assert space.count(Budget.parse(f"{high}FLOPs", f"1..{most}params")) == space.size


def test_counts_within_a_window_of_macs(small_space, priced):
    rng = np.random.default_rng(0)
    for window in windows([value.macs for _, value in priced], rng, 60):
        assert small_space.count(budget_of(macs=window)) == len(within(priced, macs=window))


def test_counts_within_a_window_of_parameters(small_space, priced):
    rng = np.random.default_rng(1)
    for window in windows([value.num_params for _, value in priced], rng, 60):
        assert small_space.count(budget_of(num_params=window)) == len(within(priced, num_params=window))


def test_counts_within_both_windows(small_space, priced):
    rng = np.random.default_rng(2)
    pairs = zip(
        windows([value.macs for _, value in priced], rng, 120),
        windows([value.num_params for _, value in priced], rng, 120),
        strict=True,
    )
    counted = []
    for macs, num_params in pairs:
        counted.append(small_space.count(budget_of(macs, num_params)))
        assert counted[-1] == len(within(priced, macs, num_params))
    # The windows must have been neither all empty nor all alike for this to mean anything.
    assert 0 in counted
    assert len(set(counted)) > 20


def test_counts_within_a_limit_on_memory(small_space, priced):
    values = sorted({value.activation_bytes for _, value in priced})
    for end in [value + step for value in values for step in (-1, 0, 1)]:
        assert small_space.count(budget_of(activation_bytes=end)) == len(within(priced, activation_bytes=end))


def test_counts_within_limits_on_every_cost(small_space, priced):
    rng = np.random.default_rng(3)
    memory = [value.activation_bytes for _, value in priced]
    windowed = zip(
        windows([value.macs for _, value in priced], rng, 120),
        windows([value.num_params for _, value in priced], rng, 120),
        rng.choice(memory, size=120).tolist(),
        strict=True,
    )
    counted = []
    for ends in windowed:
        counted.append(small_space.count(budget_of(*ends)))
        assert counted[-1] == len(within(priced, *ends))
    assert 0 in counted
    assert len(set(counted)) > 20


@settings(max_examples=40)
@given(st.data())
def test_counts_in_generated_spaces(generated_spaces, brute_force, data):
    space = data.draw(generated_spaces)
    assume(space.size <= 600)
    priced = [(arch, cost(arch)) for arch in brute_force(space)]
    ends = {}
    for metric in ("macs", "num_params"):
        values = sorted({getattr(value, metric) for _, value in priced})
        low, high = sorted(data.draw(st.tuples(st.sampled_from(values), st.sampled_from(values))))
        if data.draw(st.booleans()):
            ends[metric] = (low, high)
    if data.draw(st.booleans()):
        ends["activation_bytes"] = data.draw(st.sampled_from(sorted({value.activation_bytes for _, value in priced})))
    expected = within(priced, **ends)
    budget = budget_of(**ends)
    found = feasible_set(space, budget)
    assert found.count == space.count(budget) == len(expected)
    assert set(found.take(np.arange(found.count))) == set(expected)


@pytest.mark.parametrize("metric", ["macs", "num_params"])
def test_limits_are_inclusive(small_space, priced, metric):
    values = [getattr(value, metric) for _, value in priced]
    unit = {"macs": "FLOPs", "num_params": "params"}[metric]
    actual = sorted(set(values))
    # Just below, at and just above costs that members have.
    for end in [value + step for value in actual[1 : -1 : len(actual) // 5] for step in (-1, 0, 1)]:
        up_to = sum(value <= end for value in values)
        from_there = sum(value >= end for value in values)
        assert small_space.count(Budget.parse(f"{end}{unit}")) == up_to
        assert small_space.count(Budget.parse(f"{end}..{actual[-1]}{unit}")) == from_there
        exactly = Budget.parse(f"{end}..{end}{unit}")
        assert small_space.count(exactly) == up_to + from_there - len(values)


@pytest.mark.parametrize(
    "texts", [["100000000TFLOPs"], ["0..100000000TFLOPs"], ["9223372036854775808FLOPs", "9223372036854775808params"]]
)
def test_limits_beyond_64_bits_leave_everything(small_space, texts):
    assert small_space.count(Budget.parse(*texts)) == small_space.size


@pytest.mark.parametrize("text", ["100000000..200000000TFLOPs", "1FLOPs"])
def test_a_budget_that_nothing_meets_counts_nothing(small_space, text):
    budget = Budget.parse(text)
    assert small_space.count(budget) == 0
    with pytest.raises(InputError) as error:
        small_space.sample(np.random.default_rng(0), 1, budget)
    low, high = small_space.reach("macs")
    assert f"the space reaches {low / 1000:.4g} kFLOPs to {high / 1000:.4g} kFLOPs" in str(error.value)
    assert "\n" not in str(error.value)


def test_limits_that_exclude_each_other_count_nothing(small_space, priced):
    # Each limit alone can be met, both together cannot: the fewest MACs and the most parameters.
    macs = min(value.macs for _, value in priced)
    num_params = max(value.num_params for _, value in priced)
    budget = Budget.parse(f"{macs}FLOPs", f"{num_params}..{num_params}params")
    assert all(small_space.count(Budget(limits=(limit,))) > 0 for limit in budget.limits)
    assert small_space.count(budget) == 0
    with pytest.raises(InputError, match=r"FLOPs, .*params \(each alone\), and the nearest costs .*FLOPs, .*params$"):
        small_space.sample(np.random.default_rng(0), 1, budget)


# --- numbering


@pytest.mark.parametrize("kind", ["no limit", "macs", "num_params", "activation_bytes", "all"])
def test_numbers_enumerate_each_feasible_member_once(small_space, priced, kind):
    limits = {
        "macs": tuple(int(value) for value in np.quantile([value.macs for _, value in priced], [0.2, 0.8])),
        "num_params": tuple(int(value) for value in np.quantile([value.num_params for _, value in priced], [0.3, 0.9])),
        "activation_bytes": int(np.quantile([value.activation_bytes for _, value in priced], 0.7)),
    }
    ends = {name: window for name, window in limits.items() if kind in (name, "all")}
    expected = within(priced, **ends)
    found = feasible_set(small_space, budget_of(**ends))
    members = list(found.take(np.arange(found.count)))
    assert len(expected) > 50
    assert len(members) == len(expected)
    assert set(members) == set(expected)


@pytest.mark.parametrize("stages", [1, 2, 3, 4, 5])
def test_groupings_of_different_stages_are_chosen_independently(brute_force, stages):
    # Two layers may form groups of 1 and 2 or of 2 and 1 in every stage, at one and the same cost.
    choices = [
        StageChoices(begin=3 * position, embed_dim=(2, 4), depth=(3,), max_group=2, mlp_ratio=(1,))
        for position in range(stages)
    ]
    space = SearchSpace(
        name="groupings",
        image_size=(8, 8),
        in_chans=1,
        num_classes=2,
        patch_size=1,
        patch_stride=1,
        layouts=(Layout(variant="1d", head_dim=2, stages=tuple(choices), pools=(("max",),) * (stages - 1)),),
    )
    found = feasible_set(space, Budget())
    assert found.count == (stages + 1) * 3**stages
    assert set(found.take(np.arange(found.count))) == set(brute_force(space))


def test_a_budget_that_a_handful_meet(small_space, priced):
    # Every cost that few have, one budget each.
    frequency = Counter((value.macs, value.num_params, value.activation_bytes) for _, value in priced)
    rare = [ends for ends, number in frequency.items() if number <= 3]
    assert len(rare) > 10
    for macs, num_params, memory in rare[:40]:
        ends = ((macs, macs), (num_params, num_params), memory)
        found = feasible_set(small_space, budget_of(*ends))
        expected = within(priced, *ends)
        assert found.count == len(expected)
        assert set(found.take(np.arange(found.count))) == set(expected)
        assert {small_space.decode(row) for row in found.sample(np.random.default_rng(0), 50).rows} == set(expected)


def test_numbers_may_come_in_any_order(small_space):
    found = feasible_set(small_space, Budget())
    order = np.random.default_rng(0).permutation(found.count)
    batch, ordered = found.take(order), found.take(np.arange(found.count))
    assert list(batch) == [ordered[int(number)] for number in order]


@pytest.mark.parametrize("name", EVERY)
def test_the_ends_of_the_numbering_of_a_shipped_space(name):
    space = SearchSpace.load(name)
    low, high = space.reach("macs")
    upper = (low + high) // 2
    budget = Budget.parse(f"{low}..{upper}FLOPs", f"{space.reach('num_params')[1]}params")
    found = feasible_set(space, budget)
    assert 0 < found.count < space.size
    # The last numbers are where an off-by-one or an overflow of large counts would show.
    for arch in found.take(np.array([0, 1, found.count // 2, found.count - 2, found.count - 1])):
        assert space.contains(arch)
        assert budget.satisfied_by(cost(arch))


# --- drawing


def test_batches_carry_the_costs_of_their_members(small_space, priced):
    macs = tuple(int(value) for value in np.quantile([value.macs for _, value in priced], [0.2, 0.8]))
    batch = small_space.sample(np.random.default_rng(0), 100, budget_of(macs))
    assert len(batch) == len(batch.macs) == len(batch.num_params) == len(batch.activation_bytes) == 100
    for arch, *costs in zip(batch, batch.macs, batch.num_params, batch.activation_bytes, strict=True):
        assert costs == [getattr(cost(arch), metric) for metric in METRICS]


def test_rows_of_a_batch_are_encoded_members(small_space):
    batch = small_space.sample(np.random.default_rng(0), 50)
    assert np.array_equal(batch.rows, np.stack([small_space.encode(arch) for arch in batch]))


def test_an_empty_batch(small_space):
    batch = small_space.sample(np.random.default_rng(0), 0)
    assert len(batch) == 0
    assert list(batch) == []


@pytest.mark.parametrize("kind", ["no limit", "macs", "activation_bytes", "all"])
def test_samples_are_uniform(small_space, priced, kind):
    limits = {
        "macs": tuple(int(value) for value in np.quantile([value.macs for _, value in priced], [0.2, 0.9])),
        "num_params": tuple(int(value) for value in np.quantile([value.num_params for _, value in priced], [0.1, 0.8])),
        "activation_bytes": int(np.quantile([value.activation_bytes for _, value in priced], 0.7)),
    }
    ends = {name: window for name, window in limits.items() if kind in (name, "all")}
    expected = within(priced, **ends)
    n = 100 * len(expected)
    rows, frequency = np.unique(
        small_space.sample(np.random.default_rng(5), n, budget_of(**ends)).rows, axis=0, return_counts=True
    )
    assert {small_space.decode(row) for row in rows} == set(expected)
    # Every member is expected 100 times; with a fixed seed the outcome is fixed too.
    assert chisquare(frequency).pvalue > 0.01


def test_samples_of_a_large_space_are_uniform_over_its_layouts():
    space = SearchSpace.load("psvit-1d-tiny")
    budget = Budget.parse("0.9..1GFLOPs")
    # Each layout's share, counted in a space that has only this layout.
    common = {name: getattr(space, name) for name in SearchSpace.model_fields}
    alone = [SearchSpace(**{**common, "layouts": (layout,)}) for layout in space.layouts]
    expected = np.array([part.count(budget) for part in alone])
    assert expected.sum() == space.count(budget)
    n = 20_000
    stages = [len(layout.stages) for layout in space.layouts]
    drawn = space.sample(np.random.default_rng(0), n, budget).rows[:, 0]
    frequency = np.bincount(drawn, minlength=len(stages))
    assert chisquare(frequency, expected / expected.sum() * n).pvalue > 0.01


# --- the nearest to a budget that nothing meets


def least_deviation(priced, budget) -> float:
    return min(float(budget.deviation(value)) for _, value in priced)


@pytest.mark.parametrize(
    "texts",
    [
        ["1FLOPs"],
        ["1params"],
        ["1B"],
        ["1TFLOPs", "1params", "1B"],
        ["1..2TFLOPs"],
        ["100000000..200000000TFLOPs"],
        ["1..2FLOPs", "1..2Gparams"],
    ],
)
def test_the_nearest_to_a_budget_far_from_everything(small_space, priced, texts):
    budget = Budget.parse(*texts)
    assert small_space.count(budget) == 0
    arch = small_space.nearest(budget)
    assert small_space.contains(arch)
    assert float(budget.deviation(cost(arch))) == least_deviation(priced, budget)


def test_the_nearest_to_a_budget_in_a_gap_or_against_itself(small_space, priced):
    rng = np.random.default_rng(4)
    memory = [value.activation_bytes for _, value in priced]
    tried = 0
    while tried < 12:
        (macs,) = windows([value.macs for _, value in priced], rng, 1)
        (num_params,) = windows([value.num_params for _, value in priced], rng, 1)
        budget = budget_of(macs, num_params, int(rng.choice(memory)))
        if small_space.count(budget):
            assert budget.satisfied_by(cost(small_space.nearest(budget)))
        else:
            tried += 1
            nearest = small_space.nearest(budget)
            assert float(budget.deviation(cost(nearest))) == least_deviation(priced, budget)


@settings(max_examples=25)
@given(st.data())
def test_the_nearest_in_generated_spaces(generated_spaces, brute_force, data):
    space = data.draw(generated_spaces)
    assume(space.size <= 600)
    priced = [(arch, cost(arch)) for arch in brute_force(space)]
    texts = []
    for metric, unit in (("macs", "FLOPs"), ("num_params", "params")):
        values = sorted({getattr(value, metric) for _, value in priced})
        end = data.draw(st.sampled_from(values)) + data.draw(st.integers(-1, 1))
        texts.append(f"{end}..{end}{unit}")
    texts.append(f"{data.draw(st.sampled_from([value.activation_bytes for _, value in priced])) - 1}B")
    budget = Budget.parse(*texts)
    assert float(budget.deviation(cost(space.nearest(budget)))) == least_deviation(priced, budget)


def test_the_nearest_is_found_where_more_are_left_than_are_compared(monkeypatch, small_space, priced):
    monkeypatch.setattr("psvit.space.feasible.FEW", 1)
    for texts in (["1FLOPs"], ["1B"], ["1TFLOPs", "1params"], ["1..2FLOPs", "1..2Gparams"]):
        budget = Budget.parse(*texts)
        assert float(budget.deviation(cost(small_space.nearest(budget)))) == least_deviation(priced, budget)


def test_an_impossible_budget_names_what_is_reached_and_the_nearest():
    space = SearchSpace.load("psvit-2d-digits")
    budget = Budget.parse("300kFLOPs", "10kB", "5ms@cpu")
    nearest = cost(space.nearest(budget))
    with pytest.raises(InputError) as error:
        space.check(budget)
    assert str(error.value) == (
        "budget: no architecture of psvit-2d-digits costs at most 300 kFLOPs and at most 10 kB; the space reaches "
        "231.4 kFLOPs to 3.211 MFLOPs, 16.64 kB to 53.5 kB (each alone), and the nearest costs "
        f"{nearest.macs / 1000:.4g} kFLOPs, 16.64 kB"
    )
