"""Measuring one network: in whatever form it is at hand, in the setting that is named, and left as it was."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import psvit
from psvit.arch.architecture import ArchitectureFile
from psvit.classifier import Classifier
from psvit.data.preprocessing import Preprocessing
from psvit.errors import InputError
from psvit.search.latency import measure as measure_module
from psvit.search.latency.measure import Latency, fingerprint
from psvit.search.latency.setting import Setting


@pytest.fixture
def measured(monkeypatch):
    """Replaces the measuring function; remembers what is measured: network, shape of an image, setting."""
    calls = []

    def measure(network, input_shape, setting):
        calls.append((network, input_shape, setting))
        network.double()
        here = fingerprint(setting)
        return Latency(median_ms=1.0, iqr_ms=0.1, repeats=9, attempts=1, setting=setting, fingerprint=here)

    monkeypatch.setattr(measure_module, "measure", measure)
    return calls


@pytest.fixture
def arch(digits_space):
    return digits_space.smallest


def test_a_network_is_measured_in_every_form(arch, measured, tmp_path):
    network = psvit.PSViT(arch)
    arch.save(tmp_path / "network.yaml")
    file = ArchitectureFile(arch=arch)
    wanted = Preprocessing(
        image_size=(8, 8), in_chans=1, mean=(0.5,), std=(0.5,), classes=tuple(map(str, range(arch.num_classes)))
    )
    classifier = Classifier(network, wanted, file, tmp_path / "network.yaml")
    forms = [arch, file, tmp_path / "network.yaml", str(tmp_path / "network.yaml"), tmp_path, network, classifier]
    for form in forms:
        psvit.measure_latency(form)
    assert [shape for _, shape, _ in measured] == [(1, 8, 8)] * len(forms)
    count = psvit.cost(arch).num_params
    assert {sum(parameter.numel() for parameter in one.parameters()) for one, _, _ in measured} == {count}
    # What was handed over is left as it was.
    assert network.pos_embed.dtype == torch.float32
    assert all(one is not network for one, _, _ in measured)
    psvit.measure_latency("deit-tiny")
    assert measured[-1][1] == (3, 224, 224)


def test_modules_say_how_large_images_are_or_are_told(measured):
    psvit.measure_latency(timm.create_model("test_vit"))
    assert measured[-1][1] == (3, 160, 160)
    psvit.measure_latency(nn.Flatten(), input_size=(1, 4, 4))
    assert measured[-1][1] == (1, 4, 4)
    with pytest.raises(InputError, match=r"Flatten does not say how large images are; give \(C, H, W\)"):
        psvit.measure_latency(nn.Flatten())


def test_a_setting_is_written_as_in_a_budget(arch, measured):
    found = psvit.measure_latency(arch, "cpu:batch=8,threads=1,precision=bfloat16")
    expected = Setting(device="cpu", batch_size=8, threads=1, precision="bfloat16")
    assert measured[-1][2] == expected == found.setting
    limit = psvit.Budget.parse("5ms@cpu:batch=8,threads=1,precision=bfloat16").latencies[0]
    assert Setting.of(limit) == expected
    psvit.measure_latency(arch, expected)
    assert measured[-1][2] == expected


@pytest.mark.parametrize(
    ("on", "expected"),
    [
        ("", "not understood"),
        ("warp", "'warp'"),
        ("cpu:batch", "'batch' is no setting"),
        ("cpu:batch=2,batch=3", "given twice"),
        ("cpu:batch=0", "batch_size"),
        ("cpu:runtime=tvm", "runtime"),
        ("cpu:runtime=onnxruntime,precision=float16", "onnxruntime is measured on cpu in float32 only"),
    ],
)
def test_settings_that_cannot_be_are_refused(arch, measured, on, expected):
    with pytest.raises(InputError, match=expected) as refused:
        psvit.measure_latency(arch, on)
    assert "\n" not in str(refused.value)
    assert measured == []
