"""What a GPU computes is what a CPU computes, and what happens only on a GPU."""

from __future__ import annotations

import math
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed
from torch import nn

from psvit.arch.architecture import Architecture, Stage
from psvit.data import Batches, Decoded, Inputs, Labelled
from psvit.model import PSViT
from psvit.nn.seeding import seeded
from psvit.search.inherited import InheritedAccuracy
from psvit.search.latency.measure import measure
from psvit.search.latency.setting import Setting
from psvit.space.search_space import SearchSpace
from psvit.supernet.supernet import Supernet
from psvit.train.distributed import World
from psvit.train.recipe import Recipe
from psvit.train.replay import Replay
from psvit.train.tasks import Classification
from psvit.train.training import train
from psvit.train.training_loader import training_loader

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")
CLASSES = 4
INPUTS = Inputs(image_size=(16, 16), in_chans=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
RECIPE = Recipe(
    epochs=3, batch_size=16, lr=0.003, warmup_epochs=1, crop_scale=(0.5, 1.0), hflip=0.5, augment_batches=True
)
AUGMENTED = RECIPE.override({"auto_augment": "rand-m9-n2-mstd0.5-inc1", "random_erasing": 0.25, "color_jitter": 0.3})
NETWORKS = {
    f"{variant}-{stem}": Architecture(
        variant=variant,
        image_size=(16, 16),
        in_chans=3,
        num_classes=CLASSES,
        stem=stem,
        patch_size=2,
        patch_stride=2,
        head_dim=16,
        stages=(Stage(embed_dim=32, groups=(2, 1), mlp_ratio=2), Stage(embed_dim=64, groups=(3,), mlp_ratio=2)),
        pools=("conv" if variant == "2d" else "max",),
    )
    for variant in ("1d", "2d")
    for stem in ("patch", "conv")
}
every_network = pytest.mark.parametrize("arch", NETWORKS.values(), ids=NETWORKS)

APART = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 4e-2}
"""By how much outputs may differ, relative to the largest."""


@pytest.fixture(autouse=True)
def _products_in_full_precision():
    """What is compared here must not depend on whether a GPU rounds to TF32."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def network(arch, seed=0, **options):
    with seeded(seed):
        made = PSViT(arch, **options)
        for parameter in made.parameters():
            parameter.data.normal_(std=0.1)
    return made.eval()


def pictures(n=64, size=16, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % CLASSES
    pixels = rng.integers(0, 120, (n, size, size, 3)) + 40 * labels[:, None, None, None] * (np.arange(3) == 1)
    return Labelled(Decoded(pixels.astype(np.uint8)), labels)


def batch(arch, n=6):
    return torch.randn(n, arch.in_chans, *arch.image_size, generator=torch.Generator().manual_seed(1))


def assert_close(found, expected, dtype=torch.float32):
    largest = expected.abs().max().item()
    torch.testing.assert_close(found.cpu().float(), expected.cpu().float(), rtol=0, atol=APART[dtype] * largest)


def fit(folder, device, recipe=RECIPE, arch=NETWORKS["2d-patch"], **options):
    return train(
        Classification(network(arch, drop_path_rate=recipe.drop_path_rate).train()),
        training_loader(pictures(), INPUTS, recipe, device),
        recipe,
        num_classes=CLASSES,
        seed=3,
        device=device,
        folder=folder,
        description="training",
        **options,
    )


@every_network
def test_logits_are_those_of_the_cpu(arch, device):
    images = batch(arch)
    with torch.inference_mode():
        assert_close(network(arch).to(device)(images.to(device)), network(arch)(images))


@every_network
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_both_forms_of_sharing_agree_in_every_precision(arch, dtype, device):
    images = batch(arch).to(device)
    found = []
    for sharing in ("map", "qk"):
        made = network(arch, sharing=sharing).to(device)
        with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            found.append(made(images))
    assert_close(found[1], found[0], dtype)


@pytest.mark.parametrize("name", ["psvit-nano", "psvit-2d-nano"])
def test_slices_of_a_supernet_are_the_extracted_networks(name, device):
    space = SearchSpace.load(name)
    supernet = Supernet(space).to(device).eval()
    images = torch.randn(4, space.in_chans, *space.image_size, device=device)
    for arch in space.sample(np.random.default_rng(0), 4):
        with torch.inference_mode():
            assert_close(supernet(images, arch), supernet.extract(arch).to(device)(images))


def test_a_population_has_the_scores_of_each_alone(device):
    space = SearchSpace.load("psvit-nano").with_data(CLASSES, 3)
    inputs = Inputs(image_size=space.image_size, in_chans=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    supernet = Supernet(space).to(device).eval()
    archs = list(space.sample(np.random.default_rng(0), 12))
    batches = Batches(pictures(96, 32), inputs, 32, device)
    shared, alone = (
        InheritedAccuracy(supernet, batches, share_prefixes=share).evaluate(archs) for share in (True, False)
    )
    # A rounding may turn one image of the 96.
    for one, other in zip(shared, alone, strict=True):
        assert one.value == pytest.approx(other.value, abs=1.1)


def test_a_training_learns_and_a_stopped_one_goes_on(device, tmp_path):
    whole = fit(tmp_path / "whole", device)
    assert whole.log[-1]["loss"] < whole.log[0]["loss"]
    fit(tmp_path / "stopped", device, until=1)
    again = fit(tmp_path / "stopped", device)
    assert [row["epoch"] for row in again.log] == [1, 2, 3]
    # Not bit for bit: some gradients are sums in no fixed order.
    for name, weight in again.model.state_dict().items():
        torch.testing.assert_close(weight, whole.model.state_dict()[name], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["1d-conv", "2d-patch"])
def test_graphs_train_as_kernels_one_by_one_do(cuda, tmp_path, monkeypatch, name, precision):
    were_recorded = []
    begin = Replay.begin

    def spied(self, images):
        begin(self, images)
        were_recorded.append("forward" in vars(self._network))

    recipe = RECIPE.override({"precision": precision, "drop_path_rate": 0.2})
    monkeypatch.setattr(Replay, "begin", spied)
    graphs = fit(tmp_path / "graphs", cuda, recipe, NETWORKS[name])
    monkeypatch.setattr(Replay, "begin", lambda self, images: setattr(self, "is_decided", True))
    alone = fit(tmp_path / "alone", cuda, recipe, NETWORKS[name])
    assert were_recorded == [True]
    apart = {"float32": 2e-3, "bfloat16": 2e-2}[precision]
    for one, other in zip(graphs.log, alone.log, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=apart)


def test_a_step_that_overflows_is_left_out_in_float16(cuda, tmp_path):
    class Steep(Classification):
        def loss(self, images, targets, smoothing, step):
            return super().loss(images, targets, smoothing, step) * (1e6 if step == 2 else 1.0)

    recipe = RECIPE.override({"precision": "float16", "epochs": 2})
    loader = training_loader(pictures(), INPUTS, recipe, cuda)
    options = {"num_classes": CLASSES, "seed": 3, "device": cuda, "folder": tmp_path, "description": "training"}
    trained = train(Steep(network(NETWORKS["2d-conv"]).train()), loader, recipe, **options)
    assert all(parameter.isfinite().all() for parameter in trained.model.parameters())
    assert math.isfinite(trained.log[-1]["loss"])


def test_steps_do_not_wait_for_the_gpu(cuda, tmp_path):
    class Watching(Classification):
        def loss(self, images, targets, smoothing, step):
            # The first steps set things up; what is looked at between epochs may wait.
            torch.cuda.set_sync_debug_mode("error" if 4 <= step % 40 < 24 else "default")
            return super().loss(images, targets, smoothing, step)

    recipe = RECIPE.override({"epochs": 1, "batch_size": 16, "warmup_epochs": 0})
    options = {"num_classes": CLASSES, "seed": 3, "device": cuda, "folder": tmp_path, "description": "training"}
    try:
        train(
            Watching(network(NETWORKS["1d-conv"]).train()),
            training_loader(pictures(16 * 40), INPUTS, recipe, cuda),
            recipe,
            **options,
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("recipe", [RECIPE, AUGMENTED], ids=["plain", "augmented"])
def test_batches_are_augmented_as_on_the_cpu(recipe, device):
    found, expected = (
        list(training_loader(pictures(), INPUTS, recipe, place).batches(5, 0, 0, 0, 1, 1)) for place in (device, CPU)
    )
    assert len(found) == len(expected) == 4
    for (images, labels), (others, same) in zip(found, expected, strict=True):
        assert torch.equal(labels.cpu(), same)
        # Pixels are whole numbers, so a rounding is a step of one of 255; steps after it may make more of it.
        apart = (images.cpu() - others).abs() * 255 * 0.25
        assert (apart < 0.01).float().mean() > 0.97
        assert (apart < 2.01).float().mean() > 0.999


def test_a_population_that_needs_too_much_memory_fails_alone(cuda):
    space = SearchSpace.load("psvit-2d-nano").with_data(CLASSES, 3)
    inputs = Inputs(image_size=space.image_size, in_chans=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    supernet = Supernet(space).to(cuda).eval()
    batches = Batches(pictures(4096, 32), inputs, 4096, cuda)
    torch.cuda.empty_cache()
    share = (torch.cuda.memory_allocated() + 600 * 2**20) / torch.cuda.get_device_properties(cuda).total_memory
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        scores = InheritedAccuracy(supernet, batches).evaluate([space.smallest, space.largest])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert scores[1].state == "failed"
    assert scores[1].reason.startswith("out of memory")


def test_a_known_sleep_has_its_latency(cuda):
    class Sleeping(nn.Module):
        def forward(self, x):
            torch.cuda._sleep(cycles)
            return x.flatten(1)

    cycles = 10**6
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(20):
        torch.cuda._sleep(cycles)
    begin.record()
    for _ in range(20):
        torch.cuda._sleep(cycles)
    end.record()
    torch.cuda.synchronize()
    expected = begin.elapsed_time(end) / 20
    found = measure(Sleeping().to(cuda), (3, 8, 8), Setting(device="cuda"), seconds=0.5)
    assert found.median_ms == pytest.approx(expected, rel=0.25)
    assert found.queued_ms == pytest.approx(expected, rel=0.25)
    assert "cuDNN" in found.fingerprint.gpu


def test_compiled_networks_are_one_cuda_graph(cuda):
    shape = (3, *network(NETWORKS["1d-conv"]).arch.image_size)
    eager, compiled = (
        measure(network(NETWORKS["1d-conv"]), shape, Setting(device="cuda", runtime=runtime))
        for runtime in ("eager", "compile")
    )
    # Its outputs were compared with PyTorch's. A single image is mostly the launching of kernels.
    assert compiled.median_ms < 0.8 * eager.median_ms


def test_gradients_are_averaged_by_nccl(cuda, tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("nccl", store=store, rank=0, world_size=1, timeout=timedelta(seconds=60))
    try:
        # A group of one sends nothing, so what two would do is done by hand.
        piece = [torch.full((5,), 2.0, device=cuda), torch.arange(3.0, device=cuda)]
        World(rank=0, size=1)._average_piece_(piece)
    finally:
        torch.distributed.destroy_process_group()
    assert torch.equal(piece[0].cpu(), torch.full((5,), 2.0))
    assert torch.equal(piece[1].cpu(), torch.arange(3.0))


def test_a_device_named_by_its_number_becomes_the_current_one(cuda):
    from psvit.train.choices import choose_device

    number = torch.cuda.device_count() - 1
    before = torch.cuda.current_device()
    try:
        assert choose_device(f"cuda:{number}") == torch.device("cuda", number)
        assert torch.cuda.current_device() == number
    finally:
        torch.cuda.set_device(before)
