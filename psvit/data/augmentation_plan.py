"""AugmentationPlan: what is done to each image of a batch, drawn for all of them at once.

It draws what timm's transforms would draw, from the same distributions. Every image has a seed of its own, so its plan
does not depend on the images beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Resampling
from timm.data.auto_augment import AugmentOp, AutoAugment, RandAugment
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision.transforms import ColorJitter, InterpolationMode, Normalize, RandomHorizontalFlip

from psvit.errors import InputError

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
Truths = NDArray[np.bool_]

ATTEMPTS = 10
"""timm draws at most so many rectangles until one fits into the image."""


class Draws:
    """Random numbers for each image of a batch that follow from its seed alone (SplitMix64, as Steele et al. 2014).

    Args:
        seeds: one for each image, below 2**32, (B,).
    """

    def __init__(self, seeds: NDArray[np.uint32]) -> None:
        self._seeds = seeds.astype(np.uint64) << np.uint64(32)
        self._drawn = 0

    def uniform(self, number: int) -> Floats:
        """The next numbers from 0 to below 1, (B, number)."""
        counter = np.arange(self._drawn, self._drawn + number, dtype=np.uint64)
        self._drawn += number
        mixed = (self._seeds[:, None] + counter + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        return np.asarray((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11), dtype=np.float64) * 2.0**-53

    def one(self) -> Floats:
        """The next number, (B,)."""
        return self.uniform(1)[:, 0]

    def between(self, low: float, high: float) -> Floats:
        """The next number from `low` to `high`, (B,)."""
        return low + (high - low) * self.one()

    def normal(self) -> Floats:
        """The next number of the standard normal distribution, (B,)."""
        first, second = self.uniform(2).T
        return np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * np.pi * second)


@dataclass(frozen=True)
class Step:
    """One operation on some images of a batch.

    Attributes:
        name: the operation, a key of `WITHOUT_VALUE`, `WITH_VALUE` or `MOVING` in `psvit.data.batch_augmentation`.
        images: the positions in the batch of the images that it changes, (b,).
        values: how strongly, (b,); some operations need none.
        bicubic: true for a bicubic kernel, false for a bilinear one, (b,). Only operations that move pixels use it.
    """

    name: str
    images: Whole
    values: Floats
    bicubic: Truths


@dataclass(frozen=True)
class AugmentationPlan:
    """What is done to each image of a batch, in this order.

    Attributes:
        boxes: top, left, height and width of what is cut out and resized, (B, 4).
        bicubic: true where it is resized by a bicubic kernel, false where by a bilinear one, (B,).
        flips: which images are mirrored, (B,).
        steps: operations, one after the other.
        erased: top, left, height and width of what is replaced by noise at the end, (B, 4); of size 0 if nothing is.
    """

    boxes: Whole
    bicubic: Truths
    flips: Truths
    steps: tuple[Step, ...]
    erased: Whole


class Planner:
    """Draws plans.

    Args:
        transform: timm's transform, which says what is drawn from which distributions.

    Raises:
        InputError: it has a part that only single images can be augmented with.
    """

    def __init__(self, transform: Any) -> None:
        self._crop = RandomResizedCropAndInterpolation(1)
        self._flip = 0.0
        self._jitter: list[tuple[str, tuple[float, float]]] = []
        self._erasing: RandomErasing | None = None
        self._choices: list[tuple[AugmentOp | None, ...]] = []
        self._layers = 0
        for part in transform.transforms:
            self._read(part)

    def _read(self, part: Any) -> None:
        """Learn what one part of the transform draws."""
        match part:
            case RandomResizedCropAndInterpolation():
                self._crop = part
            case RandomHorizontalFlip():
                self._flip = part.p
            case RandAugment() if part.choice_weights is None:
                self._choices, self._layers = [(operation,) for operation in part.ops], part.num_layers
            case AutoAugment():
                self._choices, self._layers = [tuple(operations) for operations in part.policy], 1
            case ColorJitter() if part.hue is None:
                ranges = (("Brightness", part.brightness), ("Contrast", part.contrast), ("Color", part.saturation))
                self._jitter = [(name, limits) for name, limits in ranges if limits is not None]
            case RandomErasing():
                self._erasing = part
            case Normalize():
                pass
            case _ if type(part).__name__ in ("MaybeToTensor", "ToTensor"):
                pass
            case _:
                raise InputError(f"{type(part).__name__}: {_ONE_BY_ONE}")
        for operation in (operation for choice in self._choices for operation in choice):
            if operation and operation.name not in LEVELS:
                raise InputError(f"{operation.name} of auto_augment: {_ONE_BY_ONE}")

    def plan(
        self, seeds: NDArray[np.uint32], source_size: tuple[int, int], output_size: tuple[int, int]
    ) -> AugmentationPlan:
        """The plan for a batch.

        Args:
            seeds: one for each image, (B,).
            source_size: height and width of the images.
            output_size: height and width of what networks see of them.
        """
        draws = Draws(seeds)
        boxes, bicubic = self._boxes(draws, source_size), self._bicubic(draws, self._crop.interpolation)
        flips = draws.one() < self._flip
        steps = [step for _ in range(self._layers) for step in self._layer(draws, output_size)]
        return AugmentationPlan(
            boxes=boxes,
            bicubic=bicubic,
            flips=flips,
            steps=(*steps, *self._jitters(draws)),
            erased=self._erased(draws, output_size),
        )

    def _boxes(self, draws: Draws, size: tuple[int, int]) -> Whole:
        """As timm's `RandomResizedCropAndInterpolation` draws them."""
        low, high = (float(value) for value in self._crop.ratio)
        areas = self._crop.scale[0] + (self._crop.scale[1] - self._crop.scale[0]) * draws.uniform(ATTEMPTS)
        aspects = np.exp(np.log(low) + (np.log(high) - np.log(low)) * draws.uniform(ATTEMPTS))
        aspect = size[1] / size[0]
        # Where none fits, the middle: as much of it as the permitted aspects allow.
        middle = (min(size[0], round(size[1] / low)), min(size[1], round(size[0] * high)))
        middle = (size[0], size[1]) if low <= aspect <= high else middle
        return _rectangles(draws, areas * size[0] * size[1], 1 / aspects, size, fallback=middle)

    def _bicubic(self, draws: Draws, interpolation: Any) -> Truths:
        """Whether each image is resized by a bicubic kernel. Where timm permits both, half of the images are."""
        if isinstance(interpolation, tuple | list):
            return draws.one() < 0.5
        is_bicubic = interpolation in (InterpolationMode.BICUBIC, Resampling.BICUBIC)
        return np.full(len(draws.uniform(0)), is_bicubic)

    def _layer(self, draws: Draws, seen: tuple[int, int]) -> list[Step]:
        """For each image the operations of one choice: a pair of AutoAugment, or one operation of RandAugment."""
        chosen = np.floor(draws.one() * len(self._choices)).astype(np.int64)
        steps = []
        for place in range(max(len(choice) for choice in self._choices)):
            happens, normal, signs = draws.one(), draws.normal(), np.where(draws.one() < 0.5, -1.0, 1.0)
            uniform, kernels = draws.one(), draws.one()
            for number, choice in enumerate(self._choices):
                operation = choice[place] if place < len(choice) else None
                if operation is None:
                    continue
                images = np.flatnonzero((chosen == number) & (happens <= operation.prob))
                if not len(images):
                    continue
                level = _level(operation, normal[images], uniform[images])
                resample = operation.kwargs["resample"]
                cubic = (
                    kernels[images] < 0.5
                    if isinstance(resample, tuple | list)
                    else np.full(len(images), resample == Resampling.BICUBIC)
                )
                value = LEVELS[operation.name](level, signs[images], operation.hparams, seen)
                steps.append(Step(NAMES.get(operation.name, operation.name), images, value, cubic))
        return steps

    def _jitters(self, draws: Draws) -> list[Step]:
        """As torchvision's `ColorJitter` draws them: all factors, in an order of its own for each image."""
        if not self._jitter:
            return []
        order = np.argsort(draws.uniform(len(self._jitter)), axis=1)
        factors = [draws.between(*limits) for _, limits in self._jitter]
        steps = []
        for place in range(len(self._jitter)):
            for number, (name, _) in enumerate(self._jitter):
                images = np.flatnonzero(order[:, place] == number)
                if len(images):
                    steps.append(Step(name, images, factors[number][images], np.zeros(len(images), dtype=np.bool_)))
        return steps

    def _erased(self, draws: Draws, seen: tuple[int, int]) -> Whole:
        """As timm's `RandomErasing` draws them; there is one rectangle at most."""
        happens = draws.one()
        if self._erasing is None:
            return np.zeros((len(happens), 4), dtype=np.int64)
        part = self._erasing
        areas = part.min_area + (part.max_area - part.min_area) * draws.uniform(ATTEMPTS)
        low, high = part.log_aspect_ratio
        aspects = np.exp(low + (high - low) * draws.uniform(ATTEMPTS))
        # As in timm, one that is as high or as wide as the image is not taken.
        boxes = _rectangles(draws, areas * seen[0] * seen[1], aspects, seen, fallback=(0, 0), margin=1)
        boxes[happens > part.probability] = 0
        return boxes


def _rectangles(
    draws: Draws, areas: Floats, aspects: Floats, size: tuple[int, int], fallback: tuple[int, int], margin: int = 0
) -> Whole:
    """Of several rectangles for each image the first that fits, at any place in it.

    Args:
        draws: gives their places.
        areas: in pixels, (B, attempts).
        aspects: height by width, (B, attempts).
        size: height and width of the images.
        fallback: height and width of one in the middle, where none fits.
        margin: by how many pixels a rectangle must be smaller than the image, on either side.

    Returns:
        Top, left, height and width, (B, 4).
    """
    sides = np.stack([np.rint(np.sqrt(areas * aspects)), np.rint(np.sqrt(areas / aspects))], axis=2).astype(np.int64)
    fits: Truths = np.all(sides <= np.array(size) - margin, axis=2)
    wanted = sides[np.arange(len(sides)), fits.argmax(axis=1)]
    room = np.array(size) - wanted
    begin = np.floor(draws.uniform(2) * (room + 1)).astype(np.int64)
    boxes = np.concatenate([begin, wanted], axis=1)
    boxes[~fits.any(axis=1)] = (*((side - part) // 2 for side, part in zip(size, fallback, strict=True)), *fallback)
    return boxes


def _level(operation: AugmentOp, normal: Floats, uniform: Floats) -> Floats:
    """The magnitude of an operation divided by 10, (b,).

    Args:
        operation: the operation, as timm has it.
        normal: standard normal draws, (b,); used if its `magnitude_std` is finite.
        uniform: uniform draws, (b,); used if that is infinite.
    """
    magnitude = np.full(len(uniform), float(operation.magnitude))
    if operation.magnitude_std == float("inf"):
        magnitude *= uniform
    elif operation.magnitude_std > 0:
        magnitude += operation.magnitude_std * normal
    return magnitude.clip(0, operation.magnitude_max or 10) / 10


Level = Callable[[Floats, Floats, Mapping[str, Any], tuple[int, int]], Floats]
"""From magnitudes divided by 10 (b,), signs (b,), timm's settings and the images' height and width to the values (b,)
of a `Step`."""


def _factor(level: Floats, _sign: Floats, _settings: Mapping[str, Any], _seen: tuple[int, int]) -> Floats:
    return level * 1.8 + 0.1


def _away(level: Floats, sign: Floats, _settings: Mapping[str, Any], _seen: tuple[int, int]) -> Floats:
    return np.maximum(0.1, 1 + sign * 0.9 * level)


def _none(level: Floats, _sign: Floats, _settings: Mapping[str, Any], _seen: tuple[int, int]) -> Floats:
    return np.zeros_like(level)


def _shear(level: Floats, sign: Floats, _settings: Mapping[str, Any], _seen: tuple[int, int]) -> Floats:
    return sign * level * 0.3


def _part(level: Floats, sign: Floats, settings: Mapping[str, Any], _seen: tuple[int, int]) -> Floats:
    return sign * level * float(settings.get("translate_pct", 0.45))


LEVELS: dict[str, Level] = {
    "AutoContrast": _none,
    "Equalize": _none,
    "Invert": _none,
    "Rotate": lambda level, sign, settings, seen: sign * level * 30,
    "Posterize": lambda level, sign, settings, seen: np.floor(level * 4),
    "PosterizeIncreasing": lambda level, sign, settings, seen: 4 - np.floor(level * 4),
    "PosterizeOriginal": lambda level, sign, settings, seen: 4 + np.floor(level * 4),
    "Solarize": lambda level, sign, settings, seen: np.floor(level * 256).clip(max=256),
    "SolarizeIncreasing": lambda level, sign, settings, seen: 256 - np.floor(level * 256).clip(max=256),
    "SolarizeAdd": lambda level, sign, settings, seen: np.floor(level * 110).clip(max=128),
    **dict.fromkeys(("Color", "Contrast", "Brightness", "Sharpness"), _factor),
    **dict.fromkeys(("ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing"), _away),
    **dict.fromkeys(("ShearX", "ShearY"), _shear),
    "TranslateX": lambda level, sign, settings, seen: sign * level * settings["translate_const"] / seen[1],
    "TranslateY": lambda level, sign, settings, seen: sign * level * settings["translate_const"] / seen[0],
    **dict.fromkeys(("TranslateXRel", "TranslateYRel"), _part),
}
"""From a magnitude to the value of an operation, by timm's names (see `LEVEL_TO_ARG` in `timm.data.auto_augment`)."""

NAMES = {
    **{name: name.removesuffix("Increasing") for name in LEVELS if name.endswith("Increasing")},
    "PosterizeOriginal": "Posterize",
    "TranslateXRel": "TranslateX",
    "TranslateYRel": "TranslateY",
}
"""timm's names of operations that are the same but for how their value is drawn, each with the name used here."""

_ONE_BY_ONE = "batches cannot be augmented with it, only single images; give --set augment_batches=false"
