"""Original: a trained network that a search begins with, to find cheaper ones that keep its accuracy.

It is a network of this family (`psvit.train.read_original` makes it one), and is fitted to the images.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from psvit.arch.architecture import Architecture, ArchitectureFile
from psvit.classifier import Classifier, write_weights
from psvit.data import ImageData, Inputs
from psvit.errors import InputError
from psvit.nn import vit_weights
from psvit.nn.network import PSViT
from psvit.nn.seeding import seeded
from psvit.train.teacher import Teacher

ORIGINAL_FILE = "original.yaml"
"""In the run of a search, the file of the network that it begins with, as fitted; the weights lie beside it."""


@dataclass(frozen=True, kw_only=True)
class Original:
    """A trained network that shall become cheaper.

    Attributes:
        name: as given.
        network: the network, in evaluation mode.
        mean, std: of every channel, as it expects images to be normalised.
        classes: the names of its classes; `None` if they are not known.
        keeps_head: whether its classifier is the trained one.
        changes: what was changed to fit it to images, in words.
    """

    name: str
    network: PSViT
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...] | None
    keeps_head: bool = True
    changes: tuple[str, ...] = ()

    @property
    def arch(self) -> Architecture:
        """Its architecture."""
        return self.network.arch

    @cached_property
    def digest(self) -> str:
        """A short hash of the weights and of what they are for."""
        digest = hashlib.sha256(json.dumps([self.arch.to_dict(), self.mean, self.std], sort_keys=True).encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def teacher(self, inputs: Inputs) -> Teacher:
        """The network as a teacher of others.

        Args:
            inputs: of the images that it was fitted to.
        """
        network = copy.deepcopy(self.network).eval().requires_grad_(False)
        return Teacher(name=self.name, network=network, inputs=inputs)

    def save(self, file: Path, data: ImageData) -> None:
        """Write an architecture file, and the weights beside it, from which the network can be used on the images.

        Args:
            file: the architecture file.
            data: the images that it was fitted to.
        """
        write_weights(file, self.network.state_dict())
        about = {"name": self.name, "digest": self.digest, "keeps_head": self.keeps_head}
        provenance = {"original": about, "data": data.describe()}
        ArchitectureFile(arch=self.arch, provenance=provenance).save(file)

    @torch.no_grad()
    def fitted(self, data: ImageData, image_size: tuple[int, int] | None = None, seed: int = 0) -> Original:
        """The network for other images: their size, channels, normalisation and classes.

        Positions are interpolated, kernels of the first layer adapted to the channels as timm does, and the
        normalisation is multiplied into the first layer, which changes no output except at the borders of an image
        behind a convolutional stem. A classifier for other classes is made anew.

        Args:
            data: the images.
            image_size: height and width; by default, the network's own.
            seed: of a classifier that is made anew.

        Raises:
            InputError: the network's patches do not cover such images.
        """
        network, changes = copy.deepcopy(self.network), []
        size = image_size or self.arch.image_size
        if size != self.arch.image_size:
            before = self.arch.image_size
            try:
                network.set_input_size(size)
            except InputError as error:
                raise InputError(f"{self.name}: cannot see images of {size[0]} x {size[1]} pixels: {error}") from None
            changes.append(
                f"its positions were interpolated from images of {_pixels(before)} to {_pixels(size)} pixels"
            )
        mean, std = self.mean, self.std
        if data.in_chans != network.in_chans:
            changes.append(f"its first layer was adapted from {network.in_chans} to {data.in_chans} channels")
            network = _with_channels(network, data.in_chans)
            mean, std = (for_channels(values, data.in_chans) for values in (mean, std))
        if (mean, std) != (data.mean, data.std):
            _normalise_otherwise(_first_layer(network), (mean, std), (data.mean, data.std))
        keeps, said = self._fit_head(network, data.classes, seed)
        return replace(
            self,
            network=network.eval(),
            mean=data.mean,
            std=data.std,
            classes=data.classes,
            keeps_head=keeps,
            changes=(*changes, *said),
        )

    def _fit_head(self, network: PSViT, classes: Sequence[str], seed: int) -> tuple[bool, list[str]]:
        """Fit the classifier to classes; whether it is still the trained one, and what was changed."""
        if len(classes) == network.num_classes and self.classes in (None, tuple(classes)):
            return True, []
        if self.classes is not None and sorted(self.classes) == sorted(classes):
            order = [self.classes.index(name) for name in classes]
            head = network.get_classifier()
            assert isinstance(head, nn.Linear)
            head.weight.copy_(head.weight[order].clone())
            head.bias.copy_(head.bias[order].clone())
            return True, ["its classes were put into the order of the images'"]
        had = network.num_classes
        with seeded(seed):
            network.reset_classifier(len(classes))
        others = f"its {had} classes" if had != len(classes) else f"its {had} classes, which have other names,"
        return False, [
            f"its classifier is new, for {len(classes)} classes, because {others} are not those of the images"
        ]


def original_of(file: Path | None, about: ArchitectureFile, data: ImageData) -> PSViT | None:
    """The network that a search made another of, from its run; `None` if it is not there or not for these images.

    Args:
        file: the other's architecture file.
        about: what is in it.
        data: images, whose classes and channels it has to have.

    Raises:
        InputError: the weights are damaged.
    """
    if file is None or not about.is_made_of_another:
        return None
    # The points of a front lie in a folder of the run.
    place = next(
        (folder / ORIGINAL_FILE for folder in file.absolute().parents[:2] if (folder / ORIGINAL_FILE).is_file()), None
    )
    if place is None:
        return None
    original = ArchitectureFile.load(place)
    if not original.provenance.get("original", {}).get("keeps_head") or not data.fits(original):
        return None
    network = Classifier.load(place).network
    assert isinstance(network, PSViT)
    return network


def for_channels(values: Sequence[float], in_chans: int) -> tuple[float, ...]:
    """A mean or standard deviation of every channel, for other channels the same for all."""
    if len(values) == in_chans:
        return tuple(map(float, values))
    return (sum(values) / len(values),) * in_chans


def _first_layer(network: PSViT) -> nn.Conv2d:
    """The convolution that sees the image."""
    return next(module for module in network.patch_embed.modules() if isinstance(module, nn.Conv2d))


def _with_channels(network: PSViT, in_chans: int) -> PSViT:
    """The same network for images of other channels."""
    first = _first_layer(network)
    name = next(name for name, module in network.named_modules() if module is first)
    state = network.state_dict()
    state[f"{name}.weight"] = vit_weights.for_channels(state[f"{name}.weight"], in_chans)
    found = PSViT(network.arch, in_chans=in_chans)
    found.load_state_dict(state)
    return found


Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of every channel."""


@torch.no_grad()
def _normalise_otherwise(first: nn.Conv2d, had: Normalisation, given: Normalisation) -> None:
    """Change a first layer so that it gives the same for images that are normalised otherwise."""
    (mean_had, std_had), (mean, std) = ([_row(values, first.weight) for values in pair] for pair in (had, given))
    assert first.bias is not None
    # What it expects is (image * std + mean - mean_had) / std_had.
    shift = ((mean - mean_had) / std_had).view(1, -1, 1, 1)
    first.bias += (first.weight * shift).sum(dim=(1, 2, 3))
    first.weight *= (std / std_had).view(1, -1, 1, 1)


def _row(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
