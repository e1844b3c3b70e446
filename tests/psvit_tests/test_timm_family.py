"""What timm's own model tests ask of a family, of every registered name and of random architectures."""

from __future__ import annotations

import json
import math
import shutil
from functools import partial

import numpy as np
import pytest
import timm
import torch
from timm.models import FeatureInfo, group_parameters, save_for_hf
from timm.optim import param_groups_layer_decay
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

import psvit.model  # registers the family
from psvit import Architecture, InputError, SearchSpace, Stage, cost, create_model
from psvit.arch.architecture import ArchitectureFile

NAMED = [f"psvit_{variant}_{size}" for variant in ("1d", "2d") for size in ("tiny", "small", "base")]
PARTNERS = {"tiny": "deit-tiny", "small": "deit-small", "base": "deit-base"}


def random_architecture(variant: str, seed: int, stem: str = "patch") -> Architecture:
    """Up to three stages on a grid that is rectangular and odd, with groups of one to three layers."""
    rng = np.random.default_rng(seed)
    number = int(rng.integers(1, 4))
    widths = sorted(4 * int(heads) for heads in rng.integers(1, 5, size=number))
    return Architecture(
        variant=variant,
        image_size=(10, 14),
        in_chans=int(rng.integers(1, 4)),
        num_classes=int(rng.integers(2, 6)),
        stem=stem,
        patch_size=2 + 2 * int(rng.integers(2)) if stem == "patch" else 2,
        patch_stride=2,
        head_dim=4,
        stages=tuple(
            Stage(
                embed_dim=width,
                groups=tuple(int(length) for length in rng.integers(1, 4, size=rng.integers(1, 4))),
                mlp_ratio=float(rng.choice([0.5, 1, 2])),
            )
            for width in widths
        ),
        pools=tuple(str(operator) for operator in rng.choice(["max", "avg", "conv"], size=number - 1)),
    )


# Together they have every pooling, groups of one to three layers, and patches that overlap, in either variant.
RANDOM = {f"{variant}-{seed}": random_architecture(variant, seed) for variant in ("1d", "2d") for seed in (0, 1, 4)}
RANDOM |= {f"{variant}-conv-6": random_architecture(variant, 6, "conv") for variant in ("1d", "2d")}
SHARING_1D = Architecture(
    variant="1d",
    image_size=(8, 10),
    in_chans=2,
    num_classes=3,
    patch_size=2,
    patch_stride=2,
    head_dim=4,
    stages=(Stage(embed_dim=8, groups=(2, 1), mlp_ratio=2), Stage(embed_dim=12, groups=(3,), mlp_ratio=1)),
    pools=("conv",),
)
SHARING_2D = Architecture.from_dict({**SHARING_1D.to_dict(), "variant": "2d"})
SHARING = pytest.mark.parametrize("arch", [SHARING_1D, SHARING_2D], ids=["1d", "2d"])


class Case:
    """One network of the family by the arguments of `timm.create_model`."""

    def __init__(self, name: str, **kwargs) -> None:
        self.args, self.kwargs = (name,), kwargs
        model = self.build(device="meta")
        self.arch, self.image = model.arch, (model.arch.in_chans, *model.arch.image_size)

    def build(self, **kwargs) -> psvit.PSViT:
        model = timm.create_model(*self.args, **{**self.kwargs, **kwargs})
        assert isinstance(model, psvit.PSViT)
        return model

    def images(self, n: int = 2) -> torch.Tensor:
        return torch.randn(n, *self.image)

    @property
    def tokens(self) -> int:
        return math.prod(self.arch.grids[-1]) + (self.arch.variant == "1d")


# Smaller images keep the named networks quick; what is tested does not depend on their size. Those of a variant differ
# in widths and depths alone: the smallest stand for the others. That all of them are built is asked by name.
CASES = [
    *(pytest.param(Case("psvit", arch=arch), id=name) for name, arch in RANDOM.items()),
    *(pytest.param(Case(name, img_size=48), id=name, marks=pytest.mark.slow) for name in NAMED if "tiny" in name),
]
every_network = pytest.mark.parametrize("case", CASES)

# A graph takes seconds, and consists of what stem, poolings and shared maps are in a variant. All of these share maps;
# they have patches that overlap with the poolings max and avg, or the convolutional stem with the pooling conv.
GRAPHS = {"1d-4": ()}
GRAPHS |= dict.fromkeys(("2d-conv-6", "2d-4", "1d-conv-6", "psvit_2d_tiny"), pytest.mark.slow)
every_graph = pytest.mark.parametrize(
    "case", [pytest.param(*case.values, id=case.id, marks=GRAPHS[case.id]) for case in CASES if case.id in GRAPHS]
)


@pytest.fixture(autouse=True)
def _fixed_draws():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_the_family_is_registered():
    assert timm.list_models("psvit*") == sorted(["psvit", *NAMED])
    assert timm.list_models(module="psvit") == sorted(["psvit", *NAMED])
    assert all(timm.is_model(name) for name in NAMED)


def test_whoever_goes_through_all_names_can_build_every_network():
    for name in timm.list_models(module="psvit"):
        model = timm.create_model(name, device="meta")
        assert (model.in_chans, *model.arch.image_size) == timm.get_pretrained_cfg(name).input_size


@pytest.mark.parametrize("name", NAMED)
def test_named_networks_have_deits_macs_and_belong_to_the_space_of_their_name(name):
    arch = Architecture.load(name.replace("_", "-"))
    assert timm.create_model(name, device="meta").arch == arch
    deit = Architecture.load(PARTNERS[name.rsplit("_", 1)[1]])
    assert cost(arch).macs == pytest.approx(cost(deit).macs, rel=0.02)
    assert SearchSpace.load(name.replace("_", "-")).contains(arch)


@pytest.mark.parametrize("name", ["psvit", *NAMED])
def test_default_cfgs_say_what_the_networks_are_made_for(name):
    cfg = timm.get_pretrained_cfg(name)
    assert cfg.input_size == (3, 224, 224)
    assert cfg.num_classes == 1000
    assert cfg.fixed_input_size
    assert not cfg.has_weights
    if name != "psvit":
        model = timm.create_model(name, device="meta")
        assert (model.arch.in_chans, *model.arch.image_size) == cfg.input_size
        assert model.arch.num_classes == cfg.num_classes


def test_images_of_other_channels_have_statistics_of_as_many():
    cfg = timm.create_model("psvit", arch=SHARING_2D).pretrained_cfg
    assert len(cfg["mean"]) == len(cfg["std"]) == SHARING_2D.in_chans == 2
    data = timm.data.resolve_model_data_config(timm.create_model("psvit", arch=SHARING_2D, in_chans=1))
    assert data["input_size"][0] == len(data["mean"]) == 1


def test_images_are_prepared_as_those_that_a_file_says_it_was_trained_on(tmp_path):
    seen = {"mean": [0.1, 0.2], "std": [0.3, 0.4], "classes": ["a", "b"]}
    ArchitectureFile(arch=SHARING_2D, provenance={"data": seen}).save(tmp_path / "network.yaml")
    for arch in (str(tmp_path / "network.yaml"), tmp_path / "network.yaml"):
        for build in (partial(timm.create_model, "psvit", arch=arch), partial(create_model, arch)):
            data = timm.data.resolve_model_data_config(build())
            assert (data["mean"], data["std"], data["crop_pct"]) == ((0.1, 0.2), (0.3, 0.4), 1.0)
            assert timm.data.resolve_model_data_config(build(in_chans=1))["mean"] == (0.5,)


@every_network
def test_forward_and_heads(case):
    model = case.build().eval()
    images = case.images()
    features = model.forward_features(images)
    assert features.shape == (2, case.tokens, model.num_features)
    logits = model(images)
    assert logits.shape == (2, case.arch.num_classes)
    assert logits.isfinite().all()
    torch.testing.assert_close(model.forward_head(features), logits)
    before_logits = model.forward_head(features, pre_logits=True)
    assert before_logits.shape == (2, model.head_hidden_size)
    assert model.get_classifier().weight.shape == (model.num_classes, model.head_hidden_size)
    model.reset_classifier(0)
    assert model.num_classes == 0
    torch.testing.assert_close(model(images), before_logits)
    model.reset_classifier(0, "")
    torch.testing.assert_close(model(images), features)
    model.reset_classifier(7, "avg")
    assert model(images).shape == (2, 7)
    unpooled = case.build(num_classes=0, global_pool="").eval()
    assert unpooled(images).shape == features.shape


@every_network
def test_default_cfg_names_the_first_convolution_and_the_classifier(case):
    model = case.build()
    state = model.state_dict()
    for name in (model.default_cfg["first_conv"], model.default_cfg["classifier"]):
        assert f"{name}.weight" in state


@every_network
def test_every_parameter_gets_a_gradient(case):
    model = case.build(num_classes=42, drop_path_rate=0.1).train()
    out = model(case.images())
    assert out.shape == (2, 42)
    out.mean().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@every_network
def test_intermediates_are_what_the_stages_say(case):
    model = case.build().eval()
    images = case.images()
    info = FeatureInfo(model.feature_info, len(model.feature_info))
    final, intermediates = model.forward_intermediates(images)
    assert torch.equal(final, model.forward_features(images))
    assert len(intermediates) == len(case.arch.stages) == len(info.channels())
    for tokens, channels, grid in zip(intermediates, info.channels(), case.arch.grids, strict=True):
        expected = (2, math.prod(grid), channels) if case.arch.variant == "1d" else (2, channels, *grid)
        assert tokens.shape == expected
    sequences = model.forward_intermediates(images, output_fmt="NLC", intermediates_only=True)
    for sequence, tokens in zip(sequences, intermediates, strict=True):
        assert torch.equal(sequence, tokens if tokens.dim() == 3 else tokens.flatten(2).transpose(1, 2))
    # By hand: run the stages one after the other.
    x = model.embed(images)
    for index, stage in enumerate(model.stages):
        x = stage(x)
        assert torch.equal(sequences[index], x[:, model.num_prefix_tokens :])
    normed = model.forward_intermediates(images, indices=1, norm=True, output_fmt="NLC", intermediates_only=True)
    assert torch.equal(normed[0], final[:, model.num_prefix_tokens :])
    first, only = model.forward_intermediates(images, indices=[0], stop_early=True, output_fmt="NLC")
    assert torch.equal(only[0], sequences[0])
    assert first.shape[-1] == case.arch.stages[0].embed_dim
    pairs = model.forward_intermediates(images, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True)
    if case.arch.variant == "1d":
        assert all(prefix.shape == (2, 1, patches.shape[-1]) for patches, prefix in pairs)
        assert torch.equal(torch.cat([pairs[-1][1], pairs[-1][0]], dim=1), x)
        with pytest.raises(ValueError, match="output_fmt must be NLC in 1d, received 'NCHW'"):
            model.forward_intermediates(images, output_fmt="NCHW")
    else:
        assert all(torch.equal(pair, sequence) for pair, sequence in zip(pairs, sequences, strict=True))


@every_network
def test_pruning_leaves_the_network_of_a_shorter_architecture(case):
    whole = case.build().eval()
    images = case.images()
    expected = whole.forward_intermediates(images, intermediates_only=True)
    for last in range(len(case.arch.stages)):
        model = case.build().eval()
        model.load_state_dict(whole.state_dict())
        assert model.prune_intermediate_layers([last]) == [last]
        assert len(model.stages) == len(model.arch.stages) == last + 1
        assert model.num_features == case.arch.stages[last].embed_dim
        assert torch.equal(
            model.forward_intermediates(images, indices=[last], intermediates_only=True)[0], expected[last]
        )
        shape = (2, math.prod(case.arch.grids[last]) + model.num_prefix_tokens, model.num_features)
        assert model(images).shape == shape
        model.reset_classifier(3)
        assert psvit.PSViT(model.arch, device="meta").state_dict().keys() >= model.state_dict().keys()


@every_network
def test_feature_maps(case):
    if case.arch.variant == "1d":
        with pytest.raises(RuntimeError, match="features_only: 1d networks give no feature maps"):
            timm.create_model(*case.args, **case.kwargs, features_only=True)
        return
    whole = case.build().eval()
    images = case.images()
    expected = whole.forward_intermediates(images, intermediates_only=True)
    for indices in [None, (0,), (-1,)]:
        kwargs = {} if indices is None else {"out_indices": indices}
        features = timm.create_model(*case.args, **case.kwargs, features_only=True, **kwargs).eval()
        features.model.load_state_dict(
            {name: value for name, value in whole.state_dict().items() if name in features.model.state_dict()}
        )
        wanted = expected if indices is None else [expected[index] for index in indices]
        maps = features(images)
        assert len(maps) == len(wanted) == len(features.feature_info.channels())
        for found, reference, channels, reduction in zip(
            maps, wanted, features.feature_info.channels(), features.feature_info.reduction(), strict=True
        ):
            assert torch.equal(found, reference)
            assert found.shape[1] == channels
            for side, length in zip(found.shape[2:], case.arch.image_size, strict=True):
                assert side <= math.ceil(length / reduction) + 1


@every_network
def test_recomputed_activations_change_nothing(case):
    model = case.build().train()
    images = case.images()
    results = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        out = model(images)
        out.square().sum().backward()
        results.append((out.detach(), [parameter.grad.clone() for parameter in model.parameters()]))
    torch.testing.assert_close(*results)


@every_network
def test_layer_decay_reaches_every_parameter_in_order(case):
    model = case.build()
    groups = param_groups_layer_decay(
        model, weight_decay=0.05, no_weight_decay_list=model.no_weight_decay(), layer_decay=0.5
    )
    scale = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    decayed = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    names = dict(model.named_parameters())
    assert scale.keys() == {id(parameter) for parameter in names.values()}
    order = [names[f"{model.default_cfg['first_conv']}.weight"]]
    order += [group.layers[0].norm1.weight for stage in model.stages for group in stage.groups]
    order += [model.head.weight]
    scales = [scale[id(parameter)] for parameter in order]
    assert scales == [0.5 ** (len(order) - 1 - place) for place in range(len(order))]
    assert not decayed & {id(names[name]) for name in model.no_weight_decay() if name in names}
    coarse = group_parameters(model, model.group_matcher(coarse=True))
    assert sorted(name for group in coarse.values() for name in group) == sorted(names)


@every_network
def test_parameters_are_made_where_and_as_asked(case):
    meta, double = case.build(device="meta"), case.build(dtype=torch.float64).eval()
    assert {p.device.type for p in meta.parameters()} == {"meta"}
    assert {p.dtype for p in double.parameters()} == {torch.float64}
    assert double(case.images().double()).dtype == torch.float64
    double.reset_classifier(3)
    assert double.head.weight.dtype == torch.float64


@every_network
def test_a_saved_network_is_rebuilt_bit_for_bit(case, tmp_path):
    model = case.build(num_classes=3).eval()
    save_for_hf(model, tmp_path)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert again.arch == model.arch
    images = case.images()
    assert torch.equal(again(images), model(images))
    # Fine-tuning: other classes keep all but the classifier.
    other = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=4).eval()
    assert other(images).shape == (2, 4)
    assert torch.equal(other.forward_features(images), model.forward_features(images))


@pytest.mark.parametrize("form", ["value", "dict", "file"])
def test_whatever_form_an_architecture_was_given_in_it_is_saved_as_a_dict(form, tmp_path):
    arch = SHARING_1D
    path = tmp_path / "arch.yaml"
    arch.save(path)
    given = {"value": arch, "dict": arch.to_dict(), "file": str(path)}[form]
    model = timm.create_model("psvit", arch=given).eval()
    save_for_hf(model, tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["model_args"]["arch"] == arch.to_dict()
    path.unlink()
    images = torch.randn(1, arch.in_chans, *arch.image_size)
    again = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True).eval()
    assert torch.equal(again(images), model(images))


@every_network
def test_another_input_size(case, tmp_path):
    rows, columns = case.arch.image_size
    stride = case.arch.patch_stride
    size = (rows + 2 * stride, columns + stride)
    model = case.build().eval()
    before = model(case.images()).shape
    model.set_input_size(size)
    assert model.arch.image_size == size
    larger = torch.randn(2, case.arch.in_chans, *size)
    assert model(larger).shape == before
    with pytest.raises(ValueError, match="images must be"):
        model(case.images())
    fresh = case.build(img_size=size).eval()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(larger), model(larger))
    save_for_hf(model, tmp_path)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(again(larger), model(larger))
    model.set_input_size(case.arch.image_size)
    assert model(case.images()).shape == before


def test_a_size_that_the_patches_do_not_cover_is_refused():
    arch = SHARING_2D
    model = timm.create_model("psvit", arch=arch)
    with pytest.raises(InputError, match="must cover the image exactly"):
        model.set_input_size((arch.image_size[0] + 1, arch.image_size[1]))
    assert model.arch == arch


def test_positions_are_interpolated_when_a_checkpoint_comes_from_another_size(tmp_path):
    model = timm.create_model("psvit_1d_tiny", img_size=64, num_classes=3).eval()
    save_for_hf(model, tmp_path)
    larger = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, img_size=128).eval()
    model.set_input_size((128, 128))
    torch.testing.assert_close(larger.pos_embed, model.pos_embed)
    images = torch.randn(1, 3, 128, 128)
    torch.testing.assert_close(larger(images), model(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(10, 8), (12, 14), (16, 16), (16, 10)])
@SHARING
def test_the_grid_of_saved_positions_is_known_and_not_guessed(arch, size, tmp_path):
    model = timm.create_model("psvit", arch=arch).eval()
    save_for_hf(model, tmp_path)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, img_size=size).eval()
    model.set_input_size(size)
    torch.testing.assert_close(again.pos_embed, model.pos_embed)


def test_positions_without_a_known_grid_are_refused():
    model = timm.create_model("psvit", arch=SHARING_2D)
    with pytest.raises(InputError, match="23 positions fit neither the network's grid nor a square one"):
        psvit.model.checkpoint_filter_fn({"pos_embed": torch.zeros(1, 23, 8)}, model)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@SHARING
def test_networks_are_traced(arch):
    model = timm.create_model("psvit", arch=arch).eval()
    images = torch.randn(2, arch.in_chans, *arch.image_size)
    graph = timm.models.create_feature_extractor(model, {"head": "out"})
    torch.testing.assert_close(graph(images)["out"], model(images))
    traced = torch.jit.trace(model, images)
    torch.testing.assert_close(traced(images[:1]), model(images[:1]), atol=1e-5, rtol=0)


def test_cfgs_that_timms_scripts_pass_describe_the_network_too():
    args = timm.models.resolve_model_input_args("psvit", {}, arch=SHARING_2D)
    model = timm.create_model(**args)
    assert model.pretrained_cfg["input_size"] == (2, 8, 10)
    assert len(model.pretrained_cfg["mean"]) == 2


def test_a_cfg_of_ones_own_stays_as_it_is_given():
    cfg = {"num_classes": 7, "input_size": (2, 6, 6), "mean": (0.1, 0.2), "std": (0.3, 0.4), "first_conv": "other"}
    for given in (cfg, timm.models.PretrainedCfg(**cfg)):
        found = timm.create_model("psvit", arch=SHARING_2D, pretrained_cfg=given).pretrained_cfg
        assert {name: found[name] for name in cfg} == cfg


def test_weights_are_drawn_once_more_after_they_were_lost():
    for arch in RANDOM.values():
        torch.manual_seed(1)
        expected = timm.create_model("psvit", arch=arch).requires_grad_(False)
        model = timm.create_model("psvit", arch=arch, device="meta").to_empty(device="cpu")
        for parameter in model.parameters():
            parameter.data.fill_(torch.nan)
        model.init_weights()
        for name, parameter in model.named_parameters():
            as_new = expected.get_parameter(name)
            assert parameter.isfinite().all()
            if as_new.std() == 0:
                assert torch.equal(parameter, as_new)
            elif len(parameter.flatten()) > 100:
                assert float(parameter.detach().std()) == pytest.approx(float(as_new.std()), rel=0.35)
    with pytest.raises(ValueError, match="mode"):
        model.init_weights("jax")


@pytest.mark.filterwarnings("ignore:NOTE. The nodes obtained by tracing")
@pytest.mark.parametrize("sharing", ["auto", "map", "qk"])
@SHARING
def test_symbolic_tracing_reaches_the_layers_of_a_group(arch, sharing):
    model = timm.create_model("psvit", arch=arch, sharing=sharing, drop_path_rate=0.1).eval()
    images = torch.randn(3, *(arch.in_chans, *arch.image_size))
    graph = torch.fx.symbolic_trace(model)
    assert torch.equal(graph(images), model(images))
    with pytest.raises(ValueError, match="pixels"):
        graph(images[..., 1:])
    places = [f"stages.{stage}.groups.{group}.layers.{layer}.mlp" for stage, group, layer in [(0, 0, 1), (1, 0, 2)]]
    layers, seen = [model.get_submodule(place) for place in places], []
    hooks = [layer.register_forward_hook(lambda module, given, output: seen.append(output)) for layer in layers]
    model(images)
    for hook in hooks:
        hook.remove()
    features = create_feature_extractor(model, {f"{place}.drop2": place for place in places})(images)
    for place, expected in zip(places, seen, strict=True):
        assert torch.equal(features[place], expected)


def test_feature_maps_may_be_sequences():
    network = timm.create_model("psvit", arch=SHARING_2D, features_only=True, output_fmt="NLC")
    assert [tuple(maps.shape) for maps in network(torch.randn(1, 2, 8, 10))] == [(1, 20, 8), (1, 6, 12)]


def assert_one_graph(model, images):
    # `eager` runs what was traced as it is: whether it is one graph does not depend on the compiler behind it.
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for n in (2, 5):
        batch = images(n)
        torch.testing.assert_close(compiled(batch), model(batch))


@every_graph
def test_a_network_is_one_graph(case):
    assert_one_graph(case.build().eval(), case.images)


@pytest.mark.parametrize(("arch", "sharing"), [(SHARING_1D, "qk"), (SHARING_2D, "map")], ids=["1d-qk", "2d-map"])
def test_a_network_is_one_graph_in_both_forms_of_sharing(arch, sharing):
    model = timm.create_model("psvit", arch=arch, sharing=sharing).eval()
    assert_one_graph(model, lambda n: torch.randn(n, arch.in_chans, *arch.image_size))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="needs a C++ compiler")
@SHARING
def test_the_compiled_graph_computes_the_same(arch):
    # A C++ compiler takes seconds for every kernel, and layers alike have kernels of their own.
    first, second = arch.stages
    small = (first.model_copy(update={"groups": (2,)}), second.model_copy(update={"groups": (1,)}))
    model = timm.create_model("psvit", arch=arch.model_copy(update={"stages": small}))
    compiled = torch.compile(model, fullgraph=True)
    images = torch.randn(2, arch.in_chans, *arch.image_size)
    for mode in (True, False):
        model.train(mode)
        torch.testing.assert_close(compiled(images), model(images), atol=1e-5, rtol=0)
    model.zero_grad()
    compiled.train()
    compiled(images).square().mean().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model.train()(images).square().mean().backward()
    torch.testing.assert_close(gradients, [p.grad for p in model.parameters()], atol=1e-5, rtol=0)


@every_graph
def test_a_network_is_exported_with_a_dynamic_batch(case):
    model = case.build().eval()
    exported = torch.export.export(
        model, (case.images(2),), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1024)},)
    ).module()
    for n in (1, 2, 5):
        images = case.images(n)
        torch.testing.assert_close(exported(images), model(images), atol=1e-5, rtol=1e-5)


@every_network
def test_both_forms_of_sharing_agree(case):
    model = case.build(sharing="map")
    other = case.build(sharing="qk")
    other.load_state_dict(model.state_dict())
    images = case.images()
    results = []
    for network in (model, other):
        out = network(images)
        out.square().mean().backward()
        results.append((out.detach(), [parameter.grad for parameter in network.parameters()]))
    torch.testing.assert_close(*results, atol=1e-5, rtol=0)


def test_an_unknown_form_of_sharing_is_refused():
    with pytest.raises(InputError, match="sharing must be auto, map or qk, received 'keys'"):
        timm.create_model("psvit_2d_tiny", sharing="keys", device="meta")


def test_stochastic_depth_is_an_argument():
    model = timm.create_model("psvit", arch=SHARING_2D, drop_path_rate=0.2)
    assert any(type(module).__name__ == "DropPath" for module in model.modules())
    assert isinstance(model.head, nn.Linear)
