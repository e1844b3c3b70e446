"""A supernet that begins with a vision transformer's weights."""

from __future__ import annotations

import pytest
import torch
import yaml
from timm.models.vision_transformer import VisionTransformer

from psvit.arch.architecture import Architecture, Stage
from psvit.nn.network import PSViT
from psvit.nn.vit_weights import Vit
from psvit.space.search_space import SearchSpace
from psvit.supernet.provenance import read_provenance
from psvit.supernet.supernet import Supernet
from psvit.supernet.train import fit_supernet
from psvit.supernet.warm_start import begin_as, plan, warm_start
from psvit.train.recipe import Recipe

D, DEPTH, CLASSES = 8, 3, 5


def vit(**kwargs) -> VisionTransformer:
    given = {"img_size": (10, 6), "patch_size": 2, "in_chans": 2, "embed_dim": D, "depth": DEPTH, "num_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = VisionTransformer(**{**given, "mlp_ratio": 2, "num_classes": CLASSES, **kwargs}).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.fixture
def space_1d() -> SearchSpace:
    """Layouts of one stage and of two, wider and deeper than the vision transformer."""
    stage = {"embed_dim": [8, 16], "depth": [2, 3, 4], "max_group": 2, "mlp_ratio": [2.0, 3.0]}
    return SearchSpace.from_dict(
        {
            "name": "one",
            "variant": "1d",
            "image_size": [10, 6],
            "in_chans": 2,
            "num_classes": CLASSES,
            "patch_size": 2,
            "patch_stride": 2,
            "head_dim": 4,
            "layouts": [
                {"stages": [{"begin": 0, **stage}]},
                {"stages": [{"begin": 0, **stage}, {"begin": 5, **stage}], "pools": [["max", "conv"]]},
            ],
        }
    )


@pytest.mark.parametrize("variant", ["1d", "2d"])
@torch.no_grad()
def test_a_supernet_around_a_network_begins_as_the_network(variant, images):
    fields = {"image_size": [10, 6], "in_chans": 2, "num_classes": CLASSES, "patch_size": 2, "patch_stride": 2}
    stages = [{"embed_dim": 8, "groups": [1, 1], "mlp_ratio": 2.0}, {"embed_dim": 16, "groups": [1], "mlp_ratio": 3.0}]
    arch = Architecture.from_dict(
        {"variant": variant, **fields, "head_dim": 4, "stages": stages, "pools": ["conv"], "stem": "conv"}
    )
    network = PSViT(arch).eval()
    for parameter in network.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.2)
    space = SearchSpace.around(arch)
    supernet = Supernet(space).eval()
    # Nothing else is left to fill: every parameter is one of the network's.
    assert sum(one.numel() for one in supernet.parameters()) == sum(one.numel() for one in network.parameters())
    begin_as(supernet, network)
    batch = images(space)
    torch.testing.assert_close(supernet(batch, space.largest), network(batch), atol=1e-5, rtol=0)
    for number in range(space.size):
        assert supernet(batch, space[number]).isfinite().all()


def test_the_vits_own_architecture_gives_the_vits_outputs(space_1d, images):
    model = vit()
    supernet = Supernet(space_1d).eval()
    weights = model.state_dict()
    transferred = warm_start(supernet, weights)
    arch = space_1d.network(
        space_1d.layouts[0], stages=(Stage(embed_dim=D, groups=(1,) * DEPTH, mlp_ratio=2),), pools=()
    )
    batch = images(space_1d)
    torch.testing.assert_close(supernet(batch, arch), model(batch), atol=1e-5, rtol=0)
    assert "layers.0.attn.qkv.weight" in transferred.partly
    assert "head.bias" in transferred.whole


def test_layers_and_heads_are_laid_in_order_and_the_rest_stays(space_1d):
    weights = vit().state_dict()
    supernet = Supernet(space_1d)
    before = {name: parameter.detach().clone() for name, parameter in supernet.named_parameters()}
    transferred = warm_start(supernet, weights)
    after = dict(supernet.named_parameters())
    wide = after["layers.2.attn.qkv.weight"]
    for part in range(3):
        leading = wide[part * 16 : part * 16 + D, :D]
        assert torch.equal(leading, weights["blocks.2.attn.qkv.weight"][part * D : (part + 1) * D])
        assert torch.equal(
            wide[part * 16 + D : (part + 1) * 16], before["layers.2.attn.qkv.weight"][part * 16 + D : (part + 1) * 16]
        )
    # Beyond the vision transformer's depth, and poolings: as initialised.
    deeper = {name for name in before if name.startswith(("layers.3.", "layers.5.", "layers.6.", "pools."))}
    assert deeper <= {*transferred.fresh}
    assert all(torch.equal(after[name], before[name]) for name in transferred.fresh)
    assert not any(torch.equal(after[name], before[name]) for name in (*transferred.whole, *transferred.partly))
    assert {*transferred.whole, *transferred.partly, *transferred.fresh} == {*before}
    assert transferred.unused == ()


def test_a_gap_between_stages_takes_no_block(space, images):
    # The space's list of layers has a place that no layout uses; the block after it is not lost.
    weights = vit(depth=6).state_dict()
    supernet = Supernet(space)
    transferred = warm_start(supernet, weights)
    used = [place for place, layer in enumerate(supernet.layers) if next(layer.parameters(), None) is not None]
    assert used != list(range(len(supernet.layers)))
    for block, place in enumerate(used[:6]):
        norm = dict(supernet.named_parameters())[f"layers.{place}.norm1.weight"]
        assert torch.equal(norm[:D], weights[f"blocks.{block}.norm1.weight"])
    assert transferred.unused == (() if "1d" in space.variants else ("cls_token",))


@pytest.mark.parametrize(
    "kwargs", [{}, {"no_embed_class": True}, {"class_token": False, "global_pool": "avg"}, {"reg_tokens": 2}]
)
def test_the_plan_is_what_happens(space, kwargs):
    weights = vit(**kwargs).state_dict()
    planned, done = plan(space, weights), warm_start(Supernet(space), weights)
    assert planned.report() == done.report()
    assert {tensor.device.type for tensor in planned.weights.values()} == {"meta"}


def test_a_training_begins_with_them_and_says_so(tiny_space, tiny_data, tmp_path):
    weights = vit(img_size=8, patch_size=4, in_chans=1, num_classes=3).state_dict()
    recipe = Recipe.load("digits").override({"epochs": 1, "batch_size": 12, "lr": 1e-12, "warmup_epochs": 0})
    kwargs = {"seed": 0, "device": torch.device("cpu")}
    file = fit_supernet(
        tiny_space, tiny_data(), recipe, folder=tmp_path, init=Vit("some_vit", weights, head_dim=4), **kwargs
    )
    trained = dict(Supernet.load(file).named_parameters())
    torch.testing.assert_close(
        trained["layers.0.mlp.fc1.weight"][:16, :8], weights["blocks.0.mlp.fc1.weight"], atol=1e-4, rtol=0
    )
    report = yaml.safe_load((tmp_path / "warm_start.yaml").read_text())
    assert report["init"] == "some_vit"
    assert report["head_dim"] == {"there": 4, "here": 4}
    assert "cls_token" in report["unused"]
    assert "layers.0.mlp.fc1.weight" in report["partly"]
    assert read_provenance(file)["init"] == "some_vit"
