"""Tasks: what a step of training follows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from psvit.data import Inputs
from psvit.train.recipe import Recipe
from psvit.train.teacher import Teacher, taught_loss


class Task(Protocol):
    """The task of a training step: from a batch to the losses whose gradients the step follows."""

    @property
    def model(self) -> nn.Module:
        """The module whose parameters are trained."""
        ...

    def losses(self, images: Tensor, targets: Tensor, smoothing: float, step: int) -> Iterator[Tensor]:
        """The losses of one batch, whose sum is followed.

        Each is taken back through its network before the next is asked for, so that the activations of one network at
        a time are in memory.

        Args:
            images: (B, C, height, width).
            targets: classes (B,), or probabilities (B, classes) where images were mixed.
            smoothing: label smoothing, 0 where `targets` are smoothed already.
            step: how many steps came before.
        """
        ...


@dataclass(frozen=True)
class Classification:
    """Train one network towards the labels."""

    model: nn.Module

    def losses(self, images: Tensor, targets: Tensor, smoothing: float, step: int) -> Iterator[Tensor]:
        """One loss."""
        yield self.loss(images, targets, smoothing, step)

    def loss(self, images: Tensor, targets: Tensor, smoothing: float, step: int) -> Tensor:
        """Cross entropy of the network."""
        return F.cross_entropy(self.model(images), targets, label_smoothing=smoothing)


@dataclass(frozen=True)
class TaughtClassification(Classification):
    """Train one network towards the labels and a teacher.

    Attributes:
        teacher: on the network's device.
        inputs: how the network's images are prepared.
        recipe: how the two are weighed.
    """

    teacher: Teacher
    inputs: Inputs
    recipe: Recipe

    def loss(self, images: Tensor, targets: Tensor, smoothing: float, step: int) -> Tensor:
        """Cross entropy with labels and teacher."""
        taught = self.teacher.logits(images, self.inputs)
        logits = self.model(images)
        return taught_loss(F.cross_entropy(logits, targets, label_smoothing=smoothing), logits, taught, self.recipe)
