"""The space as a set: its members, their numbers, its variations, and the files it travels in."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from psvit.arch.architecture import Architecture, Stage
from psvit.arch.costs import ADDITIVE, METRICS, cost
from psvit.errors import InputError
from psvit.model import PSViT
from psvit.space.budget import Budget
from psvit.space.search_space import Layout, SearchSpace, StageChoices, shipped_for, shipped_spaces

SHIPPED = {name: SearchSpace.load(name) for name in shipped_spaces()}
shipped = st.sampled_from(sorted(SHIPPED)).map(SHIPPED.get)
# Where networks are counted or built, larger spaces of a kind take seconds, and differ in numbers alone.
smaller = st.sampled_from([name for name in SHIPPED if not name.endswith(("-small", "-base"))]).map(SHIPPED.get)
seeds = st.integers(0, 2**32)


def numbers(space: SearchSpace) -> st.SearchStrategy[int]:
    return st.integers(0, space.size - 1)


def draw_space(data: st.DataObject, generated: st.SearchStrategy[SearchSpace]) -> SearchSpace:
    return data.draw(smaller | generated)


def budget_around(data: st.DataObject, space: SearchSpace) -> Budget:
    """A budget that at least one member meets exactly at its upper ends, with or without lower ones."""
    costs = cost(space[data.draw(numbers(space))])
    metrics = data.draw(st.lists(st.sampled_from(METRICS), unique=True, max_size=3))
    units = {"macs": "FLOPs", "num_params": "params", "activation_bytes": "B"}
    texts = []
    for metric in metrics:
        upper = getattr(costs, metric)
        lower = data.draw(st.none() | st.integers(0, upper)) if metric in ADDITIVE else None
        texts.append(f"{upper}{units[metric]}" if lower is None else f"{lower}..{upper}{units[metric]}")
    return Budget.parse(*texts)


def signature(arch: Architecture) -> list[object]:
    """What the built network consists of, in order, whatever its parts are called."""
    parts: list[object] = []
    for module in PSViT(arch, device="meta").modules():
        shapes = [tuple(parameter.shape) for parameter in module.parameters(recurse=False)]
        if isinstance(module, nn.MaxPool1d | nn.MaxPool2d | nn.AvgPool1d | nn.AvgPool2d | nn.Conv1d | nn.Conv2d):
            window = (module.kernel_size, module.stride, module.padding)
            parts.append((type(module).__name__, str(window), getattr(module, "count_include_pad", None), shapes))
        elif hasattr(module, "num_heads"):
            # A sharer has values of its own, a producer queries, keys and values; the order says who shares whose map.
            parts.append((module.num_heads, [(name, tuple(p.shape)) for name, p in module.named_parameters()]))
        elif shapes:
            parts.append((type(module).__name__, shapes))
    return parts


# --- the set and its numbering


def test_size_and_members_equal_the_enumeration(small_space, brute_force):
    expected = brute_force(small_space)
    found = [small_space[number] for number in range(small_space.size)]
    assert small_space.size == len(expected) == {"small-mixed": 344}.get(small_space.name, 210)
    assert len(set(found)) == len(found)
    assert set(found) == set(expected)


def test_index_inverts_getitem_everywhere(small_space):
    assert [small_space.index(small_space[number]) for number in range(small_space.size)] == list(
        range(small_space.size)
    )


@settings(max_examples=30)
@given(st.data())
def test_generated_spaces_equal_their_enumeration(generated_spaces, brute_force, data):
    space = data.draw(generated_spaces)
    assume(space.size <= 1000)
    expected = brute_force(space)
    found = [space[number] for number in range(space.size)]
    assert space.size == len(expected)
    assert set(found) == set(expected)
    assert [space.index(arch) for arch in found] == list(range(space.size))


@settings(max_examples=60)
@given(st.data())
def test_numbers_and_members_correspond(generated_spaces, data):
    space = data.draw(shipped | generated_spaces)
    number = data.draw(numbers(space))
    arch = space[number]
    assert space.contains(arch)
    assert space.why_not(arch) == ""
    assert space.index(arch) == number


@settings(max_examples=60)
@given(st.data())
def test_encoded_rows_and_members_correspond(generated_spaces, data):
    space = data.draw(shipped | generated_spaces)
    arch = space[data.draw(numbers(space))]
    row = space.encode(arch)
    assert space.decode(row) == arch
    assert space.decode(row.tolist()) == arch
    assert len(row) == len(space.genes)
    assert all(0 <= value < bound for value, bound in zip(row, space.genes.values(), strict=True))


@pytest.mark.parametrize("name", shipped_spaces())
def test_the_ends_of_the_numbering(name):
    space = SHIPPED[name]
    assert space.index(space[0]) == 0
    assert space.index(space[space.size - 1]) == space.size - 1
    for number in (-1, space.size):
        with pytest.raises(IndexError, match=f"numbered 0 to {space.size - 1}, received {number}"):
            space[number]


def test_what_is_no_member_is_refused_with_the_reason():
    space = SHIPPED["psvit-2d-digits"]
    arch = space[0]
    first, second = arch.stages
    strangers = {
        "in_chans is 3, must be 1": arch.model_copy(update={"in_chans": 3}),
        "variant is 1d, must be 2d": arch.model_copy(update={"variant": "1d"}),
        "it has 1 stages, must be one of 2": arch.model_copy(update={"stages": (first,), "pools": ()}),
        "head_dim is 8, must be 16": arch.model_copy(update={"head_dim": 8}),
        "stem is conv, must be one of patch": arch.model_copy(update={"stem": "conv"}),
        "stages.0: embed_dim is 16, must be one of 32, 48, 64": arch.model_copy(
            update={"stages": (Stage(embed_dim=16, groups=(1,), mlp_ratio=2), second)}
        ),
        "stages.0: depth is 4, must be one of 1, 2, 3": arch.model_copy(
            update={"stages": (Stage(embed_dim=32, groups=(2, 2), mlp_ratio=2), second)}
        ),
        "stages.1: mlp_ratio is 4.0, must be one of 2.0, 3.0": arch.model_copy(
            update={"stages": (first, Stage(embed_dim=48, groups=(1,), mlp_ratio=4))}
        ),
    }
    for reason, stranger in strangers.items():
        assert space.why_not(stranger) == reason
        assert not space.contains(stranger)
        for question in (space.index, space.encode):
            with pytest.raises(ValueError, match=f"not a member of psvit-2d-digits: {reason}"):
                question(stranger)


@pytest.mark.parametrize("small_space", ["1d", "2d"], indirect=True)
def test_operators_and_groups_that_a_space_lacks_are_no_members(small_space):
    three = small_space[small_space.size - 1]
    assert small_space.why_not(three.model_copy(update={"pools": ("avg", "avg")})) == (
        "pools.0: avg, must be one of conv, max"
    )
    one = small_space.network(small_space.layouts[0], stages=(Stage(embed_dim=8, groups=(3,), mlp_ratio=2),), pools=())
    assert small_space.why_not(one) == "stages.0: a group of 3, must be at most 2"


@pytest.mark.parametrize("small_space", ["mixed"], indirect=True)
def test_members_of_a_mixed_space_have_variant_heads_and_stem_of_one_layout(small_space):
    deep = small_space.network(
        small_space.layouts[2], stem="conv", stages=(Stage(embed_dim=8, groups=(1, 3), mlp_ratio=1),), pools=()
    )
    assert small_space.why_not(deep) == ""
    assert small_space.why_not(deep.model_copy(update={"stem": "patch"})) == "stem is patch, must be one of conv"
    assert small_space.why_not(deep.model_copy(update={"head_dim": 8})) == "head_dim is 8, must be 2 or 4"
    assert small_space.why_not(deep.model_copy(update={"head_dim": 4})) == "head_dim is 4, must be 2 with these stages"
    assert small_space.why_not(deep.model_copy(update={"variant": "2d"})) == "it has 1 stages, must be one of 2, 3"
    deeper = deep.model_copy(update={"stages": (Stage(embed_dim=8, groups=(1, 3, 1), mlp_ratio=1),)})
    assert small_space.why_not(deeper) == "no layout of 1 stages has depths [5]"


# --- one description, one network


# What the third holds beside the mixed space are networks of one stage.
@pytest.mark.parametrize("small_space", ["1d", "mixed"], indirect=True)
def test_all_members_of_a_small_space_build_different_networks(small_space):
    built = {str(signature(small_space[number])) for number in range(small_space.size)}
    assert len(built) == small_space.size


@settings(max_examples=50)
@given(st.data())
def test_two_members_build_one_network_only_when_they_are_equal(generated_spaces, data):
    space = draw_space(data, generated_spaces)
    one = space[data.draw(numbers(space))]
    # A neighbour differs in little, which is where two descriptions could meet.
    rng = np.random.default_rng(data.draw(seeds))
    other = space.mutate(one, rng, rate=0.1)
    assert (signature(one) == signature(other)) == (one == other)


# --- sampling and variation keep to the space and the budget


@settings(max_examples=40)
@given(st.data())
def test_samples_are_members_within_the_budget(generated_spaces, data):
    space = draw_space(data, generated_spaces)
    budget = budget_around(data, space)
    batch = space.sample(np.random.default_rng(data.draw(seeds)), 5, budget)
    assert len(batch) == 5
    for arch in batch:
        assert space.contains(arch)
        assert budget.satisfied_by(cost(arch))


@settings(max_examples=40)
@given(st.data())
def test_mutants_are_members_within_the_budget(generated_spaces, data):
    space = draw_space(data, generated_spaces)
    arch = space[data.draw(numbers(space))]
    budget = budget_around(data, space)
    rng = np.random.default_rng(data.draw(seeds))
    for rate in (0.05, 0.5, 1.0):
        mutant = space.mutate(arch, rng, budget, rate)
        assert space.contains(mutant)
        assert budget.satisfied_by(cost(mutant))


@settings(max_examples=40)
@given(st.data())
def test_children_are_members_within_the_budget(generated_spaces, data):
    space = draw_space(data, generated_spaces)
    one, other = (space[data.draw(numbers(space))] for _ in range(2))
    budget = budget_around(data, space)
    child = space.crossover(one, other, np.random.default_rng(data.draw(seeds)), budget)
    assert space.contains(child)
    assert budget.satisfied_by(cost(child))


def test_mutants_differ_from_their_parent(small_space):
    rng = np.random.default_rng(0)
    for number in range(0, small_space.size, 10):
        assert small_space.mutate(small_space[number], rng) != small_space[number]


@pytest.mark.parametrize("layouts", [slice(0, 1), slice(1, 2), slice(2, 3), slice(0, 3)], ids=["1", "2", "3", "all"])
def test_mutation_reaches_every_member(small_space, layouts):
    # An evolution that could not leave some region would be no search of the whole space. One layout at a time,
    # because a change of layout draws everything anew.
    common = {name: getattr(small_space, name) for name in SearchSpace.model_fields}
    space = SearchSpace(**{**common, "layouts": small_space.layouts[layouts]})
    rng = np.random.default_rng(0)
    arch = space[0]
    seen = set()
    for _ in range(25 * space.size):
        if len(seen) == space.size:
            break
        arch = space.mutate(arch, rng, rate=0.4)
        seen.add(space.index(arch))
    assert seen == set(range(space.size))


def test_children_take_each_choice_from_a_parent():
    space = SHIPPED["psvit-2d-nano"]
    one, other = (
        space.network(
            space.layouts[0],
            stages=(
                Stage(embed_dim=first, groups=groups, mlp_ratio=ratio),
                Stage(embed_dim=second, groups=groups, mlp_ratio=ratio),
            ),
            pools=(pool,),
        )
        for first, second, groups, ratio, pool in ((48, 96, (2, 1), 2, "max"), (64, 144, (1, 1), 4, "conv"))
    )
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(2000):
        child = space.crossover(one, other, rng)
        parents = zip(child.stages, one.stages, other.stages, strict=True)
        assert all(
            getattr(stage, name) in (getattr(a, name), getattr(b, name))
            for stage, a, b in parents
            for name in ("embed_dim", "groups", "mlp_ratio")
        )
        assert child.pools[0] in ("max", "conv")
        seen.add(child)
    # Two stages with three choices each and an operator, every one from either parent.
    assert len(seen) == 2**7


def test_a_child_has_the_first_parents_number_of_stages(small_space):
    rng = np.random.default_rng(0)
    one, three = small_space[0], small_space[small_space.size - 1]
    assert {len(small_space.crossover(one, three, rng).stages) for _ in range(20)} == {1}
    assert {len(small_space.crossover(three, one, rng).stages) for _ in range(20)} == {3}


def test_variation_of_a_stranger_is_refused(small_space):
    stranger, rng = SHIPPED["psvit-2d-digits"][0], np.random.default_rng(0)
    with pytest.raises(ValueError, match="not a member"):
        small_space.mutate(stranger, rng, rate=0.0)
    with pytest.raises(ValueError, match="not a member"):
        small_space.crossover(stranger, small_space[0], rng)


def test_the_same_seed_gives_the_same_sequence(small_space):
    def sequence(seed):
        rng = np.random.default_rng(seed)
        one, other = small_space.sample(rng, 2)
        return [one, other, small_space.mutate(one, rng), small_space.crossover(one, other, rng)]

    assert sequence(3) == sequence(3)
    assert sequence(3) != sequence(4)


@pytest.mark.parametrize("vary", ["sample", "mutate", "crossover"])
def test_a_budget_that_nothing_meets_is_an_error_with_the_reachable_range(vary):
    space = SHIPPED["psvit-2d-tiny"]
    budget = Budget.parse("5..6GFLOPs")
    arch, rng = space[0], np.random.default_rng(0)
    calls = {
        "sample": lambda: space.sample(rng, 1, budget),
        "mutate": lambda: space.mutate(arch, rng, budget),
        "crossover": lambda: space.crossover(arch, arch, rng, budget),
    }
    with pytest.raises(InputError) as error:
        calls[vary]()
    assert str(error.value) == (
        "budget: no architecture of psvit-2d-tiny costs 5 GFLOPs to 6 GFLOPs; "
        "the space reaches 107 MFLOPs to 2.526 GFLOPs, and the nearest costs 2.526 GFLOPs"
    )


def test_a_limit_just_below_the_smallest_is_told_apart_from_it():
    space = SearchSpace.load("psvit-2d-digits")
    least = cost(space.smallest).macs
    space.check(Budget.parse(f"{least}FLOPs"))
    with pytest.raises(InputError, match=rf"{least:,} is not between 0 and {least - 1:,}$"):
        space.check(Budget.parse(f"{least - 1}FLOPs"))


# --- extremes


def test_extremes_of_a_small_space_are_those_of_the_enumeration(small_space, brute_force):
    costs = [cost(arch) for arch in brute_force(small_space)]
    for metric in METRICS:
        values = [getattr(value, metric) for value in costs]
        assert small_space.reach(metric) == (min(values), max(values))
    assert cost(small_space.smallest).macs == small_space.reach("macs")[0]
    assert cost(small_space.largest).macs == small_space.reach("macs")[1]


@settings(max_examples=30)
@given(st.data())
def test_reach_is_that_of_the_enumeration(generated_spaces, brute_force, data):
    space = data.draw(generated_spaces)
    assume(space.size <= 1000)
    costs = [cost(arch) for arch in brute_force(space)]
    for metric in METRICS:
        values = [getattr(value, metric) for value in costs]
        assert space.reach(metric) == (min(values), max(values))


@pytest.mark.parametrize("name", shipped_spaces())
def test_smallest_and_largest_are_the_ends_of_reach(name):
    space = SHIPPED[name]
    assert space.contains(space.smallest)
    assert space.contains(space.largest)
    assert (cost(space.smallest).macs, cost(space.largest).macs) == space.reach("macs")


@pytest.mark.parametrize(
    ("name", "smallest", "largest"),
    [
        ("psvit-1d-tiny", 0.4e9, 2.4e9),
        ("psvit-2d-tiny", 0.4e9, 2.4e9),
        ("psvit-1d-small", 1.2e9, 7.5e9),
        ("psvit-2d-small", 1.2e9, 7.5e9),
        ("psvit-1d-base", 5e9, 28e9),
        ("psvit-2d-base", 5e9, 28e9),
        ("psvit-1d-nano", 2e6, 90e6),
        ("psvit-2d-nano", 5e6, 40e6),
    ],
)
def test_shipped_spaces_cover_their_range(name, smallest, largest):
    low, high = SHIPPED[name].reach("macs")
    assert low <= smallest
    assert high >= largest


@pytest.mark.parametrize(("name", "width", "heads"), [("tiny", 192, 3), ("small", 384, 6), ("base", 768, 12)])
def test_deits_are_members_of_the_1d_spaces(name, width, heads):
    space = SHIPPED[f"psvit-1d-{name}"]
    deit = Architecture(
        variant="1d",
        image_size=(224, 224),
        in_chans=3,
        num_classes=1000,
        patch_size=16,
        patch_stride=16,
        head_dim=width // heads,
        stages=(Stage(embed_dim=width, groups=(1,) * 12, mlp_ratio=4),),
        pools=(),
    )
    assert space.contains(deit)
    assert space[space.index(deit)] == deit


@pytest.mark.parametrize(
    ("macs", "deit", "hvt"), [(5e6, (32, 5, 3), (48, (1, 2, 1), 4)), (10e6, (48, 5, 3), (64, (1, 2, 3), 4))]
)
def test_networks_after_deit_and_hvt_are_members_of_the_1d_space_for_small_images(macs, deit, hvt):
    space = SHIPPED["psvit-1d-nano"]
    width, depth, ratio = deit
    one_stage = (Stage(embed_dim=width, groups=(1,) * depth, mlp_ratio=ratio),)
    width, depths, ratio = hvt
    pooled = tuple(Stage(embed_dim=width, groups=(1,) * depth, mlp_ratio=ratio) for depth in depths)
    for layout, stages in zip((space.layouts[0], space.layouts[2]), (one_stage, pooled), strict=True):
        arch = space.network(layout, stages=stages, pools=("max",) * (len(stages) - 1))
        assert space.contains(arch)
        assert cost(arch).macs == pytest.approx(macs, rel=0.05)


# --- other images


def test_with_data_changes_what_the_data_decide():
    space = SHIPPED["psvit-2d-nano"]
    other = space.with_data(num_classes=7, in_chans=1, image_size=(24, 40))
    assert (other.num_classes, other.in_chans, other.image_size) == (7, 1, (24, 40))
    assert other.layouts == space.layouts
    assert other.size == space.size
    assert space.with_data(7, 1).image_size == (32, 32)
    assert space.with_data(10, 3) == space
    assert other.digest != space.digest


def test_images_that_leave_nothing_to_pool_are_refused():
    # One image of 4 pixels is one patch of the space's, and its layouts pool twice.
    with pytest.raises(ValueError, match="a pooling needs 2 tokens or more"):
        SHIPPED["psvit-2d-nano"].with_data(10, 3, (4, 4))


# --- budgets


@pytest.mark.parametrize("texts", [["2GFLOPs"], ["50MFLOPs", "22Mparams"], ["2GFLOPs", "300MB"]])
def test_a_budget_that_no_member_can_spend_is_refused(texts):
    space = SHIPPED["psvit-2d-nano"]
    with pytest.raises(InputError, match=r"no architecture of psvit-2d-nano can spend .* at most 48.*FLOPs") as error:
        space.check(Budget.parse(*texts))
    assert "\n" not in str(error.value)
    # There are members within it all the same.
    assert len(space.sample(np.random.default_rng(0), 3, Budget.parse(*texts))) == 3


def test_a_budget_that_limits_anything_can_be_spent():
    space = SHIPPED["psvit-2d-nano"]
    most = space.reach("macs")[1]
    # A range asks for whatever is in it.
    space.check(Budget.parse("0..2GFLOPs"))
    for texts in (["100%"], [f"{most}FLOPs"], ["10MFLOPs", "22Mparams"], ["2GFLOPs", "200kB"], ["2GFLOPs", "5ms@cpu"]):
        space.check(Budget.parse(*texts, space=space))
    for texts in (["300MB"], ["5ms@cpu"], []):
        space.check(Budget.parse(*texts))
    with pytest.raises(InputError, match="can spend"):
        space.check(Budget.parse(f"{most + 1}FLOPs"))


# --- files


@settings(max_examples=30)
@given(st.data())
def test_space_files_round_trip(tmp_path_factory, generated_spaces, data):
    space = draw_space(data, generated_spaces)
    path = tmp_path_factory.mktemp("space") / "space.yaml"
    space.save(path)
    assert SearchSpace.load(path) == space
    assert SearchSpace.from_dict(space.to_dict()) == space
    assert SearchSpace.from_dict(json.loads(json.dumps(space.to_dict()))).digest == space.digest


@pytest.mark.parametrize("name", shipped_spaces())
def test_shipped_spaces_carry_their_files_name(name):
    assert SHIPPED[name].name == name


def test_an_unknown_name_is_answered_with_the_shipped_ones():
    with pytest.raises(InputError, match=r"space 'psvit-3d': unknown; permitted are .*psvit-nano, or a .yaml file$"):
        SearchSpace.load("psvit-3d")


def digits_with(**changes) -> dict:
    """The digits' space with some values replaced; `layouts__0__pools=[]` reaches inside."""
    data = {"schema": "psvit/space/1", **SHIPPED["psvit-2d-digits"].to_dict()}
    for key, value in changes.items():
        *path, last = (int(part) if part.isdigit() else part for part in key.split("__"))
        place = data
        for part in path:
            place = place[part]
        place[last] = value
    return data


TWO_STAGES = SHIPPED["psvit-2d-digits"].to_dict()["layouts"][0]


@pytest.mark.parametrize(
    ("changes", "place", "message"),
    [
        (
            {"layouts__0__stages__0__max_group": 4},
            "layouts.0.stages.0",
            "max_group must be at most the largest depth 3",
        ),
        (
            {"layouts__0__stages__1__embed_dim": [48, 72]},
            "layouts.0",
            "embed_dim must be a multiple of head_dim 16, received 72",
        ),
        (
            {"layouts__0__stages__1__begin": 2},
            "layouts.0",
            "stages must not overlap: one with begin 0 and depth up to 3 reaches to 3, but the next has begin 2",
        ),
        (
            {"layouts": [TWO_STAGES, TWO_STAGES]},
            None,
            "layouts must differ in variant, in number of stages, or in the depths of a stage, but two of variant 2d",
        ),
        ({"layouts__0__variant": "3d"}, "layouts.0.variant", "'1d' or '2d'"),
        ({"layouts__0__head_dim": 5}, "layouts.0", "embed_dim must be a multiple of head_dim 5, received 32"),
        ({"layouts__0__stem": []}, "layouts.0.stem", "at least 1"),
        ({"stem": ["conv", "conv"]}, "layouts.0", "stem must not repeat an operator"),
        (
            {"stem": ["conv"], "patch_stride": 1},
            None,
            "patch_stride must equal patch_size 2 for a conv stem, received 1",
        ),
        ({"layouts": []}, "layouts", "at least 1"),
        (
            {"layouts__0__stages__0__embed_dim": [48, 32]},
            "layouts.0.stages.0",
            "embed_dim must be ascending without repeats, received [48, 32]",
        ),
        ({"layouts__0__stages__0__depth": [1, 1]}, "layouts.0.stages.0", "depth must be ascending without repeats"),
        ({"layouts__0__stages__0__mlp_ratio": [3, 2]}, "layouts.0.stages.0", "mlp_ratio must be ascending"),
        (
            {"layouts__0__stages__0__mlp_ratio": [2.1]},
            "layouts.0.stages.0",
            "must be a whole number, received 32 * 2.1",
        ),
        ({"layouts__0__stages__0__depth": []}, "layouts.0.stages.0.depth", "at least 1"),
        ({"layouts__0__stages__0__depth": [0, 1]}, "layouts.0.stages.0.depth.0", "greater than 0"),
        ({"layouts__0__stages__0__begin": -1}, "layouts.0.stages.0.begin", "greater than or equal to 0"),
        ({"layouts__0__stages__1__embed_dim": [16, 64]}, "layouts.0", "embed_dim never shrinks"),
        ({"layouts__0__stages__1__embed_dim": [48]}, "layouts.0", "received [32, 48, 64], then [48]"),
        ({"layouts__0__pools": []}, "layouts.0", "pools must be one fewer than stages, received 0 pools, 2 stages"),
        ({"layouts__0__pools": [["max", "max"]]}, "layouts.0", "pools must not repeat an operator"),
        ({"layouts__0__pools": [["none"]]}, "layouts.0.pools.0.0", "'max', 'avg' or 'conv'"),
        ({"layouts__0__pools": [[]]}, "layouts.0.pools.0", "at least 1"),
        ({"image_size": [2, 2]}, None, "a pooling needs 2 tokens or more"),
        ({"image_size": [1, 8]}, None, "image_size must be at least patch_size 2, received [1, 8]"),
        ({"num_classes": 0}, "num_classes", "greater than 0"),
        ({"in_chans": "1"}, "in_chans", 'valid integer, received "1"'),
        ({"patch": 2}, "patch", "unknown key; permitted keys: name, variant, image_size"),
        (
            {"layouts__0__pool": []},
            "layouts.0.pool",
            "unknown key; permitted keys: variant, head_dim, stem, stages, pools",
        ),
        (
            {"layouts__0__stages__1__width": [48]},
            "layouts.0.stages.1.width",
            "unknown key; permitted keys: begin, embed_dim, depth, max_group, mlp_ratio",
        ),
        # Numbers of architectures are kept in 64 bits.
        (
            {
                "layouts__0__stages__0__depth": [64],
                "layouts__0__stages__1__begin": 64,
                "layouts__0__stages__1__depth": [64],
            },
            None,
            "a space may hold at most 2**63 - 1 architectures",
        ),
        # Beyond what can be counted or built.
        ({"layouts__0__stages__0__depth": [500]}, "layouts.0.stages.0.depth.0", "less than or equal to 64"),
        ({"layouts__0__stages__0__max_group": 500}, "layouts.0.stages.0.max_group", "less than or equal to 64"),
        ({"layouts__0__stages__0__begin": 10**9}, "layouts.0.stages.0.begin", "less than or equal to 1024"),
        (
            {"layouts__0__stages__1__embed_dim": [16 * 10**9]},
            "layouts.0.stages.1.embed_dim.0",
            "less than or equal to 16384, received 16000000000",
        ),
        (
            {
                "image_size": [4096, 4096],
                "patch_size": 1,
                "patch_stride": 1,
                "layouts__0__stages__1__embed_dim": [64, 16384],
            },
            None,
            "an architecture may cost at most",
        ),
    ],
)
def test_a_space_file_that_breaks_a_rule_is_answered_with_file_key_and_rule(tmp_path, changes, place, message):
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(digits_with(**changes)))
    with pytest.raises(InputError) as error:
        SearchSpace.load(path)
    assert str(error.value).startswith(f"{path}: {place}: " if place else f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_rules_hold_for_callers():
    choices = StageChoices(begin=0, embed_dim=(16,), depth=(1,), max_group=1, mlp_ratio=(2,))
    with pytest.raises(ValidationError, match="stages must not overlap"):
        Layout(variant="2d", head_dim=16, stages=(choices, choices), pools=(("max",),))


@pytest.mark.parametrize(
    ("size", "budget", "name"),
    [
        (8, ("1MFLOPs",), "psvit-2d-digits"),
        (32, ("20MFLOPs",), "psvit-2d-nano"),
        (32, ("80MFLOPs",), None),  # psvit-2d-nano ends at 48 MFLOPs
        (28, ("5MFLOPs",), None),
        (224, ("2GFLOPs",), "psvit-2d-tiny"),
        (224, ("5GFLOPs",), "psvit-2d-small"),
        (224, ("1MFLOPs",), None),
        (224, ("5ms@cpu",), "psvit-2d-small"),
        (224, (), "psvit-2d-tiny"),
    ],
)
def test_a_shipped_space_is_for_one_size_and_holds_the_budget(size, budget, name):
    found = shipped_for((size, size), Budget.parse(*budget))
    assert (found.name if found else None) == name
