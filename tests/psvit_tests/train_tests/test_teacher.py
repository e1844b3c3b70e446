"""Teachers: what they see, what is learnt from them, and which are refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from psvit.arch.architecture import Architecture, ArchitectureFile, Stage
from psvit.data import ImageData, Inputs
from psvit.errors import InputError
from psvit.model import PSViT
from psvit.nn.seeding import seeded
from psvit.train.recipe import Recipe
from psvit.train.tasks import Classification, TaughtClassification
from psvit.train.teacher import Teacher, load_teacher, open_teacher, taught_loss

GREY = Inputs(image_size=(8, 8), in_chans=1, mean=(0.5,), std=(0.25,))
COLOUR = Inputs(image_size=(32, 32), in_chans=3, mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3))
ARCH = Architecture(
    variant="2d",
    image_size=(8, 8),
    in_chans=1,
    num_classes=4,
    patch_size=2,
    patch_stride=2,
    head_dim=4,
    stages=(Stage(embed_dim=8, groups=(2,), mlp_ratio=2),),
    pools=(),
)


class Seen(torch.nn.Module):
    """A network that remembers what it was shown."""

    def forward(self, x):
        self.images = x
        return x.mean(dim=(2, 3))


def shown(images, inputs, wanted):
    network = Seen()
    Teacher(name="seen", network=network, inputs=wanted).logits(images, inputs)
    return network.images


def recipe(**changes):
    return Recipe(epochs=1, batch_size=4, lr=0.1, **changes)


def test_a_teacher_of_the_same_images_sees_them_as_they_are():
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(shown(images, COLOUR, COLOUR), images)


def test_a_teacher_sees_pixels_normalised_its_way():
    pixels = torch.rand(2, 3, 32, 32)
    other = Inputs(image_size=(32, 32), in_chans=3, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))

    def normalised(inputs):
        return (pixels - torch.tensor(inputs.mean).view(3, 1, 1)) / torch.tensor(inputs.std).view(3, 1, 1)

    torch.testing.assert_close(shown(normalised(COLOUR), COLOUR, other), normalised(other), rtol=1e-4, atol=1e-5)


def test_a_teacher_of_colour_sees_grey_images_in_every_channel():
    pixels = torch.rand(2, 1, 32, 32)
    grey = Inputs(image_size=(32, 32), in_chans=1, mean=(0.5,), std=(0.25,))
    found = shown((pixels - 0.5) / 0.25, grey, COLOUR)
    for channel in range(3):
        expected = (pixels[:, 0] - COLOUR.mean[channel]) / COLOUR.std[channel]
        torch.testing.assert_close(found[:, channel], expected, rtol=1e-4, atol=1e-5)


def test_a_teacher_of_larger_images_sees_them_resized():
    wanted = Inputs(image_size=(16, 16), in_chans=1, mean=GREY.mean, std=GREY.std)
    found = shown(torch.full((2, 1, 8, 8), 0.3), GREY, wanted)
    torch.testing.assert_close(found, torch.full((2, 1, 16, 16), 0.3))


def test_soft_targets_by_their_formula():
    logits, taught = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4)
    chosen = recipe(target="soft", teacher_weight=0.9, temperature=3.0)
    loss = taught_loss(torch.tensor(2.0), logits, taught, chosen)
    p, log_q = (taught / 3).softmax(dim=1), (logits / 3).log_softmax(dim=1)
    expected = 0.1 * 2.0 + 0.9 * 9 * -(p * log_q).sum(dim=1).mean()
    torch.testing.assert_close(loss, expected)
    # Its gradient is that of the divergence as PyTorch has it.
    divergence = F.kl_div(log_q, p, reduction="batchmean") * 9 * 0.9
    torch.testing.assert_close(*(torch.autograd.grad(one, logits, retain_graph=True)[0] for one in (loss, divergence)))


def test_hard_targets_by_their_formula():
    logits, taught = torch.randn(6, 4), torch.randn(6, 4)
    loss = taught_loss(torch.tensor(2.0), logits, taught, recipe(target="hard", teacher_weight=0.25))
    classes = taught.argmax(dim=1)
    expected = 0.75 * 2.0 + 0.25 * -logits.log_softmax(dim=1)[torch.arange(6), classes].mean()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("target", ["soft", "hard"])
def test_a_network_learns_labels_and_teacher(target):
    with seeded(0):
        student, network = PSViT(ARCH).eval(), PSViT(ARCH).eval()
        images, labels = torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 2, 3, 0, 1])
    chosen = recipe(target=target, teacher_weight=0.4)
    task = TaughtClassification(student, Teacher(name="t", network=network, inputs=GREY), GREY, chosen)
    (loss,) = task.losses(images, labels, 0.1, 0)
    of_labels = Classification(student).loss(images, labels, 0.1, 0)
    torch.testing.assert_close(loss, taught_loss(of_labels, student(images), network(images), chosen))
    loss.backward()
    assert all(parameter.grad is None for parameter in network.parameters())


# --- where they come from


def test_one_of_our_networks_teaches_with_what_it_was_trained_on(tmp_path):
    with seeded(0):
        network = PSViT(ARCH).eval()
    ARCH.save(tmp_path / "network.yaml")
    save_file(network.state_dict(), tmp_path / "network.safetensors")
    teacher = load_teacher(str(tmp_path / "network.yaml"), None, GREY.in_chans, 4)
    assert not teacher.network.training
    assert teacher.inputs.image_size == (8, 8)
    images = torch.randn(2, 1, 8, 8)
    same = Inputs(image_size=(8, 8), in_chans=1, mean=teacher.inputs.mean, std=teacher.inputs.std)
    torch.testing.assert_close(teacher.logits(images, same), network(images))
    assert teacher.digest == load_teacher(str(tmp_path / "network.yaml"), None, GREY.in_chans, 4).digest
    with torch.no_grad():
        teacher.network.head.bias.add_(1)
    assert teacher.digest != load_teacher(str(tmp_path / "network.yaml"), None, GREY.in_chans, 4).digest


def test_one_of_our_networks_teaches_the_classes_that_it_knows(tmp_path):
    about = {"data": {"classes": ["ant", "bee", "cat", "dog"], "mean": [0.5], "std": [0.25]}}
    ArchitectureFile(arch=ARCH, provenance=about).save(tmp_path / "network.yaml")
    save_file(PSViT(ARCH).state_dict(), tmp_path / "network.safetensors")
    named = str(tmp_path / "network.yaml")
    some = [(np.zeros((8, 8), dtype=np.uint8), number % 4) for number in range(40)]

    def images(*classes):
        return ImageData.from_datasets(some, some, classes=classes)

    assert open_teacher(named, None, images("ant", "bee", "cat", "dog")).inputs == GREY
    for classes in (("bee", "ant", "cat", "dog"), ("a", "b", "c", "d")):
        with pytest.raises(InputError, match="knows other classes"):
            open_teacher(named, None, images(*classes))


def test_a_model_of_timm_teaches_with_weights_from_a_file(tmp_path):
    with seeded(0):
        network = timm.create_model("test_vit", num_classes=4).eval()
    save_file(network.state_dict(), tmp_path / "vit.safetensors")
    teacher = load_teacher("test_vit", tmp_path / "vit.safetensors", COLOUR.in_chans, 4)
    size = network.pretrained_cfg["input_size"]
    assert (teacher.inputs.in_chans, *teacher.inputs.image_size) == size
    images = torch.randn(2, *size)
    torch.testing.assert_close(teacher.logits(images, teacher.inputs), network(images))


def refused(*arguments):
    with pytest.raises(InputError) as error:
        load_teacher(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_other_classes_and_channels_are_refused(tmp_path):
    ARCH.save(tmp_path / "network.yaml")
    save_file(PSViT(ARCH).state_dict(), tmp_path / "network.safetensors")
    name = str(tmp_path / "network.yaml")
    assert f"{name}: has 4 classes, but the images have 5" in refused(name, None, GREY.in_chans, 5)
    assert f"{name}: takes 1 channels, but the images have 3" in refused(name, None, COLOUR.in_chans, 4)


def test_what_is_no_teacher_is_refused(tmp_path):
    ARCH.save(tmp_path / "network.yaml")
    name = str(tmp_path / "network.yaml")
    assert "neither a model of timm" in refused("no_such_model", None, COLOUR.in_chans, 4)
    assert "network.safetensors do not exist; name them with --teacher-weights" in refused(name, None, GREY.in_chans, 4)
    assert "no such file" in refused("test_vit", tmp_path / "nowhere.pth", COLOUR.in_chans, 4)
    save_file({"head.weight": torch.zeros(4, 4)}, tmp_path / "other.safetensors")
    assert "does not hold its weights" in refused(name, tmp_path / "other.safetensors", GREY.in_chans, 4)
    (tmp_path / "garbage.pth").write_bytes(b"garbage")
    assert "does not hold its weights" in refused("test_vit", tmp_path / "garbage.pth", COLOUR.in_chans, 4)


def test_recipe_and_teacher_belong_together():
    recipe().check_teacher(False)
    recipe(target="soft").check_teacher(True)
    with pytest.raises(InputError, match="target hard: needs a teacher; give one with --teacher"):
        recipe(target="hard").check_teacher(False)
    with pytest.raises(InputError, match="--teacher: target labels does not learn from it"):
        recipe().check_teacher(True)


# --- teachers that timm reads from a folder


@pytest.fixture
def folder(tmp_path):
    """A small vision transformer as timm saves one for hubs, which wants images in a way of its own."""
    with seeded(0):
        network = timm.create_model("test_vit", num_classes=4).eval()
    timm.models.save_for_hf(
        network,
        str(tmp_path / "saved"),
        safe_serialization=True,
        data_config={"input_size": [3, 160, 160], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
    )
    return tmp_path / "saved"


def test_a_folder_as_timm_saves_one_teaches(folder):
    teacher = load_teacher(f"local-dir:{folder}", None, COLOUR.in_chans, 4)
    weights = load_file(folder / "model.safetensors")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in teacher.network.state_dict().items())
    assert (teacher.inputs.mean, teacher.inputs.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_weights_are_given_images_as_the_configuration_beside_them_says(folder, tmp_path):
    teacher = load_teacher("test_vit", folder / "model.safetensors", COLOUR.in_chans, 4)
    assert (teacher.inputs.mean, teacher.inputs.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    # Alone, or beside the configuration of another model, they are as timm says for the name.
    shutil.copy(folder / "model.safetensors", tmp_path / "alone.safetensors")
    named = timm.create_model("test_vit").pretrained_cfg
    for content in (None, "garbage", json.dumps({"architecture": "other", "pretrained_cfg": {"mean": [9, 9, 9]}})):
        if content:
            (tmp_path / "config.json").write_text(content)
        teacher = load_teacher("test_vit", tmp_path / "alone.safetensors", COLOUR.in_chans, 4)
        assert (teacher.inputs.mean, teacher.inputs.std) == (tuple(named["mean"]), tuple(named["std"]))


def test_a_folder_that_is_none_is_refused_in_one_line(tmp_path):
    assert "its weights cannot be had" in refused(f"local-dir:{tmp_path}/nowhere", None, COLOUR.in_chans, 4)
    assert "local-dir:FOLDER" in refused("nowhere", None, COLOUR.in_chans, 4)
