"""Recipe: how a network is trained, as a value. Shipped ones live in `configs/recipes/`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from psvit.documents import Value, read_yaml
from psvit.shipped import find, shipped

SCHEMA = "psvit/recipe/1"
Probability = Annotated[float, Field(ge=0, le=1)]


class Recipe(Value):
    """Optimiser, schedule, augmentation and regularisation; the parts are timm's.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step.
        opt: name of a timm optimiser.
        lr: peak learning rate for this batch size.
        min_lr: learning rate at the end of the cosine.
        warmup_epochs: epochs of linear warm-up.
        weight_decay: for all parameters but norms, biases and positions.
        clip_grad: greatest norm of the gradient; null does not clip.
        smoothing: label smoothing.
        drop_path_rate: stochastic depth of the last layer.
        ema_decay: decay of the averaged weights, which are then the result; null does not average.
        crop_scale: area of random crops relative to the image, from and to.
        crop_ratio: aspect of random crops, from and to.
        hflip: probability of a horizontal flip.
        color_jitter: strength of colour jitter; 0 does none.
        auto_augment: a timm policy such as `rand-m9-mstd0.5-inc1`; null uses none.
        random_erasing: probability of erasing a rectangle.
        mixup: alpha of mixup; 0 does none.
        cutmix: alpha of cutmix; 0 does none.
        mixup_prob: probability that a batch is mixed by either.
        interpolation: of resizing: `bilinear`, `bicubic` or `random`.
    """

    epochs: PositiveInt
    batch_size: PositiveInt
    opt: str = "adamw"
    lr: PositiveFloat
    min_lr: NonNegativeFloat = 1e-5
    warmup_epochs: NonNegativeInt = 0
    weight_decay: NonNegativeFloat = 0.05
    clip_grad: PositiveFloat | None = None
    smoothing: Probability = 0.0
    drop_path_rate: Probability = 0.0
    ema_decay: Probability | None = None
    crop_scale: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0)
    crop_ratio: tuple[PositiveFloat, PositiveFloat] = (0.75, 4 / 3)
    hflip: Probability = 0.0
    color_jitter: NonNegativeFloat = 0.0
    auto_augment: str | None = None
    random_erasing: Probability = 0.0
    mixup: NonNegativeFloat = 0.0
    cutmix: NonNegativeFloat = 0.0
    mixup_prob: Probability = 1.0
    interpolation: str = "bicubic"

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs must be fewer than epochs {self.epochs}, received {self.warmup_epochs}")
        if self.mixes and self.batch_size % 2:
            raise ValueError(f"batch_size must be even for mixup and cutmix, received {self.batch_size}")
        _check_names(self.opt, self.auto_augment)
        if self.interpolation not in ("bilinear", "bicubic", "random"):
            raise ValueError(f"interpolation must be bilinear, bicubic or random, received {self.interpolation!r}")
        for name in ("crop_scale", "crop_ratio"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must ascend, received {[low, high]}")
        return self

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed."""
        return self.mixup > 0 or self.cutmix > 0

    @classmethod
    def load(cls, name_or_path: str | Path) -> Self:
        """Read a shipped recipe by name, or a recipe file.

        Raises:
            InputError: no such recipe, or the file breaks a rule.
        """
        path = find("recipe", name_or_path)
        return cls.from_dict(read_yaml(path, SCHEMA), source=str(path))

    def override(self, settings: dict[str, Any]) -> Self:
        """The same recipe with some values replaced.

        Raises:
            InputError: an unknown key or an impossible value.
        """
        return type(self).from_dict({**self.to_dict(), **settings}, source="recipe")


def _check_names(opt: str, auto_augment: str | None) -> None:
    """Make sure that timm knows an optimiser and an augmentation policy; what trains loads timm anyway."""
    from timm.data import create_transform
    from timm.optim import list_optimizers

    if opt not in list_optimizers():
        raise ValueError(f"opt must be one of timm's optimisers, such as adamw, lamb or sgd, received {opt!r}")
    if auto_augment is not None:
        try:
            create_transform(32, is_training=True, auto_augment=auto_augment)
        except (AssertionError, KeyError, ValueError, IndexError):
            raise ValueError(
                f"auto_augment must be a policy of timm's such as rand-m9-mstd0.5-inc1, augmix-m3-w3 or original, "
                f"received {auto_augment!r}"
            ) from None


def shipped_recipes() -> list[str]:
    """The names of the recipes that come with the package."""
    return shipped("recipe")


def default_recipe(image_size: int, supernet: bool) -> str:
    """The shipped recipe for images of this size, for a network or for a supernet."""
    prefix = "supernet-" if supernet else ""
    if image_size < 16:
        return f"{prefix}digits"
    return f"{prefix}cifar" if image_size < 96 else f"{prefix}imagenet"
