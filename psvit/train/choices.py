"""Defaults of a run: the device, the space and the recipe, if they are not named."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from psvit.data import ImageData, seen_size
from psvit.errors import InputError
from psvit.executors.workers import Workers
from psvit.io.cores import usable_cores
from psvit.io.escaping import shortened
from psvit.space.budget import Budget
from psvit.space.search_space import SearchSpace, shipped_for
from psvit.train.device_checks import with_precision
from psvit.train.recipe import Begin, Recipe, SupernetRecipe, default_recipe, in_proportion, shipped_recipes


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """The device that is named. Without a name, a GPU if there is one, otherwise the CPU.

    PyTorch then computes with no more threads than there are cores. It does not look at a container's quota itself.

    Raises:
        InputError: there is no such device.
    """
    name = str(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"  # one GPU for each process
    try:
        chosen = torch.device(name)
        torch.zeros(1, device=chosen).item()  # some are only found missing when they compute
    except (RuntimeError, AssertionError, ImportError) as error:
        hint = "; did you mean cuda?" if name in ("gpu", "nvidia", "0") else ""
        raise InputError(f"--device {name}: cannot compute: {shortened(str(error))}{hint}") from None
    if chosen.type == "cuda" and chosen.index is not None:
        torch.cuda.set_device(chosen)  # some of PyTorch's functions take no device
    if torch.get_num_threads() > usable_cores():
        torch.set_num_threads(usable_cores())
    return chosen


def choose_devices(device: str | torch.device | None, workers: str | None) -> tuple[torch.device, torch.device]:
    """Where this process computes, and where the workers of a cluster do.

    The nodes of a cluster may have GPUs although this process has none. It then computes its own part on the CPU.

    Raises:
        InputError: there is no such device.
    """
    if workers and str(device) == "cuda" and not torch.cuda.is_available():
        from psvit.executors.ray_cluster import is_elsewhere

        if is_elsewhere(Workers.parse(workers).address):
            return torch.device("cpu"), torch.device("cuda")
    here = choose_device(device)
    # A worker sees the one GPU that it was given, whatever number that has.
    return here, torch.device(here.type) if workers else here


WITHOUT_IMAGES = ((224, 224), 3, 1000)
"""Size, channels and classes of the images that a network is searched for, if no images are given: ImageNet's."""


def fit_space(
    wanted: SearchSpace | None,
    data: ImageData | None,
    image_size: tuple[int, int] | None,
    budget: Budget,
    *,
    prefers_shipped: bool,
) -> SearchSpace:
    """A space for the images: the wanted one with their classes and channels, a shipped one, or one made for them.

    Args:
        wanted: the space that is named, if one is.
        data: the images; without any, ImageNet's are meant.
        image_size: at which networks see them. By default, the wanted space's, or the images' own.
        budget: that a space is chosen or made for.
        prefers_shipped: whether a shipped space for images of just this size comes first. That is for supernets: a
            space that is made holds many more kinds of networks, so a supernet of it needs longer trainings.

    Raises:
        InputError: the wanted space's patches do not divide the size, or no space can be made for the budget.
    """
    size, in_chans, num_classes = WITHOUT_IMAGES
    if wanted:
        size, in_chans, num_classes = wanted.image_size, wanted.in_chans, wanted.num_classes
    if data:
        in_chans, num_classes = data.in_chans, len(data.classes)
        size = wanted.image_size if wanted else seen_size(data.image_size)
    size = image_size or size
    space = wanted or (shipped_for(size, budget) if prefers_shipped else None)
    if space:
        return space.with_data(num_classes, in_chans, size)
    return SearchSpace.for_images(size, in_chans, num_classes, budget)


def choose_recipe(
    recipe: Recipe | str | Path | None,
    settings: Mapping[str, Any] | None,
    data: ImageData,
    image_size: tuple[int, int],
    *,
    supernet: bool,
    device: torch.device,
    teacher: bool | None = False,
    begin: Begin = "random",
) -> Recipe:
    """A recipe with some values replaced, and its precision decided.

    Args:
        recipe: a recipe, the name of a shipped one, or a file. By default, see `default_recipe`.
        settings: values to replace, by key. Fewer `epochs` shorten the warm-up in proportion.
        data: the images; all for training count.
        image_size: at which networks see them, height and width in pixels.
        supernet: whether a supernet is trained, or a network.
        device: where.
        teacher: whether there is a teacher to learn from; `None` leaves that to the caller.
        begin: the weights that training begins with.

    Raises:
        InputError: no such recipe, an unknown key or an impossible value, or a teacher is missing or too many.
    """
    if recipe is None:
        chosen = default_recipe(min(image_size), len(data.all_train), data.in_chans, supernet=supernet, begin=begin)
    elif not supernet and (isinstance(recipe, SupernetRecipe) or str(recipe) in shipped_recipes(of_supernets=True)):
        name = "the recipe" if isinstance(recipe, Recipe) else f"recipe {recipe}"
        raise InputError(
            f"{name}: is for supernets; a search takes it as --supernet-recipe, and psvit-supernet as --recipe"
        )
    elif isinstance(recipe, Recipe):
        chosen = SupernetRecipe.of(recipe) if supernet else recipe
    else:
        chosen = (SupernetRecipe if supernet else Recipe).load(recipe)
    if not isinstance(settings or {}, Mapping):
        raise InputError(f"settings: must be values by key, such as {{'epochs': 60}}, received {settings!r}")
    changes = dict(settings or {})
    for_supernets = sorted({*changes} & SupernetRecipe.model_fields.keys() - Recipe.model_fields.keys())
    if for_supernets and not supernet:
        raise InputError(
            f"{for_supernets[0]}: unknown key; it is one of a supernet's recipe, which a search takes as --supernet-set"
        )
    epochs = changes.get("epochs")
    if isinstance(epochs, int) and 0 < epochs < chosen.epochs:
        # Who asks for fewer need not know that there is a warm-up.
        changes.setdefault("warmup_epochs", in_proportion(chosen.warmup_epochs, epochs, chosen.epochs))
    chosen = chosen.override(changes, "supernet recipe" if supernet else "recipe")
    if teacher is not None:
        chosen.check_teacher(teacher)
    return with_precision(chosen, device)
