"""The prefix tree, against each network on its own, counts from the words of the design, and live tensors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from psvit.arch.architecture import Stage
from psvit.arch.costs import cost
from psvit.search.prefix_tree import LayerStep, Pooling, PrefixTree, Weights, cut, macs_of, run, steps_of
from psvit.space.search_space import SearchSpace
from psvit.supernet.supernet import Supernet


def make_space(variant: str) -> SearchSpace:
    """Three layouts, two of which have their first stage in common and one begins its second elsewhere."""
    first = {"begin": 0, "embed_dim": [8, 12, 16], "depth": [1, 2, 3], "max_group": 3, "mlp_ratio": [1.5, 2.0]}
    second = {**first, "begin": 4, "embed_dim": [12, 16, 24]}
    third = {**first, "begin": 8, "embed_dim": [16, 24], "depth": [1, 2], "max_group": 2}
    pools = ["max", "avg", "conv"]
    return SearchSpace.from_dict(
        {
            "name": f"three-{variant}",
            "variant": variant,
            "image_size": [12, 20],
            "in_chans": 2,
            "num_classes": 5,
            "patch_size": 4,
            "patch_stride": 4,
            "head_dim": 4,
            "layouts": [
                {"stages": [{**first, "begin": 0, "depth": [3, 4]}]},
                {"stages": [first, {**second, "begin": 5}], "pools": [pools]},
                {"stages": [first, second, third], "pools": [pools, pools]},
            ],
        }
    )


def make_mixed_space() -> SearchSpace:
    """The layouts of both variants, which use the same layers; heads of two widths, and in 2d either stem."""
    one, other = make_space("1d").to_dict(), make_space("2d").to_dict()
    layouts = [{"variant": "1d", "head_dim": 4, **layout} for layout in one["layouts"]]
    layouts += [{"variant": "2d", "head_dim": 2, "stem": ["conv", "patch"], **layout} for layout in other["layouts"]]
    common = {key: value for key, value in one.items() if key not in ("variant", "head_dim")}
    return SearchSpace.from_dict({**common, "name": "mixed", "layouts": layouts})


SPACES = {"1d": make_space("1d"), "2d": make_space("2d"), "mixed": make_mixed_space()}


@pytest.fixture(params=["1d", "2d", "mixed"])
def space(request):
    return SPACES[request.param]


def with_random_weights(space, seed=0):
    generator = torch.Generator().manual_seed(seed)
    supernet = Supernet(space).eval()
    with torch.no_grad():
        for name, parameter in supernet.named_parameters():
            parameter.normal_(std=0.2, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1.0)
    return supernet


def images_for(space, n=3, seed=1):
    return torch.randn(n, space.in_chans, *space.image_size, generator=torch.Generator().manual_seed(seed))


def bred(space, n, seed, rate=0.1):
    """A population by mutation from a few parents: much in common."""
    rng = np.random.default_rng(seed)
    population = dict.fromkeys(space[int(i)] for i in rng.integers(space.size, size=2))
    while len(population) < n:
        parents = list(population)
        population[space.mutate(parents[int(rng.integers(len(parents)))], rng, rate=rate)] = None
    return list(population)[:n]


def drawn(space, n, seed):
    rng = np.random.default_rng(seed)
    return [space[int(i)] for i in rng.choice(space.size, size=n, replace=False)]


def logits_of(supernet, archs, images, tree=None):
    found = {}
    with torch.inference_mode():
        stuck = run(tree or PrefixTree(supernet.space, archs), Weights(supernet), images, found.__setitem__)
    assert not stuck
    return found


def assert_equal_to_each_alone(supernet, archs, images):
    found = logits_of(supernet, archs, images)
    assert sorted(found) == list(range(len(archs)))
    for position, arch in enumerate(archs):
        with torch.inference_mode():
            assert torch.equal(found[position], supernet(images, arch))


# --- the same numbers


@settings(max_examples=20)
@given(
    variant=st.sampled_from(sorted(SPACES)), seed=st.integers(0, 2**32 - 1), related=st.booleans(), n=st.integers(1, 12)
)
def test_logits_are_bit_for_bit_those_of_each_network_alone(variant, seed, related, n):
    space = SPACES[variant]
    archs = (bred if related else drawn)(space, n, seed)
    assert_equal_to_each_alone(with_random_weights(space, seed % 1000), archs, images_for(space, 1 + seed % 4))


@pytest.mark.parametrize("name", ["psvit-2d-nano", "psvit-2d-digits"])
def test_logits_are_equal_in_the_shipped_spaces(name):
    space = SearchSpace.load(name)
    assert_equal_to_each_alone(with_random_weights(space), bred(space, 12, seed=4), images_for(space, 8))


def test_logits_are_equal_where_queries_and_keys_are_handed_on(space, monkeypatch):
    monkeypatch.setattr("psvit.nn.layers.LARGE_MAP", 1)
    assert_equal_to_each_alone(with_random_weights(space), bred(space, 10, seed=2), images_for(space))


def test_logits_are_those_of_the_extracted_networks(space):
    supernet, images = with_random_weights(space), images_for(space)
    archs = bred(space, 6, seed=9)
    found = logits_of(supernet, archs, images)
    for position, arch in enumerate(archs):
        with torch.inference_mode():
            torch.testing.assert_close(found[position], supernet.extract(arch)(images))


def test_a_supernet_in_training_is_evaluated_without_stochastic_depth(space):
    archs = bred(space, 4, seed=3)
    plain, dropping = with_random_weights(space), Supernet(space, drop_path_rate=0.9)
    dropping.load_state_dict(plain.state_dict())
    one, other = (logits_of(supernet, archs, images_for(space)) for supernet in (plain, dropping.train()))
    assert all(torch.equal(one[position], other[position]) for position in one)


def test_another_supernet_of_the_same_space_has_its_own_logits(space):
    # Modules are kept from one to the next; their weights must not be.
    archs, images = bred(space, 4, seed=3), images_for(space)
    one, other, again = (logits_of(with_random_weights(space, seed), archs, images) for seed in (0, 1, 0))
    assert all(torch.equal(one[position], again[position]) for position in one)
    assert not any(torch.equal(one[position], other[position]) for position in one)


# --- what counts as common


def prefixes(space, arch):
    """What the design says that sharing depends on, for every prefix, written without the code under test."""
    layout = next(layout for layout in space.layouts if len(layout.stages) == len(arch.stages))
    prefix = [("stem", arch.variant, arch.head_dim, arch.stem, arch.stages[0].embed_dim)]
    result = [tuple(prefix)]
    for number, stage in enumerate(arch.stages):
        place = layout.stages[number].begin
        if number:
            prefix.append((arch.pools[number - 1], arch.stages[number - 1].embed_dim, stage.embed_dim, place))
            result.append(tuple(prefix))
        for length in stage.groups:
            for layer in range(length):
                kernel = ("fused" if length == 1 else "handed on") if layer == 0 else "uses"
                prefix.append((place, stage.embed_dim, stage.mlp_ratio, kernel))
                result.append(tuple(prefix))
                place += 1
    result.append((*prefix, "classifier"))
    return result


@pytest.mark.parametrize("population", [bred, drawn])
def test_every_distinct_prefix_runs_once(space, population):
    archs = population(space, 40, seed=5)
    expected = [prefix for arch in archs for prefix in prefixes(space, arch)]
    tree = PrefixTree(space, archs)
    assert tree.total_steps == len(expected)
    assert tree.num_steps == len(set(expected)) < len(expected)
    ran = []

    class Counting(Weights):
        def __getitem__(self, node):
            compute = super().__getitem__(node)

            def counted(state):
                ran.append(node)
                return compute(state)

            return counted

    with torch.inference_mode():
        run(tree, Counting(with_random_weights(space)), images_for(space), lambda position, logits: None)
    assert len(ran) == len({id(node) for node in ran}) == len(set(expected))


def test_groups_of_two_and_more_agree_and_a_group_of_one_differs_from_its_producer_on():
    space = SPACES["2d"]

    def steps(*groups):
        arch = space.network(space.layouts[0], stages=(Stage(embed_dim=8, groups=groups, mlp_ratio=2.0),), pools=())
        return [step for step, _ in steps_of(space, arch)]

    def common(one, other):
        return next(i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])

    # The embedding is a step too.
    assert common(steps(2, 1, 1), steps(3, 1)) == 3
    assert common(steps(1, 2), steps(2, 1)) == 1
    assert common(steps(1, 2, 1), steps(1, 1, 2)) == 2
    # A shorter network ends where the longer goes on.
    assert common(steps(1, 2), steps(1, 2, 1)) == 4
    assert len(steps(1, 2)) == 5


def test_the_steps_of_an_architecture_cost_what_it_costs(space):
    for arch in drawn(space, 50, seed=6):
        assert sum(macs_of(space, step) for step, _ in steps_of(space, arch)) == cost(arch).macs
    archs = bred(space, 20, seed=6)
    tree = PrefixTree(space, archs)
    assert tree.total_macs == sum(cost(arch).macs for arch in archs)
    assert tree.macs == sum(macs_of(space, node.step) for node in tree.nodes()) < tree.total_macs


def test_strangers_and_repetitions_are_refused(space):
    arch = space[3]
    with pytest.raises(ValueError, match="two architectures of a population are equal, at 0 and 2"):
        PrefixTree(space, [arch, space[4], arch])
    with pytest.raises(ValueError, match="not a member"):
        PrefixTree(space, [SPACES["1d" if space.variants == ("2d",) else "2d"][0].model_copy(update={"in_chans": 4})])


def test_without_some_architectures_the_others_keep_their_positions_and_logits(space):
    supernet, images, archs = with_random_weights(space), images_for(space), bred(space, 10, seed=8)
    whole = logits_of(supernet, archs, images)
    left = [1, 2, 6, 9]
    tree = PrefixTree(space, [archs[i] for i in left], left)
    found = logits_of(supernet, archs, images, tree)
    assert sorted(found) == sorted(tree.order) == left
    assert all(torch.equal(found[position], whole[position]) for position in left)
    assert tree.num_steps < PrefixTree(space, archs).num_steps
    assert logits_of(supernet, [], images) == {}


# --- memory


class LiveTensors(TorchDispatchMode):
    """The most bytes of tensors alive at once; views count as what they are views of, weights not at all."""

    def __init__(self, weights):
        super().__init__()
        self.weights = {weight.untyped_storage()._cdata for weight in weights}
        self.alive = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, list | tuple) else [out]:
            storage = tensor.untyped_storage()
            if storage._cdata not in self.weights:
                self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.alive = {key: (ref, size) for key, (ref, size) in self.alive.items() if not ref.expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return out


def peak_of(supernet, archs, images):
    tree, weights = PrefixTree(supernet.space, archs), Weights(supernet)
    with torch.inference_mode():
        for node in tree.nodes():
            weights[node]
        made = [*supernet.parameters(), *weights._slices.values()]
        with LiveTensors(made) as counter:
            run(tree, weights, images, lambda position, logits: None)
    return counter.peak


def largest_activation(archs, batch):
    """Bytes of the largest tokens of a population with the largest map that a producer of theirs hands on."""
    sizes = [0]
    for arch in archs:
        for stage, (rows, columns) in zip(arch.stages, arch.grids, strict=True):
            tokens = rows * columns + (arch.variant == "1d")
            heads = stage.embed_dim // arch.head_dim
            shared = heads * tokens * tokens if max(stage.groups) > 1 else 0
            sizes.append(4 * batch * (tokens * stage.embed_dim + shared))
    return max(sizes)


@pytest.mark.parametrize("population", [bred, pytest.param(drawn, marks=pytest.mark.slow)])
def test_memory_is_that_of_one_network_and_of_the_activations_that_wait(space, population):
    supernet, images = with_random_weights(space), images_for(space, 4)
    archs = population(space, 32, seed=7)
    alone = max(peak_of(supernet, [arch], images) for arch in archs)
    together = peak_of(supernet, archs, images)
    tree = PrefixTree(space, archs)
    waiting = max(node.waiting for node in tree.nodes())
    assert 0 < waiting <= math.log2(len(archs))
    assert together <= alone + waiting * largest_activation(archs, 4)
    # Activations do wait, but few: a walk level by level would have one of each architecture alive at the end.
    assert alone <= together < alone + len(archs) * largest_activation(archs, 4) / 4


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 40), rate=st.sampled_from([0.02, 0.1, 0.3]))
def test_at_most_log2_activations_wait(seed, n, rate):
    space = SPACES["2d"]
    tree = PrefixTree(space, bred(space, n, seed, rate))
    # Walked by hand: how many distinct activations have steps to come when each step runs.
    stack, most = [(node, None) for node in reversed(tree.roots)], 0
    while stack:
        node, _ = stack.pop()
        most = max(most, len({id(waits) for _, waits in stack if waits is not None}))
        stack.extend((child, node) for child in reversed(node.children))
    assert most <= math.floor(math.log2(n))


# --- failures


class Failing(Weights):
    """Weights of which some steps raise, as often as told."""

    def __init__(self, supernet, fails, error, times=1 << 30):
        super().__init__(supernet)
        self.fails, self.error, self.times = fails, error, times

    def __getitem__(self, node):
        compute = super().__getitem__(node)

        def maybe(state):
            if self.fails(node.step) and self.times:
                self.times -= 1
                raise self.error
            return compute(state)

        return maybe


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_what_runs_out_of_memory_takes_only_those_below_with_it(space, error):
    supernet, images, archs = with_random_weights(space), images_for(space), drawn(space, 30, seed=1)
    whole = logits_of(supernet, archs, images)
    found = {}
    with torch.inference_mode():
        weights = Failing(supernet, lambda step: isinstance(step, Pooling) and step.pool == "conv", error)
        stuck = run(PrefixTree(space, archs), weights, images, found.__setitem__)
    assert set(stuck) == {position for position, arch in enumerate(archs) if "conv" in arch.pools}
    assert 0 < len(stuck) < len(archs)
    assert all(reason.startswith("out of memory") for reason in stuck.values())
    assert set(found) == set(range(len(archs))) - set(stuck)
    assert all(torch.equal(found[position], whole[position]) for position in found)


def test_other_errors_are_raised(space):
    weights = Failing(with_random_weights(space), lambda step: isinstance(step, LayerStep), RuntimeError("shapes"))
    with torch.inference_mode(), pytest.raises(RuntimeError, match="shapes"):
        run(PrefixTree(space, [space[0]]), weights, images_for(space), lambda position, logits: None)


# --- distribution


def distinct_macs(space, archs):
    return PrefixTree(space, archs).macs


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 24), k=st.integers(1, 8), related=st.booleans())
def test_a_cut_is_a_balanced_partition_that_computes_little_twice(seed, n, k, related):
    space = SPACES["1d"]
    archs = (bred if related else drawn)(space, n, seed)
    parts = cut(space, archs, k)
    assert len(parts) <= k
    assert all(part and part == sorted(part) for part in parts)
    assert sorted(position for part in parts for position in part) == list(range(n))
    costs = [distinct_macs(space, [archs[position] for position in part]) for part in parts]
    whole, costliest = distinct_macs(space, archs), max(cost(arch).macs for arch in archs)
    assert sum(costs) <= whole + (k - 1) * costliest
    assert max(costs) <= whole / k + 2 * costliest


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 7), k=st.integers(2, 4))
def test_no_cut_of_the_trees_order_has_a_cheaper_largest_part(seed, n, k):
    space = SPACES["2d"]
    archs = bred(space, n, seed)
    order = PrefixTree(space, archs).order

    def cheapest(begin, parts):
        if begin == n:
            return 0
        if parts == 0:
            return math.inf
        ends = range(begin + 1, n + 1)
        return min(
            max(distinct_macs(space, [archs[i] for i in order[begin:end]]), cheapest(end, parts - 1)) for end in ends
        )

    costs = [distinct_macs(space, [archs[i] for i in part]) for part in cut(space, archs, k)]
    assert max(costs) == cheapest(0, k)


def test_a_cut_for_nobody_is_refused_and_of_nothing_is_empty(space):
    with pytest.raises(ValueError, match="k must be at least 1, received 0"):
        cut(space, [space[0]], 0)
    assert cut(space, [], 3) == []
    assert cut(space, [space[0], space[1]], 1) == [[0, 1]]
