"""Encoded architectures are priced like decoded ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psvit.arch.costs import METRICS, cost
from psvit.space import pricing
from psvit.space.search_space import Layout, SearchSpace, StageChoices, shipped_spaces


def assert_priced(space: SearchSpace, rows: np.ndarray) -> None:
    batch = space.price(rows)
    expected = [cost(space.decode(row)) for row in rows]
    for metric in METRICS:
        assert getattr(batch, metric).tolist() == [getattr(value, metric) for value in expected]


def encoded(space: SearchSpace, n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([space.encode(space[int(number)]) for number in rng.integers(space.size, size=n)])


@pytest.mark.parametrize("name", shipped_spaces())
def test_random_members_of_shipped_spaces(name):
    space = SearchSpace.load(name)
    assert_priced(space, encoded(space, 100, seed=0))


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped_spaces())
def test_many_random_members_of_shipped_spaces(name):
    space = SearchSpace.load(name)
    assert_priced(space, encoded(space, 2000, seed=1))


def test_all_members_of_a_small_space(small_space):
    assert_priced(small_space, np.stack([small_space.encode(small_space[n]) for n in range(small_space.size)]))


@settings(max_examples=40)
@given(st.data())
def test_members_of_generated_spaces(generated_spaces, data):
    space = data.draw(generated_spaces)
    numbers = data.draw(st.lists(st.integers(0, space.size - 1), min_size=1, max_size=20))
    assert_priced(space, np.stack([space.encode(space[number]) for number in numbers]))


@pytest.mark.parametrize("max_group", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("stages", [1, 2])
def test_every_grouping_of_six_layers(max_group, stages):
    # Wide heads make for small maps and narrow ones for large, so that every moment of a layer is the peak once.
    for head_dim, mlp_ratio, variant in itertools.product((1, 8), (0.5, 4), ("1d", "2d")):
        choices = tuple(
            StageChoices(
                begin=6 * n,
                embed_dim=(8,),
                depth=(6 if n == 0 else 1,),
                max_group=max_group if n == 0 else 1,
                mlp_ratio=(mlp_ratio,),
            )
            for n in range(stages)
        )
        space = SearchSpace(
            name="groupings",
            image_size=(4, 4),
            in_chans=1,
            num_classes=2,
            patch_size=1,
            patch_stride=1,
            layouts=(Layout(variant=variant, head_dim=head_dim, stages=choices, pools=(("max",),) * (stages - 1)),),
        )
        assert_priced(space, np.stack([space.encode(space[number]) for number in range(space.size)]))


def test_more_rows_than_are_priced_at_once(monkeypatch, small_space):
    rows = encoded(small_space, 100, seed=2)
    monkeypatch.setattr(pricing, "CHUNK", 7)
    assert_priced(small_space, rows)


def test_no_rows(small_space):
    batch = small_space.price(np.zeros((0, len(small_space.genes)), dtype=np.int64))
    assert len(batch) == len(batch.macs) == 0


def test_rows_may_come_in_any_memory_layout(small_space):
    rows = encoded(small_space, 50, seed=3)
    assert np.array_equal(
        small_space.price(np.asfortranarray(rows)[::2]).macs, small_space.price(rows[::2].copy()).macs
    )


def test_a_width_that_shrinks_has_no_price(small_space):
    # The second of the three layouts; widths are the second gene of a stage.
    row = np.zeros((1, len(small_space.genes)), dtype=np.int64)
    row[0, 0], row[0, 2] = 1, 1
    with pytest.raises(ValueError, match="embed_dim never shrinks"):
        small_space.price(row)


@pytest.mark.parametrize("value", [-1, 10**6])
def test_genes_out_of_range_have_no_price(value):
    digits_space = SearchSpace.load("psvit-2d-digits")
    row = digits_space.encode(digits_space[5])
    for gene in range(len(row)):
        wrong = row.copy()
        wrong[gene] = value
        with pytest.raises(ValueError, match="out of its range"):
            digits_space.price(wrong[None])
