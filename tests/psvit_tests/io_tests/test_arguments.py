"""Arguments of functions: NumPy's numbers are numbers, and what is of another type is named."""

from __future__ import annotations

import numpy as np
import pytest

from psvit.errors import InputError
from psvit.io.arguments import positive, several, whole


@pytest.mark.parametrize("value", [4, np.int64(4), np.uint8(4)])
def test_a_whole_number_becomes_pythons(value):
    assert type(whole("trials", value)) is int
    assert whole("trials", value) == 4


@pytest.mark.parametrize("value", [4.0, "4", None, [4], np.float64(4)])
def test_what_is_no_whole_number_is_named(value):
    with pytest.raises(InputError, match="trials must be a whole number, received"):
        whole("trials", value)


def test_a_number_that_is_too_small_is_named():
    assert whole("trials", 1, 1) == 1
    with pytest.raises(InputError, match="trials must be at least 1, received 0"):
        whole("trials", 0, 1)


@pytest.mark.parametrize("value", [0.5, 3, np.float32(0.5)])
def test_seconds_are_more_than_nothing(value):
    assert positive("seconds", value) == value


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), "2h", "3", None, [3]])
def test_what_is_not_more_than_nothing_is_named(value):
    with pytest.raises(InputError, match="seconds must be a number of more than 0, received"):
        positive("seconds", value)


def test_one_value_is_several():
    assert several("budget", "2GFLOPs", (str,), "a text") == ("2GFLOPs",)
    assert several("budget", iter(["2GFLOPs", "5MB"]), (str,), "a text") == ("2GFLOPs", "5MB")


@pytest.mark.parametrize("value", [5, None, ["2GFLOPs", 5], b"2GFLOPs", str])
def test_what_is_of_no_permitted_type_is_named(value):
    with pytest.raises(InputError, match="budget: must be a text, or several of these; received"):
        several("budget", value, (str,), "a text")
