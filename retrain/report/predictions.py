"""Predictions: what a network says of every image of a set, in three numbers an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from psvit.data import Batches
from psvit.io.progress import progress_bar
from psvit.nn.precision import float32_products


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a network says of every image of a set, in the order of the images.

    The outputs are not among it: of 50,000 images and 1,000 classes they would take 200 MB.

    Attributes:
        labels: the true classes, (images,).
        said: the classes that the network finds most probable, (images,).
        probabilities: how probable it finds these, (images,).
        losses: the cross entropy, (images,).
    """

    labels: NDArray[np.int64]
    said: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    losses: NDArray[np.float32]

    @property
    def accuracy(self) -> float:
        """Top-1 in percent."""
        return 100 * int((self.said == self.labels).sum()) / len(self.labels)

    def most_wrong(self, number: int) -> NDArray[np.int64]:
        """The positions of the images that are said to be something else, those with the highest losses first."""
        wrong = np.flatnonzero(self.said != self.labels)
        order = np.argsort(-self.losses[wrong], kind="stable")
        return wrong[order][:number]


@torch.inference_mode()
@float32_products("highest")
def predict(network: nn.Module, batches: Batches) -> Predictions:
    """What a network in evaluation mode says of images; they are looked at once."""
    parts = []
    with progress_bar("testing on the validation images", batches.num_images, "images") as advance:
        for images, labels in batches:
            logits = network(images).float()
            probabilities, said = logits.softmax(dim=1).max(dim=1)
            losses = F.cross_entropy(logits, labels, reduction="none")
            parts.append([values.cpu().numpy() for values in (labels, said, probabilities, losses)])
            advance(len(labels), "")
    return Predictions(*(np.concatenate(values) for values in zip(*parts, strict=True)))
