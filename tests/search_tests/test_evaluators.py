"""What candidates are scored with, against networks that were taken out of the supernet and straightforward sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from psvit.data import Batches, Inputs, accuracy, open_data
from psvit.model import PSViT
from psvit.nn.seeding import seeded
from psvit.search import inherited
from psvit.search.indicators import DSS
from psvit.search.inherited import InheritedAccuracy
from psvit.search.prefix_tree import Embedding, LayerStep, Weights
from psvit.search.racing import Race
from psvit.search.trial import Score
from psvit.space.search_space import SearchSpace
from psvit.supernet.supernet import Supernet

CPU = torch.device("cpu")


@pytest.fixture(params=["1d", "2d"])
def space(request):
    """Two layouts, so that shared maps, all poolings and widening take part."""
    first = {"begin": 0, "embed_dim": [16, 24, 32], "depth": [1, 2, 3], "max_group": 3, "mlp_ratio": [1.5, 2.0]}
    second = {**first, "begin": 3, "embed_dim": [24, 32, 48]}
    third = {**first, "begin": 6, "embed_dim": [32, 64], "depth": [1], "max_group": 1}
    pools = ["max", "avg", "conv"]
    return SearchSpace.from_dict(
        {
            "name": "small",
            "variant": request.param,
            "image_size": [24, 16],
            "in_chans": 2,
            "num_classes": 5,
            "patch_size": 4,
            "patch_stride": 4,
            "head_dim": 8,
            "layouts": [
                {"stages": [first, second], "pools": [pools]},
                {"stages": [first, second, third], "pools": [pools, pools]},
            ],
        }
    )


def architectures(space, n):
    return [space[int(i)] for i in np.random.default_rng(0).permutation(space.size)[:n]]


def reference_dss(supernet, arch):
    """The indicator as the paper's section 3.3 writes it, on a network of its own in double precision."""
    network = PSViT(arch).double().eval()
    network.load_state_dict(supernet.extract(arch).state_dict())
    image = torch.ones(1, arch.in_chans, *arch.image_size, dtype=torch.float64)
    network(image).sum().backward()
    total = 0.0
    for stage in network.stages:
        for group in stage.groups:
            for layer in group.layers:
                for name, weight in layer.named_parameters():
                    if weight.dim() == 2 and name.startswith("attn"):
                        norms = [torch.linalg.matrix_norm(matrix, ord="nuc") for matrix in (weight, weight.grad)]
                        total += (norms[0] * norms[1]).item()
                    elif weight.dim() == 2:
                        total += (weight * weight.grad).abs().sum().item()
    return total


def test_dss_is_the_papers_sum_on_the_extracted_network(space):
    with seeded(5):
        supernet = Supernet(space).eval()
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.abs_()
    indicator = DSS(space, 5, CPU)
    archs = architectures(space, 12)
    # Scores that were all alike would be equal to any reference.
    scores = [score.value for score in indicator.evaluate(archs)]
    assert max(scores) > 2 * min(scores) > 0
    for arch, score in zip(archs, scores, strict=True):
        assert score == pytest.approx(reference_dss(supernet, arch), rel=1e-3)


def test_dss_is_decided_by_its_seed(space):
    archs = architectures(space, 5)
    one, same, other = (DSS(space, seed, CPU) for seed in (0, 0, 1))
    scores = one.evaluate(archs)
    # In another order, because norms are remembered from one architecture to the next.
    assert same.evaluate(archs[::-1]) == scores[::-1]
    assert one.evaluate(archs) == scores
    assert other.evaluate(archs) != scores
    # There are no images to race on, whatever is known.
    assert one.evaluate(archs, best=[1e9]) == scores


def test_dss_leaves_global_generators_alone(space):
    before = torch.get_rng_state()
    DSS(space, 0, CPU).evaluate([space.smallest])
    assert torch.equal(torch.get_rng_state(), before)


def test_dss_needs_no_images_and_says_so(space):
    assert DSS(space, 0, CPU).describe()["images"] == 0


def test_dss_of_weights_that_are_no_numbers_fails_and_the_others_have_theirs(space):
    archs = architectures(space, 10)
    plain, broken = DSS(space, 0, CPU), DSS(space, 0, CPU)
    with torch.no_grad():
        for name, parameter in broken._supernet.named_parameters():
            if "conv" in name:
                parameter.fill_(math.nan)
    scores = broken.evaluate(archs)
    expected = plain.evaluate(archs)
    assert {"conv" in arch.pools for arch in archs} == {True, False}
    for arch, score, whole in zip(archs, scores, expected, strict=True):
        if "conv" in arch.pools:
            assert score == Score(value=None, state="failed", reason="outputs that are no finite numbers")
        else:
            assert score == whole


def test_dss_that_runs_out_of_memory_fails_and_other_errors_are_raised(space, monkeypatch):
    archs = architectures(space, 3)
    indicator = DSS(space, 0, CPU)
    usual = indicator._indicator

    def raising(error):
        def maybe(arch):
            if arch == archs[1]:
                raise error
            return usual(arch)

        monkeypatch.setattr(indicator, "_indicator", maybe)
        return indicator.evaluate(archs)

    assert [score.state for score in raising(MemoryError())] == ["complete", "failed", "complete"]
    with pytest.raises(RuntimeError, match="shapes"):
        raising(RuntimeError("shapes"))


def trained_a_little(space, data, steps=30):
    """A supernet whose accuracies are neither chance nor all alike: a fresh one gives every image one class."""
    with seeded(0):
        supernet = Supernet(space)
    optimizer = torch.optim.AdamW(supernet.parameters(), lr=3e-3)
    batches = list(Batches(data.train, Inputs.of(data, space.image_size), 64, CPU))
    for step in range(steps):
        images, labels = batches[step % len(batches)]
        arch = space[(step * 1009) % space.size]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(supernet(images.clone(), arch), labels).backward()
        optimizer.step()
    return supernet


@pytest.fixture(scope="module")
def digits():
    return open_data("digits")


@pytest.fixture(scope="module")
def supernet(digits):
    return trained_a_little(SearchSpace.load("psvit-2d-digits"), digits)


def batches_of(images, supernet, data, batch_size, order_seed=None):
    return Batches(images, Inputs.of(data, supernet.space.image_size), batch_size, CPU, order_seed)


def many_images(data):
    """More than are held out, so that there is time to race."""
    return data.train.take(np.arange(640))


def bred(space, n, seed):
    """A population by mutation: much in common."""
    rng = np.random.default_rng(seed)
    population = {space[int(rng.integers(space.size))]: None}
    while len(population) < n:
        parents = list(population)
        population[space.mutate(parents[int(rng.integers(len(parents)))], rng, rate=0.2)] = None
    return list(population)


def test_inherited_accuracy_is_that_of_the_extracted_network(supernet, digits):
    # Batches that do not divide the images, so that a mean of means would be another number.
    batches = batches_of(digits.search, supernet, digits, 50)
    assert len(digits.search) % 50
    archs = architectures(supernet.space, 5)
    scores = InheritedAccuracy(supernet, batches).evaluate(archs)
    assert len({score.value for score in scores}) > 3
    for arch, score in zip(archs, scores, strict=True):
        network = supernet.extract(arch).eval()
        with torch.no_grad():
            right = [
                int(network(image[None]).argmax() == label)
                for images, labels in batches
                for image, label in zip(images, labels, strict=True)
            ]
        assert score == Score(value=100 * sum(right) / len(digits.search), images=len(digits.search))


def test_sharing_changes_no_accuracy(supernet, digits):
    images = digits.train.take(np.arange(320))
    batches = batches_of(images, supernet, digits, 128, order_seed=3)
    archs = bred(supernet.space, 10, seed=0)
    alone = InheritedAccuracy(supernet, batches, share_prefixes=False).evaluate(archs)
    assert InheritedAccuracy(supernet, batches).evaluate(archs) == alone
    assert [score.value for score in alone] == [
        accuracy(lambda images, arch=arch: supernet(images, arch), batches) for arch in archs
    ]
    # In parts and in another order too.
    assert InheritedAccuracy(supernet, batches).evaluate(archs[:5:-1]) == alone[:5:-1]
    # The order of the images changes nothing but bits of logits.
    assert InheritedAccuracy(supernet, batches_of(images, supernet, digits, 128)).evaluate(archs) == alone


def test_inherited_accuracy_follows_a_supernet_that_is_trained_on(supernet, digits):
    evaluator = InheritedAccuracy(trained_a_little(supernet.space, digits, 5), batches_of(
        digits.search, supernet, digits, 64
    ))  # fmt: skip
    archs = bred(supernet.space, 6, seed=0)
    before = evaluator.evaluate(archs)
    evaluator._supernet.load_state_dict(supernet.state_dict())
    after = evaluator.evaluate(archs)
    assert after != before
    assert after == InheritedAccuracy(supernet, batches_of(digits.search, supernet, digits, 64)).evaluate(archs)


def test_inherited_accuracy_is_measured_without_stochastic_depth(digits_space, digits):
    supernet = Supernet(digits_space, drop_path_rate=0.9).train()
    evaluator = InheritedAccuracy(supernet, batches_of(digits.search, supernet, digits, 256))
    assert len({evaluator.evaluate([digits_space.largest])[0] for _ in range(3)}) == 1


def test_inherited_accuracy_says_what_it_rests_on(supernet, digits):
    batches = batches_of(digits.search, supernet, digits, 64, order_seed=0)
    plain, raced = InheritedAccuracy(supernet, batches), InheritedAccuracy(supernet, batches, race=Race(keep=4))
    assert plain.describe()["images"] == raced.describe()["images"] == len(digits.search) == 144
    assert plain.describe()["fidelity"] == raced.describe()["fidelity"] == "not measured"
    assert plain.describe()["raced"] == "no"
    assert "none of the best 4" in raced.describe()["raced"]


# --- failures


def test_logits_that_are_no_numbers_fail_their_architectures_alone(supernet, digits):
    broken = Supernet(supernet.space)
    broken.load_state_dict(supernet.state_dict())
    with torch.no_grad():
        broken.get_parameter("pools.3.conv.weight").fill_(math.inf)
    archs = architectures(supernet.space, 20)
    batches = batches_of(digits.search, supernet, digits, 50)
    expected = InheritedAccuracy(supernet, batches).evaluate(archs)
    assert {"conv" in arch.pools for arch in archs} == {True, False}
    for share in (True, False):
        scores = InheritedAccuracy(broken, batches, share_prefixes=share).evaluate(archs)
        for arch, score, whole in zip(archs, scores, expected, strict=True):
            if "conv" in arch.pools:
                assert score == Score(value=None, state="failed", reason="outputs that are no finite numbers")
            else:
                assert score == whole


def out_of_memory_at(monkeypatch, fails):
    """Have steps run out of memory where a function of step and images says so."""
    usual = Weights.__getitem__

    def get(self, node):
        compute = usual(self, node)

        def maybe(state):
            if fails(node.step, state.x):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return compute(state)

        return maybe

    monkeypatch.setattr(Weights, "__getitem__", get)


class Transfers(TorchDispatchMode):
    """Counts what makes the processor wait for a GPU: a number asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("share", [False, True])
def test_no_candidate_makes_the_processor_wait(supernet, digits, share):
    batches = Batches(digits.search, Inputs.of(digits, (8, 8)), 32, CPU, 0)
    evaluator = InheritedAccuracy(supernet, batches, share_prefixes=share)
    with Transfers() as transfers:
        scores = evaluator.evaluate(architectures(supernet.space, 6))
    assert all(score.state == "complete" for score in scores)
    assert transfers.number == 0


@pytest.mark.parametrize("share", [True, False])
def test_what_is_too_large_fails_and_the_others_are_scored(supernet, digits, monkeypatch, share):
    archs = bred(supernet.space, 12, seed=1)
    batches = batches_of(digits.search, supernet, digits, 50)
    evaluator = InheritedAccuracy(supernet, batches, share_prefixes=share)
    expected = evaluator.evaluate(archs)
    width = archs[0].stages[1].embed_dim
    out_of_memory_at(monkeypatch, lambda step, x: isinstance(step, LayerStep) and step.embed_dim == width)
    scores = evaluator.evaluate(archs)
    wide = [any(stage.embed_dim == width for stage in arch.stages) for arch in archs]
    assert 0 < sum(wide) < len(archs)
    for score, whole, is_wide in zip(scores, expected, wide, strict=True):
        if is_wide:
            assert (score.value, score.images, score.state) == (None, 0, "failed")
            assert score.reason == "out of memory: CUDA out of memory. Tried to allocate 2 GiB"
        else:
            assert score == whole


def test_what_finds_memory_on_its_own_is_scored(supernet, digits, monkeypatch):
    archs = bred(supernet.space, 8, seed=2)
    evaluator = InheritedAccuracy(supernet, batches_of(digits.search, supernet, digits, 50))
    expected = evaluator.evaluate(archs)
    failures = [0]

    def fails(step, x):
        # The first attempt of every batch.
        first = isinstance(step, Embedding) and failures[0] < 1
        failures[0] += first
        return first

    out_of_memory_at(monkeypatch, fails)
    assert evaluator.evaluate(archs) == expected
    assert failures == [1]


def test_other_errors_end_the_evaluation(supernet, digits, monkeypatch):
    monkeypatch.setattr(Weights, "__getitem__", lambda self, node: 1 / 0)
    evaluator = InheritedAccuracy(supernet, batches_of(digits.search, supernet, digits, 50))
    with pytest.raises(ZeroDivisionError):
        evaluator.evaluate([supernet.space.smallest])


# --- racing


def test_the_survivors_of_a_race_have_their_scores_and_the_best_survive(supernet, digits):
    batches = batches_of(many_images(digits), supernet, digits, 64, order_seed=5)
    archs = bred(supernet.space, 24, seed=3)
    whole = [score.value for score in InheritedAccuracy(supernet, batches).evaluate(archs)]
    known = sorted(whole, reverse=True)[:2]
    scores = InheritedAccuracy(supernet, batches, race=Race(keep=4, first_look=64)).evaluate(archs, known)
    raced = [position for position, score in enumerate(scores) if score.state == "raced"]
    assert len(raced) > 5
    # Of the best four together two are known already.
    assert not set(raced) & set(sorted(range(24), key=lambda i: -whole[i])[:2])
    correct = {}
    for position in raced:
        flags = [supernet(images.clone(), archs[position]).argmax(1) == labels for images, labels in batches]
        correct[position] = torch.cat(flags).numpy()
    for position, score in enumerate(scores):
        if position in raced:
            seen = score.images
            assert seen < 640
            assert seen % 64 == 0
            assert score.value == 100 * correct[position][:seen].sum() / seen
        else:
            assert score == Score(value=whole[position], images=640)


def test_nothing_is_raced_without_a_known_best(supernet, digits):
    batches = batches_of(many_images(digits), supernet, digits, 64, order_seed=5)
    archs = bred(supernet.space, 12, seed=3)
    plain, racing = (InheritedAccuracy(supernet, batches, race=race) for race in (None, Race(keep=1)))
    unraced = plain.evaluate(archs)
    assert racing.evaluate(archs) == unraced == plain.evaluate(archs, [100.0])
    raced = racing.evaluate(archs, [100.0])
    assert raced == racing.evaluate(archs, [100.0]) != unraced


def test_images_in_the_order_of_their_files_are_not_raced(supernet, digits):
    with pytest.raises(ValueError, match="order_seed"):
        InheritedAccuracy(supernet, batches_of(many_images(digits), supernet, digits, 64), race=Race())


class Numbered:
    """Batches whose images are their numbers, of one class."""

    is_shuffled = True

    def __init__(self, num_images, batch_size):
        self.num_images, self.batch_size = num_images, batch_size

    def __iter__(self):
        for start in range(0, self.num_images, self.batch_size):
            images = torch.arange(start, min(start + self.batch_size, self.num_images))
            yield images.float(), torch.zeros(len(images), dtype=torch.long)


def answering(monkeypatch, correct, broken=()):
    """Have candidates answer as made up: flags (n, images); `broken` are candidates and images without a number."""
    ran = []

    def run(tree, weights, images, found):
        rows = images.long()
        for position in tree.order:
            ran.append((position, int(rows[0])))
            logits = torch.zeros(len(rows), 2)
            logits[:, 0] = torch.as_tensor(correct[position])[rows].float() - 0.5
            if any(candidate == position and image in rows for candidate, image in broken):
                logits[0] = math.nan
            found(position, logits)
        return {}

    monkeypatch.setattr(inherited, "run", run)
    return ran


def test_candidates_given_up_for_a_rival_that_failed_later_get_the_rest_of_the_images(supernet, monkeypatch):
    archs = bred(supernet.space, 3, seed=0)
    correct = np.zeros((3, 1000), dtype=bool)
    correct[0] = True  # until it fails, far better than the others
    correct[1, ::2] = True
    correct[2, ::2] = True
    evaluator = InheritedAccuracy(supernet, Numbered(1000, 100), race=Race(keep=1, first_look=100))
    ran = answering(monkeypatch, correct)
    scores = evaluator.evaluate(archs, [1.0])
    assert [score.state for score in scores] == ["complete", "raced", "raced"]
    assert [score.images for score in scores[1:]] == [100, 100]
    ran.clear()
    answering(monkeypatch, correct, broken=[(0, 950)])
    scores = evaluator.evaluate(archs, [1.0])
    assert [score.state for score in scores] == ["failed", "complete", "complete"]
    assert [score.value for score in scores] == [None, 50.0, 50.0]


def test_a_part_of_a_population_gives_up_later_the_more_parts_there_are(supernet, monkeypatch):
    archs = bred(supernet.space, 2, seed=0)
    correct = np.zeros((2, 5000), dtype=bool)
    correct[0] = True
    correct[1] = np.random.default_rng(0).random(5000) < 0.98
    evaluator = InheritedAccuracy(supernet, Numbered(5000, 50), race=Race(keep=1, first_look=50, growth=1.01))
    answering(monkeypatch, correct)
    images = [evaluator.evaluate(archs, [1.0], parts)[1].images for parts in (1, 10, 10**6)]
    assert images == sorted(set(images))
    assert images[-1] < 5000
    assert evaluator.evaluate(archs, [1.0]) == evaluator.evaluate(archs, [1.0], 1)


def test_no_candidate_answers_an_image_twice_or_after_it_left(supernet, monkeypatch):
    rng = np.random.default_rng(0)
    archs = bred(supernet.space, 10, seed=0)
    correct = rng.random((10, 1000)) < np.linspace(0.3, 0.95, 10)[:, None]
    evaluator = InheritedAccuracy(supernet, Numbered(1000, 100), race=Race(keep=2, first_look=100))
    ran = answering(monkeypatch, correct)
    scores = evaluator.evaluate(archs, [50.0])
    assert len(set(ran)) == len(ran)
    for position, score in enumerate(scores):
        assert sum(candidate == position for candidate, _ in ran) * 100 == score.images
        assert score.value == 100 * correct[position, : score.images].sum() / score.images
    assert scores[0].images < scores[-1].images == 1000
