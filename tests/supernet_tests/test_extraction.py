"""Running and extracting architectures: the same outputs, and no trace of it on the supernet."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from psvit.space.search_space import SearchSpace, shipped_spaces
from psvit.supernet.supernet import Supernet

# At 64 pixels every space of 224 pixels keeps all its stages, and the forward passes cost nothing.
SMALLER = (64, 64)
LARGE = [name for name in shipped_spaces() if name.endswith(("-small", "-base"))]
OTHERS = [name for name in shipped_spaces() if name not in LARGE]


def assert_extracted_networks_agree(name, n):
    space = SearchSpace.load(name)
    if min(space.image_size) > 64:
        space = space.with_data(10, 3, SMALLER)
    generator = torch.Generator().manual_seed(0)
    # Filled by hand: truncated normals are slow for so many weights, and fresh biases would be alike.
    with torch.device("meta"):
        supernet = Supernet(space)
    supernet = supernet.to_empty(device="cpu").eval()
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.normal_(std=0.05, generator=generator)
    images = torch.randn(2, space.in_chans, *space.image_size, generator=generator)
    rng = np.random.default_rng(0)
    for arch in [*space.sample(rng, n), space.smallest, space.largest]:
        network = supernet.extract(arch)
        with torch.no_grad():
            torch.testing.assert_close(network(images), supernet(images, arch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OTHERS)
def test_extracted_networks_give_the_supernets_outputs(name):
    assert_extracted_networks_agree(name, n=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_extracted_networks_give_the_supernets_outputs_in_spaces_of_up_to_a_gigabyte(name):
    assert_extracted_networks_agree(name, n=1)


def test_every_layout_of_a_space_extracts_with_every_pooling(space, trained_like, images):
    supernet = trained_like(space)
    archs = [space[int(i)] for i in np.random.default_rng(1).permutation(space.size)[:20]]
    assert {len(arch.stages) for arch in archs} == {2, 3}
    assert {pool for arch in archs for pool in arch.pools} == {"max", "avg", "conv"}
    with torch.no_grad():
        for arch in archs:
            torch.testing.assert_close(
                supernet.extract(arch)(images(space)), supernet(images(space), arch), rtol=1e-5, atol=1e-5
            )


def test_an_extracted_network_is_a_copy(space, trained_like, images):
    supernet = trained_like(space)
    arch = space.largest
    network = supernet.extract(arch)
    assert network.arch == arch
    with torch.no_grad():
        before = network(images(space))
        for parameter in supernet.parameters():
            parameter.zero_()
        assert torch.equal(network(images(space)), before)


def test_scoring_one_architecture_leaves_no_trace_on_another(space, trained_like, images):
    supernet = trained_like(space)
    one, other = space.smallest, space.largest
    with torch.no_grad():
        first = supernet(images(space), one)
        assert not torch.equal(supernet(images(space), other), first)
        assert torch.equal(supernet(images(space), one), first)


def test_running_and_extracting_change_nothing_on_the_modules(space, trained_like, images):
    supernet = trained_like(space)
    attributes = {name: dict(vars(module)) for name, module in supernet.named_modules()}
    pickled = pickle.dumps(supernet)
    for number in np.random.default_rng(2).permutation(space.size)[:10]:
        supernet(images(space), space[int(number)])
        supernet.extract(space[int(number)])
    assert pickle.dumps(supernet) == pickled
    for name, module in supernet.named_modules():
        assert vars(module).keys() == attributes[name].keys()
        assert all(value is attributes[name][key] for key, value in vars(module).items()), name


def test_two_supernets_of_one_space_do_not_disturb_each_other(space, trained_like, images):
    # Both use the same remembered structures; weights and mode have to come from the one that is called.
    one, other = trained_like(space, seed=0, drop_path_rate=0.5), trained_like(space, seed=1, drop_path_rate=0.5)
    arch = space.largest
    with torch.no_grad():
        alone = one(images(space), arch)
        assert not torch.equal(other.train()(images(space), arch), alone)
        assert torch.equal(one(images(space), arch), alone)


def test_stochastic_depth_acts_in_training_only(space, trained_like, images):
    supernet = trained_like(space, drop_path_rate=0.5)
    arch = space.largest
    with torch.no_grad():
        torch.manual_seed(0)
        supernet.train()
        assert len({supernet(images(space, n=1), arch).sum().item() for _ in range(8)}) > 1
        supernet.eval()
        assert len({supernet(images(space, n=1), arch).sum().item() for _ in range(8)}) == 1


@pytest.mark.parametrize("training", [True, False])
def test_an_extracted_network_is_in_the_supernets_mode(space, trained_like, training):
    supernet = trained_like(space).train(training)
    assert all(module.training is training for module in supernet.extract(space.largest).modules())


def test_an_architecture_that_was_scored_can_still_be_trained(space, trained_like, images):
    # Structures are remembered, and one made while nothing records gradients must not stay without them.
    supernet = trained_like(space)
    arch = space[space.size // 2]
    with torch.inference_mode():
        supernet(images(space), arch)
    supernet(images(space), arch).sum().backward()
    for name, _ in supernet.extract(arch).named_parameters():
        if name.startswith(("head.", "patch_embed.")):
            assert supernet.get_parameter(supernet.source(arch, name).name).grad.abs().sum() > 0


def test_a_fresh_supernet_is_initialised_like_a_network_of_its_own():
    space = SearchSpace.load("psvit-2d-nano")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        supernet = Supernet(space)
    for name, parameter in supernet.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any() or name.endswith(("conv.bias", "patch_embed.proj.bias")), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        elif ".attn." in name or ".mlp." in name or name in ("pos_embed", "head.weight"):
            assert parameter.std().item() == pytest.approx(0.02, rel=0.15), name
