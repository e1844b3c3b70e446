"""Weights of vision transformers transferred onto networks: DeiT exactly, everything else slice by slice."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from psvit import Architecture, InputError, Stage
from psvit.model import PSViT, checkpoint_filter_fn
from psvit.nn.vit_weights import read_vit, stem_and_head, transfer_weights

D, HEADS, DEPTH, CLASSES = 24, 3, 5, 7


@pytest.fixture(autouse=True)
def _fixed_draws():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def spread(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def vit(**kwargs) -> VisionTransformer:
    given = {
        "img_size": 16,
        "patch_size": 4,
        "embed_dim": D,
        "depth": DEPTH,
        "num_heads": HEADS,
        "num_classes": CLASSES,
    }
    return spread(VisionTransformer(**{**given, **kwargs})).eval()


def network(stages, pools=(), **kwargs) -> PSViT:
    common = {"variant": "1d", "image_size": (16, 16), "in_chans": 3, "num_classes": CLASSES}
    patches = {"patch_size": 4, "patch_stride": 4, "head_dim": D // HEADS}
    return PSViT(Architecture(**{**common, **patches, **kwargs}, stages=tuple(stages), pools=tuple(pools))).eval()


def deit_like(**kwargs) -> PSViT:
    return network([Stage(embed_dim=D, groups=(1,) * DEPTH, mlp_ratio=4)], **kwargs)


@pytest.mark.parametrize(
    "size", ["tiny", pytest.param("small", marks=pytest.mark.slow), pytest.param("base", marks=pytest.mark.slow)]
)
def test_the_shipped_deits_give_deits_outputs_from_deits_weights(size):
    deit = spread(timm.create_model(f"deit_{size}_patch16_224")).eval()
    model = PSViT(f"deit-{size}").eval()
    model.load_state_dict(checkpoint_filter_fn(deit.state_dict(), model), strict=True)
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(model.forward_features(images), deit.forward_features(images), atol=1e-5, rtol=0)
        torch.testing.assert_close(model(images), deit(images), atol=1e-5, rtol=0)


@pytest.mark.parametrize("wrapper", [lambda weights: weights, lambda w: {"model": w}, lambda w: {"state_dict": w}])
def test_checkpoints_may_be_wrapped(wrapper):
    deit, model = vit(), deit_like()
    model.load_state_dict(checkpoint_filter_fn(wrapper(deit.state_dict()), model), strict=True)
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(model(images), deit(images), atol=1e-5, rtol=0)


def test_timm_loads_a_deit_checkpoint_through_the_filter(tmp_path):
    deit = vit()
    save_file(deit.state_dict(), tmp_path / "deit.safetensors")
    model = timm.create_model(
        "psvit",
        arch=deit_like().arch,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "deit.safetensors")},
    ).eval()
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(model(images), deit(images), atol=1e-5, rtol=0)


def test_blocks_are_laid_in_order_and_sharers_leave_queries_and_keys_behind():
    deit = vit().state_dict()
    model = network(
        [
            Stage(embed_dim=D, groups=(2, 1), mlp_ratio=4),
            Stage(embed_dim=2 * D, groups=(2,), mlp_ratio=2),
        ],
        ["conv"],
    )
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    weights = checkpoint_filter_fn(deit, model)
    first, second = "stages.0.groups.0.layers.", "stages.1.groups.0.layers."
    assert torch.equal(weights[f"{first}0.attn.qkv.weight"], deit["blocks.0.attn.qkv.weight"])
    assert torch.equal(weights[f"{first}1.attn.v.weight"], deit["blocks.1.attn.qkv.weight"][2 * D :])
    assert torch.equal(weights[f"{first}1.attn.v.bias"], deit["blocks.1.attn.qkv.bias"][2 * D :])
    assert torch.equal(weights["stages.0.groups.1.layers.0.mlp.fc2.weight"], deit["blocks.2.mlp.fc2.weight"])
    # Twice as wide: the leading heads of queries, keys and values each, from the block at the layer's place.
    wide, fresh = weights[f"{second}0.attn.qkv.weight"], before[f"{second}0.attn.qkv.weight"]
    for part in range(3):
        rows = slice(part * 2 * D, part * 2 * D + D)
        assert torch.equal(wide[rows, :D], deit["blocks.3.attn.qkv.weight"][part * D : (part + 1) * D])
        others = slice(part * 2 * D + D, (part + 1) * 2 * D)
        assert torch.equal(wide[others], fresh[others])
        assert torch.equal(wide[rows, D:], fresh[rows, D:])
    assert torch.equal(weights[f"{second}1.attn.v.weight"][:D, :D], deit["blocks.4.attn.qkv.weight"][2 * D :])
    assert torch.equal(weights[f"{second}1.mlp.fc1.weight"][:, :D], deit["blocks.4.mlp.fc1.weight"][: 4 * D])
    assert torch.equal(weights["head.weight"][:, :D], deit["head.weight"])
    # A vision transformer has no poolings.
    assert not [name for name in weights if ".pool." in name]
    assert model.load_state_dict(weights, strict=False).unexpected_keys == []


def test_a_conv_stem_stays_as_it_was_and_all_else_is_filled():
    deit, model = vit(), deit_like(stem="conv")
    filled = checkpoint_filter_fn(deit.state_dict(), model)
    stem = {name for name, _ in model.named_parameters() if name.startswith("patch_embed.")}
    assert stem == {f"patch_embed.convs.{place}.{kind}" for place in (0, 2) for kind in ("weight", "bias")}
    assert set(filled) == {name for name, _ in model.named_parameters()} - stem
    assert torch.equal(filled["pos_embed"], deit.pos_embed)
    # A checkpoint of its own has it whole.
    other = deit_like(stem="conv")
    other.load_state_dict(checkpoint_filter_fn(spread(model).state_dict(), other), strict=True)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(other(images), model(images))


def test_what_found_a_place_and_what_did_not_is_known():
    deit = vit(depth=2, init_values=1e-5).state_dict()
    model = network([Stage(embed_dim=D, groups=(1, 1, 1), mlp_ratio=4)])
    names = dict(model.named_parameters())
    transferred = transfer_weights(deit, names, stem_and_head(names), (4, 4))
    assert {*transferred.whole} == {name for name in names if not name.startswith("stages.")}
    assert not transferred.partly
    assert {*transferred.fresh} == {name for name in names if name.startswith("stages.")}
    assert {*transferred.unused} == {name for name in deit if name.startswith("blocks.") and ".ls" not in name}
    assert not transferred.cut
    assert "left stages.0.groups.0.layers.0.norm1.weight, " in str(transferred)
    assert f"and {len(transferred.fresh) - 4} more as initialised" in str(transferred)
    assert transferred.report()["fresh"] == list(transferred.fresh)


def test_another_image_size_interpolates_positions():
    deit = vit()
    model = deit_like(image_size=(24, 16))
    weights = checkpoint_filter_fn(deit.state_dict(), model)
    assert weights["pos_embed"].shape == (1, 6 * 4 + 1, D)
    assert torch.equal(weights["pos_embed"][:, 0], deit.pos_embed[:, 0])
    deit.set_input_size((24, 16))
    torch.testing.assert_close(weights["pos_embed"], deit.pos_embed)


def test_without_a_class_token_its_position_is_left_out():
    deit = vit().state_dict()
    stages = [Stage(embed_dim=D, groups=(1,), mlp_ratio=4)]
    weights = checkpoint_filter_fn(deit, network(stages, variant="2d"))
    assert torch.equal(weights["pos_embed"], deit["pos_embed"][:, 1:])
    assert "cls_token" not in weights
    pooled = vit(class_token=False, global_pool="avg").state_dict()
    weights = checkpoint_filter_fn(pooled, network(stages))
    assert torch.equal(weights["pos_embed"][:, 1:], pooled["pos_embed"])
    assert not weights["pos_embed"][:, 0].any()


SOURCES = {
    "layer scale": {"init_values": 0.1},
    "positions without the class token": {"no_embed_class": True},
    "no bias of queries, keys and values": {"qkv_bias": False},
    "no bias at all": {"qkv_bias": False, "proj_bias": False},
    "a rectangular grid": {"img_size": (24, 16)},
    "another rectangular grid": {"img_size": (28, 20)},
    "two by two patches": {"img_size": 8},
}


@pytest.mark.parametrize("kwargs", SOURCES.values(), ids=SOURCES)
def test_other_forms_of_a_vision_transformer_are_exact_too(kwargs):
    deit = vit(**kwargs)
    size = kwargs.get("img_size", 16)
    size = (size, size) if isinstance(size, int) else size
    model = deit_like(image_size=size)
    model.load_state_dict(checkpoint_filter_fn(deit.state_dict(), model), strict=True)
    images = torch.randn(2, 3, *size)
    torch.testing.assert_close(model(images), deit(images), atol=1e-5, rtol=0)


def test_tokens_beside_the_class_token_have_positions_that_are_left_out():
    for kwargs in ({"reg_tokens": 4}, {"reg_tokens": 4, "img_size": 8}):
        deit = vit(**kwargs)
        side = kwargs.get("img_size", 16)
        weights = checkpoint_filter_fn(deit.state_dict(), deit_like(image_size=(side, side)))
        assert torch.equal(weights["pos_embed"][:, :1], deit.pos_embed[:, :1])
        assert torch.equal(weights["pos_embed"][:, 1:], deit.pos_embed[:, 5:])


def test_positions_that_fit_no_grid_stay_as_they_were():
    deit = vit(img_size=(20, 16)).state_dict()
    assert "pos_embed" not in checkpoint_filter_fn(deit, deit_like())


def test_a_source_that_is_cut_is_said_to_be():
    wide = vit(embed_dim=2 * D, num_heads=2 * HEADS).state_dict()
    model = network([Stage(embed_dim=D, groups=(2,), mlp_ratio=4)])
    names = dict(model.named_parameters())
    transferred = transfer_weights(wide, names, stem_and_head(names), (4, 4))
    assert {*transferred.whole} == {name for name in names if not name.startswith("stages.")}
    assert {*transferred.cut} == {*transferred.whole} - {"head.bias"}
    assert "used cls_token, " in str(transferred)


@pytest.mark.parametrize(("there", "here"), [(1, 3), (3, 1), (4, 2), (2, 4), (3, 3)])
def test_kernels_for_other_channels_answer_grey_images_alike(there, here):
    deit = vit(in_chans=there).state_dict()
    weights = checkpoint_filter_fn(deit, deit_like(in_chans=here))["patch_embed.proj.weight"]
    assert weights.shape == (D, here, 4, 4)
    if 1 in (there, here) or there == here:
        torch.testing.assert_close(weights.sum(dim=1), deit["patch_embed.proj.weight"].sum(dim=1))


def test_gated_mlps_and_deep_stems_are_left_out():
    gated = vit().state_dict()
    gated["blocks.0.mlp.fc1.weight"] = torch.zeros(8 * D, D)
    gated["patch_embed.backbone.weight"] = torch.zeros(1)
    weights = checkpoint_filter_fn(gated, deit_like())
    prefix = "stages.0.groups.0.layers.0."
    assert f"{prefix}attn.qkv.weight" in weights
    assert not [name for name in weights if name.startswith((f"{prefix}mlp", "patch_embed"))]


@pytest.mark.parametrize(
    ("name", "shape"),
    [("pos_embed", (1, 4, 4, D)), ("blocks.1.attn.qkv.weight", (3 * D, 2 * D)), ("patch_embed.proj.weight", (D, 48))],
)
def test_a_transformer_of_another_kind_is_refused(tmp_path, name, shape):
    save_file({**vit().state_dict(), name: torch.zeros(shape)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="not those of a plain vision transformer"):
        read_vit(str(tmp_path / "other.safetensors"))


@pytest.mark.parametrize("deit", [True, False])
def test_weights_from_a_file_are_fine_tuned_for_other_classes_channels_and_sizes(tmp_path, deit):
    source = vit() if deit else deit_like()
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    model = timm.create_model(
        "psvit",
        arch=deit_like().arch,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "weights.safetensors")},
        num_classes=3,
        in_chans=1,
        img_size=24,
    ).eval()
    assert model(torch.randn(2, 1, 24, 24)).shape == (2, 3)
    expected = source.state_dict()["patch_embed.proj.weight"].sum(dim=1, keepdim=True)
    torch.testing.assert_close(model.patch_embed.proj.weight, expected)


def test_other_classes_channels_and_patches():
    deit = vit().state_dict()
    model = deit_like(num_classes=3, in_chans=1)
    weights = checkpoint_filter_fn(deit, model)
    assert "head.weight" not in weights
    torch.testing.assert_close(weights["patch_embed.proj.weight"], deit["patch_embed.proj.weight"].sum(1, keepdim=True))
    coarse = deit_like(patch_size=8, patch_stride=8)
    assert checkpoint_filter_fn(deit, coarse)["patch_embed.proj.weight"].shape == (D, 3, 8, 8)


def test_weights_are_read_from_files(tmp_path):
    deit = vit().state_dict()
    save_file(deit, tmp_path / "deit.safetensors")
    torch.save({"model": deit}, tmp_path / "deit.pth")
    for name in ("deit.safetensors", "deit.pth"):
        read = read_vit(str(tmp_path / name)).weights
        assert read.keys() == deit.keys()
        assert all(torch.equal(read[key], deit[key]) for key in deit)


def test_what_is_no_vision_transformer_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_vit(str(tmp_path / "missing.safetensors"))
    with pytest.raises(InputError, match="neither a file nor a model of timm"):
        read_vit("deit_gigantic")
    (tmp_path / "text.pth").write_text("no weights\n")
    with pytest.raises(InputError, match="cannot be read"):
        read_vit(str(tmp_path / "text.pth"))
    save_file({"stem.conv.weight": torch.zeros(3)}, tmp_path / "resnet.safetensors")
    with pytest.raises(InputError, match=r"not those of a vision transformer of timm: no blocks\.0\.attn\.qkv\.weight"):
        read_vit(str(tmp_path / "resnet.safetensors"))


def test_a_checkpoint_never_runs_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"model": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(InputError, match="cannot be read"):
        read_vit(str(tmp_path / "trap.pth"))
    assert not (tmp_path / "sprung").exists()


def test_weights_that_cannot_be_downloaded_are_an_input_error(monkeypatch):
    def unreachable(*args, **kwargs):
        raise ConnectionError("no route to the hub\nsecond line")

    monkeypatch.setattr("psvit.nn.vit_weights.create_model", unreachable)
    with pytest.raises(
        InputError, match=r"cannot be had \(no route to the hub\); a .safetensors or .pth file works too"
    ):
        read_vit("deit_tiny_patch16_224")
