"""The parts of a network against plain tensor arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from timm.layers import use_fused_attn
from torch import nn

import psvit.nn.layers
from psvit.nn.layers import (
    Attention,
    AttentionGroup,
    ConvStem,
    Layer,
    PatchEmbed,
    SharedAttention,
    TokenPool,
    choose_sharing,
)

GRIDS = [(2, 2), (7, 7), (14, 14), (5, 3), (4, 6), (1, 5), (6, 1), (3, 8)]


@pytest.fixture(autouse=True)
def _fixed_draws():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def spread(module: nn.Module) -> nn.Module:
    """Give every parameter, biases and norms too, a value that cannot be overlooked."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return module


# --- pooling


def pooled_by_hand(patches, operator, module):
    """Pool (rows, columns, D) one window at a time: 3 x 3 cells around every second cell, those outside left out."""
    rows, columns, dim = patches.shape
    out = torch.empty(math.ceil(rows / 2), math.ceil(columns / 2), dim)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            cells = [
                (a, b) for a in range(2 * i - 1, 2 * i + 2) for b in range(2 * j - 1, 2 * j + 2) if a >= 0 and b >= 0
            ]
            cells = [(a, b) for a, b in cells if a < rows and b < columns]
            inside = torch.stack([patches[a, b] for a, b in cells])
            if operator == "max":
                out[i, j] = inside.max(dim=0).values
            elif operator == "avg":
                out[i, j] = inside.mean(dim=0)
            else:
                weights = torch.stack([module.pool.weight[:, 0, a - 2 * i + 1, b - 2 * j + 1] for a, b in cells])
                out[i, j] = (weights * inside).sum(dim=0) + module.pool.bias
    return out


def sequence_pooled_by_hand(patches, operator, module):
    """Pool (N, D): three neighbours around every second token, those outside left out."""
    out = torch.empty(math.ceil(len(patches) / 2), patches.shape[1])
    for i in range(len(out)):
        near = [a for a in range(2 * i - 1, 2 * i + 2) if 0 <= a < len(patches)]
        inside = torch.stack([patches[a] for a in near])
        if operator == "max":
            out[i] = inside.max(dim=0).values
        elif operator == "avg":
            out[i] = inside.mean(dim=0)
        else:
            weights = torch.stack([module.pool.weight[:, 0, a - 2 * i + 1] for a in near])
            out[i] = (weights * inside).sum(dim=0) + module.pool.bias
    return out


@pytest.mark.parametrize("dim_out", [6, 10])
@pytest.mark.parametrize("operator", ["max", "avg", "conv"])
@pytest.mark.parametrize("grid", GRIDS)
def test_2d_pooling_equals_windows_by_hand(grid, operator, dim_out):
    module = spread(TokenPool("2d", operator, grid, 6, dim_out))
    # Negative throughout: zeros in the padding would win every maximum and pull every mean.
    x = -1 - torch.rand(2, math.prod(grid), 6)
    expected = torch.stack([pooled_by_hand(image.reshape(*grid, 6), operator, module).flatten(0, 1) for image in x])
    if dim_out != 6:
        expected = expected @ module.proj.weight.T + module.proj.bias
    torch.testing.assert_close(module(x), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dim_out", [6, 10])
@pytest.mark.parametrize("operator", ["max", "avg", "conv"])
@pytest.mark.parametrize("tokens", [2, 5, 8, 9, 196])
def test_1d_pooling_equals_windows_by_hand_and_passes_the_class_token_by(tokens, operator, dim_out):
    module = spread(TokenPool("1d", operator, (1, tokens), 6, dim_out))
    x = -1 - torch.rand(2, 1 + tokens, 6)
    cls, patches = x[:, :1], torch.stack([sequence_pooled_by_hand(image[1:], operator, module) for image in x])
    if dim_out != 6:
        cls = cls @ module.cls_proj.weight.T + module.cls_proj.bias
        patches = patches @ module.proj.weight.T + module.proj.bias
    torch.testing.assert_close(module(x), torch.cat([cls, patches], dim=1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("grid", GRIDS)
def test_2d_pooling_equals_the_functional_reference(grid):
    x = -1 - torch.rand(2, math.prod(grid), 6)
    image = x.transpose(1, 2).reshape(2, 6, *grid)
    padded = F.pad(image, (1, 1, 1, 1), value=-math.inf)
    maximum = F.max_pool2d(padded, kernel_size=3, stride=2)
    ones = F.pad(torch.ones_like(image), (1, 1, 1, 1))
    mean = F.avg_pool2d(F.pad(image, (1, 1, 1, 1)), 3, 2) / F.avg_pool2d(ones, 3, 2)
    for operator, expected in (("max", maximum), ("avg", mean)):
        module = TokenPool("2d", operator, grid, 6, 6)
        torch.testing.assert_close(module(x), expected.flatten(2).transpose(1, 2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("operator", ["max", "avg", "conv"])
def test_class_token_and_patches_do_not_meet_in_a_pooling(operator):
    module = spread(TokenPool("1d", operator, (1, 6), 4, 8))
    x, other = torch.randn(2, 7, 4), torch.randn(2, 7, 4)
    one = module(x)
    torch.testing.assert_close(module(torch.cat([x[:, :1], other[:, 1:]], dim=1))[:, 0], one[:, 0])
    torch.testing.assert_close(module(torch.cat([other[:, :1], x[:, 1:]], dim=1))[:, 1:], one[:, 1:])


@pytest.mark.parametrize("variant", ["1d", "2d"])
def test_poolings_have_weights_only_where_they_need_them(variant):
    grid = (1, 6) if variant == "1d" else (2, 3)
    kernel = 3 if variant == "1d" else 9
    linears = 2 if variant == "1d" else 1
    for operator, own in (("max", 0), ("avg", 0), ("conv", kernel * 4 + 4)):
        for dim_out, widening in ((4, 0), (8, linears * (4 * 8 + 8))):
            module = TokenPool(variant, operator, grid, 4, dim_out)
            assert sum(parameter.numel() for parameter in module.parameters()) == own + widening


# --- attention


def norm_by_hand(x, norm):
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
    return (x - mean) / (variance + 1e-6).sqrt() * norm.weight + norm.bias


def linear_by_hand(x, linear):
    return x @ linear.weight.T + linear.bias


def mlp_by_hand(x, mlp):
    hidden = linear_by_hand(x, mlp.fc1)
    return linear_by_hand(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))), mlp.fc2)


def maps_by_hand(x, attention, heads):
    """One map (B, N, N) for every head."""
    queries, keys, _ = linear_by_hand(x, attention.qkv).chunk(3, dim=-1)
    size = x.shape[-1] // heads
    maps = []
    for head in range(heads):
        q, k = (tokens[..., head * size : (head + 1) * size] for tokens in (queries, keys))
        scores = (q @ k.transpose(1, 2) / math.sqrt(size)).exp()
        maps.append(scores / scores.sum(dim=-1, keepdim=True))
    return maps


def apply_by_hand(maps, values, projection):
    size = values.shape[-1] // len(maps)
    heads = [attn @ values[..., head * size : (head + 1) * size] for head, attn in enumerate(maps)]
    return linear_by_hand(torch.cat(heads, dim=-1), projection)


def test_a_group_of_two_uses_one_map():
    group = spread(AttentionGroup(2, embed_dim=12, num_heads=3, hidden_dim=20, drop_path=[0.0, 0.0]))
    producer, sharer = group.layers
    x = torch.randn(2, 7, 12)

    normed = norm_by_hand(x, producer.norm1)
    maps = maps_by_hand(normed, producer.attn, heads=3)
    values = linear_by_hand(normed, producer.attn.qkv)[..., 24:]
    y = x + apply_by_hand(maps, values, producer.attn.proj)
    y = y + mlp_by_hand(norm_by_hand(y, producer.norm2), producer.mlp)
    # The sharer: its own norm, values, projection and MLP, and the map from before.
    z = y + apply_by_hand(maps, linear_by_hand(norm_by_hand(y, sharer.norm1), sharer.attn.v), sharer.attn.proj)
    z = z + mlp_by_hand(norm_by_hand(z, sharer.norm2), sharer.mlp)

    torch.testing.assert_close(group(x), z, atol=1e-5, rtol=0)


def test_every_sharer_of_a_longer_group_uses_the_producers_map():
    group = spread(AttentionGroup(3, embed_dim=8, num_heads=2, hidden_dim=8, drop_path=[0.0] * 3))
    x = torch.randn(2, 5, 8)
    producer, *sharers = group.layers
    normed = norm_by_hand(x, producer.norm1)
    maps = maps_by_hand(normed, producer.attn, heads=2)
    y = x + apply_by_hand(maps, linear_by_hand(normed, producer.attn.qkv)[..., 16:], producer.attn.proj)
    y = y + mlp_by_hand(norm_by_hand(y, producer.norm2), producer.mlp)
    for sharer in sharers:
        y = y + apply_by_hand(maps, linear_by_hand(norm_by_hand(y, sharer.norm1), sharer.attn.v), sharer.attn.proj)
        y = y + mlp_by_hand(norm_by_hand(y, sharer.norm2), sharer.mlp)
    torch.testing.assert_close(group(x), y, atol=1e-5, rtol=0)


def test_a_sharer_has_neither_queries_nor_keys():
    group = AttentionGroup(3, embed_dim=8, num_heads=2, hidden_dim=16, drop_path=[0.0] * 3)
    kinds = [type(layer.attn) for layer in group.layers]
    assert kinds == [Attention, SharedAttention, SharedAttention]
    sizes = [sum(parameter.numel() for parameter in layer.attn.parameters()) for layer in group.layers]
    assert sizes == [4 * 8 * 8 + 4 * 8, 2 * 8 * 8 + 2 * 8, 2 * 8 * 8 + 2 * 8]


def test_the_fused_and_the_visible_map_give_the_same_output(fused_attention):
    with fused_attention(False):
        visible = spread(Attention(12, 3))
    with fused_attention(True):
        fused = Attention(12, 3)
    assert (fused.fused_attn, visible.fused_attn) == (True, False)
    fused.load_state_dict(visible.state_dict())
    x = torch.randn(2, 7, 12)
    (one, handed_on), (other, attn) = fused(x, hand_on=None), visible(x, hand_on="map")
    assert handed_on is None
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    # A producer that hands its map on shows it, fused or not.
    torch.testing.assert_close(fused(x, hand_on="map"), (other, attn))
    torch.testing.assert_close(attn, torch.stack(maps_by_hand(x, visible, 3), dim=1), atol=1e-5, rtol=0)
    torch.testing.assert_close(attn.sum(dim=-1), torch.ones(2, 3, 7))


@pytest.mark.parametrize(("length", "calls"), [(1, 1), (2, 0), (3, 0)])
def test_only_a_map_that_nobody_shares_is_left_to_a_fused_kernel(fused_attention, monkeypatch, length, calls):
    with fused_attention(True):
        group = AttentionGroup(length, embed_dim=8, num_heads=2, hidden_dim=8, drop_path=[0.0] * length)
    seen = []
    kernel = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **kw: seen.append(1) or kernel(*a, **kw))
    group(torch.randn(2, 5, 8))
    assert len(seen) == calls


# --- two forms of sharing


def outputs_and_gradients(group, x, sharing):
    group.sharing = sharing
    group.zero_grad()
    x = x.clone().requires_grad_()
    out = group(x)
    out.square().mean().backward()
    return out.detach(), x.grad, {name: p.grad.clone() for name, p in group.named_parameters()}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("length", "tokens", "heads"), [(2, 5, 1), (3, 17, 3), (4, 50, 2)])
def test_both_forms_of_sharing_give_equal_outputs_and_gradients(fused_attention, fused, length, tokens, heads):
    with fused_attention(fused):
        group = spread(AttentionGroup(length, 8 * heads, heads, 16, drop_path=[0.0] * length))
    x = torch.randn(3, tokens, 8 * heads)
    torch.testing.assert_close(
        outputs_and_gradients(group, x, "map"), outputs_and_gradients(group, x, "qk"), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(("length", "sharing", "calls"), [(1, "map", 1), (1, "qk", 1), (3, "map", 0), (3, "qk", 3)])
def test_queries_and_keys_are_given_to_the_fused_kernel_again(fused_attention, monkeypatch, length, sharing, calls):
    with fused_attention(True):
        group = AttentionGroup(length, 8, 2, 8, drop_path=[0.0] * length, sharing=sharing)
    seen = []
    kernel = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v: seen.append((q, k)) or kernel(q, k, v))
    group(torch.randn(2, 5, 8))
    assert len(seen) == calls
    # All layers use the producer's.
    assert all(q is seen[0][0] and k is seen[0][1] for q, k in seen)


def test_on_a_cpu_a_map_is_kept_up_to_a_size():
    for device in ("cpu", "meta"):
        assert choose_sharing(1, 2**10, 6, device) == "map"  # 6 * 2**20 elements
        assert choose_sharing(6, 2**10, 1, device) == "map"
        assert choose_sharing(7, 2**10, 1, device) == "qk"
        assert choose_sharing(1, 2**10 + 1, 6, device) == "qk"
    assert choose_sharing(1, 5, 1, "cuda") == "qk"


def test_auto_takes_the_form_that_the_rule_names(monkeypatch):
    asked = []

    def rule(*shapes):
        asked.append(shapes)
        return "qk"

    monkeypatch.setattr(psvit.nn.layers, "choose_sharing", rule)
    with monkeypatch.context() as patch:
        forms = []
        forward = Attention.forward
        patch.setattr(Attention, "forward", lambda self, x, hand_on: forms.append(hand_on) or forward(self, x, hand_on))
        AttentionGroup(3, 8, 2, 8, drop_path=[0.0] * 3)(torch.randn(4, 5, 8))
        AttentionGroup(1, 8, 2, 8, drop_path=[0.0])(torch.randn(4, 5, 8))
        AttentionGroup(2, 8, 2, 8, drop_path=[0.0] * 2, sharing="map")(torch.randn(4, 5, 8))
    assert asked == [(4, 5, 2, "cpu")]
    assert forms == ["qk", None, "map"]


def test_the_switch_for_fused_attention_is_put_back(fused_attention):
    # Otherwise later tests would not see timm's own choice.
    before = use_fused_attn()
    for enable in (True, False):
        with fused_attention(enable):
            assert use_fused_attn() is enable
        assert use_fused_attn() is before


def test_gradients_reach_the_producer_through_its_sharers():
    group = spread(AttentionGroup(2, embed_dim=8, num_heads=2, hidden_dim=8, drop_path=[0.0, 0.0]))
    producer, sharer = group.layers
    # Without its own projection the producer's map matters to the sharer alone.
    with torch.no_grad():
        producer.attn.proj.weight.zero_()
    group(torch.randn(2, 5, 8)).square().sum().backward()
    assert producer.attn.qkv.weight.grad[:8].abs().max() > 1e-4
    assert sharer.attn.v.weight.grad.abs().max() > 1e-4


@pytest.mark.parametrize("shares", [False, True])
def test_stochastic_depth_skips_both_branches(shares):
    layer = Layer(8, 2, 8, shares=shares, drop_path=1 - 1e-9).train()
    x, attn = torch.randn(4, 5, 8), torch.full((4, 2, 5, 5), 0.2)
    out, _ = layer(x, attn if shares else None, hand_on=None)
    assert torch.equal(out, x)
    assert not torch.equal(layer.eval()(x, attn if shares else None, hand_on=None)[0], x)


# --- patches


@pytest.mark.parametrize(("patch_size", "patch_stride"), [(4, 4), (4, 2), (3, 2), (2, 3)])
def test_patches_are_cut_row_by_row(patch_size, patch_stride):
    module = spread(PatchEmbed(2, 5, patch_size, patch_stride))
    images = torch.randn(3, 2, 9, 13)
    tokens = []
    for top in range(0, 9 - patch_size + 1, patch_stride):
        for left in range(0, 13 - patch_size + 1, patch_stride):
            patch = images[:, :, top : top + patch_size, left : left + patch_size]
            tokens.append(patch.flatten(1) @ module.proj.weight.flatten(1).T + module.proj.bias)
    torch.testing.assert_close(module(images), torch.stack(tokens, dim=1), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("image_size", "patch_size"), [((6, 5), 1), ((6, 8), 2), ((8, 12), 4), ((12, 18), 6), ((32, 64), 32)]
)
def test_a_conv_stem_equals_windows_by_hand(image_size, patch_size):
    module = spread(ConvStem(2, 7, patch_size))
    images = torch.randn(3, 2, *image_size)
    x = images
    convs = [layer for layer in module.convs if isinstance(layer, nn.Conv2d)]
    for place, conv in enumerate(convs):
        padded = F.pad(x, (1, 1, 1, 1))
        stride = conv.stride[0]
        rows = [
            torch.stack(
                [
                    padded[:, :, top : top + 3, left : left + 3].flatten(1) @ conv.weight.flatten(1).T + conv.bias
                    for left in range(0, x.shape[3], stride)
                ],
                dim=2,
            )
            for top in range(0, x.shape[2], stride)
        ]
        x = torch.stack(rows, dim=2)
        if place < len(convs) - 1:
            x = F.gelu(x)
    assert len(convs) >= 2
    assert x.shape[2:] == tuple(side // patch_size for side in image_size)
    torch.testing.assert_close(module(images), x.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-5)
