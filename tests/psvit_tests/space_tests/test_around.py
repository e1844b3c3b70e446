"""Spaces around a network: exactly its poolings and sharings, with the network as the largest member."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psvit.arch.architecture import Architecture
from psvit.arch.costs import cost
from psvit.errors import InputError
from psvit.space.around import evenly_pooled, shortened
from psvit.space.budget import SPENT, Budget
from psvit.space.search_space import SearchSpace


def network(depths, *, variant="1d", widths=None, pools=None, image_size=(32, 32), stem="patch"):
    """A network without shared maps with these layers in its stages."""
    widths = widths or [32] * len(depths)
    return Architecture.from_dict(
        {
            "variant": variant,
            "image_size": list(image_size),
            "in_chans": 3,
            "num_classes": 10,
            "stem": stem,
            "patch_size": 4,
            "patch_stride": 4,
            "head_dim": 16,
            "stages": [
                {"embed_dim": width, "groups": [1] * depth, "mlp_ratio": 2.0}
                for depth, width in zip(depths, widths, strict=True)
            ],
            "pools": pools or ["conv"] * (len(depths) - 1),
        }
    )


@cache
def groupings(layers):
    """How many ways there are to cut layers into groups of one to four."""
    return 1 if layers == 0 else sum(groupings(layers - first) for first in range(1, min(4, layers) + 1))


def members_around(depths):
    """How many members there are, counted independently: sets of cuts, operators at new cuts, groupings of stages."""
    own = set(itertools.accumulate(depths))
    layers = sum(depths)
    free = [place for place in range(1, layers) if place not in own]
    total = 0
    for number in range(3):
        for cuts in itertools.combinations(free, number):
            ends = sorted({*own, *cuts})
            stages = [end - begin for begin, end in itertools.pairwise([0, *ends])]
            total += 2**number * int(np.prod([groupings(stage) for stage in stages]))
    return total


small = st.lists(st.integers(1, 4), min_size=1, max_size=2)


@settings(max_examples=25)
@given(depths=small, variant=st.sampled_from(["1d", "2d"]), stem=st.sampled_from(["patch", "conv"]))
def test_a_space_holds_the_poolings_and_sharings_of_its_network(depths, variant, stem):
    arch = network(depths, variant=variant, stem=stem, image_size=(64, 64))
    space = SearchSpace.around(arch)
    assert space.size == members_around(depths)
    assert space.largest == arch
    most = cost(arch)
    for number in np.random.default_rng(0).choice(space.size, min(space.size, 20), replace=False):
        member = space[number]
        assert space.index(member) == number
        assert (member.stem, member.head_dim, member.depth) == (arch.stem, arch.head_dim, arch.depth)
        assert cost(member).macs <= most.macs
        # Nothing needs weights that the network has not: it has as many parameters or fewer.
        assert cost(member).num_params <= most.num_params
    assert SearchSpace.from_dict(space.to_dict()) == space


def test_twelve_layers_of_one_stage_have_67_layouts():
    space = SearchSpace.around(Architecture.load("deit-tiny"))
    assert len(space.layouts) == 1 + 11 + 55
    assert space.size == members_around([12])
    assert {len(layout.stages) for layout in space.layouts} == {1, 2, 3}


@pytest.mark.parametrize(("layers", "max_group"), [(24, 4), (32, 2)])
def test_deep_networks_share_maps_among_fewer_layers_so_that_members_can_be_counted(layers, max_group):
    arch = network([layers], image_size=(64, 64))
    space = SearchSpace.around(arch)
    assert {stage.max_group for layout in space.layouts for stage in layout.stages if max(stage.depth) >= 4} == {
        max_group
    }
    assert space.largest == arch
    budget = Budget.parse("60%", space=space)
    assert 0 < space.count(budget) < space.size
    assert budget.satisfied_by(cost(space.sample(np.random.default_rng(0), 1, budget)[0]))


def test_last_layers_are_left_out_where_depths_permit_it():
    arch = network([4])
    space = SearchSpace.around(arch, depths=(3,))
    assert space.largest == arch
    assert {space[number].depth for number in range(space.size)} == {3, 4}
    assert space.contains(shortened(arch, 3))
    assert not SearchSpace.around(arch).contains(shortened(arch, 3))


@pytest.mark.parametrize(
    "make",
    [
        lambda: SearchSpace.around(network([4]), depths=(0,)),
        lambda: SearchSpace.around(network([4]), depths=(5,)),
        lambda: SearchSpace.around(network([45])),
        lambda: SearchSpace.around(SearchSpace.around(network([4])).smallest),
    ],
)
def test_what_has_no_space_is_refused_in_one_line(make):
    with pytest.raises(InputError) as error:
        make()
    assert "\n" not in str(error.value)


def test_a_network_with_few_tokens_is_pooled_as_often_as_they_permit():
    # 2 x 1 tokens: the sequence can be pooled once.
    space = SearchSpace.around(network([3], image_size=(8, 4)))
    assert {len(layout.stages) for layout in space.layouts} == {1, 2}
    assert SearchSpace.around(network([3], image_size=(4, 4))).size == groupings(3)


@settings(max_examples=25)
@given(layers=st.integers(2, 12), percent=st.integers(30, 95))
def test_by_hand_one_pools_evenly_within_the_limits(layers, percent):
    arch = network([layers])
    space = SearchSpace.around(arch)
    limits = Budget.parse(f"{percent}%", space=space).spent(SPENT)
    found = evenly_pooled(space, arch, limits)
    assert len({reference.name for reference in found}) == len(found)
    for reference in found:
        member = reference.arch
        assert limits.satisfied_by(cost(member))
        assert space.contains(member)
        assert all(set(stage.groups) == {1} for stage in member.stages)
        assert len(set(member.pools)) == 1
        # No other with as many poolings within the limits has stages of more equal depth.
        depths = [stage.depth for stage in member.stages]
        for cuts in itertools.combinations(range(1, layers), len(depths) - 1):
            ends = [0, *cuts, layers]
            others = [end - begin for begin, end in itertools.pairwise(ends)]
            if np.prod(others) > np.prod(depths):
                other = Architecture.from_dict(
                    {
                        **arch.to_dict(),
                        "stages": [{**arch.to_dict()["stages"][0], "groups": [1] * depth} for depth in others],
                        "pools": list(member.pools),
                    }
                )
                assert not limits.satisfied_by(cost(other))


def test_a_shorter_network_ends_where_its_layers_end():
    arch = network([2, 3], widths=[32, 64])
    assert [stage.depth for stage in shortened(arch, 4).stages] == [2, 2]
    shorter = shortened(arch, 2)
    assert ([stage.depth for stage in shorter.stages], shorter.pools) == ([2], ())
