"""Networks after DeiT, PiT and HVT as members of a space."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psvit.arch.architecture import Stage
from psvit.arch.costs import cost
from psvit.space.budget import SPENT, Budget
from psvit.space.references import references
from psvit.space.search_space import SearchSpace, shipped_spaces

# By family: variant, pooling, layers and relative widths of the stages in its paper.
PAPERS = {
    "DeiT-like": ("1d", None, (12,), (1,)),
    "PiT-like": ("2d", "conv", (2, 6, 4), (1, 2, 4)),
    "HVT-like": ("1d", "max", (1, 6, 5), (1, 1, 1)),
}


def spent(*texts):
    return Budget.parse(*texts).spent(SPENT)


def check(space, limits):
    """Make sure that all references are what their names say; returns them."""
    found = references(space, limits)
    stems = {stem for layout in space.layouts for stem in layout.stem}
    for reference in found:
        arch = reference.arch
        assert space.contains(arch)
        assert limits.satisfied_by(cost(arch))
        family, *told = reference.name.split(", ")
        variant, pool, depths, widths = PAPERS[family]
        assert told == [*([f"{arch.stem} stem"] if len(stems) > 1 else []), f"{arch.depth} layers"]
        assert arch.variant == variant
        assert arch.pools == (pool,) * (len(depths) - 1)
        assert tuple(stage.embed_dim / arch.stages[0].embed_dim for stage in arch.stages) == widths
        assert len({stage.mlp_ratio for stage in arch.stages}) == 1
        for stage, layers in zip(arch.stages, depths, strict=True):
            assert set(stage.groups) == {1}
            share = arch.depth * layers / sum(depths)
            assert share / 2 <= stage.depth <= share * 2 or stage.depth == 1
    assert len({reference.arch for reference in found}) == len({reference.name for reference in found}) == len(found)
    by_kind = {}
    for reference in found:
        by_kind.setdefault((reference.name.split(",")[0], reference.arch.stem), []).append(reference.arch.depth)
    for depths in by_kind.values():
        assert len(depths) <= 2
        assert depths[-1] == depths[0] or depths[-1] >= 1.25 * depths[0]
    assert references(space, limits) == found
    return found


def families(found):
    return {reference.name.split(",")[0] for reference in found}


@settings(max_examples=12)
@given(
    st.integers(8, 320),
    st.floats(0.6, 1.6),
    st.sampled_from([("FLOPs", 12e6, 2e9), ("params", 2e5, 3e8)]),
    st.floats(0, 1),
)
def test_spaces_made_for_images_have_references_of_all_families(side, ratio, limit, share):
    unit, least, most = limit
    image_size = (side, min(max(round(ratio * side), 8), 512))
    budget = f"{round(least ** (1 - share) * most**share)}{unit}"
    assert families(check(SearchSpace.for_images(image_size, 3, 10, budget), spent(budget))) == set(PAPERS)


@pytest.mark.parametrize("budget", ["10MFLOPs", "5..20MFLOPs", "0..8MFLOPs"])
def test_the_space_for_small_images_has_all_families(budget):
    assert families(check(SearchSpace.load("psvit-nano"), spent(budget))) == set(PAPERS)


@pytest.mark.parametrize("name", [name for name in shipped_spaces() if "2d" in name])
def test_a_space_of_2d_networks_has_no_other_families(name):
    space = SearchSpace.load(name)
    low, high = space.reach("macs")
    assert families(check(space, spent(f"{round((low * high) ** 0.5)}FLOPs"))) <= {"PiT-like"}
    assert references(SearchSpace.load("psvit-2d-digits"), spent("1MFLOPs")) == ()


def test_limits_on_memory_are_kept_and_no_limits_are_none():
    space = SearchSpace.load("psvit-nano")
    check(space, Budget())
    check(space, spent("1.5Mparams"))
    all_of_them = check(space, spent("10MFLOPs"))
    least = min(cost(reference.arch).activation_bytes for reference in all_of_them)
    limited = check(space, spent("10MFLOPs", f"{least}B"))
    assert 0 < len(limited) < len(all_of_them)
    assert references(space, Budget.parse("1FLOPs")) == ()


def test_deit_itself_is_found_where_it_is_the_budget():
    space = SearchSpace.load("psvit-1d-small")
    found = references(space, spent("4.6GFLOPs"))
    deit = [reference.arch for reference in found if reference.arch.depth == 12]
    assert [(stage.embed_dim, stage.depth, stage.mlp_ratio) for stage in deit[0].stages] == [(384, 12, 4.0)]


@pytest.mark.parametrize("budget", ["8MFLOPs", "16MFLOPs", "0..30MFLOPs", "150kparams"])
def test_the_two_are_those_that_depart_least(budget):
    """All DeiT-like members of a space, made and compared one by one."""
    space, limits = SearchSpace.load("psvit-1d-nano"), spent(budget)
    layout = space.layouts[0]
    (choices,) = layout.stages
    made = [
        space.network(layout, stages=(Stage(embed_dim=width, groups=(1,) * depth, mlp_ratio=ratio),), pools=())
        for width, depth, ratio in itertools.product(choices.embed_dim, choices.depth, choices.mlp_ratio)
    ]
    made = [arch for arch in made if limits.satisfied_by(cost(arch))]
    price = {arch: getattr(cost(arch), limits.limits[0].metric) for arch in made}
    depths = [arch.depth for arch in made]

    def departure(arch, depth):
        of_layers, of_mlps = abs(math.log(arch.depth / depth)), abs(math.log(arch.stages[0].mlp_ratio / 4))
        return of_layers + of_mlps + math.log(max(price.values()) / price[arch])

    expected = []
    for share in (1 / 3, 2 / 3):
        wanted = min(depths) ** (1 - share) * max(depths) ** share
        expected.append(min(made, key=lambda arch: departure(arch, wanted)))
    if expected[1].depth < 1.25 * expected[0].depth:
        expected = [min(expected, key=lambda arch: departure(arch, arch.depth))]
    found = [one.arch for one in references(space, limits) if one.name.startswith("DeiT")]
    assert found == expected
