"""ImageData: labelled images in their four parts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from psvit.arch.architecture import ArchitectureFile
from psvit.data.images import Decoded, Labelled
from psvit.data.sources import Source, by_name, of_datasets
from psvit.data.split import held_out, parts
from psvit.errors import InputError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of every channel of ImageNet's photographs, which are usual for others as well."""

COUNTED = 2**22
"""Values of pixels that are counted at a time."""


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """A labelled image set in its four parts. The first three are cut from the images that were given for training.

    Attributes:
        name: as given to `open` or `from_datasets`.
        digest: of what lies behind the name; see `open`.
        classes: names of the classes.
        in_chans: 1 for grey, 3 for colour.
        sizes: height and width in pixels of some training images, evenly spread over all.
        statistics: gives `mean` and `std`; computes them at its first call.
        train: for training supernets and the networks that a search compares.
        search: for comparing candidates. Whatever a search chooses, it chooses by these. Empty if there are too few
            images: then a network can be trained, and nothing searched.
        verdict: for the verdict of a search. Nothing is trained on them and nothing is chosen by them before that.
            Empty if there are too few images.
        val: for the final report.
        val_is_held_out: whether these are a part of the images that were given, because there were no others.
        has_source: whether `open` finds the images by their name, so that a command can be given it.
        reopen: opens the same images in another process; it can be pickled if their data sets can.
    """

    name: str
    digest: str
    classes: tuple[str, ...]
    in_chans: int
    sizes: tuple[tuple[int, int], ...] = field(repr=False)
    statistics: Callable[[], tuple[tuple[float, ...], tuple[float, ...]]] = field(compare=False, repr=False)
    train: Labelled = field(repr=False)
    search: Labelled = field(repr=False)
    verdict: Labelled = field(repr=False)
    val: Labelled = field(repr=False)
    val_is_held_out: bool = False
    has_source: bool = field(default=True, compare=False, repr=False)
    reopen: Callable[[], ImageData] = field(compare=False, repr=False)

    @property
    def image_size(self) -> tuple[int, int]:
        """The typical height and width of the images in pixels: the medians."""
        height, width = (int(side) for side in np.median(self.sizes, axis=0))
        return height, width

    @property
    def mean(self) -> tuple[float, ...]:
        """Of every channel, of pixels from 0 to 1."""
        return self.statistics()[0]

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of every channel, of pixels from 0 to 1."""
        return self.statistics()[1]

    def read(self) -> Self:
        """Read all images that were not read yet: into memory if they are small, else to see that they can be.

        Raises:
            InputError: one of them is corrupt.
        """
        for part in (self.train, self.val):
            _ = part.pictures
        return self

    @property
    def all_train(self) -> Labelled:
        """All images for training, as final networks have them, in an order that does not depend on the split."""
        return self.train.union(self.verdict).union(self.search)

    def check_search(self) -> None:
        """Make sure that there are search images.

        Raises:
            InputError: there are too few images to hold any out; says how many are needed.
        """
        if not len(self.search):
            held_out(self.train.labels, self.name)

    def without_verdict(self) -> Self:
        """The same images with the verdict's among the training images."""
        train = self.train.union(self.verdict)
        return replace(self, train=train, verdict=self.verdict.take(np.empty(0, dtype=np.int64)))

    def describe(self) -> dict[str, Any]:
        """The facts about the images that a trained network's file holds, JSON-serialisable."""
        return {
            "name": self.name,
            "digest": self.digest,
            "mean": list(self.mean),
            "std": list(self.std),
            "classes": list(self.classes),
        }

    @classmethod
    def open(cls, name: str) -> Self:
        """Open an image set and split it.

        Its digest changes whenever the split might: of a folder it is that of the files' names, sizes and classes, so
        that no image has to be read for it; of what is kept in memory, that of pixels and labels; else that of the
        labels.

        Args:
            name: a folder of images for every class, in one folder or in `train/` and `val/` in it; `digits`; or a name
                of timm's `create_dataset` that can be indexed, such as `torch/cifar10`, whose files are looked for
                below `data/`, and fetched if they are not there. Without `val/`, a fifth of the images of every class
                is held out for validation, always the same ones.

        Raises:
            InputError: there is no such set, or it cannot be used: one class, a corrupt image, classes that differ
                between training and validation, or too few images to hold some out.
        """
        return cls.find(name).read()

    def fits(self, file: ArchitectureFile) -> bool:
        """Whether a network is for these channels and classes, in this order; by their number if it knows no names."""
        wanted = len(self.classes), self.in_chans
        return (file.arch.num_classes, file.arch.in_chans) == wanted and self.has_classes_of(file)

    def has_classes_of(self, file: ArchitectureFile) -> bool:
        """Whether a network's file names just these classes, in this order, or names none."""
        about = file.provenance.get("data")
        classes = about.get("classes") if isinstance(about, dict) else None
        return not isinstance(classes, list) or tuple(map(str, classes)) == self.classes

    @classmethod
    def find(cls, name: str) -> Self:
        """An image set as `open` opens it, but the images of a folder are read when they are first needed.

        Raises:
            InputError: as `open`; of a corrupt image, when images are read.
        """
        source = by_name(name)
        if os.path.isdir(name):
            name = str(Path(name))  # `images/` is `images`
        return cls._split(name, source, partial(cls.open, name))

    @classmethod
    def from_datasets(
        cls, train: Any, val: Any = None, classes: Sequence[str] | None = None, name: str = "datasets"
    ) -> Self:
        """Images of one or two data sets of PyTorch's, or of anything else that has a length and can be indexed.

        An item is a pair of an image and its class, a whole number from 0. An image is one of Pillow's, an array
        (height, width, channels) or a tensor (channels, height, width), in unsigned bytes. A fourth channel is taken
        for transparency and left out. It is not normalised and not augmented, because recipes do that.
        Labels are read from an attribute `targets` if there is one, otherwise image by image.

        Args:
            train: the training images; a part of them is held out for comparing candidates.
            val: the validation images. By default, a fifth of the others of every class, always the same ones.
            classes: names of the classes, in the order of their numbers. By default `train.classes`, or the numbers if
                there is no such attribute.
            name: what runs call these images. A run is continued only with images of the same name and digest.

        Raises:
            InputError: something in them cannot be used; the message says what.
        """
        reopen = partial(cls.from_datasets, train, val, classes, name)
        return cls._split(name, of_datasets(train, val, classes, name), reopen, has_source=False)

    @classmethod
    def _split(cls, name: str, source: Source, reopen: Callable[[], ImageData], has_source: bool = True) -> Self:
        """The four parts."""
        classes, train = source.classes, source.train
        if len(classes) < 2:
            raise InputError(
                f"data {name!r}: at least two classes are needed, found {len(classes)}: {', '.join(classes)}"
            )
        positions, search, verdict = parts(train.labels)
        seen = train.take(np.sort(np.concatenate([positions, verdict])))
        return cls(
            name=name,
            digest=source.digest,
            classes=classes,
            in_chans=source.in_chans,
            sizes=source.sizes,
            statistics=cache(partial(_statistics, seen, source.in_chans)),
            train=train.take(positions),
            search=train.take(search),
            verdict=train.take(verdict),
            val=source.val,
            val_is_held_out=source.val_is_held_out,
            has_source=has_source,
            reopen=reopen,
        )


def open_data(data: ImageData | str | Path) -> ImageData:
    """Images as they are, or those behind a name; see `ImageData.open`."""
    return data if isinstance(data, ImageData) else ImageData.open(str(data))


def found_data(data: ImageData | str | Path) -> ImageData:
    """Images as they are, or those behind a name; see `ImageData.find`."""
    return data if isinstance(data, ImageData) else ImageData.find(str(data))


def _statistics(images: Labelled, in_chans: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel of pixels from 0 to 1, to four digits.

    For images that are not in memory, they are usual ones. Where all pixels of a channel are the same, its deviation is
    that of one step of 8 bits, because it is divided by.
    """
    if not isinstance(images.pictures, Decoded):
        return (IMAGENET_MEAN, IMAGENET_STD) if in_chans == 3 else ((0.5,), (0.5,))
    # Counted in parts, because numbers take eight times the memory of pixels.
    seen, levels = np.zeros((in_chans, 256), dtype=np.int64), np.arange(256)
    size = max(1, COUNTED // int(np.prod(images.pictures.pixels.shape[1:])))
    for begin in range(0, len(images.rows), size):
        pixels = images.pictures.pixels[images.rows[begin : begin + size]].reshape(-1, in_chans)
        for channel in range(in_chans):
            seen[channel] += np.bincount(pixels[:, channel], minlength=256)
    mean = seen @ levels / seen.sum(axis=1)
    std = np.sqrt((seen * (levels - mean[:, None]) ** 2).sum(axis=1) / seen.sum(axis=1))
    std = np.maximum(std, 1.0)
    return tuple(round(float(value), 4) for value in mean / 255), tuple(round(float(value), 4) for value in std / 255)
