"""Evaluators: how good an architecture seems, without training it."""

from __future__ import annotations

from typing import Any, Protocol

from psvit.architecture import Architecture
from psvit.data import Batches, accuracy
from psvit.supernet.supernet import Supernet


class Evaluator(Protocol):
    """Scores architectures; more is better, and equal architectures get equal scores."""

    def evaluate(self, arch: Architecture) -> float:
        """The score of one architecture."""
        ...

    def describe(self) -> dict[str, Any]:
        """What a score is and what it rests on, JSON-serialisable; stands beside every score that is written down."""
        ...


class InheritedAccuracy:
    """Top-1 accuracy in percent with the supernet's weights, on images held out from training.

    Args:
        supernet: the weights.
        batches: the held-out images.
    """

    def __init__(self, supernet: Supernet, batches: Batches) -> None:
        self._supernet = supernet.eval()
        self._batches = batches

    def evaluate(self, arch: Architecture) -> float:
        """The accuracy on all held-out images."""
        return accuracy(lambda images: self._supernet(images, arch), self._batches)

    def describe(self) -> dict[str, Any]:
        """Says on how many images the accuracy rests, and that it is not the trained network's."""
        return {
            "kind": "inherited accuracy",
            "meaning": "top-1 in percent with the supernet's weights, on images held out from training",
            "images": self._batches.num_images,
            "fidelity": "not measured",
        }
