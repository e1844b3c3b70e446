"""Images of one's own: any pair of PyTorch data sets, in this process or with the workers of a Ray cluster.

    python examples/own_images.py FOLDER [ray]

Data sets yield pairs of an image and its class. Images are pictures, arrays or tensors of unsigned bytes: recipes
normalise and augment.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch.utils.data import Dataset

import psvit
from psvit.train.recipe import Recipe

CLASSES = ("circle", "square", "triangle")


class Shapes(Dataset[tuple[Image.Image, int]]):
    """Colour images of 20 x 16 pixels, with one shape somewhere in each."""

    def __init__(self, number: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.targets = [int(target) for target in np.arange(number) % len(CLASSES)]
        self.places = rng.integers(1, 8, size=(number, 2))
        self.colours = rng.integers(0, 256, size=(number, 2, 3))

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        back, front = (tuple(int(part) for part in colour) for colour in self.colours[index])
        picture = Image.new("RGB", (20, 16), back)
        draw, target = ImageDraw.Draw(picture), self.targets[index]
        left, top = (int(value) for value in self.places[index])
        corners = (left, top, left + 8, top + 8)
        if CLASSES[target] == "circle":
            draw.ellipse(corners, front)
        elif CLASSES[target] == "square":
            draw.rectangle(corners, front)
        else:
            draw.polygon([(left + 4, top), (left, top + 8), (left + 8, top + 8)], front)
        return picture, target


def main(folder: Path, workers: str | None) -> None:
    """Search by short trainings on the shapes, and say what was found."""
    shapes = psvit.ImageData.from_datasets(Shapes(300, seed=0), Shapes(90, seed=1), classes=CLASSES, name="shapes")
    result = psvit.run_search(
        budget="1MFLOPs",
        data=shapes,
        recipe=Recipe.load("digits").override({"epochs": 12}),
        trials=6,
        workers=workers,
        out=folder,
        device="cpu",
    )
    print(f"found {result.best.cost.macs:,} MACs, accuracy after a short training {result.best.score:.1f} %")
    classifier = psvit.Classifier.load(folder)
    print(f"it tells {', '.join(classifier.preprocessing.classes)} apart")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
