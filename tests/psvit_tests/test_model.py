"""The built network: DeiT where it should be DeiT, and what timm expects of a model."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import DropPath
from timm.models import group_parameters, save_for_hf
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import psvit
from psvit.arch.architecture import Architecture, Stage
from psvit.errors import InputError
from psvit.model import PSViT, create_model

COMMON = {
    "image_size": (16, 24),
    "in_chans": 3,
    "num_classes": 5,
    "patch_size": 4,
    "patch_stride": 4,
    "head_dim": 8,
    "stages": (Stage(embed_dim=16, groups=(2, 1), mlp_ratio=2), Stage(embed_dim=24, groups=(1, 2), mlp_ratio=1.5)),
}
ONE_D = Architecture(variant="1d", pools=("conv",), **COMMON)
TWO_D = Architecture(variant="2d", pools=("conv",), **COMMON)
BOTH = pytest.mark.parametrize("arch", [ONE_D, TWO_D], ids=["1d", "2d"])


@pytest.fixture(autouse=True)
def _fixed_draws():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def spread(model: nn.Module) -> nn.Module:
    """Give every parameter a value that cannot be overlooked; fresh biases are zero and fresh norms do nothing."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def images_of(arch: Architecture, n: int = 2) -> torch.Tensor:
    return torch.randn(n, arch.in_chans, *arch.image_size)


# --- DeiT


def as_psvit(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A vision transformer's weights under the names of a network of one stage with groups of one layer."""
    renamed = {}
    for name, tensor in weights.items():
        if name.startswith("blocks."):
            _, block, rest = name.split(".", 2)
            name = f"stages.0.groups.{block}.layers.0.{rest}"
        renamed[name] = tensor
    return renamed


def test_one_stage_without_sharing_is_deit():
    # timm's deit_tiny_patch16_224 is this class with these arguments, larger.
    deit = VisionTransformer(img_size=16, patch_size=4, embed_dim=24, depth=4, num_heads=3, mlp_ratio=4, num_classes=7)
    arch = Architecture(
        variant="1d",
        image_size=(16, 16),
        in_chans=3,
        num_classes=7,
        patch_size=4,
        patch_stride=4,
        head_dim=8,
        stages=(Stage(embed_dim=24, groups=(1,) * 4, mlp_ratio=4),),
        pools=(),
    )
    model = PSViT(arch)
    model.load_state_dict(as_psvit(spread(deit).state_dict()), strict=True)
    images = torch.randn(3, 3, 16, 16)
    deit.eval(), model.eval()
    torch.testing.assert_close(model(images), deit(images), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.forward_features(images), deit.forward_features(images), atol=1e-5, rtol=0)


def test_deit_tiny_is_deit_tiny():
    deit = timm.create_model("deit_tiny_patch16_224").eval()
    tiny = psvit.SearchSpace.load("psvit-1d-tiny")
    arch = tiny.network(tiny.layouts[0], stages=(Stage(embed_dim=192, groups=(1,) * 12, mlp_ratio=4),), pools=())
    model = PSViT(arch).eval()
    model.load_state_dict(as_psvit(spread(deit).state_dict()), strict=True)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(model(images), deit(images), atol=1e-5, rtol=1e-5)


def test_weights_begin_as_deits_do():
    arch = Architecture.from_dict(
        {
            **ONE_D.to_dict(),
            "head_dim": 64,
            "stages": [{"embed_dim": 128, "groups": [2], "mlp_ratio": 2.0}],
            "pools": [],
        }
    )
    model = PSViT(arch)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            if module.weight.numel() > 10_000:
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.05), name
            assert not module.bias.any(), name
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all(), name
            assert not module.bias.any(), name
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.1)
    assert 0 < model.cls_token.abs().max() < 1e-5


# --- forward


@BOTH
def test_logits_and_features_have_their_shapes(arch):
    model = PSViT(arch).eval()
    images = images_of(arch)
    last = math.prod(arch.grids[-1]) + (arch.variant == "1d")
    assert model(images).shape == (2, 5)
    assert model.forward_features(images).shape == (2, last, 24)
    assert model.forward_head(model.forward_features(images), pre_logits=True).shape == (2, 24)


def test_2d_takes_the_mean_of_normalised_tokens():
    model = spread(PSViT(TWO_D)).eval()
    images = images_of(TWO_D)
    x = model.patch_embed.proj(images).flatten(2).transpose(1, 2) + model.pos_embed
    for stage in model.stages:
        x = stage(x)
    norm = model.norm
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
    normed = normed * norm.weight + norm.bias
    expected = normed.mean(dim=1) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=0)
    # Normalising the mean instead would be another network.
    swapped = norm(x.mean(dim=1)) @ model.head.weight.T + model.head.bias
    assert (model(images) - swapped).abs().max() > 1e-3


def test_1d_classifies_the_class_token():
    model = spread(PSViT(ONE_D)).eval()
    tokens = model.forward_features(images_of(ONE_D))
    expected = tokens[:, 0] @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model.forward_head(tokens), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.forward_head(tokens, pre_logits=True), tokens[:, 0])


def test_positions_are_added_once_class_token_first():
    model = spread(PSViT(ONE_D)).eval()
    images = images_of(ONE_D)
    patches = model.patch_embed.proj(images).flatten(2).transpose(1, 2)
    embedded = model.embed(images)
    torch.testing.assert_close(embedded[:, 0], (model.cls_token + model.pos_embed[:, :1])[:, 0].expand(2, -1))
    torch.testing.assert_close(embedded[:, 1:], patches + model.pos_embed[:, 1:])


@BOTH
def test_images_of_a_batch_do_not_meet(arch):
    model = spread(PSViT(arch)).eval()
    images = images_of(arch, 3)
    together = model(images)
    for index in range(3):
        torch.testing.assert_close(model(images[index : index + 1])[0], together[index], atol=1e-5, rtol=0)


@BOTH
def test_fused_and_visible_attention_agree(arch, fused_attention):
    with fused_attention(False):
        visible = spread(PSViT(arch)).eval()
    with fused_attention(True):
        fused = PSViT(arch).eval()
    fused.load_state_dict(visible.state_dict())
    modes = [
        {module.fused_attn for module in model.modules() if hasattr(module, "fused_attn")} for model in (fused, visible)
    ]
    assert modes == [{True}, {False}]
    images = images_of(arch)
    torch.testing.assert_close(fused(images), visible(images), atol=1e-5, rtol=0)


@settings(max_examples=25)
@given(st.data())
def test_every_network_answers_finitely_and_gives_every_parameter_a_gradient(generated_spaces, data):
    space = data.draw(generated_spaces)
    arch = space[data.draw(st.integers(0, space.size - 1))]
    model = PSViT(arch)
    logits = model(torch.randn(2, arch.in_chans, *arch.image_size))
    assert logits.shape == (2, arch.num_classes)
    assert logits.isfinite().all()
    logits.square().sum().backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not without


@BOTH
def test_every_weight_matters(arch):
    model = spread(PSViT(arch))
    model(images_of(arch)).square().sum().backward()
    # Every row of a softmax ignores what all keys have in common, so the keys' bias alone has no gradient.
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-6, name


@BOTH
def test_recomputed_activations_change_nothing(arch):
    model = spread(PSViT(arch, drop_path_rate=0.3)).train()
    images = images_of(arch, 8)
    results, runs = [], []
    model.stages[1].groups[0].register_forward_pre_hook(lambda *_: runs.append(1))
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        assert all(stage.grad_checkpointing is enable for stage in model.stages)
        model.zero_grad()
        torch.manual_seed(1)  # the same layers are skipped
        out = model(images)
        out.square().sum().backward()
        assert len(runs) == (3 if enable else 1)  # once, then twice: forwards and again before going backwards
        results.append((out.detach(), [parameter.grad.clone() for parameter in model.parameters()]))
    torch.testing.assert_close(*results)


@BOTH
def test_stochastic_depth_grows_linearly_over_all_layers(arch):
    model = PSViT(arch, drop_path_rate=0.5)
    rates = []
    for stage in model.stages:
        for group in stage.groups:
            for layer in group.layers:
                paths = (layer.drop_path1, layer.drop_path2)
                probabilities = {path.drop_prob if isinstance(path, DropPath) else 0.0 for path in paths}
                assert len(probabilities) == 1
                rates += probabilities
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert not [module for module in PSViT(arch).modules() if isinstance(module, DropPath)]


def test_dropout_stands_before_the_classifier():
    model = PSViT(TWO_D, drop_rate=0.4)
    assert model.head_drop.p == 0.4
    tokens = torch.ones(1, 6, 24)
    # With all inputs 1, dropout leaves zeros and what was scaled up.
    dropped = model.train().forward_head(tokens, pre_logits=True)
    assert sorted(set(dropped.flatten().tolist())) == [0.0, pytest.approx(1 / 0.6)]


# --- what timm expects


def test_every_form_of_an_architecture_is_accepted(tmp_path):
    path = tmp_path / "arch.yaml"
    TWO_D.save(path)
    for form in (TWO_D, TWO_D.to_dict(), path, str(path)):
        for model in (timm.create_model("psvit", arch=form), create_model(form), PSViT(form)):
            assert isinstance(model, PSViT)
            assert model.arch == TWO_D
    assert psvit.create_model(TWO_D).arch == TWO_D


@pytest.mark.parametrize("create", [create_model, lambda arch, **kw: timm.create_model("psvit", arch=arch, **kw)])
@BOTH
def test_classes_channels_and_image_size_can_be_overridden(create, arch):
    model = create(arch, num_classes=9, in_chans=1, img_size=(32, 8)).eval()
    assert (model.arch.num_classes, model.arch.in_chans, model.arch.image_size) == (9, 1, (32, 8))
    assert (model.num_classes, model.in_chans) == (9, 1)
    assert model(torch.randn(2, 1, 32, 8)).shape == (2, 9)
    assert model.pretrained_cfg["input_size"] == (1, 32, 8)
    assert model.pretrained_cfg["num_classes"] == 9
    assert create(arch, img_size=16).arch.image_size == (16, 16)
    # The value that was given stays what it was.
    assert arch.num_classes == 5


def test_without_classes_there_is_no_classifier():
    model = create_model(TWO_D, num_classes=0).eval()
    images = images_of(TWO_D)
    assert isinstance(model.get_classifier(), nn.Identity)
    torch.testing.assert_close(model(images), model.forward_head(model.forward_features(images), pre_logits=True))


def test_an_impossible_override_is_an_input_error():
    with pytest.raises(InputError, match="image_size must be at least patch_size 4"):
        create_model(TWO_D, img_size=2)
    with pytest.raises(InputError, match="num_classes"):
        PSViT(TWO_D, num_classes=-1)


@BOTH
def test_reset_classifier(arch):
    model = PSViT(arch).eval()
    images = images_of(arch)
    before = model.forward_features(images)
    model.reset_classifier(11)
    assert model(images).shape == (2, 11)
    assert model.get_classifier().out_features == model.num_classes == model.arch.num_classes == 11
    torch.testing.assert_close(model.forward_features(images), before)
    model.reset_classifier(0, global_pool="")
    assert model(images).shape == before.shape
    patches = before[:, 1:] if arch.variant == "1d" else before
    references = {
        "avg": patches.mean(dim=1),
        "max": patches.max(dim=1).values,
        "avgmax": (patches.mean(dim=1) + patches.max(dim=1).values) / 2,
    }
    if arch.variant == "1d":
        references["token"] = before[:, 0]
    for pool, reference in references.items():
        model.reset_classifier(0, pool)
        torch.testing.assert_close(model(images), reference, atol=1e-5, rtol=0)
        model.reset_classifier(3, pool)
        assert model(images).shape == (2, 3)
    with pytest.raises(InputError, match=r"global_pool must be .* or empty in this variant"):
        model.reset_classifier(3, global_pool="catavgmax" if arch.variant == "1d" else "token")


@BOTH
def test_attributes_that_timm_reads(arch):
    model = PSViT(arch)
    assert model.num_features == model.head_hidden_size == model.embed_dim == 24
    assert model.num_prefix_tokens == (arch.variant == "1d")
    assert [info["num_chs"] for info in model.feature_info] == [16, 24]
    assert [info["reduction"] for info in model.feature_info] == [4, 8]
    modules = dict(model.named_modules())
    assert all(info["module"] in modules for info in model.feature_info)
    names = dict(model.named_parameters())
    assert model.no_weight_decay() & set(names) == (
        {"pos_embed", "cls_token"} if arch.variant == "1d" else {"pos_embed"}
    )


@BOTH
def test_layers_are_grouped_in_order(arch):
    model = PSViT(arch)
    groups = list(group_parameters(model, model.group_matcher()).values())
    assert sorted(name for group in groups for name in group) == sorted(name for name, _ in model.named_parameters())
    place = {name: index for index, group in enumerate(groups) for name in group}
    assert place["patch_embed.proj.weight"] == place["pos_embed"] == 0
    # A pooling belongs to the attention group that follows it; the head comes last.
    assert place["stages.0.groups.0.layers.1.mlp.fc1.weight"] == 1
    assert place["stages.0.groups.1.layers.0.mlp.fc1.weight"] == 2
    assert place["stages.1.pool.pool.weight"] == place["stages.1.groups.0.layers.0.norm1.weight"] == 3
    assert place["stages.1.groups.1.layers.1.attn.v.weight"] == 4
    assert place["head.weight"] == max(place.values())
    coarse = list(group_parameters(model, model.group_matcher(coarse=True)).values())
    assert len(coarse) < len(groups)


@BOTH
def test_a_network_is_rebuilt_from_what_timm_saves(arch, tmp_path):
    model = spread(create_model(arch, num_classes=3)).eval()
    save_for_hf(model, tmp_path)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert again.arch == model.arch
    images = images_of(arch)
    assert torch.equal(again(images), model(images))


@BOTH
def test_parameters_are_made_where_and_as_asked(arch):
    meta = PSViT(arch, device="meta")
    assert {parameter.device.type for parameter in meta.parameters()} == {"meta"}
    double = PSViT(arch, dtype=torch.float64).eval()
    assert {parameter.dtype for parameter in double.parameters()} == {torch.float64}
    assert double(images_of(arch).double()).dtype == torch.float64
    assert {name: p.shape for name, p in meta.named_parameters()} == {
        name: p.shape for name, p in double.named_parameters()
    }
