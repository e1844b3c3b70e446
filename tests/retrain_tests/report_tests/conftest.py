"""Made-up trained networks and what they say of images, for the tests of the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psvit.arch.architecture import ArchitectureFile
from psvit.data import Decoded, ImageData, Labelled
from psvit.retrain.report.document import Report, render
from psvit.retrain.report.predictions import Predictions
from psvit.train.accuracies import STANDALONE
from psvit.train.recipe import Recipe

RECIPE = Recipe(epochs=3, batch_size=8, lr=1e-3, warmup_epochs=1)


@pytest.fixture
def made_up_data() -> Callable[..., ImageData]:
    """Makes images of noise, the first half of which to train on, in classes of these names."""

    def make(classes: Sequence[str], images: int = 200, size: tuple[int, int] = (8, 8), in_chans: int = 1) -> ImageData:
        rng = np.random.default_rng(0)
        shape = (2 * images, *size) if in_chans == 1 else (2 * images, *size, in_chans)
        pixels = rng.integers(0, 256, size=shape).astype(np.uint8)
        labels = rng.integers(0, len(classes), size=2 * images)
        paths = [f"/nowhere/val/{classes[label]}/{number}.png".replace("<", "(") for number, label in enumerate(labels)]
        shown = Labelled(Decoded(pixels[:images]), labels[:images])
        return ImageData(
            name="/nowhere/made <i>up</i>",
            digest="0",
            classes=tuple(classes),
            in_chans=in_chans,
            sizes=(size,),
            statistics=lambda: ((0.5,) * in_chans, (0.25,) * in_chans),
            train=shown,
            search=shown.take(np.empty(0, dtype=np.int64)),
            verdict=shown.take(np.empty(0, dtype=np.int64)),
            val=Labelled(Decoded(pixels[images:], paths[images:]), labels[images:]),
            reopen=partial(make, classes, images, size, in_chans),
        )

    return make


@pytest.fixture
def made_up_predictions() -> Callable[..., Predictions]:
    """Makes what a network might say of the validation images, of which it recognises about this part."""

    def make(data: ImageData, right: float = 0.7) -> Predictions:
        rng = np.random.default_rng(1)
        labels = data.val.labels
        is_right = rng.random(len(labels)) < right
        said = np.where(is_right, labels, rng.integers(0, len(data.classes), size=len(labels)))
        probabilities = rng.uniform(0.3, 1.0, size=len(labels)).astype(np.float32)
        losses = np.where(said == labels, -np.log(probabilities), rng.uniform(1.0, 9.0, size=len(labels)))
        return Predictions(labels, said, probabilities, losses.astype(np.float32))

    return make


@pytest.fixture
def page_of(found: ArchitectureFile) -> Callable[..., str]:
    """Renders the report of a made-up training on images."""

    def make(
        data: ImageData,
        predictions: Predictions,
        losses: Sequence[float] = (2.0, 1.5, 1.25),
        folder: Path = Path("runs/it"),
        latency: dict[str, Any] | None = None,
        **provenance: Any,
    ) -> str:
        network = found.model_copy(
            update={
                "arch": found.arch.model_copy(update={"num_classes": len(data.classes), "in_chans": data.in_chans}),
                "latency": latency or {},
                "score": {
                    "value": round(predictions.accuracy, 4),
                    "kind": STANDALONE,
                    "images": len(data.val),
                    "inherited": 12.5,
                    "original": 91.25,
                    "logistic_regression": 33.25,
                },
                "provenance": {
                    "data": data.describe(),
                    "recipe": RECIPE.to_dict(),
                    "inherited": False,
                    "seed": 3,
                    "versions": {"psvit": "0"},
                    **provenance,
                },
            }
        )
        log = [{"epoch": epoch, "loss": loss} for epoch, loss in enumerate(losses, 1)]
        return render(Report(folder=folder, network=network, data=data, predictions=predictions, log=log))

    return make
