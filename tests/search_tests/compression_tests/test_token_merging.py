"""Token merging: against a slow version token by token, and what it costs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from psvit.arch.architecture import Architecture
from psvit.arch.costs import cost
from psvit.nn.network import PSViT
from psvit.search.compression.token_merging import MergingNetwork, can_merge, merge, merged_for, merging_macs
from psvit.space.search_space import SearchSpace


def network(variant="1d", layers=3):
    return Architecture.from_dict(
        {
            "variant": variant,
            "image_size": [16, 16],
            "in_chans": 3,
            "num_classes": 5,
            "patch_size": 4,
            "patch_stride": 4,
            "head_dim": 8,
            "stages": [{"embed_dim": 16, "groups": [1] * layers, "mlp_ratio": 2.0}],
            "pools": [],
        }
    )


def merged_slowly(x, size, keys, number, prefix):
    """One image: tokens as a list, merged as the paper says."""
    tokens = [(x[i] * size[i], float(size[i])) for i in range(prefix, len(x))]
    keys = keys[prefix:] / keys[prefix:].norm(dim=1, keepdim=True)
    first, second = range(0, len(tokens), 2), range(1, len(tokens), 2)
    best = {i: max(second, key=lambda j: float(keys[i] @ keys[j])) for i in first}
    gone = sorted(first, key=lambda i: -float(keys[i] @ keys[best[i]]))[:number]
    for i in gone:
        total, patches = tokens[best[i]]
        tokens[best[i]] = (total + tokens[i][0], patches + tokens[i][1])
    kept = [(x[i] * size[i], float(size[i])) for i in range(prefix)]
    kept += [token for i, token in enumerate(tokens) if i not in gone]
    return sorted((patches, (total / patches).tolist()) for total, patches in kept)


@settings(max_examples=30)
@given(patches=st.integers(2, 11), prefix=st.integers(0, 1), number=st.integers(0, 5), seed=st.integers(0, 99))
def test_tokens_are_merged_as_the_paper_says(patches, prefix, number, seed):
    number = min(number, patches // 2)
    torch.manual_seed(seed)
    x, keys = torch.randn(2, prefix + patches, 3), torch.randn(2, prefix + patches, 4)
    size = torch.randint(1, 4, (2, prefix + patches, 1)).float()
    tokens, sizes = merge(x, size, keys, number, prefix)
    assert tokens.shape == (2, prefix + patches - number, 3)
    for image in range(2):
        found = sorted(zip(sizes[image, :, 0].tolist(), tokens[image].tolist(), strict=True))
        wanted = merged_slowly(x[image], size[image], keys[image], number, prefix)
        for (patches_found, token), (patches_wanted, other) in zip(found, wanted, strict=True):
            assert patches_found == patches_wanted
            assert token == pytest.approx(other, abs=1e-5)
        assert torch.allclose(tokens[image, :prefix], x[image, :prefix])


@pytest.mark.parametrize("variant", ["1d", "2d"])
@torch.no_grad()
def test_without_merging_the_outputs_are_the_networks(variant):
    torch.manual_seed(0)
    plain = PSViT(network(variant)).eval()
    images = torch.randn(4, 3, 16, 16)
    assert torch.allclose(MergingNetwork(plain, (0, 0, 0))(images), plain(images), atol=1e-5)
    assert not torch.allclose(MergingNetwork(plain, (4, 4, 2))(images), plain(images), atol=1e-5)


@torch.no_grad()
def test_merging_equal_tokens_changes_nothing():
    torch.manual_seed(0)
    plain = PSViT(network()).eval()
    plain.pos_embed[:, 1:] = 0
    images = torch.full((2, 3, 16, 16), 0.7)
    assert torch.allclose(MergingNetwork(plain, (5, 3, 1))(images), plain(images), atol=1e-4)


def test_costs_are_those_of_products_that_torch_counts():
    arch, merged = network(), (5, 3, 1)
    # Fused kernels are not counted.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        MergingNetwork(PSViT(arch).eval(), merged)(torch.randn(1, 3, 16, 16))
    assert merging_macs(arch, merged) == counter.get_total_flops() // 2
    assert merging_macs(arch, (0, 0, 0)) == cost(arch).macs


@settings(max_examples=30)
@given(percent=st.integers(20, 100), layers=st.integers(1, 5))
def test_as_few_tokens_are_merged_as_a_limit_demands(percent, layers):
    arch = network(layers=layers)
    limit = cost(arch).macs * percent // 100
    merged = merged_for(arch, limit)
    if merged is None:
        most, left = [], arch.patches.number
        for _ in range(layers):
            most.append(left // 2)
            left -= most[-1]
        assert merging_macs(arch, tuple(most)) > limit
        return
    assert merging_macs(arch, merged) <= limit
    if any(merged):
        last = max(i for i, number in enumerate(merged) if number == max(merged))
        fewer = [number - (i == last) for i, number in enumerate(merged)]
        assert merging_macs(arch, tuple(fewer)) > limit


def test_pooled_networks_and_those_that_share_maps_are_not_merged():
    arch = network(layers=4)
    assert can_merge(arch)
    space = SearchSpace.around(arch)
    members = [space[number] for number in range(space.size)]
    assert [one for one in members if can_merge(one)] == [arch]
    pooled = next(one for one in members if len(one.stages) == 2)
    with pytest.raises(ValueError, match="one stage"):
        MergingNetwork(PSViT(pooled), (1, 1, 1, 1))
