"""Classifier: a trained network from its files alone, and what it says of images."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import psvit
from psvit.arch.architecture import ArchitectureFile
from psvit.classifier import Classifier
from psvit.data import Batches, Decoded, Inputs, Labelled
from psvit.data.preprocessing import Preprocessing
from psvit.errors import InputError
from psvit.model import PSViT

ARCH = {
    "variant": "2d",
    "image_size": [8, 8],
    "in_chans": 3,
    "num_classes": 3,
    "patch_size": 2,
    "patch_stride": 2,
    "head_dim": 4,
    "stages": [
        {"embed_dim": 8, "groups": [2], "mlp_ratio": 2.0},
        {"embed_dim": 16, "groups": [1], "mlp_ratio": 2.0},
    ],
    "pools": ["max"],
}
DATA = {"name": "pets", "mean": [0.3, 0.4, 0.5], "std": [0.25, 0.2, 0.3], "classes": ["cat", "dog", "emu"]}


@pytest.fixture
def trained(tmp_path) -> Path:
    """An architecture file with random weights beside it, as a retraining leaves them."""
    arch = psvit.Architecture.from_dict(ARCH)
    generator = torch.Generator().manual_seed(0)
    network = PSViT(arch)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3, generator=generator)
    (tmp_path / "run").mkdir()
    save_file(network.state_dict(), tmp_path / "run/network.safetensors")
    ArchitectureFile(arch=arch, provenance={"data": DATA}).save(tmp_path / "run/network.yaml")
    return tmp_path / "run/network.yaml"


@pytest.fixture
def pixels():
    """Twelve smooth colour images of 24 x 24 pixels."""
    rng = np.random.default_rng(0)
    coarse = [Image.fromarray(rng.integers(0, 256, size=(5, 5, 3), dtype=np.uint8)) for _ in range(12)]
    return np.stack([np.asarray(image.resize((24, 24), Image.Resampling.BICUBIC)) for image in coarse])


def own_softmax(network, image):
    """Probabilities for a square image, by Pillow and NumPy alone."""
    small = np.asarray(image.resize((8, 8), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    normalised = (small - np.float32(DATA["mean"])) / np.float32(DATA["std"])
    with torch.no_grad():
        logits = network(torch.from_numpy(normalised.transpose(2, 0, 1))[None])[0].double().numpy()
    exp = np.exp(logits - logits.max())
    return exp / exp.sum()


def test_a_prediction_is_the_networks_own_softmax(trained, pixels, tmp_path):
    network = PSViT(ARCH).eval()
    network.load_state_dict(load_file(trained.with_suffix(".safetensors")))
    classifier = Classifier.load(trained.parent)
    seen = set()
    for number, array in enumerate(pixels):
        image = Image.fromarray(array)
        image.save(tmp_path / f"{number}.png")
        expected = own_softmax(network, image)
        for given in (image, tmp_path / f"{number}.png", str(tmp_path / f"{number}.png")):
            found = classifier.predict(given)
            assert [name for name, _ in found] == [DATA["classes"][i] for i in np.argsort(-expected)]
            assert [value for _, value in found] == pytest.approx(sorted(expected, reverse=True), abs=1e-5)
        assert classifier.predict(image, top=1) == found[:1]
        seen.add(round(found[0][1], 3))
    assert len(seen) > 6  # a network that always says the same would prove nothing


def test_images_are_prepared_as_they_were_when_the_network_was_validated(trained, pixels):
    labelled = Labelled(Decoded(pixels), np.zeros(len(pixels), dtype=np.int64))
    inputs = Inputs(image_size=(8, 8), in_chans=3, mean=tuple(DATA["mean"]), std=tuple(DATA["std"]))
    validated = torch.cat([images for images, _ in Batches(labelled, inputs, 5, torch.device("cpu"))])
    preprocessing = Classifier.load(trained).preprocessing
    assert torch.equal(torch.stack([preprocessing.read(Image.fromarray(one)) for one in pixels]), validated)


def test_many_files_are_predicted_as_each_alone_and_unreadable_ones_are_told(trained, pixels, tmp_path):
    paths = []
    for number, array in enumerate(pixels):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(array).save(paths[-1])
    paths[4].write_text("no image")
    classifier = Classifier.load(trained)
    found = list(classifier.predict_all(paths, top=2, batch_size=5))
    assert [path for path, _ in found] == paths
    for path, predicted in found:
        if path == paths[4]:
            assert isinstance(predicted, InputError)
            assert str(path) in str(predicted)
        else:
            assert [name for name, _ in predicted] == [name for name, _ in classifier.predict(path, top=2)]
            assert [value for _, value in predicted] == pytest.approx(
                [value for _, value in classifier.predict(path, top=2)], abs=1e-6
            )


def test_an_image_of_another_kind_is_converted(trained, tmp_path):
    classifier = Classifier.load(trained)
    for mode in ("L", "RGBA", "P", "1", "CMYK"):
        assert sum(value for _, value in classifier.predict(Image.new(mode, (30, 20)))) == pytest.approx(1)


@pytest.mark.slow
def test_the_file_alone_rebuilds_the_network_elsewhere_and_the_weights_beside_it_the_trained_one(
    trained, pixels, tmp_path
):
    expected = Classifier.load(trained).predict(Image.fromarray(pixels[0]))
    # Another folder, another process, nothing of the run; there is no other machine at hand.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Image.fromarray(pixels[0]).save(elsewhere / "image.png")
    shutil.copy(trained, elsewhere / "renamed.yaml")
    weights = trained.with_suffix(".safetensors").read_bytes()
    shutil.rmtree(trained.parent)
    (elsewhere / "later").write_bytes(weights)
    code = """
import os, psvit
print(psvit.create_model("renamed.yaml").arch.digest)
os.rename("later", "renamed.safetensors")
print(psvit.Classifier.load("renamed.yaml").predict("image.png"))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=elsewhere, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [psvit.Architecture.from_dict(ARCH).digest, str(expected)]


# --- what is missing or wrong


def test_a_file_without_weights_is_answered_with_how_to_train_it(trained):
    trained.with_suffix(".safetensors").unlink()
    with pytest.raises(InputError, match=r"its weights .*network\.safetensors do not exist; .*psvit-retrain"):
        Classifier.load(trained)


@pytest.mark.parametrize("damage", ["another network", "garbage", "cut off"])
def test_weights_that_are_not_the_networks_are_named(trained, damage):
    weights = trained.with_suffix(".safetensors")
    if damage == "another network":
        save_file({"head.weight": torch.zeros(3, 16)}, weights)
    elif damage == "garbage":
        weights.write_bytes(b"not weights at all")
    else:
        weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"network\.safetensors: does not hold the weights of network\.yaml") as error:
        Classifier.load(trained)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "does not say on which images it was trained"),
        ({"name": "pets"}, "does not say on which images it was trained"),
        ({**DATA, "classes": ["cat", "dog"]}, "names 2 classes, but the network has 3 outputs"),
        ({**DATA, "mean": "grey"}, r"provenance\.data: mean"),
        ({**DATA, "mean": [0.5]}, "mean and std must be one for each of 3 channels"),
        ({**DATA, "std": [0.5, 0, 0.5]}, r"std\.1"),
    ],
)
def test_a_file_that_does_not_say_what_the_network_sees_is_refused(trained, data, message):
    found = ArchitectureFile.load(trained)
    ArchitectureFile(arch=found.arch, provenance={"data": data} if data else {}).save(trained)
    with pytest.raises(InputError, match=message):
        Classifier.load(trained)


def test_places_without_a_network_are_answered_with_what_is_there(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        Classifier.load(tmp_path / "nowhere")
    (tmp_path / "run").mkdir()
    with pytest.raises(InputError, match=r"holds no network: neither network\.yaml .* nor best\.yaml"):
        Classifier.load(tmp_path / "run")
    (tmp_path / "run/config.yaml").write_text("schema: psvit/run/1\n")
    with pytest.raises(InputError, match="has written no network yet; the same command continues it"):
        Classifier.load(tmp_path / "run")
    for name in ("0", "1"):
        psvit.Architecture.from_dict(ARCH).save(tmp_path / "run" / name / "network.yaml")
    with pytest.raises(InputError, match=r"holds several networks; name one of .*run/0, .*run/1"):
        Classifier.load(tmp_path / "run")


def test_a_folder_that_timm_cannot_read_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"architecture": "no such", "pretrained_cfg": {}}')
    with pytest.raises(InputError, match="timm cannot build a network from it"):
        Classifier.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="timm cannot build a network from it"):
        Classifier.load(tmp_path)


# --- preprocessing as a file


def test_preprocessing_survives_its_file():
    one = Preprocessing(image_size=(8, 12), in_chans=1, mean=(0.5,), std=(0.25,), classes=("a", "b"))
    assert Preprocessing.from_json(one.to_json(), "here") == one
    for text, message in [("[", "not valid JSON"), ("[]", "psvit/preprocessing/1"), ('{"schema": "other"}', "schema")]:
        with pytest.raises(InputError, match=f"here: .*{message}"):
            Preprocessing.from_json(text, "here")


def test_the_steps_in_words_name_the_numbers():
    steps = " ".join(Preprocessing(image_size=(8, 12), in_chans=1, mean=(0.5,), std=(0.25,), classes=("a",)).steps)
    for words in ("grey", "bicubic", "covers 8 x 12", "cut 8 x 12", "divide by 255", "softmax"):
        assert words in steps
    cropped = Preprocessing(
        image_size=(9, 9), in_chans=3, mean=(0.5,) * 3, std=(0.25,) * 3, crop_pct=0.9, classes=("a",)
    )
    assert "RGB" in cropped.steps[0]
    assert "smaller side has 10 pixels" in cropped.steps[1]
