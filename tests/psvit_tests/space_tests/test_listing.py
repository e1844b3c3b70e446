"""Spaces that would fill the memory are refused before anything is listed, and the others are counted."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest

from psvit.errors import InputError
from psvit.space import listing
from psvit.space.budget import Budget
from psvit.space.feasible import _parts
from psvit.space.listing import MOST_BYTES, halves_of
from psvit.space.pricing import stage_tables
from psvit.space.search_space import SearchSpace, shipped_spaces

TWO = Budget.parse("1..2GFLOPs", "5..20Mparams")


def space_of(widths, depths, ratios, stages=4, max_group=4):
    """A space of four stages with so many choices at each."""
    return SearchSpace.from_dict(
        {
            **{"name": "many", "variant": "2d", "image_size": [224, 224], "in_chans": 3, "num_classes": 1000},
            **{"patch_size": 8, "patch_stride": 8, "head_dim": 16},
            "layouts": [
                {
                    "stages": [
                        {
                            "begin": depths * place,
                            "embed_dim": [64 * (place + 1) + 16 * i for i in range(widths)],
                            "depth": list(range(1, depths + 1)),
                            "max_group": min(max_group, depths),
                            "mlp_ratio": [1 + 0.125 * i for i in range(ratios)],
                        }
                        for place in range(stages)
                    ],
                    "pools": [["max", "avg", "conv"]] * (stages - 1),
                }
            ],
        }
    )


@pytest.mark.parametrize("name", shipped_spaces())
def test_how_many_halves_there_are_is_known_before(name):
    space = SearchSpace.load(name)
    for number, layout in enumerate(space.layouts):
        parts = [part for part in _parts(space) if part.layout == number]
        first, second = (
            sum(len(half.cost) for half in halves) for halves in zip(*[part[1:] for part in parts], strict=True)
        )
        if len(layout.stages) == 1:  # one for each width
            second = 1
        assert halves_of(layout)[1:] == (first, second)


@pytest.mark.parametrize("name", shipped_spaces())
def test_shipped_spaces_are_far_from_the_limit(name, monkeypatch):
    monkeypatch.setattr(listing, "MOST_BYTES", MOST_BYTES // 4)
    listing.check_countable.__wrapped__(SearchSpace.load(name), sorts_params=True)


def test_counting_takes_no_more_memory_than_was_estimated():
    space = space_of(3, 4, 2)
    (layout,) = space.layouts
    halves = halves_of(layout)
    all_levels = (halves.second - 1).bit_length() + 1
    for limits, levels in [(("0.3..2GFLOPs", "1..20Mparams"), all_levels), (("0.3..2GFLOPs",), 1)]:
        budget = Budget.parse(*limits)
        stage_tables(space)
        _parts.cache_clear()
        tracemalloc.start()
        assert space.count(budget)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        estimate = listing._HALF_BYTES * (halves.first + halves.second) + listing._LEVEL_BYTES * levels * halves.second
        assert estimate / 8 < peak < estimate + 50e6  # parts that no budget reaches are not sorted


@pytest.mark.parametrize(
    ("space", "budget", "expected"),
    [
        (
            space_of(6, 6, 4),
            TWO,
            (
                "stages 1 to 2 can be chosen in 606,480 ways and stages 3 to 4 in 10,604,736",
                "for stages 3 to 4",
                "or limit",
            ),
        ),
        (
            space_of(16, 8, 8),
            Budget.parse("1..2GFLOPs"),
            ("too many choices to count", "at most 3.0 GiB are permitted"),
        ),
        (
            space_of(256, 12, 256, stages=2, max_group=12),
            TWO,
            ("stage 2, with 256 embed_dim, 256 mlp_ratio", "name fewer"),
        ),
        (space_of(1, 40, 1, stages=1, max_group=40), TWO, ("stage 1, with 1 embed_dim", "a smaller max_group")),
    ],
)
def test_what_would_fill_the_memory_is_refused_at_once(space, budget, expected):
    tracemalloc.start()
    began = time.perf_counter()
    for ask in (
        lambda: space.count(budget),
        lambda: space.check(budget),
        lambda: space.sample(np.random.default_rng(0), 1, budget),
        lambda: space.nearest(budget),
    ):
        with pytest.raises(InputError) as refused:
            ask()
        assert all(part in str(refused.value) for part in (f"space {space.name}: ", *expected))
    assert time.perf_counter() - began < 5
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


def test_the_limit_is_inclusive(monkeypatch):
    space = space_of(2, 2, 2)
    (layout,) = space.layouts
    halves = halves_of(layout)
    needed = listing._HALF_BYTES * (halves.first + halves.second) + listing._LEVEL_BYTES * halves.second
    for limit in (needed, needed - 1):
        monkeypatch.setattr(listing, "MOST_BYTES", limit)
        listing.check_countable.cache_clear()
        if limit == needed:
            assert space.count(Budget.parse("1..2GFLOPs")) >= 0
            continue
        with pytest.raises(InputError, match="too many choices to count"):
            space.check(Budget.parse("1..2GFLOPs"))
    listing.check_countable.cache_clear()


def test_a_tree_that_is_made_in_part_counts_the_same():
    space = space_of(2, 3, 2)
    whole = space.count(Budget.parse("1..2GFLOPs", "0..1000Mparams"))
    assert whole == space.count(Budget.parse("1..2GFLOPs"))
