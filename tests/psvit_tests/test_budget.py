"""Budgets as engineers write them, and limits that are inclusive."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psvit.budget import Budget, Limit, format_cost
from psvit.costs import Cost
from psvit.errors import InputError


@pytest.mark.parametrize(
    ("text", "metric", "lower", "upper"),
    [
        ("2GFLOPs", "macs", None, 2_000_000_000),
        ("2GMACs", "macs", None, 2_000_000_000),
        ("2gflops", "macs", None, 2_000_000_000),
        ("2GfLoPS", "macs", None, 2_000_000_000),
        ("  2GFLOPs\n", "macs", None, 2_000_000_000),
        ("500MMACs", "macs", None, 500_000_000),
        ("12kFLOPs", "macs", None, 12_000),
        ("0.5TFLOPs", "macs", None, 500_000_000_000),
        ("12345FLOPs", "macs", None, 12_345),
        ("22Mparams", "num_params", None, 22_000_000),
        ("22MPARAMS", "num_params", None, 22_000_000),
        ("5717416params", "num_params", None, 5_717_416),
        ("1.2..1.4GFLOPs", "macs", 1_200_000_000, 1_400_000_000),
        ("0..2GFLOPs", "macs", 0, 2_000_000_000),
        ("3..3Mparams", "num_params", 3_000_000, 3_000_000),
        # In binary floating point 1.005 * 1000 is less than 1005.
        ("1.005..1.005kparams", "num_params", 1005, 1005),
        # Limits are whole numbers, rounded to the inside of what was asked.
        ("1.2345..5.6789kFLOPs", "macs", 1235, 5678),
    ],
)
def test_parse(text, metric, lower, upper):
    assert Budget.parse(text) == Budget(limits=(Limit(metric=metric, lower=lower, upper=upper),))


def test_several_limits_keep_their_order():
    budget = Budget.parse("22Mparams", "2GFLOPs")
    assert [limit.metric for limit in budget.limits] == ["num_params", "macs"]
    assert budget.limit("macs").upper == 2_000_000_000
    assert budget.limit("num_params").upper == 22_000_000
    assert Budget.parse("2GFLOPs").limit("num_params") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2",
        "GFLOPs",
        "2GB",
        "2 G FLOPs",
        "-1GFLOPs",
        "+1GFLOPs",
        "1e9FLOPs",
        "2.GFLOPs",
        ".5GFLOPs",
        "2,5GFLOPs",
        "1..GFLOPs",
        "..2GFLOPs",
        "1...2GFLOPs",
        "1GFLOPs..2GFLOPs",
        "1..2..3GFLOPs",
        "2GFLOPs/s",
        "2PFLOPs",
        "nanGFLOPs",
        "infGFLOPs",
        "2GFLOPs 22Mparams",
        # Ignoring case, Unicode's long s counts as an s.
        "2GFLOP\N{LATIN SMALL LETTER LONG S}",
    ],
)
def test_nonsense_is_answered_with_the_permitted_forms(text):
    with pytest.raises(InputError) as error:
        Budget.parse(text)
    assert repr(text) in str(error.value)
    for example in ("2GFLOPs", "2GMACs", "22Mparams", "1.2..1.4GFLOPs"):
        assert example in str(error.value)


@pytest.mark.parametrize("text", ["0GFLOPs", "0params", "0.0..0.0GFLOPs", "0.9FLOPs"])
def test_a_limit_of_nothing_is_refused(text):
    with pytest.raises(InputError, match=f"^budget '{text}': must be positive$"):
        Budget.parse(text)


# Between 1.1 and 1.9 there is no whole number of parameters.
@pytest.mark.parametrize("text", ["2..1GFLOPs", "1.0001..1Mparams", "1.1..1.9params"])
def test_a_range_must_ascend(text):
    with pytest.raises(InputError, match="the lower end must not exceed the upper"):
        Budget.parse(text)


@pytest.mark.parametrize("texts", [("2GFLOPs", "3GMACs"), ("2GFLOPs", "22Mparams", "1..2GFLOPs")])
def test_one_cost_is_limited_once(texts):
    with pytest.raises(InputError, match="macs may be limited once") as error:
        Budget.parse(*texts)
    assert f"{texts[0]}, {texts[-1]}" in str(error.value)


@pytest.mark.parametrize(
    ("macs", "within"),
    [(0, False), (999, False), (1000, True), (1001, True), (1999, True), (2000, True), (2001, False)],
)
def test_limits_are_inclusive(macs, within):
    budget = Budget.parse("1..2kFLOPs")
    cost = Cost(macs=macs, num_params=10**9)
    assert budget.satisfied_by(cost) is within
    assert len(budget.violations(cost)) == (not within)


@settings(deadline=None)
@given(st.integers(1, 10**15), st.integers(1, 10**15), st.integers(0, 10**15), st.integers(0, 10**15))
def test_satisfied_means_that_every_limit_holds(macs_limit, params_limit, macs, num_params):
    budget = Budget.parse(f"{macs_limit}FLOPs", f"{params_limit}params")
    cost = Cost(macs=macs, num_params=num_params)
    assert budget.satisfied_by(cost) == (macs <= macs_limit and num_params <= params_limit)
    assert len(budget.violations(cost)) == (macs > macs_limit) + (num_params > params_limit)


def test_violations_say_what_was_found_and_what_is_permitted():
    budget = Budget.parse("1..2GFLOPs", "22Mparams")
    assert budget.violations(Cost(macs=2_500_000_000, num_params=5_717_416)) == [
        "2.5 GFLOPs is not 1 GFLOPs to 2 GFLOPs"
    ]
    assert budget.violations(Cost(macs=500_000_000, num_params=23_000_000)) == [
        "500 MFLOPs is not 1 GFLOPs to 2 GFLOPs",
        "23 Mparams is not at most 22 Mparams",
    ]


def test_an_empty_budget_always_holds():
    assert Budget.parse() == Budget()
    assert Budget().satisfied_by(Cost(macs=10**18, num_params=10**18))


def test_a_budget_is_spent_from_a_fraction_of_its_upper_end():
    assert Budget.parse("2GFLOPs", "22Mparams").spent(0.9) == Budget.parse("1.8..2GFLOPs", "22Mparams")


@pytest.mark.parametrize("text", ["1..2GFLOPs", "0..2GFLOPs"])
def test_a_range_that_was_given_stays(text):
    assert Budget.parse(text).spent(0.9) == Budget.parse(text)


def test_an_empty_budget_stays_empty():
    assert Budget().spent(0.9) == Budget()


@settings(deadline=None)
@given(st.integers(1, 10**12), st.floats(0, 1))
def test_a_spent_budget_contains_its_upper_end_and_nothing_beyond(upper, fraction):
    (limit,) = Budget.parse(f"{upper}FLOPs").spent(fraction).limits
    assert limit.upper == upper
    # The lower end is the first whole number that is not less than the fraction.
    assert limit.lower - 1 < fraction * upper <= limit.lower <= upper


@pytest.mark.parametrize(
    ("texts", "shown"),
    [
        ((), "no limit"),
        (("2GFLOPs",), "at most 2 GFLOPs"),
        (("1.2..1.4GMACs",), "1.2 GFLOPs to 1.4 GFLOPs"),
        (("0..2GFLOPs", "22Mparams"), "0 kFLOPs to 2 GFLOPs and at most 22 Mparams"),
    ],
)
def test_str(texts, shown):
    assert str(Budget.parse(*texts)) == shown


@pytest.mark.parametrize(
    ("metric", "value", "shown"),
    [
        ("macs", 1_258_240_000, "1.258 GFLOPs"),
        ("macs", 1_000_000_000, "1 GFLOPs"),
        ("macs", 999_000_000, "999 MFLOPs"),
        ("macs", 362_720, "362.7 kFLOPs"),
        ("macs", 12, "0.012 kFLOPs"),
        ("num_params", 5_717_416, "5.717 Mparams"),
        ("num_params", 63_562, "63.56 kparams"),
    ],
)
def test_costs_are_shown_with_four_digits(metric, value, shown):
    assert format_cost(metric, value) == shown
