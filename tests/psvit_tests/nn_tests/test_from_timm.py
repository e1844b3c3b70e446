"""Networks made of timm's vision transformers: equal outputs, or one line that says what stands in the way."""

from __future__ import annotations

from functools import partial

import pytest
import timm
import torch
from timm.layers import GluMlp, QuickGELU
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from torch import nn

from psvit.errors import InputError
from psvit.nn.from_timm import from_timm

SMALL = {"img_size": 32, "patch_size": 8, "num_classes": 5, "embed_dim": 24, "depth": 3, "num_heads": 3}


def vit(**changes):
    """A small vision transformer whose parameters are all random, so that none is overlooked."""
    torch.manual_seed(0)
    network = VisionTransformer(**{**SMALL, **changes}).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"init_values": 0.1},
        {"qkv_bias": False},
        {"proj_bias": False},
        {"no_embed_class": True},
        {"mlp_ratio": 3},
        {"in_chans": 1},
        {"img_size": (32, 48)},
        {"num_classes": 0},
        {"num_heads": 1},
        {"drop_path_rate": 0.1, "proj_drop_rate": 0.1, "dynamic_img_size": True},
    ],
    ids=str,
)
@torch.no_grad()
def test_outputs_are_those_of_the_vision_transformer(changes):
    network = vit(**changes)
    found = from_timm(network, "it")
    height, width = found.arch.image_size
    images = torch.randn(3, found.in_chans, height, width)
    assert torch.allclose(found(images), network(images), atol=1e-5)
    assert found.arch.stages[0].depth == SMALL["depth"]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"reg_tokens": 2}, "2 register tokens"),
        ({"class_token": False, "global_pool": "avg"}, "no class token"),
        ({"global_pool": "avg"}, "avg pooling"),
        ({"global_pool": "map"}, "map pooling"),
        ({"pos_embed": "none"}, "learnt positions"),
        ({"pre_norm": True}, "before its first layer"),
        ({"qk_norm": True}, "queries and keys"),
        ({"scale_attn_norm": True}, "outputs of attention"),
        ({"scale_mlp_norm": True}, "inside its MLPs"),
        ({"mlp_layer": GluMlp}, "GluMlp"),
        ({"act_layer": QuickGELU}, "QuickGELU"),
        ({"act_layer": partial(nn.GELU, approximate="tanh")}, "GELU"),
        ({"block_fn": ParallelScalingBlock}, "ParallelScalingBlock"),
        ({"norm_layer": nn.RMSNorm}, "RMSNorm"),
        ({"patch_size": (8, 16)}, "not square"),
        ({"fc_norm": True}, "final normalisation"),
    ],
    ids=str,
)
def test_what_the_family_lacks_is_named(changes, part):
    with pytest.raises(InputError, match=part) as error:
        from_timm(vit(**changes), "it")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["resnet18", "deit_tiny_distilled_patch16_224", "vit_relpos_small_patch16_224"])
def test_another_kind_of_network_is_refused(name):
    with torch.device("meta"):
        network = timm.create_model(name)
    with pytest.raises(InputError, match="class"):
        from_timm(network, name)


def test_a_difference_that_no_part_shows_is_found_by_its_outputs():
    network = vit()
    network.norm.eps = 1.0
    with pytest.raises(InputError, match="other outputs"):
        from_timm(network, "it")
