"""Images: where they come from, how they are split in three, and how they become batches.

The split is explicit, because searching on what is later reported is the commonest flaw of such results: networks
train on *train*, candidates are compared on *search*, which is held out from the training images, and *val* is looked
at once, at the end.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_dataset, create_transform
from timm.data.readers.reader_image_folder import find_images_and_targets
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from psvit.augmentation import training_transform
from psvit.errors import InputError
from psvit.pixels import ENDINGS, Mode, is_grey, is_grey_file, read_image, to_eight_bits, unreadable
from psvit.progress import progress_bar
from psvit.recipe import Recipe
from psvit.training_loader import TrainingLoader

_logger = logging.getLogger(__name__)

SEARCH_FRACTION = 0.1
"""Part of the training images that is held out for comparing candidates."""

DIGITS_VAL_FRACTION = 0.2
"""Part of scikit-learn's digits, which come without an official split, that is kept for validation."""

SPLIT_SEED = 0
"""The splits belong to the data, not to a run: a search must not see what its supernet was trained on."""

DIGEST_DIGITS = 16
"""Hexadecimal digits of a digest of images."""

MEMORY_LIMIT = 2**30
"""Image sets that decode to at most as many bytes are decoded once and kept."""

CHECKED_LIMIT = 20_000
"""Folders of at most as many images are read through before anything is trained, so that a corrupt image is known at
once; in larger ones it is named when it is met."""

MOST_WORKERS = 8
"""Most processes that prepare batches for one that computes; no result depends on how many there are."""

CROP_PCT, INTERPOLATION = 1.0, "bicubic"
"""Of images that are not augmented: no border is cut off, and how they are resized."""

_PROBED = 64
"""Images looked at to learn the size and the channels of a folder's images."""


class Pictures(Protocol):
    """A sequence of images."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Image.Image: ...


class Decoded:
    """Images in memory.

    Args:
        pixels: (n, height, width) or (n, height, width, 3), unsigned bytes.
    """

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.pixels = pixels

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


class Labelled(Dataset[tuple[Any, int]]):
    """Labelled images, or some of them, as timm's loaders take them.

    Args:
        pictures: all images.
        labels: a class for each of all images, (n,).
        rows: which of them belong to this set; all where not given.
        transform: what becomes of an image before it is batched.
    """

    def __init__(
        self,
        pictures: Pictures,
        labels: NDArray[np.int64],
        rows: NDArray[np.int64] | None = None,
        transform: Callable[[Image.Image], Any] | None = None,
    ) -> None:
        self.pictures = pictures
        self.rows = np.arange(len(labels)) if rows is None else rows
        self.transform = transform
        self._all_labels = labels

    @property
    def labels(self) -> NDArray[np.int64]:
        """The classes of this set's images, (n,)."""
        return self._all_labels[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        row = int(self.rows[index])
        picture = self.pictures[row]
        return (self.transform(picture) if self.transform else picture), int(self._all_labels[row])

    def take(self, positions: NDArray[np.int64]) -> Labelled:
        """The images at these positions of this set."""
        return Labelled(self.pictures, self._all_labels, self.rows[positions])

    def union(self, other: Labelled) -> Labelled:
        """Both sets together, two parts of the same images, in the order of the images."""
        assert other.pictures is self.pictures
        return Labelled(self.pictures, self._all_labels, np.sort(np.concatenate([self.rows, other.rows])))

    def transformed(self, transform: Callable[[Image.Image], Any] | None) -> Labelled:
        """The same images with another transform."""
        return Labelled(self.pictures, self._all_labels, self.rows, transform)


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """A labelled image set in its three parts.

    Attributes:
        name: as given to `open_data`.
        digest: of what lies behind the name; see `open_data`.
        classes: names of the classes.
        in_chans: 1 for grey, 3 for colour.
        image_size: typical smaller side of the images in pixels.
        mean: of every channel, of pixels from 0 to 1.
        std: likewise the standard deviation.
        train: for training supernets, and with `search` for training final networks.
        search: for comparing candidates.
        val: for the final report.
    """

    name: str
    digest: str
    classes: tuple[str, ...]
    in_chans: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Labelled
    search: Labelled
    val: Labelled

    @property
    def all_train(self) -> Labelled:
        """Training and search images together, in an order that does not depend on the split."""
        return self.train.union(self.search)

    def describe(self) -> dict[str, Any]:
        """What a network needs to know of the data it was trained on, JSON-serialisable."""
        return {
            "name": self.name,
            "digest": self.digest,
            "mean": list(self.mean),
            "std": list(self.std),
            "classes": list(self.classes),
        }


def open_data(name: str) -> ImageData:
    """Open an image set and split it.

    Its digest changes whenever the split might: of a folder it is that of the files' names, sizes and classes, so that
    no image has to be read for it; of what is kept in memory, that of pixels and labels; else that of the labels.

    Args:
        name: a folder with `train/<class>/` and `val/<class>/`, `digits`, or a name of timm's `create_dataset` that
            can be indexed, such as `torch/cifar10`; its files are looked for below `data/`, and fetched if they are
            not there.

    Raises:
        InputError: there is no such set, or it cannot be used: one class, a corrupt image, classes that differ
            between training and validation, fewer than two images of a class.
    """
    digest = ""
    if name == "digits":
        classes, train, val = _digits()
    elif Path(name).is_dir():
        classes, train, val, digest = _folder(Path(name))
    elif name.split("/")[0] in ("torch", "hfds"):
        classes, train, val = _timm(name)
    else:
        raise InputError(
            f"data {name!r}: permitted are a folder with train/ and val/, 'digits', or a name such as 'torch/cifar10'"
        )
    if len(classes) < 2:
        raise InputError(f"data {name!r}: at least two classes are needed, found {len(classes)}: {', '.join(classes)}")
    first, second = stratified_split(train.labels, SEARCH_FRACTION, SPLIT_SEED, name)
    pictures = train.pictures
    in_chans, image_size = _probe(train)
    if isinstance(pictures, Decoded):
        mean, std = _statistics(pictures.pixels[first])
    else:
        mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
        if in_chans == 1:
            mean, std = (0.5,), (0.5,)
    return ImageData(
        name=name,
        digest=digest or _digest(classes, train, val),
        classes=classes,
        in_chans=in_chans,
        image_size=image_size,
        mean=mean,
        std=std,
        train=train.take(first),
        search=train.take(second),
        val=val,
    )


def stratified_split(
    labels: NDArray[np.int64], fraction: float, seed: int, name: str = "data"
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut positions in two with every class in proportion; the second part has this fraction, both are ascending.

    Raises:
        InputError: a class has a single image.
    """
    from sklearn.model_selection import train_test_split

    counts = np.bincount(labels)
    if counts[counts > 0].min() < 2 or len(labels) * fraction < len(counts):
        least = int(np.ceil(len(counts) / fraction))
        raise InputError(
            f"data {name!r}: too few images to hold {fraction:.0%} out: {len(labels)} of {len(counts)} classes, "
            f"the rarest with {counts.min()}; needed are {least} in all and 2 of each"
        )
    first, second = train_test_split(
        np.arange(len(labels)), test_size=fraction, random_state=seed, shuffle=True, stratify=labels
    )
    return np.sort(first), np.sort(second)


def _digits() -> tuple[tuple[str, ...], Labelled, Labelled]:
    """The 1,797 handwritten digits that come with scikit-learn, 8 x 8 pixels of 17 grey levels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    train, val = stratified_split(labels, DIGITS_VAL_FRACTION, SPLIT_SEED, "digits")
    classes = tuple(str(name) for name in digits.target_names)
    return classes, Labelled(Decoded(pixels[train]), labels[train]), Labelled(Decoded(pixels[val]), labels[val])


def _digest(classes: tuple[str, ...], *parts: Labelled) -> str:
    """Of images in memory, or of what is known of others without reading them: how many there are of which class."""
    digest = hashlib.sha256("\n".join(classes).encode())
    for part in parts:
        digest.update(part.labels.tobytes())
        if isinstance(part.pictures, Decoded):
            digest.update(np.ascontiguousarray(part.pictures.pixels).data)
    return digest.hexdigest()[:DIGEST_DIGITS]


def _digest_of_files(root: Path, classes: tuple[str, ...], samples: Sequence[tuple[str, int]]) -> str:
    """Of the files of a folder, wherever it lies."""
    digest = hashlib.sha256("\n".join(classes).encode())
    begin = len(str(root))
    for path, label in samples:
        try:
            size = os.path.getsize(path)
        except OSError:
            raise InputError(unreadable(path)) from None
        digest.update(f"{path[begin:]}\0{size}\0{label}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:DIGEST_DIGITS]


def _folder(root: Path) -> tuple[tuple[str, ...], Labelled, Labelled, str]:
    """An image folder: `train/` and `val/`, in each a folder for every class; and the digest of its files."""
    for part in ("train", "val"):
        if not (root / part).is_dir():
            raise InputError(f"data '{root}': expected folders train/ and val/ in it, {part}/ is missing")
    samples, class_to_idx = find_images_and_targets(str(root / "train"), types=ENDINGS)
    classes = tuple(class_to_idx)
    present = {path.name for path in (root / "val").iterdir() if path.is_dir()}
    if strange := sorted(present - set(classes)):
        raise InputError(f"data '{root}': val/ has classes that train/ has not: {', '.join(strange)}")
    val_samples, _ = find_images_and_targets(str(root / "val"), types=ENDINGS, class_to_idx=class_to_idx)
    for part, found in (("train", samples), ("val", val_samples)):
        if not found:
            raise InputError(f"data '{root}': no images in {part}/; their names end in {', '.join(ENDINGS)}")
    if len(classes) < 2:
        raise InputError(f"data '{root}': at least two classes are needed, found {len(classes)}: {', '.join(classes)}")
    mode: Mode = "L" if all(is_grey_file(samples[index][0]) for index in _probed(len(samples))) else "RGB"
    parts = []
    for part, found in (("train", samples), ("val", val_samples)):
        files = Files([path for path, _ in found], mode)
        labels = np.array([label for _, label in found], dtype=np.int64)
        decoded = _kept(files, part)
        if decoded is None and len(files) <= CHECKED_LIMIT:
            _check(files, part)
        parts.append(Labelled(decoded or files, labels))
    train, val = parts
    return classes, train, val, _digest_of_files(root, classes, [*samples, *val_samples])


def _kept(pictures: Pictures, part: str) -> Decoded | None:
    """All images in memory, or nothing where they are too large or their sizes differ."""
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
    return Decoded(pixels)


def _check(files: Files, part: str) -> None:
    """Read every file through."""
    with progress_bar(f"checking {part} images", len(files), "images") as advance:
        for path in files.paths:
            read_image(path, files.mode, draft=True)
            advance(1, "")


class _Wrapped:
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
        return to_eight_bits(self.dataset[index][0], self.mode, f"{self.name}, image {index}")


def _timm(name: str) -> tuple[tuple[str, ...], Labelled, Labelled]:
    """A data set that timm knows by name."""
    datasets = {}
    for split in ("train", "validation"):
        try:
            # Without a mode timm leaves the conversion to us.
            datasets[split] = create_dataset(name, root="data", split=split, download=True, input_img_mode=None)  # type: ignore[arg-type]
        except Exception as error:  # whatever the library behind the name raises
            raise InputError(f"data {name!r}: cannot be opened: {' '.join(str(error).split())[:200]}") from None
    first = datasets["train"]
    mode: Mode = "L" if all(is_grey(first[index][0]) for index in _probed(len(first))) else "RGB"
    parts = []
    for split, dataset in datasets.items():
        labels = getattr(dataset, "targets", None)
        if labels is None:
            labels = [dataset[index][1] for index in range(len(dataset))]
        pictures = _Wrapped(dataset, mode, f"data {name!r}, {split}")
        parts.append(Labelled(_kept(pictures, split) or pictures, np.asarray(labels, dtype=np.int64)))
    train, val = parts
    names = getattr(dataset, "classes", None) or range(int(train.labels.max()) + 1)
    classes = tuple(str(name) for name in names)
    return classes, train, val


def _probed(number: int) -> range:
    """The positions of some images among so many, evenly spread."""
    return range(0, number, -(-number // _PROBED))


def _probe(images: Labelled) -> tuple[int, int]:
    """Channels, and the median of the smaller sides, of some images."""
    pictures = [images[index][0] for index in _probed(len(images))]
    in_chans = 1 if all(picture.mode == "L" for picture in pictures) else 3
    return in_chans, int(np.median([min(picture.size) for picture in pictures]))


def _statistics(pixels: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel of pixels from 0 to 1, to four digits."""
    flat = pixels.reshape(-1, pixels.shape[3] if pixels.ndim == 4 else 1)
    mean, std = flat.mean(axis=0) / 255, flat.std(axis=0) / 255
    return tuple(round(float(value), 4) for value in mean), tuple(round(float(value), 4) for value in std)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """How images are made into tensors.

    Attributes:
        image_size: height and width in pixels.
        in_chans: channels.
        mean: of every channel.
        std: of every channel.
        workers: processes that prepare batches; 0 prepares them in this one.
    """

    image_size: tuple[int, int]
    in_chans: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    workers: int = 0

    @classmethod
    def of(cls, data: ImageData, image_size: tuple[int, int]) -> Inputs:
        """For a data set: images in memory and small enough need no processes of their own."""
        small = isinstance(data.train.pictures, Decoded) and max(image_size) < 16
        return cls(
            image_size=image_size,
            in_chans=data.in_chans,
            mean=data.mean,
            std=data.std,
            workers=0 if small else _workers(),
        )


def _workers() -> int:
    """Processes that prepare batches: one for each core that this process may use, shared with others of its run."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_WORKERS, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def training_loader(images: Labelled, inputs: Inputs, recipe: Recipe) -> TrainingLoader:
    """Shuffled, augmented batches (B, C, height, width) of the recipe's size; a last incomplete one is left out."""
    transform = training_transform(recipe, (inputs.in_chans, *inputs.image_size), inputs.mean, inputs.std)
    return TrainingLoader(
        images.transformed(transform),
        recipe.batch_size,
        repeats=recipe.repeated_augmentation,
        workers=inputs.workers,
        pin_memory=torch.cuda.is_available(),
    )


def evaluation_transform(
    inputs: Inputs, crop_pct: float = CROP_PCT, interpolation: str = INTERPOLATION
) -> Callable[[Image.Image], Tensor]:
    """From an image to the tensor (C, height, width) that a network is compared, validated and used on."""
    transform: Callable[[Image.Image], Tensor] = create_transform(
        (inputs.in_chans, *inputs.image_size),
        is_training=False,
        crop_pct=crop_pct,
        interpolation=interpolation,
        mean=inputs.mean,
        std=inputs.std,
    )
    return transform


class Batches:
    """Images in fixed batches, unaugmented, for comparing networks; kept in memory where they fit.

    Args:
        images: the images.
        inputs: how they become tensors.
        batch_size: images a batch.
        device: where batches go.
        order_seed: of a random order of the images; without it they keep theirs, which is often sorted by class.
    """

    def __init__(
        self,
        images: Labelled,
        inputs: Inputs,
        batch_size: int,
        device: torch.device,
        order_seed: int | None = None,
    ) -> None:
        self.batch_size = batch_size
        self.is_shuffled = order_seed is not None
        if order_seed is not None:
            images = images.take(np.random.default_rng(order_seed).permutation(len(images)))
        transform = evaluation_transform(inputs)
        self.num_images = len(images)
        self._device = device
        self._loader: DataLoader[Any] = DataLoader(
            images.transformed(transform), batch_size=batch_size, num_workers=inputs.workers
        )
        bytes_needed = 4 * len(images) * inputs.in_chans * inputs.image_size[0] * inputs.image_size[1]
        self._kept: list[tuple[Tensor, Tensor]] | None = [] if bytes_needed <= MEMORY_LIMIT else None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of images (B, C, height, width) and labels (B,)."""
        if self._kept is None:
            return ((images.to(self._device), labels.to(self._device)) for images, labels in self._loader)
        if not self._kept:
            self._kept = [(images.to(self._device), labels.to(self._device)) for images, labels in self._loader]
        return iter(self._kept)


@torch.inference_mode()
def accuracy(logits_of: Callable[[Tensor], Tensor], batches: Batches) -> float:
    """Top-1 accuracy in percent of a function from images (B, C, height, width) to logits (B, classes)."""
    correct = sum(int((logits_of(images).argmax(dim=1) == labels).sum()) for images, labels in batches)
    return 100 * correct / batches.num_images


def logistic_regression_accuracy(train: Labelled, test: Labelled) -> float | None:
    """Top-1 accuracy in percent of scikit-learn's logistic regression on raw pixels: what any network has to match.

    Returns:
        None where the images are too many or too large for it to be a matter of seconds.
    """
    pictures, others = train.pictures, test.pictures
    if not isinstance(pictures, Decoded) or not isinstance(others, Decoded):
        return None
    if len(train) * np.prod(pictures.pixels.shape[1:]) > 2_000_000:
        return None
    from sklearn.linear_model import LogisticRegression

    x = pictures.pixels[train.rows].reshape(len(train), -1) / 255
    y = others.pixels[test.rows].reshape(len(test), -1) / 255
    model = LogisticRegression(max_iter=5000).fit(x, train.labels)
    return 100 * float((model.predict(y) == test.labels).mean())
