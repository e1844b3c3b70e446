"""Pooling operators and stems of a user's own: priced and built like all others, and refused where they are none."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import psvit
from psvit.arch import operators
from psvit.arch.architecture import Architecture
from psvit.arch.costs import cost
from psvit.errors import InputError
from psvit.model import PSViT
from psvit.nn import layers, registration
from psvit.nn.live_tensors import LiveTensors
from psvit.space.search_space import SearchSpace
from psvit.supernet.supernet import Supernet


@pytest.fixture(autouse=True)
def registries():
    """What a test registers is forgotten after it."""
    everything = [operators.POOLINGS._entries, operators.STEMS._entries, layers.POOLING_MODULES, layers.STEM_MODULES]
    everything.append(registration._REGISTERED)
    before = [dict(entries) for entries in everything]
    yield
    for entries, known in zip(everything, before, strict=True):
        entries.clear()
        entries.update(known)


class Mixing(nn.Module):
    """A convolution of all channels that halves each axis, after a learned scale."""

    def __init__(self, variant, channels):
        super().__init__()
        conv = nn.Conv1d if variant == "1d" else nn.Conv2d
        self.scale = nn.Parameter(torch.ones(channels))
        self.conv = conv(channels, channels, kernel_size=3, stride=2, padding=1)

    def forward(self, x):
        return self.conv(x * self.scale.view(-1, *[1] * (x.dim() - 2)))


class TwoSteps(nn.Module):
    """A wide first convolution, so that the most memory is needed in the middle; then patches of the rest."""

    def __init__(self, in_chans, embed_dim, patch_size, patch_stride):
        super().__init__()
        self.first = nn.Conv2d(in_chans, 3 * embed_dim, 3, padding=1)
        self.second = nn.Conv2d(3 * embed_dim, embed_dim, patch_size, stride=patch_stride)

    def forward(self, x):
        return self.second(F.relu(self.first(x))).flatten(2).transpose(1, 2)


def own_space(variant="2d"):
    stage = {"embed_dim": [8, 12], "depth": [1, 2], "max_group": 2, "mlp_ratio": [1, 2]}
    return SearchSpace.from_dict(
        {
            "name": "own",
            "variant": variant,
            "image_size": [12, 20],
            "in_chans": 2,
            "num_classes": 3,
            "patch_size": 4,
            "patch_stride": 4,
            "head_dim": 4,
            "stem": ["two_steps", "patch"],
            "layouts": [{"stages": [{"begin": 0, **stage}, {"begin": 2, **stage}], "pools": [["mixing", "avg"]]}],
        }
    )


@pytest.fixture
def registered():
    psvit.register_pooling("mixing", Mixing)
    psvit.register_stem("two_steps", TwoSteps)


def measured(arch):
    """The costs of the built network, counted."""
    with torch.device("meta"):
        model = PSViT(arch, sharing="map").eval()
        image = torch.zeros(1, arch.in_chans, *arch.image_size)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = True
    with torch.inference_mode(), LiveTensors(image, model.parameters()) as live:
        model(image)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image)
    return counter.get_total_flops() // 2, sum(p.numel() for p in model.parameters()), live.peak


@pytest.mark.parametrize("variant", ["1d", "2d"])
def test_their_costs_are_those_of_the_built_network_and_of_the_encoded_one(registered, variant):
    space = own_space(variant)
    archs = [space[number] for number in range(0, space.size, 37)]
    assert {(arch.stem, arch.pools[0]) for arch in archs} == {
        (stem, pool) for stem in ("two_steps", "patch") for pool in ("mixing", "avg")
    }
    rows = torch.tensor([space.encode(arch).tolist() for arch in archs]).numpy()
    batch = space.price(rows)
    for position, arch in enumerate(archs):
        found = (batch.macs[position], batch.num_params[position], batch.activation_bytes[position])
        own = cost(arch)
        assert measured(arch) == (own.macs, own.num_params, own.activation_bytes) == found


def test_the_largest_and_the_smallest_member_are_chosen_by_their_costs(registered):
    space = own_space()
    assert (space.largest.stem, space.largest.pools) == ("two_steps", ("mixing",))
    assert (space.smallest.stem, space.smallest.pools) == ("patch", ("avg",))
    assert (cost(space.smallest).macs, cost(space.largest).macs) == space.reach("macs")


@pytest.mark.parametrize("variant", ["1d", "2d"])
def test_a_supernet_slices_them_and_extracts_them(registered, variant):
    space = own_space(variant)
    supernet = Supernet(space).eval()
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.normal_(std=0.2)
    images = torch.randn(2, 2, 12, 20)
    for number in range(0, space.size, 53):
        arch = space[number]
        with torch.no_grad():
            torch.testing.assert_close(supernet.extract(arch)(images), supernet(images, arch), rtol=1e-5, atol=1e-5)
        if arch.pools[0] == "mixing":
            width = arch.stages[0].embed_dim
            expected = supernet.get_parameter("pools.2.mixing.conv.weight")[:width, :width]
            assert torch.equal(supernet.slices(arch)["stages.1.pool.pool.conv.weight"], expected)


def test_a_file_names_them_and_is_refused_where_they_are_not_registered(registered, tmp_path):
    arch = own_space()[0]
    arch.save(tmp_path / "arch.yaml")
    assert Architecture.load(tmp_path / "arch.yaml") == arch
    del operators.STEMS._entries["two_steps"]
    with pytest.raises(InputError, match=r"arch\.yaml: arch\.stem: must be 'patch' or 'conv', received 'two_steps'"):
        Architecture.load(tmp_path / "arch.yaml")


def test_a_network_on_the_meta_device_in_double_precision(registered):
    arch = own_space().largest
    model = psvit.create_model(arch, device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.float64)}


def wrong(forward=None, **parameters):
    """A module as a pooling or a stem that does what is said here."""

    class Wrong(nn.Module):
        def __init__(self, *args):
            super().__init__()
            self.given = args
            for name, shape in parameters.items():
                self.register_parameter(name, nn.Parameter(torch.zeros(shape(args[1]))))

        def forward(self, x):
            return forward(x)

    return Wrong


def halved(x):
    return F.max_pool1d(x, 3, 2, 1) if x.dim() == 3 else F.max_pool2d(x, 3, 2, 1)


def test_the_same_module_may_be_registered_again_and_another_not():
    psvit.register_pooling("mixing", Mixing)
    psvit.register_pooling("mixing", Mixing)
    psvit.register_stem("two_steps", TwoSteps)
    psvit.register_stem("two_steps", TwoSteps)
    with pytest.raises(ValueError, match="'mixing' is registered already"):
        psvit.register_pooling("mixing", Other)


def test_another_process_is_told_what_is_registered():
    psvit.register_pooling("mixing", Mixing)
    told = registration.registered()
    for known in (operators.POOLINGS._entries, layers.POOLING_MODULES, registration._REGISTERED):
        known.pop("mixing", None) or known.pop("pooling mixing")
    assert "mixing" not in operators.POOLINGS
    registration.register_missing(told)
    registration.register_missing(told)
    assert "mixing" in operators.POOLINGS


class Other(Mixing):
    pass


class WithBuffer(Mixing):
    def __init__(self, variant, channels):
        super().__init__(variant, channels)
        self.norm = nn.BatchNorm1d(channels)


@pytest.mark.parametrize(
    ("name", "module", "message"),
    [
        ("max", Mixing, "a pooling 'max' is registered already"),
        ("proj", Mixing, "must not be called proj"),
        ("my pool", Mixing, "must be an identifier, received 'my pool'"),
        ("own", wrong(lambda x: x), r"in 1d: its module must make \(2, 8, 4\) of \(2, 8, 7\), and makes \(2, 8, 7\)"),
        ("own", WithBuffer, "must have no buffers, and has norm.running_mean"),
        (
            "own",
            wrong(halved, w=lambda d: (64 // d,)),
            r"w is \(8,\) with 8 channels and \(4,\) with 16",
        ),
        ("own", wrong(halved, w=lambda d: (1,) * (d // 8)), "must not shrink"),
    ],
)
def test_a_pooling_that_is_something_else_is_refused(name, module, message):
    with pytest.raises(ValueError, match=message):
        psvit.register_pooling(name, module)
    if name == "own":
        assert name not in operators.POOLINGS
        assert name not in layers.POOLING_MODULES


def test_a_stem_that_is_something_else_is_refused():
    with pytest.raises(ValueError, match=r"make \(2, 15, 8\) of \(2, 3, 12, 20\), and makes \(2, 3, 240\)"):
        psvit.register_stem("own", wrong(lambda x: x.flatten(2)))

    def never(patch_size, patch_stride):
        raise ValueError("never")

    with pytest.raises(ValueError, match="accepts none"):
        psvit.register_stem("own", TwoSteps, check=never)


def test_what_a_stem_needs_of_patches_is_checked_in_networks_and_spaces():
    def needs_fours(patch_size, patch_stride):
        if patch_size % 4:
            raise ValueError(f"patch_size must be a multiple of 4, received {patch_size}")

    psvit.register_pooling("mixing", Mixing)
    psvit.register_stem("two_steps", TwoSteps, check=needs_fours)
    fields = own_space().to_dict()
    with pytest.raises(InputError, match="patch_size must be a multiple of 4, received 2"):
        SearchSpace.from_dict({**fields, "patch_size": 2, "patch_stride": 2})
    with pytest.raises(InputError, match="patch_size must be a multiple of 4, received 2"):
        Architecture.from_dict({**own_space()[0].to_dict(), "patch_size": 2, "patch_stride": 2})
    assert math.prod(own_space().largest.grids[0]) == 15


@pytest.mark.parametrize("name", ["keys", "update", "training", "forward", "half"])
def test_a_pooling_is_not_called_as_what_a_module_has(name):
    with pytest.raises(ValueError, match=f"must not be called {name}"):
        psvit.register_pooling(name, Mixing)
    with pytest.raises(ValueError, match="must be an identifier, received 3"):
        psvit.register_pooling(3, Mixing)


def test_what_is_registered_again_is_priced_and_built_anew(registered):
    space = own_space()
    arch = next(space[i] for i in range(space.size) if len(space[i].stages) == 2 and space[i].pools == ("mixing",))

    def known():
        space = own_space()
        row = space.encode(arch)[None]
        return int(space.price(row).macs[0]), space.reach("macs"), shapes(Supernet(space).structure(arch))

    def shapes(network):
        return {name: tuple(one.shape) for name, one in network.named_parameters(remove_duplicate=False)}

    before = known()
    assert before[0] == cost(arch).macs

    class Cheaper(Mixing):
        def __init__(self, variant, channels):
            super().__init__(variant, channels)
            conv = nn.Conv1d if variant == "1d" else nn.Conv2d
            self.conv = conv(channels, channels, kernel_size=3, stride=2, padding=1, groups=channels)

    Cheaper.__qualname__ = Mixing.__qualname__  # as if the cell of a notebook was changed and run again
    psvit.register_pooling("mixing", Cheaper)
    after = known()
    assert after[0] == cost(arch).macs < before[0]
    assert after[1] != before[1]
    assert after[2] == shapes(PSViT(arch, device="meta")) != before[2]
