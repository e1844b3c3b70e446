"""The convolutional stem in numbers."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psvit.arch.stem import convolutions, patch_sizes, strides

POSSIBLE = sorted({math.prod(factors) for number in range(6) for factors in itertools.product((2, 3), repeat=number)})


@pytest.mark.parametrize("patch_size", POSSIBLE)
def test_strides_multiply_to_the_patch_size(patch_size):
    found = strides(patch_size)
    assert math.prod(found) == patch_size
    assert 2 <= len(found) <= 5
    # Padding would leave a pixel unseen with larger ones.
    assert max(found) <= 3


def test_all_patch_sizes_are_listed():
    assert list(patch_sizes()) == POSSIBLE


@given(st.integers(1, 300).filter(lambda size: size not in POSSIBLE))
def test_other_patch_sizes_are_refused(patch_size):
    with pytest.raises(ValueError, match="product of at most 5 factors 2 and 3"):
        strides(patch_size)


@given(st.integers(1, 4), st.integers(1, 700), st.sampled_from(POSSIBLE))
def test_widths_double_up_to_the_tokens(in_chans, embed_dim, patch_size):
    planned = convolutions(in_chans, embed_dim, patch_size)
    assert planned[0].in_chans == in_chans
    assert planned[-1].out_chans == embed_dim
    assert planned[-1].reduction == patch_size
    for before, after in itertools.pairwise(planned):
        assert after.in_chans == before.out_chans >= 1
        assert before.out_chans - after.out_chans / 2 in (0, 0.5)
        assert after.reduction == before.reduction * after.stride
