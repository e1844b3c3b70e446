"""Trained networks that shall become cheaper: read from where they are, and fitted to images."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf

from psvit.arch.architecture import ArchitectureFile
from psvit.data import ImageData
from psvit.errors import InputError
from psvit.model import create_model
from psvit.space.search_space import SearchSpace
from psvit.train.original import original_of
from psvit.train.read_original import read_original
from psvit.train.teacher import load_teacher

ARGS = {"img_size": 16, "patch_size": 4, "num_classes": 3, "embed_dim": 24, "depth": 2, "num_heads": 3}
NAME = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    return timm.create_model(NAME, **ARGS).eval()


@pytest.fixture
def folder(vit, tmp_path):
    """A folder as timm writes it, for networks with names for their classes."""
    about = {"label_names": ["ant", "bee", "cat"]}
    save_for_hf(vit, str(tmp_path), model_config=about, model_args=ARGS, safe_serialization=True)
    return tmp_path


def images(classes=("ant", "bee", "cat"), size=(16, 16), channels=3):
    """Few images of noise."""
    rng = np.random.default_rng(0)
    shape = (*size, channels)[: 3 if channels > 1 else 2]
    some = [(rng.integers(0, 256, shape, dtype=np.uint8), number % len(classes)) for number in range(12 * len(classes))]
    return ImageData.from_datasets(some, some, classes=classes)


def load_teacher_of(name, weights):
    return load_teacher(name, weights, 3, 3)


@torch.no_grad()
def outputs(network, pixels, mean, std):
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))
    return network((pixels - mean) / std)


@torch.no_grad()
def test_folders_files_and_names_give_the_same_network(vit, folder):
    batch = torch.randn(2, 3, 16, 16)
    digests = set()
    for place in (folder, f"local-dir:{folder}", folder / "model.safetensors"):
        original = read_original(place)
        assert torch.allclose(original.network(batch), vit(batch), atol=1e-5)
        assert original.classes == ("ant", "bee", "cat")
        digests.add(original.digest)
    assert len(digests) == 1


@torch.no_grad()
def test_a_checkpoint_of_timms_training_names_its_network(tmp_path):
    torch.manual_seed(0)
    network = timm.create_model(NAME, img_size=32, num_classes=5, in_chans=1).eval()
    args = argparse.Namespace(model=NAME, img_size=32, mean=[0.3], std=[0.2])
    saved = {"arch": NAME, "state_dict": network.state_dict(), "args": args, "epoch": 3, "optimizer": {}}
    file = tmp_path / "model_best.pth.tar"
    torch.save(saved, file)
    batch = torch.randn(2, 1, 32, 32)
    for original in (read_original(file), read_original(NAME, file)):
        assert torch.allclose(original.network(batch), network(batch), atol=1e-5)
        assert original.arch.image_size == (32, 32)
    assert read_original(file).mean == pytest.approx((0.3,))
    assert read_original(file).std == pytest.approx((0.2,))


def test_what_was_fitted_is_written_and_read_again(folder, tmp_path):
    data = images()
    fitted = read_original(folder).fitted(data)
    fitted.save(tmp_path / "run" / "original.yaml", data)
    again = read_original(tmp_path / "run" / "original.yaml")
    assert again.digest == fitted.digest
    assert (again.classes, again.mean, again.std) == (data.classes, data.mean, data.std)


def test_another_normalisation_changes_no_output(vit, folder):
    data, original = images(), read_original(folder)
    assert (original.mean, original.std) != (data.mean, data.std)
    fitted = original.fitted(data)
    pixels = torch.rand(2, 3, 16, 16)
    wanted = outputs(original.network, pixels, original.mean, original.std)
    assert torch.allclose(outputs(fitted.network, pixels, data.mean, data.std), wanted, atol=1e-4)
    assert (fitted.keeps_head, fitted.changes) == (True, ())


def test_classes_are_put_into_the_images_order(folder):
    data, original = images(("cat", "ant", "bee")), read_original(folder)
    fitted = original.fitted(data)
    pixels = torch.rand(2, 3, 16, 16)
    wanted = outputs(original.network, pixels, original.mean, original.std)[:, [2, 0, 1]]
    assert torch.allclose(outputs(fitted.network, pixels, data.mean, data.std), wanted, atol=1e-4)
    assert fitted.keeps_head


@pytest.mark.parametrize("classes", [("ant", "bee"), ("ant", "bee", "dog")])
def test_other_classes_get_a_new_classifier_which_is_said(folder, classes):
    fitted = read_original(folder).fitted(images(classes))
    assert not fitted.keeps_head
    assert fitted.arch.num_classes == len(classes)
    assert "classifier is new" in fitted.changes[0]
    assert fitted.digest == read_original(folder).fitted(images(classes)).digest


def test_other_sizes_and_channels_are_said(folder):
    original = read_original(folder)
    fitted = original.fitted(images(size=(8, 8), channels=1), (24, 16))
    assert fitted.arch.image_size == (24, 16)
    assert fitted.arch.in_chans == 1
    assert fitted.network(torch.randn(1, 1, 24, 16)).shape == (1, 3)
    assert ["positions" in fitted.changes[0], "channels" in fitted.changes[1]] == [True, True]
    with pytest.raises(InputError, match="18 x 18"):
        original.fitted(images(), (18, 18))
    # A grey image gives what the same image in colour gave, as far as both are normalised alike.
    grey = torch.rand(2, 1, 16, 16)
    fitted = original.fitted(images(channels=1))
    wanted = outputs(original.network, grey.expand(-1, 3, -1, -1), original.mean, original.std)
    given = outputs(fitted.network, grey, fitted.mean, fitted.std)
    assert (given - wanted).abs().max() < 0.1 * wanted.abs().max()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda place: read_original("no_such_network"), "no such network"),
        (lambda place: read_original(place / "gone.pth"), "no such file"),
        (lambda place: read_original("deit_tiny_patch16_224", place / "gone.pth"), "no such file"),
        (lambda place: read_original(place / "alone.safetensors"), "--init-weights"),
        (
            lambda place: read_original("deit_tiny_patch16_224", place / "alone.safetensors"),
            "does not hold|cannot be read",
        ),
        (lambda place: read_original(place), "holds no network"),
        (lambda place: read_original(place / "odd" / "model.safetensors"), "configuration"),
    ],
)
def test_what_is_no_network_is_refused_in_one_line(make, says, tmp_path):
    save_file({"head.weight": torch.zeros(2, 3)}, tmp_path / "alone.safetensors")
    (tmp_path / "odd").mkdir()
    save_file({"head.weight": torch.zeros(2, 3)}, tmp_path / "odd" / "model.safetensors")
    (tmp_path / "odd" / "config.json").write_text(json.dumps({"architecture": 5, "model_args": [1]}))
    with pytest.raises(InputError, match=says) as error:
        make(tmp_path)
    assert "\n" not in str(error.value)


class Harmful:
    """Runs code where it is unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return Path.touch, (self.place,)


@pytest.mark.parametrize("read", [read_original, load_teacher_of], ids=["original", "teacher"])
def test_reading_weights_runs_no_code(read, tmp_path):
    torch.save({"head.weight": torch.zeros(3, 192), "harm": Harmful(tmp_path / "harmed")}, tmp_path / "x.pth")
    with pytest.raises(InputError):
        read("deit_tiny_patch16_224", tmp_path / "x.pth")
    assert not (tmp_path / "harmed").exists()


def test_a_network_whose_layers_share_maps_is_no_start(folder, tmp_path):
    data, original = images(), read_original(folder)
    space = SearchSpace.around(original.fitted(data).arch)
    sharing = next(one for one in map(space.__getitem__, range(space.size)) if max(one.stages[0].groups) > 1)
    network = create_model(sharing)
    file = tmp_path / "shared.yaml"
    ArchitectureFile(arch=sharing, provenance={"data": data.describe()}).save(file)
    save_file(network.state_dict(), file.with_suffix(".safetensors"))
    with pytest.raises(InputError, match="share"):
        read_original(file)


def test_weights_beside_what_has_weights_are_refused(folder, tmp_path):
    other = tmp_path / "other.safetensors"
    save_file({"head.weight": torch.zeros(3, 24)}, other)
    for name in (folder / "model.safetensors", tmp_path / "network.yaml", tmp_path.parent):
        with pytest.raises(InputError, match="goes with the name of a model of timm"):
            read_original(name, other)


def test_an_original_stands_beside_networks_for_the_same_images_alone(folder, tmp_path):
    data = images()
    original = read_original(folder).fitted(data)
    run = tmp_path / "run"
    original.save(run / "original.yaml", data)
    about = ArchitectureFile(arch=original.arch, provenance={"original": {"name": "x", "digest": "0"}})
    assert about.is_made_of_another
    assert original_of(run / "best.yaml", about, data) is not None
    for other in (images(("bee", "ant", "cat")), images(("ant", "bee")), images(channels=1)):
        assert original_of(run / "best.yaml", about, other) is None
