"""TrainingLoader: in which order images are trained on, and with which seeds they are augmented.

Order and seeds follow from (seed, epoch) alone. They depend neither on how many processes prepare or train on the
images nor on where a run was interrupted, so any step can be made again by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from psvit.data import Inputs, Labelled
from psvit.data.augmentation import training_transform
from psvit.data.batch_augmentation import BatchAugmentation, BatchRows, can_augment
from psvit.errors import InputError
from psvit.nn.seeding import reseeding
from psvit.train.recipe import Recipe


class Source(Protocol):
    """Training images that become augmented batches."""

    def __len__(self) -> int: ...

    def batches(self, places: Sequence[BatchRows]) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (B, C, height, width) and labels (B,) for each of several batches."""
        ...


class TrainingLoader:
    """Shuffled batches of augmented images, whole ones only.

    Args:
        source: makes the batches.
        batch_size: images a step, over all processes and micro-batches; of fewer images there is one even batch.
        repeats: how often an image is taken in a row, augmented differently each time. An epoch stays as long, and
            shows a part of the images: repeated augmentation (arXiv 1901.09335, as DeiT has it).

    Attributes:
        wanted: images a step as given.
        batch_size: images a step; all of them if there are fewer.
        steps: steps an epoch.
    """

    def __init__(self, source: Source, batch_size: int, repeats: int = 1) -> None:
        self.wanted = batch_size
        self.batch_size = min(batch_size, len(source) - len(source) % 2)
        self.steps = len(source) // self.batch_size
        self._source = source
        self._repeats = repeats

    def check(self, parts: int, mixes: bool) -> None:
        """Make sure that batches can be cut in equal parts.

        Args:
            parts: processes times micro-batches.
            mixes: whether images are mixed in pairs, which stay in one part.

        Raises:
            InputError: they cannot.
        """
        least = parts * (2 if mixes else 1)
        if self.batch_size % least:
            pairs = " and an even number in each, because images are mixed in pairs" if mixes else ""
            few = f", of which there are only {self.batch_size}" if self.batch_size < self.wanted else ""
            raise InputError(
                f"batch_size: must be a multiple of processes times accumulate, {parts}{pairs}; "
                f"received {self.wanted}{few}"
            )

    def seconds(self, rates: Iterable[float]) -> float:
        """How long epochs took in which so many images a second were trained on."""
        return sum(self.steps * self.batch_size / rate for rate in rates)

    def batches(
        self, seed: int, epoch: int, start: int = 0, part: int = 0, taken: int = 1, parts: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch, or of its rest.

        Args:
            seed: of the run.
            epoch: from 0 on.
            start: the first step that is wanted.
            part: the first part of each batch that is wanted.
            taken: how many parts are, one after the other.
            parts: how many parts a batch has, see `check`.

        Yields:
            For every step and part, images (B / parts, C, height, width) and labels (B / parts,).
        """
        rows, seeds = self._order(seed, epoch)
        cuts = [_cut(self.batch_size, number, parts) for number in range(part, part + taken)]
        yield from self._source.batches(
            [
                (rows[step + cut], seeds[step + cut])
                for step in range(start * self.batch_size, self.steps * self.batch_size, self.batch_size)
                for cut in cuts
            ]
        )

    def _order(self, seed: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        """The rows of an epoch's images and their seeds, in the order of training."""
        rng = np.random.default_rng((3, seed, epoch))
        wanted = self.steps * self.batch_size
        rows = np.repeat(rng.permutation(len(self._source)), self._repeats)[:wanted]
        return rows, rng.integers(2**32, size=wanted, dtype=np.uint32)


def _cut(batch_size: int, part: int, parts: int) -> NDArray[np.int64]:
    """The positions of a part of a batch.

    Mixing pairs the first image with the last, the second with the last but one. A part holds whole pairs in the same
    arrangement, so that a batch is mixed alike in one part or in many.
    """
    if batch_size % (2 * parts):
        return np.arange(part, batch_size, parts)
    firsts = np.arange(part, batch_size // 2, parts)
    return np.concatenate([firsts, batch_size - 1 - firsts[::-1]])


class Images(Protocol):
    """Augmented images with their classes; they may draw from the global generators."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Any, int]: ...


class OneByOne:
    """Batches of images that are augmented one by one, in other processes if there are some.

    Args:
        images: the images with their augmentation.
        workers: processes that prepare batches; 0 prepares them in this one.
        pin_memory: whether batches are copied to where a GPU fetches them fastest.
    """

    def __init__(self, images: Images, workers: int = 0, pin_memory: bool = False) -> None:
        self._number = len(images)
        self._planned: list[list[_Place]] = []
        self._loader: DataLoader[Any] = DataLoader(
            _Seeded(images),
            batch_sampler=_Planned(self._planned),
            num_workers=workers,
            pin_memory=pin_memory,
            # They carry nothing from one epoch into the next, since every image is seeded by itself.
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # otherwise one number is drawn from the global one
        )

    def __len__(self) -> int:
        return self._number

    def batches(self, places: Sequence[BatchRows]) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (B, C, height, width) and labels (B,) for each of several batches."""
        self._planned[:] = [list(zip(rows.tolist(), seeds.tolist(), strict=True)) for rows, seeds in places]
        yield from self._loader


_Place = tuple[int, int]
"""The row of an image, and the seed that it is augmented with."""


class _Planned:
    """Hands out the batches that are in a list at the time."""

    def __init__(self, planned: list[list[_Place]]) -> None:
        self._planned = planned

    def __iter__(self) -> Iterator[list[_Place]]:
        return iter(list(self._planned))


class _Seeded(Dataset[tuple[Any, int]]):
    """Images that are augmented with the global generators seeded for each."""

    def __init__(self, images: Images) -> None:
        self._images = images

    def __getitem__(self, place: _Place) -> tuple[Any, int]:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[_Place]) -> list[tuple[Any, int]]:
        """PyTorch asks for a whole batch in this way where it can; the generators are put back once for all of it."""
        found = []
        with reseeding() as seed_all:
            for row, number in places:
                seed_all(number)
                found.append(self._images[row])
        return found


def training_loader(
    images: Labelled, inputs: Inputs, recipe: Recipe, device: torch.device | None = None
) -> TrainingLoader:
    """Shuffled, augmented batches of the recipe's size; a last incomplete one is left out.

    Args:
        images: the images.
        inputs: how they become tensors.
        recipe: how they are augmented.
        device: where batches are computed, if the recipe augments whole batches; by default the CPU.

    Raises:
        InputError: the recipe augments whole batches by operations that can only be done with single images.
    """
    size = (inputs.in_chans, *inputs.image_size)
    transform = training_transform(size, inputs.mean, inputs.std, **recipe.augmentation)
    source: Source
    if recipe.augment_batches and can_augment(images):
        where = device or torch.device("cpu")
        source = BatchAugmentation(images, transform, inputs.image_size, inputs.mean, inputs.std, where)
    else:
        source = OneByOne(images.transformed(transform), inputs.workers, pin_memory=torch.cuda.is_available())
    return TrainingLoader(source, recipe.batch_size, recipe.repeated_augmentation)
