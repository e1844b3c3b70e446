"""ImageData: labelled images in their four parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from psvit.data.images import Decoded, Labelled
from psvit.data.sources import Source, by_name, of_datasets, probe_positions
from psvit.data.split import parts
from psvit.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """A labelled image set in its four parts. The first three are cut from the images that were given for training.

    Attributes:
        name: as given to `open` or `from_datasets`.
        digest: of what lies behind the name; see `open`.
        classes: names of the classes.
        in_chans: 1 for grey, 3 for colour.
        sizes: height and width in pixels of some training images, evenly spread over all.
        mean: of every channel, of pixels from 0 to 1.
        std: standard deviation of every channel, of pixels from 0 to 1.
        train: for training supernets and the networks that a search compares.
        search: for comparing candidates. Whatever a search chooses, it chooses by these.
        verdict: for the verdict of a search. Nothing is trained on them and nothing is chosen by them before that.
            Empty if there are too few images.
        val: for the final report.
        reopen: opens the same images in another process; it can be pickled if their data sets can.
    """

    name: str
    digest: str
    classes: tuple[str, ...]
    in_chans: int
    sizes: tuple[tuple[int, int], ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Labelled
    search: Labelled
    verdict: Labelled
    val: Labelled
    reopen: Callable[[], ImageData] = field(compare=False, repr=False)

    @property
    def image_size(self) -> tuple[int, int]:
        """The typical height and width of the images in pixels: the medians."""
        height, width = (int(side) for side in np.median(self.sizes, axis=0))
        return height, width

    @property
    def all_train(self) -> Labelled:
        """All images for training, as final networks have them, in an order that does not depend on the split."""
        return self.train.union(self.verdict).union(self.search)

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
            name: a folder with `train/<class>/` and `val/<class>/`, `digits`, or a name of timm's `create_dataset` that
                can be indexed, such as `torch/cifar10`; its files are looked for below `data/`, and fetched if they are
                not there.

        Raises:
            InputError: there is no such set, or it cannot be used: one class, a corrupt image, classes that differ
                between training and validation, fewer than two images of a class.
        """
        return cls._split(name, by_name(name), partial(cls.open, name))

    @classmethod
    def from_datasets(cls, train: Any, val: Any, classes: Sequence[str] | None = None, name: str = "datasets") -> Self:
        """Images of two data sets of PyTorch's, or of anything else that has a length and can be indexed.

        An item is a pair of an image and its class, a whole number from 0. An image is one of Pillow's, an array
        (height, width, channels) or a tensor (channels, height, width), in unsigned bytes. It is not normalised and not
        augmented, because recipes do that.
        Labels are read from an attribute `targets` if there is one, otherwise image by image.

        Args:
            train: the training images; a part of them is held out for comparing candidates.
            val: the validation images.
            classes: names of the classes, in the order of their numbers. By default `train.classes`, or the numbers if
                there is no such attribute.
            name: what runs call these images. A run is continued only with images of the same name and digest.

        Raises:
            InputError: something in them cannot be used; the message says what.
        """
        reopen = partial(cls.from_datasets, train, val, classes, name)
        return cls._split(name, of_datasets(train, val, classes, name), reopen)

    @classmethod
    def _split(cls, name: str, source: Source, reopen: Callable[[], ImageData]) -> Self:
        """The four parts."""
        classes, train, val, digest = source
        if len(classes) < 2:
            raise InputError(
                f"data {name!r}: at least two classes are needed, found {len(classes)}: {', '.join(classes)}"
            )
        positions, search, verdict = parts(train.labels, name)
        pictures = train.pictures
        in_chans, sizes = _probe(train)
        if isinstance(pictures, Decoded):
            mean, std = _statistics(pictures.pixels[np.sort(np.concatenate([positions, verdict]))])
        else:
            mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
            if in_chans == 1:
                mean, std = (0.5,), (0.5,)
        return cls(
            name=name,
            digest=digest,
            classes=classes,
            in_chans=in_chans,
            sizes=sizes,
            mean=mean,
            std=std,
            train=train.take(positions),
            search=train.take(search),
            verdict=train.take(verdict),
            val=val,
            reopen=reopen,
        )


def open_data(data: ImageData | str | Path) -> ImageData:
    """Images as they are, or those behind a name; see `ImageData.open`."""
    return data if isinstance(data, ImageData) else ImageData.open(str(data))


def _probe(images: Labelled) -> tuple[int, tuple[tuple[int, int], ...]]:
    """Channels, and heights and widths, of some images."""
    pictures = [images[index][0] for index in probe_positions(len(images))]
    in_chans = 1 if all(picture.mode == "L" for picture in pictures) else 3
    return in_chans, tuple((picture.height, picture.width) for picture in pictures)


def _statistics(pixels: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel of pixels from 0 to 1, to four digits."""
    flat = pixels.reshape(-1, pixels.shape[3] if pixels.ndim == 4 else 1)
    mean, std = flat.mean(axis=0) / 255, flat.std(axis=0) / 255
    return tuple(round(float(value), 4) for value in mean), tuple(round(float(value), 4) for value in std)
