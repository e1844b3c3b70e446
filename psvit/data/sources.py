"""Where images come from: folders, names that timm knows, scikit-learn's digits, and data sets of a user's own."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import os
from collections.abc import Mapping, Sequence
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from psvit.data.folder import ImageFile, images_in, parts_of
from psvit.data.images import Decoded, Files, Labelled, OfDataset, Pictures, Unread, as_picture, in_memory
from psvit.data.pixels import ENDINGS, Mode, is_grey, look_at, read_image
from psvit.data.split import held_out_for_validation
from psvit.errors import InputError
from psvit.io.documents import is_there
from psvit.io.progress import progress_bar

DIGEST_DIGITS = 16
"""Hexadecimal digits of a digest of images."""

CHECKED_LIMIT = 20_000
"""Folders of at most as many images are read through before anything is trained, so that a corrupt image is known at
once; in larger ones it is named when it is met."""

CHANNELS: dict[Mode, int] = {"L": 1, "RGB": 3}
"""Of images, by what they are converted to."""

LOOKED_AT = 1000
"""Names that are looked at for one that was meant."""

_PROBED = 64
"""Images looked at to learn the size and the channels of a folder's images."""


class Source(NamedTuple):
    """A set of labelled images before it is split.

    Attributes:
        classes: their names.
        train: the training images.
        val: the validation images.
        digest: changes whenever the images might.
        in_chans: 1 for grey, 3 for colour.
        sizes: height and width in pixels of some training images, evenly spread over all.
        val_is_held_out: whether the validation images are a part of those that were given, because no others were.
    """

    classes: tuple[str, ...]
    train: Labelled
    val: Labelled
    digest: str
    in_chans: int
    sizes: tuple[tuple[int, int], ...]
    val_is_held_out: bool


def by_name(name: str) -> Source:
    """The images behind a name, as `ImageData.open` takes it.

    Raises:
        InputError: there are none, or they cannot be used.
    """
    if name == "digits":
        return _digits()
    if is_there(name) and Path(name).is_dir():
        return _folder(Path(name))
    if name.split("/")[0] in ("torch", "hfds"):
        return _timm(name)
    meant = _like(Path(name))
    hint = f"; did you mean {meant!r}?" if meant else ""
    raise InputError(
        f"data {name!r}: no such folder; permitted are a folder of images for every class, in one folder or in train/ "
        f"and val/ in it, 'digits', or a name such as 'torch/cifar10'{hint}"
    )


def _like(folder: Path) -> str:
    """A folder beside one that does not exist, with images, and called almost the same; empty if there is none."""
    try:
        others = {other.name: other for other in itertools.islice(folder.parent.iterdir(), LOOKED_AT)}
        near = difflib.get_close_matches(folder.name, others, n=1)
        if near:
            parts_of(others[near[0]])
            return str(others[near[0]])
    except (OSError, ValueError):  # an InputError is one, of a folder that holds no images
        pass
    return ""


def of_datasets(train: Any, val: Any, classes: Sequence[str] | None, name: str) -> Source:
    """Data sets that yield pairs of image and label, as `ImageData.from_datasets` takes them.

    Args:
        train: the training images.
        val: the validation images; `None` holds out a part of the others.
        classes: names of the classes, if they are known.
        name: what to call the images.

    Raises:
        InputError: something in them cannot be used.
    """
    parts = {"train": train} if val is None else {"train": train, "validation": val}
    for part, dataset in parts.items():
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")) or not len(dataset):
            raise InputError(f"data {name!r}, {part}: must be a data set with a length that can be indexed, not empty")
    labels = {part: _labels(dataset, f"data {name!r}, {part}") for part, dataset in parts.items()}
    known = classes or getattr(train, "classes", None) or range(int(labels["train"].max()) + 1)
    classes = tuple(str(one) for one in known)
    for part, found in labels.items():
        if found.min() < 0 or found.max() >= len(classes):
            raise InputError(
                f"data {name!r}, {part}: labels must be 0 to {len(classes) - 1} for {len(classes)} classes, "
                f"found {found.min()} to {found.max()}"
            )
    where = f"data {name!r}, train, image"
    probed = [as_picture(train[index][0], f"{where} {index}") for index in _probe_positions(len(train))]
    mode: Mode = "L" if all(is_grey(picture.mode) for picture in probed) else "RGB"
    made = []
    for part, dataset in parts.items():
        pictures = OfDataset(dataset, mode, f"data {name!r}, {part}")
        made.append(Labelled(in_memory(pictures, part) or pictures, labels[part]))
    sizes = tuple((picture.height, picture.width) for picture in probed)
    digest = _digest(classes, *made)
    if val is None:
        made = [made[0].take(rows) for rows in held_out_for_validation(made[0].labels, name)]
    first, second = made
    return Source(classes, first, second, digest, CHANNELS[mode], sizes, val_is_held_out=val is None)


def _labels(dataset: Any, what: str) -> NDArray[np.int64]:
    """The classes of a data set's images, without reading the images if the data set states them."""
    known = getattr(dataset, "targets", None)
    try:
        if known is None or len(known) != len(dataset):
            known = [dataset[index][1] for index in range(len(dataset))]
        labels = np.asarray([int(label) for label in known])
        if any(label != whole for label, whole in zip(known, labels, strict=True)):
            raise ValueError("labels are not whole numbers")
    except InputError:
        raise
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise InputError(f"{what}: must yield pairs of an image and its class as a whole number: {error}") from None
    return labels.astype(np.int64)


def _digits() -> Source:
    """The 1,797 handwritten digits that come with scikit-learn, 8 x 8 pixels of 17 grey levels."""
    table = read_digits()
    pixels = np.round(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    labels = table[:, -1].astype(np.int64)
    train, val = held_out_for_validation(labels, "digits")
    classes = tuple(map(str, range(10)))
    first, second = (Labelled(Decoded(pixels[rows]), labels[rows]) for rows in (train, val))
    digest = _digest(classes, first, second)
    return Source(classes, first, second, digest, CHANNELS["L"], ((8, 8),), val_is_held_out=True)


def read_digits() -> NDArray[np.float64]:
    """The table of scikit-learn's `load_digits`: a row for every image, its 64 levels from 0 to 16 and its digit.

    It is read from the file, because importing scikit-learn takes a second.
    """
    spec = find_spec("sklearn")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return np.loadtxt(Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz", delimiter=",")


def _folder(root: Path) -> Source:
    """A folder with a folder for every class, or with `train/` and perhaps `val/`, in each such folders."""
    train_folder, val_folder = parts_of(root)
    samples, classes = images_in(train_folder, may_be_nested=train_folder != root)
    if not samples:
        raise InputError(_no_images(root, train_folder))
    if len(classes) < 2:
        raise InputError(f"data '{root}': at least two classes are needed, found {len(classes)}: {', '.join(classes)}")
    if val_folder:
        val_samples = _val_images(root, val_folder, classes)
    else:
        labels = np.array([image.label for image in samples], dtype=np.int64)
        rows, held_out = held_out_for_validation(labels, str(root))
        samples, val_samples = [samples[row] for row in rows], [samples[row] for row in held_out]
    looks = [look_at(samples[index].path) for index in _probe_positions(len(samples))]
    mode: Mode = "L" if all(is_grey(look.mode) for look in looks) else "RGB"
    parts = {"train": samples, "val": val_samples}
    read = cache(partial(_read, {part: Files([image.path for image in found], mode) for part, found in parts.items()}))
    train, val = (
        Labelled(Unread(read, part), np.array([image.label for image in found], dtype=np.int64))
        for part, found in parts.items()
    )
    digest = _digest_of_files(root, classes, [*samples, *val_samples])
    sizes = tuple(look.size for look in looks)
    return Source(classes, train, val, digest, CHANNELS[mode], sizes, val_is_held_out=val_folder is None)


def _val_images(root: Path, folder: Path, classes: tuple[str, ...]) -> list[ImageFile]:
    """The images of a folder of validation images."""
    present = {path.name for path in folder.iterdir() if path.is_dir()}
    # A folder of folders is no class, whatever it is called.
    if present - set(classes) and (strange := sorted(set(images_in(folder)[1]) - set(classes))):
        raise InputError(f"data '{root}': {folder.name}/ has classes that train/ has not: {', '.join(strange)}")
    found, _ = images_in(folder, classes)
    if not found:
        raise InputError(_no_images(root, folder))
    return found


def _no_images(root: Path, folder: Path) -> str:
    return f"data '{root}': no images in {folder.name}/; their names end in {', '.join(ENDINGS)}"


def _read(parts: Mapping[str, Files]) -> dict[str, Pictures]:
    """The images of a folder, in memory if they are small; else those of a small folder are looked through."""
    found: dict[str, Pictures] = {}
    for part, files in parts.items():
        decoded = in_memory(files, part)
        if decoded is None and len(files) <= CHECKED_LIMIT:
            _check(files, part)
        found[part] = decoded or files
    return found


def _check(files: Files, part: str) -> None:
    """Read every file through."""
    with progress_bar(f"checking {part} images", len(files), "images") as advance:
        for path in files.paths:
            read_image(path, files.mode, draft=True)
            advance(1, "")


def _timm(name: str) -> Source:
    """A data set that timm knows by name."""
    from timm.data import create_dataset

    datasets = {}
    for split in ("train", "validation"):
        try:
            # Without a mode timm leaves the conversion to us.
            datasets[split] = create_dataset(name, root="data", split=split, download=True, input_img_mode=None)  # type: ignore[arg-type]
        except Exception as error:  # whatever the library behind the name raises
            raise InputError(f"data {name!r}: cannot be opened: {' '.join(str(error).split())[:200]}") from None
    return of_datasets(datasets["train"], datasets["validation"], None, name)


def _digest(classes: tuple[str, ...], *parts: Labelled) -> str:
    """A digest of the images if they are in memory, otherwise of their labels, for which no image is read."""
    digest = hashlib.sha256("\n".join(classes).encode())
    for part in parts:
        digest.update(part.labels.tobytes())
        if isinstance(part.pictures, Decoded):
            digest.update(np.ascontiguousarray(part.pictures.pixels).data)
    return digest.hexdigest()[:DIGEST_DIGITS]


def _digest_of_files(root: Path, classes: tuple[str, ...], samples: Sequence[ImageFile]) -> str:
    """A digest of the files of a folder. It does not depend on where the folder lies."""
    digest = hashlib.sha256("\n".join(classes).encode())
    begin = 0 if root == Path() else len(str(root))
    for path, label, size in samples:
        digest.update(f"/{path[begin:].lstrip(os.sep)}\0{size}\0{label}\n".encode())
    return digest.hexdigest()[:DIGEST_DIGITS]


def _probe_positions(number: int) -> range:
    """The positions of some images among so many, evenly spread."""
    return range(0, number, -(-number // _PROBED))
