"""Which architectures a training step draws, against distributions that are counted or computed here."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest
from scipy.stats import chisquare

from psvit.space.search_space import SearchSpace
from psvit.supernet.sampling import draw

DRAWS = 4000
UNLIKELY = 1e-4
"""Seeds are fixed, so a test below does not fail by chance; the level says how unlucky the seed would have to be."""


@cache
def drawn(space, seed=0):
    return [draw(space, seed, step) for step in range(DRAWS)]


def assert_uniform(values, choices):
    counts = Counter(values)
    assert set(counts) == set(choices)
    if len(choices) > 1:
        assert chisquare([counts[choice] for choice in choices]).pvalue > UNLIKELY


def groupings(depth, largest):
    """All ways to write a depth as an ordered sum of groups, listed by recursion."""
    if depth == 0:
        return [()]
    return [(first, *rest) for first in range(1, min(depth, largest) + 1) for rest in groupings(depth - first, largest)]


def test_seed_and_step_decide(space):
    assert [draw(space, 3, step) for step in range(20)] == [draw(space, 3, step) for step in range(20)]
    # Whatever was drawn before: a continued run begins in the middle.
    assert draw(space, 0, 1234) == drawn(space)[1234]


def test_steps_and_seeds_differ(space):
    archs = [draw(space, seed, step) for seed in range(20) for step in range(20)]
    # 400 draws from thousands of members repeat a few of them, but no row or column repeats another.
    assert len(set(archs)) > 200
    assert len({tuple(archs[row : row + 20]) for row in range(0, 400, 20)}) == 20
    assert len({tuple(archs[column::20]) for column in range(20)}) == 20


def test_only_members_are_drawn(space):
    assert all(space.contains(arch) for arch in drawn(space)[:500])


@pytest.mark.parametrize("name", ["psvit-1d-tiny", "psvit-2d-base"])
def test_only_members_of_shipped_spaces_are_drawn(name):
    space = SearchSpace.load(name)
    assert all(space.contains(draw(space, 0, step)) for step in range(200))


def test_layouts_are_drawn_uniformly(space):
    assert_uniform([len(arch.stages) for arch in drawn(space)], [2, 3])


def test_each_choice_is_drawn_uniformly(space):
    for layout in space.layouts:
        archs = [arch for arch in drawn(space) if len(arch.stages) == len(layout.stages)]
        for position, choices in enumerate(layout.stages):
            stages = [arch.stages[position] for arch in archs]
            assert_uniform([stage.depth for stage in stages], choices.depth)
            assert_uniform([stage.mlp_ratio for stage in stages], choices.mlp_ratio)
            if position:
                assert_uniform([arch.pools[position - 1] for arch in archs], layout.pools[position - 1])


def test_groupings_are_drawn_uniformly_given_the_depth(space):
    for layout in space.layouts:
        archs = [arch for arch in drawn(space) if len(arch.stages) == len(layout.stages)]
        for position, choices in enumerate(layout.stages):
            for depth in choices.depth:
                found = [arch.stages[position].groups for arch in archs if arch.stages[position].depth == depth]
                assert_uniform(found, groupings(depth, choices.max_group))


def test_widths_are_drawn_uniformly_from_those_that_do_not_shrink(space):
    for layout in space.layouts:
        archs = [arch for arch in drawn(space) if len(arch.stages) == len(layout.stages)]
        for position, choices in enumerate(layout.stages):
            for before in layout.stages[position - 1].embed_dim if position else (0,):
                found = [
                    arch.stages[position].embed_dim
                    for arch in archs
                    if not position or arch.stages[position - 1].embed_dim == before
                ]
                assert_uniform(found, [width for width in choices.embed_dim if width >= before])


def test_choices_are_drawn_independently(space_2d):
    archs = [arch for arch in drawn(space_2d) if len(arch.stages) == 2]
    pairs = [(arch.stages[0].depth, arch.stages[1].depth, arch.pools[0]) for arch in archs]
    assert_uniform(pairs, [(a, b, pool) for a in (1, 2, 3) for b in (1, 2, 3) for pool in ("max", "avg", "conv")])


def test_shallow_stages_are_drawn_more_often_than_among_all_architectures():
    space = SearchSpace.load("psvit-2d-digits")
    drawn_depths = Counter(arch.stages[0].depth for arch in drawn(space))
    members = Counter(space[number].stages[0].depth for number in range(space.size))
    expected = [DRAWS * members[depth] / space.size for depth in (1, 2, 3)]
    assert chisquare([drawn_depths[depth] for depth in (1, 2, 3)], expected).pvalue < 1e-12
    assert drawn_depths[1] > 1.5 * expected[0]
