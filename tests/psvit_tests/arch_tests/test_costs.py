"""Costs, three ways: by hand, against the built module, and against independent counters."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from psvit.arch import costs
from psvit.arch.architecture import Architecture, Stage
from psvit.arch.costs import Cost, cost
from psvit.model import PSViT
from psvit.nn.live_tensors import LiveTensors
from psvit.space.search_space import SearchSpace, shipped_spaces


def build(arch: Architecture, device: str = "meta", sharing: str = "map") -> PSViT:
    with torch.device(device):
        return PSViT(arch, sharing=sharing).eval()


def peak_of(model: PSViT) -> int:
    """The largest sum of live tensor bytes in a forward pass of one image, with fused attention."""
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = True
    image = torch.zeros(1, model.in_chans, *model.arch.image_size, device=model.pos_embed.device)
    with torch.inference_mode(), LiveTensors(image, list(model.parameters())) as counter:
        model(image)
    return counter.peak


@pytest.fixture(scope="module")
def measured(fused_attention):
    """A function that asks counters and the built module; on the meta device nothing is computed."""

    def measure(arch: Architecture) -> Cost:
        # Fused kernels would hide their products from the counter.
        with fused_attention(False):
            model = build(arch)
        images = torch.empty(1, arch.in_chans, *arch.image_size, device="meta")
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(images)
        flops = counter.get_total_flops()
        # The counter counts a multiplication and an addition for every multiply-accumulate.
        assert flops % 2 == 0
        num_params = sum(parameter.numel() for parameter in model.parameters())
        return Cost(macs=flops // 2, num_params=num_params, activation_bytes=peak_of(model))

    return measure


def members(space: SearchSpace, n: int, seed: int) -> list[Architecture]:
    rng = np.random.default_rng(seed)
    return [space[int(number)] for number in rng.integers(space.size, size=n)]


# --- by hand


def test_a_small_1d_network_number_by_number():
    arch = Architecture(
        variant="1d",
        image_size=(4, 6),
        in_chans=3,
        num_classes=5,
        patch_size=2,
        patch_stride=2,
        head_dim=2,
        stages=(Stage(embed_dim=4, groups=(2,), mlp_ratio=2), Stage(embed_dim=6, groups=(1,), mlp_ratio=1)),
        pools=("conv",),
    )
    # 2 x 3 patches and a class token are 7 tokens; pooling leaves 3 patches, so 4 tokens.
    stem = 6 * (3 * 2 * 2) * 4
    # Queries, keys and values; scores; weighted values; projection; the two layers of the MLP.
    producer = 7 * 4 * 12 + 7 * 7 * 4 + 7 * 7 * 4 + 7 * 4 * 4 + 7 * 4 * 8 + 7 * 8 * 4
    # Values; weighted values; projection; MLP.
    sharer = 7 * 4 * 4 + 7 * 7 * 4 + 7 * 4 * 4 + 7 * 4 * 8 + 7 * 8 * 4
    # Depthwise convolution of width 3; the patches' linear layer; the class token's own.
    pooling = 3 * 3 * 4 + 3 * 4 * 6 + 1 * 4 * 6
    second = 4 * 6 * 18 + 4 * 4 * 6 + 4 * 4 * 6 + 4 * 6 * 6 + 4 * 6 * 6 + 4 * 6 * 6
    head = 6 * 5
    assert (stem, producer, sharer, pooling, second, head) == (288, 1288, 868, 132, 1056, 30)
    assert cost(arch).macs == 3662

    # Patch embedding; class token; positions.
    stem = (12 * 4 + 4) + 4 + 7 * 4
    # Two norms; queries, keys and values; projection; MLP.
    producer = 2 * 8 + (4 * 12 + 12) + (4 * 4 + 4) + (4 * 8 + 8) + (8 * 4 + 4)
    sharer = 2 * 8 + (4 * 4 + 4) + (4 * 4 + 4) + (4 * 8 + 8) + (8 * 4 + 4)
    pooling = (3 * 4 + 4) + (4 * 6 + 6) + (4 * 6 + 6)
    second = 2 * 12 + (6 * 18 + 18) + (6 * 6 + 6) + (6 * 6 + 6) + (6 * 6 + 6)
    head = 12 + (6 * 5 + 5)
    assert (stem, producer, sharer, pooling, second, head) == (84, 172, 132, 76, 276, 47)
    assert cost(arch).num_params == 787

    image = 3 * 4 * 6
    # The first group's input, which is also the stage's; two heads share a map.
    tokens, attention_map = 7 * 4, 2 * 7 * 7
    # Norm, queries, keys and values beside logits and map; those, attention's output, its copy and the projection
    # beside the map. The sharer has an input of its own: attention's branch, the sum, its norm, the hidden layer twice.
    producer = tokens + max((1 + 3) * tokens + 2 * attention_map, (1 + 3 + 3) * tokens + attention_map)
    sharer = tokens + attention_map + tokens + max((1 + 1 + 3) * tokens, 3 * tokens + 2 * 7 * 8)
    # The second stage holds the first's output.
    after = 4 * 6
    second = tokens + after + max((1 + 3 + 1 + 1) * after, 3 * after + 2 * 4 * 6)
    assert (image, producer, sharer, second) == (72, 336, 350, 196)
    assert cost(arch).activation_bytes == 4 * (72 + 350)


def test_a_small_2d_network_number_by_number():
    arch = Architecture(
        variant="2d",
        image_size=(5, 6),
        in_chans=1,
        num_classes=2,
        patch_size=2,
        patch_stride=1,
        head_dim=2,
        stages=(Stage(embed_dim=2, groups=(1,), mlp_ratio=1), Stage(embed_dim=2, groups=(2, 1), mlp_ratio=1.5)),
        pools=("conv",),
    )
    # Overlapping patches: a grid of 4 x 5, pooled to 2 x 3. Widths agree, so no linear layer follows the pooling.
    macs = 20 * 4 * 2
    macs += 20 * 2 * 6 + 2 * (20 * 20 * 2) + 20 * 2 * 2 + 2 * (20 * 2 * 2)
    macs += 6 * 9 * 2
    macs += 2 * (6 * 2 * 6 + 2 * (6 * 6 * 2) + 6 * 2 * 2 + 2 * (6 * 2 * 3))  # two producers
    macs += 6 * 2 * 2 + 6 * 6 * 2 + 6 * 2 * 2 + 2 * (6 * 2 * 3)  # one sharer
    macs += 2 * 2
    assert macs == 160 + 2080 + 108 + 624 + 192 + 4
    params = (4 * 2 + 2) + 20 * 2
    params += 2 * 4 + (2 * 6 + 6) + (2 * 2 + 2) + 2 * (2 * 2 + 2)
    params += 9 * 2 + 2
    params += 2 * (2 * 4 + (2 * 6 + 6) + (2 * 2 + 2) + (2 * 3 + 3) + (3 * 2 + 2))
    params += 2 * 4 + (2 * 2 + 2) + (2 * 2 + 2) + (2 * 3 + 3) + (3 * 2 + 2)
    params += 4 + (2 * 2 + 2)
    assert params == 50 + 44 + 20 + 98 + 37 + 10
    # The image; what the first stage gave; the second's first group's input and its sharer's; two maps of one head; and
    # the sharer's branch, sum, norm and hidden layer. Less than in the first stage, where 20 tokens are 40 numbers.
    elements = 30 + 20 * 2 + 2 * (6 * 2) + 6 * 6 + 3 * (6 * 2) + 2 * (6 * 3)
    assert elements < 30 + 40 + 6 * 40
    assert cost(arch) == Cost(macs=macs, num_params=params, activation_bytes=4 * (30 + 40 + 6 * 40))


@pytest.mark.parametrize(
    ("size", "width", "num_params", "gmacs"),
    [("tiny", 192, 5_717_416, 1.25), ("small", 384, 22_050_664, 4.60), ("base", 768, 86_567_656, 17.56)],
)
def test_deits_cost_what_is_known_of_them(size, width, num_params, gmacs):
    # Parameters as timm lists them for deit_{tiny,small,base}_patch16_224; MACs without biases, norms and softmax.
    space = SearchSpace.load(f"psvit-1d-{size}")
    arch = space.network(space.layouts[0], stages=(Stage(embed_dim=width, groups=(1,) * 12, mlp_ratio=4),), pools=())
    assert cost(arch).num_params == num_params
    assert round(cost(arch).macs / 1e9, 2) == gmacs


@settings(max_examples=50)
@given(st.data())
def test_a_sharer_saves_queries_keys_and_one_product(generated_spaces, data):
    space = data.draw(generated_spaces)
    arch = space[data.draw(st.integers(0, space.size - 1))]
    apart = tuple(stage.model_copy(update={"groups": (1,) * stage.depth}) for stage in arch.stages)
    alone = arch.model_copy(update={"stages": apart})
    macs = num_params = 0
    for stage, grid in zip(arch.stages, arch.grids, strict=True):
        sharers = stage.depth - len(stage.groups)
        n, d = math.prod(grid) + (arch.variant == "1d"), stage.embed_dim
        macs += sharers * (2 * n * d * d + n * n * d)
        num_params += sharers * (2 * d * d + 2 * d)
    assert cost(alone).macs - cost(arch).macs == macs
    assert cost(alone).num_params - cost(arch).num_params == num_params


def test_arrays_are_priced_like_numbers():
    rng = np.random.default_rng(0)
    columns = rng.integers(1, 50, size=(5, 20))
    macs, num_params = costs.layers(*columns)
    singly = [costs.layers(*map(int, row)) for row in columns.T]
    assert list(zip(macs.tolist(), num_params.tolist(), strict=True)) == singly


# --- against the built module and the counter


@pytest.mark.parametrize("name", [name for name in shipped_spaces() if not name.endswith(("-small", "-base"))])
def test_a_random_member_of_a_shipped_space_costs_what_is_measured(name, measured):
    for arch in members(SearchSpace.load(name), 1, seed=1):
        assert cost(arch) == measured(arch)


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped_spaces())
def test_more_random_members_of_shipped_spaces_cost_what_is_measured(name, measured):
    # Those of the larger sizes differ in numbers alone, and are built for longer.
    number = 3 if name.endswith(("-small", "-base")) else 12
    for arch in members(SearchSpace.load(name), number, seed=2):
        assert cost(arch) == measured(arch)


def test_members_all_over_a_small_space_cost_what_is_measured(small_space, measured):
    for number in range(0, small_space.size, 61):
        assert cost(small_space[number]) == measured(small_space[number])


@settings(max_examples=15)
@given(st.data())
def test_odd_and_rectangular_grids_cost_what_is_measured(generated_spaces, measured, data):
    space = data.draw(generated_spaces)
    arch = space[data.draw(st.integers(0, space.size - 1))]
    assert cost(arch) == measured(arch)


@pytest.mark.parametrize("variant", ["1d", "2d"])
@pytest.mark.parametrize("pool", ["max", "avg", "conv"])
@pytest.mark.parametrize("image_size", [(14, 14), (6, 30), (2, 10)])
def test_poolings_of_awkward_grids_cost_what_is_measured(variant, pool, image_size, measured):
    arch = Architecture(
        variant=variant,
        image_size=image_size,
        in_chans=1,
        num_classes=0,
        patch_size=2,
        patch_stride=2,
        head_dim=4,
        stages=tuple(Stage(embed_dim=width, groups=(2,), mlp_ratio=2) for width in (4, 8, 8)),
        pools=(pool, pool),
    )
    assert cost(arch) == measured(arch)


@pytest.mark.parametrize("variant", ["1d", "2d"])
@pytest.mark.parametrize(
    ("image_size", "patch_size", "width"),
    [
        ((5, 6), 1, 4),
        ((6, 8), 2, 20),
        ((32, 32), 4, 60),
        ((32, 32), 4, 4),
        ((12, 18), 6, 20),
        ((96, 64), 8, 4),
        ((96, 64), 8, 60),
        ((18, 27), 9, 60),
        ((64, 80), 16, 20),
        ((48, 72), 24, 4),
    ],
)
def test_conv_stems_cost_what_is_measured(variant, image_size, patch_size, width, measured):
    arch = Architecture(
        variant=variant,
        image_size=image_size,
        in_chans=3,
        num_classes=5,
        stem="conv",
        patch_size=patch_size,
        patch_stride=patch_size,
        head_dim=4,
        stages=tuple(Stage(embed_dim=width, groups=(2, 1), mlp_ratio=2) for _ in range(2)),
        pools=("avg",),
    )
    assert cost(arch) == measured(arch)


def test_a_conv_stem_number_by_number():
    arch = Architecture(
        variant="1d",
        image_size=(8, 16),
        in_chans=3,
        num_classes=0,
        stem="conv",
        patch_size=4,
        patch_stride=4,
        head_dim=5,
        stages=(Stage(embed_dim=15, groups=(1,), mlp_ratio=1),),
        pools=(),
    )
    plain = Architecture.from_dict({**arch.to_dict(), "stem": "patch"})
    # 3 channels to 8 on 4x8 pixels, 8 to 15 on 2x4; instead of patches of 48 numbers.
    assert cost(arch).macs - cost(plain).macs == 32 * 9 * 3 * 8 + 8 * 9 * 8 * 15 - 8 * 48 * 15
    assert cost(arch).num_params - cost(plain).num_params == (9 * 3 * 8 + 8) + (9 * 8 * 15 + 15) - (48 * 15 + 15)


# --- activation memory


@pytest.mark.parametrize("variant", ["1d", "2d"])
@pytest.mark.parametrize(
    ("groups", "elements"),
    [
        # Twenty tokens of 8 channels are E = 160 numbers, two maps M = 800, the hidden layer 2 E.
        ((1,), 1 * 160 + 7 * 160),
        # A group after the first holds what came into the stage beside its own input.
        ((1, 1), 2 * 160 + 7 * 160),
        ((2,), 1 * 160 + 4 * 160 + 2 * 800),
        ((2, 1), 1 * 160 + 4 * 160 + 2 * 800),
        ((1, 2), 2 * 160 + 4 * 160 + 2 * 800),
        ((2, 1, 2), 2 * 160 + 4 * 160 + 2 * 800),
    ],
)
def test_the_peak_depends_on_which_groups_share(variant, groups, elements):
    # In 1d the class token is one of the twenty.
    image_size = (4, 5) if variant == "2d" else (1, 19)
    arch = Architecture(
        variant=variant,
        image_size=image_size,
        in_chans=1,
        num_classes=2,
        patch_size=1,
        patch_stride=1,
        head_dim=4,
        stages=(Stage(embed_dim=8, groups=groups, mlp_ratio=2),),
        pools=(),
    )
    assert cost(arch).activation_bytes == peak_of(build(arch)) == 4 * (math.prod(image_size) + elements)


@pytest.mark.parametrize(("num_classes", "elements"), [(100, None), (10_000, 10_000)])
def test_a_large_classifier_can_be_the_peak(small_space, num_classes, elements):
    arch = small_space.with_data(num_classes, 2).smallest
    n, d = math.prod(arch.grids[-1]) + 1, arch.stages[-1].embed_dim
    if elements is not None:
        # In 1d the class token is a view of all tokens, which are therefore alive.
        head = elements + (n * d if arch.variant == "1d" else d)
        assert cost(arch).activation_bytes == 4 * (2 * 8 * 10 + head)
    assert cost(arch).activation_bytes == peak_of(build(arch))


def test_cpu_tensors_are_alive_like_meta_tensors(small_space):
    # Where values are computed, fused attention is a real kernel.
    for number in range(0, small_space.size, 24):
        arch = small_space[number]
        assert peak_of(build(arch, "cpu")) == peak_of(build(arch)) == cost(arch).activation_bytes


def test_the_default_form_of_sharing_of_one_image_is_the_one_that_is_counted():
    arch = SearchSpace.load("psvit-2d-base").largest
    sharing = arch.model_copy(
        update={"stages": tuple(stage.model_copy(update={"groups": (2,)}) for stage in arch.stages)}
    )
    assert peak_of(build(sharing, sharing="auto")) == peak_of(build(sharing)) == cost(sharing).activation_bytes


@pytest.mark.parametrize("head_dim", [8, 4])
def test_the_memory_of_a_shared_map_of_one_head_or_two(measured, head_dim):
    arch = Architecture(
        variant="2d",
        image_size=(8, 8),
        in_chans=1,
        num_classes=2,
        patch_size=4,
        patch_stride=4,
        head_dim=head_dim,
        stages=(Stage(embed_dim=8, groups=(2,), mlp_ratio=0.5),),
        pools=(),
    )
    assert cost(arch) == measured(arch)


def test_no_images_are_a_batch_too():
    arch = SearchSpace.load("psvit-2d-digits")[0]
    assert PSViT(arch).eval()(torch.zeros(0, 1, 8, 8)).shape == (0, 10)
