"""Recipe: how a network or a supernet is trained, as a value. Shipped ones live in `configs/recipes/`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from psvit.errors import InputError
from psvit.io.documents import Value, read_yaml
from psvit.io.shipped import find, shipped

SCHEMA = "psvit/recipe/1"
Probability = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Precision = Literal["float32", "bfloat16", "float16", "auto"]
Sampling = Literal["uniform", "anchored", "sandwich", "macs"]
Target = Literal["labels", "inplace", "soft", "hard"]
Begin = Literal["random", "inherited", "original"]
"""The weights that a training begins with: random ones, those that a supernet left to a network, or those of a trained
network that shall become cheaper."""


MOST_EPOCHS_GIVEN, MOST_IMAGES_A_STEP, MOST_REPEATS = 100_000, 2**20, 1000
"""More is taken for a slip of the pen."""

SOME_WARMUP = 0.5
"""Epochs of warm-up that a short training keeps. With fewer it ends worse (`docs/benchmarks.md`)."""


class Recipe(Value):
    """Optimiser, schedule, augmentation and regularisation; the parts are timm's.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step, over all processes and micro-batches.
        accumulate: micro-batches that a step is computed in, one after the other, where a whole one needs too much
            memory.
        precision: the type that matrix products are computed in; weights stay in float32. `auto` is bfloat16 on a GPU
            that computes in it, and float32 elsewhere; a run says which it was.
        opt: name of a timm optimiser.
        opt_betas: decay rates of Adam and its relatives. Null: the optimiser's default.
        opt_eps: what the optimiser adds to a denominator. Null: the optimiser's default.
        lr: peak learning rate for this batch size.
        min_lr: learning rate at the end of the cosine.
        warmup_epochs: epochs of linear warm-up, also parts of one, such as 0.5.
        warmup_lr: learning rate that warm-up begins with. Null: `min_lr`.
        weight_decay: for all parameters but norms, biases and positions.
        layer_decay: learning rate of each layer relative to the one after it; for networks only. Null: all have one.
        clip_grad: greatest norm of the gradient. Null: it is not clipped.
        smoothing: label smoothing.
        target: what the network learns. `labels`: the labels alone. `soft`: the teacher's probabilities as well.
            `hard`: the teacher's classes as well. The teacher is another trained network.
        teacher_weight: share of the teacher in the loss; the labels have the rest.
        temperature: of the teacher's and the network's probabilities, for `soft`.
        drop_path_rate: stochastic depth of the last layer.
        ema_decay: decay of the averaged weights, less than 1; these are then the result. Null: they are not averaged.
        repeated_augmentation: how often an image is taken in a row, each time augmented differently. An epoch has as
            many steps as without, and shows a part of the images.
        crop_scale: area of random crops relative to the image, from and to, at most 1.
        crop_ratio: aspect of random crops, from and to.
        hflip: probability of a horizontal flip.
        color_jitter: strength of colour jitter; 0 does none.
        auto_augment: a timm policy such as `rand-m9-mstd0.5-inc1`. Null: none.
        random_erasing: probability of erasing a rectangle.
        mixup: alpha of mixup; 0 does none.
        cutmix: alpha of cutmix; 0 does none.
        mixup_prob: probability that a batch is mixed by either.
        interpolation: of resizing: `bilinear`, `bicubic` or `random`.
        augment_batches: whether whole batches are augmented, on the device that trains, where the images are in memory:
            all of one size, and of at most 1 GiB. It is faster for small images, and draws other numbers.
    """

    epochs: Annotated[int, Field(gt=0, le=MOST_EPOCHS_GIVEN)]
    batch_size: Annotated[int, Field(gt=0, le=MOST_IMAGES_A_STEP)]
    accumulate: Annotated[int, Field(gt=0, le=MOST_IMAGES_A_STEP)] = 1
    precision: Precision = "float32"
    opt: str = "adamw"
    opt_betas: tuple[Decay, Decay] | None = None
    opt_eps: PositiveFloat | None = None
    lr: PositiveFloat
    min_lr: NonNegativeFloat = 1e-5
    warmup_epochs: NonNegativeInt | NonNegativeFloat = 0
    warmup_lr: NonNegativeFloat | None = None
    weight_decay: NonNegativeFloat = 0.05
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    clip_grad: PositiveFloat | None = None
    smoothing: Probability = 0.0
    target: Target = "labels"
    teacher_weight: Probability = 0.5
    temperature: PositiveFloat = 1.0
    drop_path_rate: Probability = 0.0
    ema_decay: Decay | None = None
    repeated_augmentation: Annotated[int, Field(gt=0, le=MOST_REPEATS)] = 1
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
    augment_batches: bool = False

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs must be fewer than epochs {self.epochs}, received {self.warmup_epochs}")
        if self.mixes and self.batch_size % 2:
            raise ValueError(f"batch_size must be even for mixup and cutmix, received {self.batch_size}")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size must be a multiple of accumulate {self.accumulate}, received {self.batch_size}"
            )
        self._check_kind()
        _check_opt(self.opt, betas=self.opt_betas is not None, eps=self.opt_eps is not None)
        if self.interpolation not in ("bilinear", "bicubic", "random"):
            raise ValueError(f"interpolation must be bilinear, bicubic or random, received {self.interpolation!r}")
        for name in ("crop_scale", "crop_ratio"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must ascend, received {[low, high]}")
        if self.crop_scale[1] > 1:
            raise ValueError(f"crop_scale must be parts of the image, at most 1, received {list(self.crop_scale)}")
        if self.auto_augment is not None:
            self._check_policy()
        return self

    def _check_kind(self) -> None:
        """Make sure that no value is given that is for supernets only."""
        if self.target == "inplace":
            raise ValueError("target must be labels, soft or hard, received 'inplace', which is for supernets")

    def _check_policy(self) -> None:
        """Make sure that timm accepts the augmentation. Loading timm costs nothing more: whatever trains needs it."""
        from PIL import Image

        from psvit.data.augmentation import training_transform
        from psvit.data.augmentation_plan import Planner
        from psvit.nn.seeding import seeded

        try:
            transform = training_transform((3, 32, 32), (0.5,) * 3, (0.5,) * 3, **self.augmentation)
            with seeded(0):
                # A policy with too many operations for an image is only found out when it is applied.
                transform(Image.new("RGB", (32, 32)))
            if self.augment_batches:
                Planner(transform)
        except InputError as error:
            raise ValueError(str(error)) from None
        except (AssertionError, KeyError, ValueError, IndexError):
            raise ValueError(
                f"auto_augment must be a policy of timm's such as rand-m9-mstd0.5-inc1, augmix-m3-w3 or original, "
                f"received {self.auto_augment!r}"
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON-serialisable values."""
        found = super().to_dict()
        if not self.augment_batches:
            # Digests of recipes that were written before this could be chosen stay what they are.
            del found["augment_batches"]
        return found

    @property
    def augmentation(self) -> dict[str, Any]:
        """How images are augmented, in the words of timm's `create_transform`."""
        return {
            "scale": self.crop_scale,
            "ratio": self.crop_ratio,
            "hflip": self.hflip,
            "color_jitter": self.color_jitter,
            "auto_augment": self.auto_augment,
            "re_prob": self.random_erasing,
            "interpolation": self.interpolation,
        }

    @property
    def needs_teacher(self) -> bool:
        """Whether another trained network is learnt from."""
        return self.target in ("soft", "hard")

    def check_teacher(self, there_is_one: bool) -> None:
        """Make sure that there is a teacher if the recipe wants one, and none if it does not.

        Raises:
            InputError: it is otherwise.
        """
        if self.needs_teacher and not there_is_one:
            raise InputError(
                f"target {self.target}: needs a teacher; give one with --teacher to psvit-supernet or psvit-retrain"
            )
        if there_is_one and not self.needs_teacher:
            raise InputError(
                f"--teacher: target {self.target} does not learn from it; give --set target=soft or --set target=hard"
            )

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

    def with_epochs(self, epochs: int) -> Self:
        """The same recipe with another number of epochs, and with warm-up (`in_proportion`) and averaging to match."""
        share = epochs / self.epochs
        if share == 1:
            return self
        return self.override(
            {
                "epochs": epochs,
                "warmup_epochs": in_proportion(self.warmup_epochs, epochs, self.epochs),
                "ema_decay": None if self.ema_decay is None else round(self.ema_decay ** (1 / share), 6),
            }
        )

    def override(self, settings: dict[str, Any], source: str = "recipe") -> Self:
        """The same recipe with some values replaced.

        Args:
            settings: the values, by key.
            source: what to call them in an error.

        Raises:
            InputError: an unknown key or an impossible value.
        """
        return type(self).from_dict({**self.to_dict(), **settings}, source=source)


class SupernetRecipe(Recipe):
    """How a supernet is trained. Which architectures a step trains, and what they learn, are chosen independently.

    Attributes:
        sampling: which architectures. `uniform`: one, each choice drawn uniformly. `anchored`: the largest as well, so
            that it keeps what it knows. `sandwich` (arXiv 2003.11142): the
            largest, the smallest and `sandwich_random` drawn uniformly. `macs`: one, whose MACs are drawn
            uniformly from their range.
        sandwich_random: how many are drawn in a sandwich.
        target: as for networks, or `inplace`: the largest learns the labels, and is trained in every step; the others
            learn its outputs.
    """

    sampling: Sampling = "uniform"
    sandwich_random: PositiveInt = 2

    def _check_kind(self) -> None:
        if self.layer_decay is not None:
            raise ValueError(
                f"layer_decay must be null for a supernet, whose architectures differ in depth; "
                f"received {self.layer_decay}"
            )

    @classmethod
    def of(cls, recipe: Recipe) -> SupernetRecipe:
        """The same recipe for a supernet, if it is one for a network."""
        return recipe if isinstance(recipe, cls) else cls.from_dict(recipe.to_dict(), source="recipe")


def _check_opt(opt: str, betas: bool, eps: bool) -> None:
    """Make sure that timm knows an optimiser, and that it has what is given for it; timm would leave out the rest."""
    if opt == "adamw":
        return  # it has all of it, and nearly every recipe has it; timm takes two seconds to load

    from timm.optim import get_optimizer_info, list_optimizers

    if opt not in list_optimizers():
        raise ValueError(f"opt must be one of timm's optimisers, such as adamw, lamb or sgd, received {opt!r}")
    info = get_optimizer_info(opt)
    for name, is_given, is_there in (("opt_betas", betas, info.has_betas), ("opt_eps", eps, info.has_eps)):
        if is_given and not is_there:
            raise ValueError(f"{name} must be null for {opt}, which has none")


def in_proportion(warmup_epochs: float, epochs: int, whole: int) -> float:
    """The warm-up of a schedule of `epochs` instead of `whole` ones, in hundredths of an epoch.

    It is at least `SOME_WARMUP`, as far as there was as much. Where it is a whole number it is an `int`, so that the
    recipe has the digest that a person's has.
    """
    some = min(warmup_epochs, SOME_WARMUP)
    hundredths = math.floor(100 * max(warmup_epochs * epochs / whole, some))
    return hundredths / 100 if hundredths % 100 else hundredths // 100


def shipped_recipes(*, of_supernets: bool = False) -> list[str]:
    """The names of the recipes that come with the package, or of those for supernets alone."""
    return [name for name in shipped("recipe") if not of_supernets or name.startswith("supernet-")]


USUAL_IMAGES = 50_000
"""Training images that the epochs of the recipes for small photographs are chosen for."""

MOST_EPOCHS = 500
"""The most epochs that `default_recipe` gives for few images."""

MANY_IMAGES = 200_000
"""From so many training images of 96 pixels and more on, the default is ImageNet's recipe."""


FOR_GREY: dict[str, Any] = {"hflip": 0.0, "color_jitter": 0.0, "auto_augment": None, "crop_scale": (0.7, 1.0)}
"""What default recipes do to grey images instead of what they do to photographs. These may be digits, scans or spectra,
of which direction, brightness and size are a part of what they show."""


def default_recipe(image_size: int, images: int, in_chans: int, *, supernet: bool, begin: Begin = "random") -> Recipe:
    """The shipped recipe for such images, with epochs that go by their number.

    The recipes for small photographs, and those for cheaper networks made of a trained one, are for 50,000 images. With
    n images, if these are fewer, epochs are multiplied by the square root of 50,000 / n, up to `MOST_EPOCHS`. So 5,000
    images have three times as many epochs and a third of the steps. Grey images are not flipped, their brightness is
    not changed, and they are cut less (`FOR_GREY`).

    Args:
        image_size: smaller side in pixels.
        images: training images.
        in_chans: 1 for grey, 3 for colour.
        supernet: whether a supernet is trained, or a network.
        begin: the weights that training begins with.
    """
    found = _default_recipe(image_size, images, supernet, begin)
    return found.override(FOR_GREY) if in_chans == 1 else found


def _default_recipe(image_size: int, images: int, supernet: bool, begin: Begin) -> Recipe:
    if begin == "inherited":
        return Recipe.load("inherited-digits" if image_size < 16 else "inherited")
    kind, prefix = (SupernetRecipe, "supernet-") if supernet else (Recipe, "")
    if begin == "random" and image_size < 16:
        return kind.load(f"{prefix}digits")
    if begin == "random" and image_size >= 96 and images >= MANY_IMAGES:
        return kind.load(f"{prefix}imagenet")
    name = "cifar" if begin == "random" else "compress-digits" if image_size < 16 else "compress"
    found = kind.load(f"{prefix}{name}")
    longer = math.sqrt(max(1.0, USUAL_IMAGES / images))
    return found.with_epochs(min(MOST_EPOCHS, round(longer * found.epochs)))
