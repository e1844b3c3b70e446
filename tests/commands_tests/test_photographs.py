"""The whole way on photographs of 224 and of 128 pixels, with the recipes of ImageNet: what digits do not show.

The images are few and made of noise, so nothing is asked of accuracies.
"""

from __future__ import annotations

import re

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

import psvit
from psvit.arch.architecture import ArchitectureFile
from psvit.arch.costs import cost
from psvit.space.search_space import SearchSpace
from psvit.train.recipe import Recipe

CLASSES = ("bark", "cloud", "moss", "sand")

FEW_STEPS = ("--set", "epochs=2", "--set", "warmup_epochs=1", "--set", "batch_size=16")


def make_photographs(root, side):
    """44 training and 12 validation images, JPEG of three sizes; one each is grey, CMYK, and PNG with 16 bits of grey.

    Args:
        root: the folder to be made.
        side: the smaller side of most images, in pixels.
    """
    rng = np.random.default_rng(0)
    sizes = ((side * 4 // 3, side), (side, side * 5 // 4), (side + 20, side + 20))
    for part, number in (("train", 11), ("val", 3)):
        for label, name in enumerate(CLASSES):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(number):
                grain = 3 * (label + 1)
                texture = Image.fromarray(rng.integers(0, 256, (grain, grain, 3), dtype=np.uint8))
                texture = texture.resize(sizes[index % 3], Image.Resampling.BICUBIC)
                texture.save(folder / f"{index:02}.jpg", quality=85)
    folder = root / "train" / CLASSES[0]
    for index, mode in ((0, "L"), (1, "CMYK")):
        Image.open(folder / f"{index:02}.jpg").convert(mode).save(folder / f"{index:02}.jpg")
    grey = np.asarray(Image.open(folder / "02.jpg").convert("L"), np.uint16)
    Image.fromarray(grey * 257).save(folder / "02.png")
    (folder / "02.jpg").unlink()


def by_hand(path, side):
    """What ImageNet's networks see of a photograph, made by Pillow and NumPy alone."""
    picture = Image.open(path).convert("RGB")
    width, height = picture.size
    small = min(width, height)
    picture = picture.resize((int(side * width / small), int(side * height / small)), Image.Resampling.BICUBIC)
    left, top = round((picture.width - side) / 2), round((picture.height - side) / 2)
    pixels = np.asarray(picture.crop((left, top, left + side, top + side)), np.float32) / 255
    return ((pixels - np.float32(IMAGENET_DEFAULT_MEAN)) / np.float32(IMAGENET_DEFAULT_STD)).transpose(2, 0, 1)


def softmax(logits):
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


@pytest.mark.slow(seconds=60)
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("shipped", "side", "budget", "names", "named"),
    [
        ("psvit-2d-tiny", 224, 150, ("supernet-imagenet", "imagenet"), True),
        # Where none are named, few photographs have other recipes.
        ("psvit-1d-tiny", 128, 60, ("supernet-cifar", "cifar"), False),
    ],
)
def test_photographs_go_the_whole_way(call, tmp_path, shipped, side, budget, names, named):
    make_photographs(tmp_path / "photos", side + 16)
    space = {**SearchSpace.load(shipped).to_dict(), "schema": "psvit/space/1", "image_size": [side, side]}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    # A selection of one epoch by the recipe for these images.
    short = Recipe.load("imagenet").override({"epochs": 4, "warmup_epochs": 0}).to_dict()
    (tmp_path / "short.yaml").write_text(yaml.safe_dump({**short, "schema": "psvit/recipe/1"}))

    def run(command, *arguments):
        done = call(command, *arguments)
        assert done.status == 0, done.err
        return done

    recipes = [("--recipe", name) if named else () for name in names]
    run("psvit-supernet", "--data", "photos", "--space", "space.yaml", *recipes[0], *FEW_STEPS, "--out", "supernet")
    run(
        *("psvit-search", "--supernet", "supernet", "--budget", f"{budget}MFLOPs"),
        *("--trials", 6, "--finalists", 2, "--control", 2, "--recipe", "short.yaml", "--out", "search"),
    )
    run("psvit-retrain", "search/best.yaml", "--data", "photos", *recipes[1], *FEW_STEPS, "--out", "network")
    used = [("supernet", "recipe", names[0]), ("search", "training", "imagenet"), ("network", "recipe", names[1])]
    for config, key, name in used:
        recipe, expected = yaml.safe_load((tmp_path / config / "config.yaml").read_text())[key], Recipe.load(name)
        for value in ("auto_augment", "mixup", "cutmix", "random_erasing"):
            assert recipe[value] == getattr(expected, value)
    best = ArchitectureFile.load(tmp_path / "search/best.yaml")
    assert (best.arch.image_size, best.arch.in_chans, best.arch.num_classes) == ((side, side), 3, len(CLASSES))
    assert 0.9e6 * budget <= cost(best.arch).macs <= 1e6 * budget
    assert {len(one["looks"][-1]["accuracies"]) for one in best.provenance["finalists"]} <= {1, 3}
    assert ArchitectureFile.load(tmp_path / "network/network.yaml").arch == best.arch

    said = run("psvit-predict", "network", "photos/val").out.splitlines()
    classifier = psvit.Classifier.load(tmp_path / "network")
    paths = sorted((tmp_path / "photos/val").rglob("*.jpg"))
    images = np.stack([by_hand(path, side) for path in paths])
    if side == 224:
        run("psvit-export", "network", "--to", "onnx")
        session = onnxruntime.InferenceSession(str(tmp_path / "network/network-onnx/network.onnx"))
        (logits,) = session.run(None, {"images": images})
    else:  # exporting takes as long as training
        with torch.inference_mode():
            logits = classifier.network(torch.from_numpy(images)).numpy()
    assert len(said) == len(paths) == 12
    for line, path, expected in zip(said, paths, softmax(logits), strict=True):
        assert line.startswith(f"{path.relative_to(tmp_path)}: ")
        shares = {name: float(share) for name, share in re.findall(r"(\w+) ([\d.]+) %", line)}
        assert shares == pytest.approx(dict(zip(CLASSES, 100 * expected, strict=True)), abs=0.02)
        assert dict(classifier.predict(path)) == pytest.approx(dict(zip(CLASSES, expected, strict=True)), abs=1e-4)
