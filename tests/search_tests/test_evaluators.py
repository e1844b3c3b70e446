"""What candidates are scored with, against networks that were taken out of the supernet and straightforward sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from psvit.data import Batches, Inputs, open_data
from psvit.model import PSViT
from psvit.search.evaluator import InheritedAccuracy
from psvit.search.indicators import DSS
from psvit.search_space import SearchSpace
from psvit.seeding import seeded
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
    archs = architectures(space, 20)
    # Scores that were all alike would be equal to any reference.
    scores = [indicator.evaluate(arch) for arch in archs]
    assert max(scores) > 2 * min(scores) > 0
    for arch, score in zip(archs, scores, strict=True):
        assert score == pytest.approx(reference_dss(supernet, arch), rel=1e-3)


def test_dss_is_decided_by_its_seed(space):
    archs = architectures(space, 5)
    one, same, other = (DSS(space, seed, CPU) for seed in (0, 0, 1))
    scores = [one.evaluate(arch) for arch in archs]
    # In another order, because norms are remembered from one architecture to the next.
    assert [same.evaluate(arch) for arch in archs[::-1]] == scores[::-1]
    assert [one.evaluate(arch) for arch in archs] == scores
    assert [other.evaluate(arch) for arch in archs] != scores


def test_dss_leaves_global_generators_alone(space):
    before = torch.get_rng_state()
    DSS(space, 0, CPU).evaluate(space.smallest)
    assert torch.equal(torch.get_rng_state(), before)


def test_dss_needs_no_images_and_says_so(space):
    assert DSS(space, 0, CPU).describe()["images"] == 0


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


def test_inherited_accuracy_is_that_of_the_extracted_network(digits_space):
    data = open_data("digits")
    supernet = trained_a_little(digits_space, data)
    # Batches that do not divide the images, so that a mean of means would be another number.
    batches = Batches(data.search, Inputs.of(data, digits_space.image_size), 50, CPU)
    evaluator = InheritedAccuracy(supernet, batches)
    assert len(data.search) % 50
    archs = [digits_space[int(i)] for i in np.random.default_rng(0).permutation(digits_space.size)[:8]]
    scores = [evaluator.evaluate(arch) for arch in archs]
    assert len(set(scores)) > 3
    for arch, score in zip(archs, scores, strict=True):
        network = supernet.extract(arch).eval()
        with torch.no_grad():
            right = [
                int(network(image[None]).argmax() == label)
                for images, labels in batches
                for image, label in zip(images, labels, strict=True)
            ]
        assert score == 100 * sum(right) / len(data.search)


def test_inherited_accuracy_is_measured_without_stochastic_depth(digits_space):
    data = open_data("digits")
    supernet = Supernet(digits_space, drop_path_rate=0.9).train()
    evaluator = InheritedAccuracy(supernet, Batches(data.search, Inputs.of(data, digits_space.image_size), 256, CPU))
    assert len({evaluator.evaluate(digits_space.largest) for _ in range(3)}) == 1


def test_inherited_accuracy_says_on_how_many_images_it_rests(digits_space):
    data = open_data("digits")
    batches = Batches(data.search, Inputs.of(data, digits_space.image_size), 256, CPU)
    assert InheritedAccuracy(Supernet(digits_space), batches).describe()["images"] == len(data.search) == 144
