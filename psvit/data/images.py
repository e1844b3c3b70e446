"""Labelled images: pictures in memory, in files or in a data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from psvit.data.pixels import Mode, read_image, to_eight_bits
from psvit.errors import InputError
from psvit.io.progress import progress_bar

MEMORY_LIMIT = 2**30
"""Image sets that decode to at most as many bytes are decoded once and kept."""


class Pictures(Protocol):
    """A sequence of images."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Image.Image: ...


class Decoded:
    """Images in memory.

    Args:
        pixels: (n, height, width) or (n, height, width, 3), unsigned bytes.
        paths: the files that they were read from; empty if they come from elsewhere.
    """

    def __init__(self, pixels: NDArray[np.uint8], paths: Sequence[str] = ()) -> None:
        self.pixels = pixels
        self.paths = paths

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index])


class Files:
    """Images in files, decoded when they are asked for.

    Args:
        paths: the files.
        mode: what images are converted to.
    """

    def __init__(self, paths: Sequence[str], mode: Mode) -> None:
        self.paths = list(paths)
        self.mode = mode

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image.Image:
        return read_image(self.paths[index], self.mode)


class OfDataset:
    """The images of a data set that yields pairs of image and label.

    Args:
        dataset: the data set.
        mode: what images are converted to.
        name: what to call it in an error.
    """

    def __init__(self, dataset: Any, mode: Mode, name: str) -> None:
        self.dataset = dataset
        self.mode = mode
        self.name = name

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Image.Image:
        where = f"{self.name}, image {index}"
        return to_eight_bits(as_picture(self.dataset[index][0], where), self.mode, where)


class Unread:
    """Images that are read when they are first needed. A finished run needs none, and reading many takes long.

    Args:
        read_all: reads these and others that belong to them, by part; gives the same back at every call.
        part: which of them these are.

    Attributes:
        known: the images, once they were read.
    """

    def __init__(self, read_all: Callable[[], Mapping[str, Pictures]], part: str) -> None:
        self.known: Pictures | None = None
        self._read_all = read_all
        self._part = part

    def read(self) -> Pictures:
        """The images.

        Raises:
            InputError: one of them, or of those that belong to them, is corrupt.
        """
        if self.known is None:
            self.known = self._read_all()[self._part]
        return self.known


def as_picture(image: Any, source: str) -> Image.Image:
    """An image as Pillow has it.

    Args:
        image: one of Pillow's; an array (height, width) or (height, width, channels) or a tensor (height, width) or
            (channels, height, width) of unsigned bytes, or a grey array of 16 bits.
        source: what to call it in an error.

    Raises:
        InputError: something else.
    """
    if isinstance(image, Image.Image):
        return image
    array = image
    if isinstance(image, Tensor):
        array = image.detach().cpu().numpy()
        array = array.transpose(1, 2, 0) if array.ndim == 3 else array
    if isinstance(array, np.ndarray):
        grey = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
        if (array.dtype == np.uint8 and grey.shape[2:] in ((), (3,), (4,)) and grey.ndim in (2, 3)) or (
            array.dtype == np.uint16 and grey.ndim == 2
        ):
            return Image.fromarray(np.ascontiguousarray(grey))
        received = f"{type(image).__name__} of {array.dtype}, {tuple(image.shape)}"
    else:
        received = type(image).__name__
    raise InputError(
        f"{source}: must be an image of Pillow's, an array (height, width, channels) or a tensor (channels, height, "
        f"width) of unsigned bytes, received {received}; leave normalisation and augmentation to psvit"
    )


class Labelled(Dataset[tuple[Any, int]]):
    """Labelled images, or some of them, as timm's loaders take them.

    Args:
        pictures: all images, or what reads them when they are first needed.
        labels: a class for each of all images, (n,).
        rows: which of them belong to this set; all if not given.
        transform: what becomes of an image before it is batched.
    """

    def __init__(
        self,
        pictures: Pictures | Unread,
        labels: NDArray[np.int64],
        rows: NDArray[np.int64] | None = None,
        transform: Callable[[Image.Image], Any] | None = None,
    ) -> None:
        self._pictures = pictures
        self.rows = np.arange(len(labels)) if rows is None else rows
        self.transform = transform
        self._all_labels = labels

    @property
    def pictures(self) -> Pictures:
        """All images. Those that were not read yet are read now.

        Raises:
            InputError: one of them is corrupt.
        """
        return self._pictures.read() if isinstance(self._pictures, Unread) else self._pictures

    @property
    def known(self) -> Pictures | None:
        """All images, if they were read."""
        return self._pictures.known if isinstance(self._pictures, Unread) else self._pictures

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of all images, if they are known to have one, because they are in memory."""
        if not isinstance(self.known, Decoded):
            return None
        height, width = self.known.pixels.shape[1:3]
        return height, width

    def __getstate__(self) -> dict[str, Any]:
        """Other processes get the images instead of what reads them."""
        return {**vars(self), "_pictures": self.pictures}

    @property
    def labels(self) -> NDArray[np.int64]:
        """The classes of this set's images, (n,)."""
        return self._all_labels[self.rows]

    def path(self, index: int) -> str | None:
        """The file of an image of this set; `None` if it comes from elsewhere."""
        paths = self.pictures.paths if isinstance(self.pictures, Files | Decoded) else ()
        return paths[int(self.rows[index])] if paths else None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        row = int(self.rows[index])
        picture = self.pictures[row]
        return (self.transform(picture) if self.transform else picture), int(self._all_labels[row])

    def take(self, positions: NDArray[np.int64]) -> Labelled:
        """The images at these positions of this set."""
        return Labelled(self._pictures, self._all_labels, self.rows[positions])

    def union(self, other: Labelled) -> Labelled:
        """Both sets together, two parts of the same images, in the order of the images."""
        assert other._pictures is self._pictures
        return Labelled(self._pictures, self._all_labels, np.sort(np.concatenate([self.rows, other.rows])))

    def transformed(self, transform: Callable[[Image.Image], Any] | None) -> Labelled:
        """The same images with another transform."""
        return Labelled(self._pictures, self._all_labels, self.rows, transform)


def in_memory(pictures: Pictures, part: str) -> Decoded | None:
    """All images in memory; `None` if they are too large or their sizes differ."""
    first = np.asarray(pictures[0])
    if first.size * len(pictures) > MEMORY_LIMIT:
        return None
    pixels = np.empty((len(pictures), *first.shape), dtype=np.uint8)
    with progress_bar(f"reading {part} images", len(pictures), "images") as advance:
        for index in range(len(pictures)):
            picture = np.asarray(pictures[index])
            if picture.shape != first.shape:
                return None
            pixels[index] = picture
            advance(1, "")
    return Decoded(pixels, pictures.paths if isinstance(pictures, Files) else ())
