"""How well networks of the table do with the weights of a supernet, in a CSV file that only grows.

A supernet of `psvit-nano`, which holds all random networks of the table, is trained by the shipped recipe for a number
of epochs. What a step trains is drawn as psvit does (`uniform`), or so that only members near the budget are kept
(`budget`). The two are compared at equal processor time: the second one's networks are cheaper, so it has more epochs.
"""

from __future__ import annotations

import csv
import io
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from psvit import Architecture, SearchSpace, cost
from psvit.data import Batches, Inputs
from psvit.errors import InputError
from psvit.io.documents import write_atomic
from psvit.nn.network import PSViT
from psvit.supernet.provenance import supernet_file
from psvit.supernet.sampling import architectures, draw_one
from psvit.supernet.supernet import Supernet
from psvit.supernet.train import fit_supernet
from psvit.train.job_runner import right_and_loss
from psvit.train.recipe import Recipe, SupernetRecipe
from psvit.train.training_job import TrainingJob
from truth.networks import FOLDER, Network, job_of
from truth.training import EVALUATION_BATCH, THREADS, open_images

FILE = FOLDER / "inherited.csv"

SPACE, RECIPE = "psvit-nano", "supernet-cifar"
UNIFORM, BUDGET = "uniform", "budget"
DRAWN = (UNIFORM, BUDGET)

IMAGES = 45_000
"""That a supernet is trained on."""

LEARNING = 3
"""What learning from an image takes, in units of recognising it."""

DRAWS = 400
"""Steps whose networks are priced to know what a training takes."""

NEAR = 0.2
"""By which share of the budget multiply-accumulates may differ from it, for a supernet of the budget alone to train
them."""


@dataclass(frozen=True, kw_only=True)
class Inherited:
    """What a network of the table reaches with the weights of a supernet.

    Attributes:
        drawn: from what the supernet's training drew: the space (`uniform`) or its members near the budget.
        macs_budget: that budget, and the network's.
        seed: of the supernet.
        epochs: of the supernet.
        processor_seconds: of the supernet's training.
        arch_digest: of the network.
        name: of the network.
        search_accuracy: top-1 in percent on the search images.
        search_loss: cross entropy there.
    """

    drawn: str
    macs_budget: int
    seed: int
    epochs: int
    processor_seconds: float
    arch_digest: str
    name: str
    search_accuracy: float
    search_loss: float

    @property
    def supernet(self) -> str:
        """What the supernet is called."""
        return name_of(self.drawn, self.macs_budget, self.seed, self.epochs)


def name_of(drawn: str, macs: int | str, seed: int | str, epochs: int | str) -> str:
    """What a supernet is called: its folder, and in rows of trainings that begin with its weights."""
    return f"supernet-{drawn}-{macs}-{seed}-{epochs}"


def read(path: Path = FILE) -> list[Inherited]:
    """The lines of a file; an empty list if there is no file."""
    if not path.exists():
        return []
    kinds = {field.name: {"int": int, "float": float, "str": str}[str(field.type)] for field in fields(Inherited)}
    with path.open(newline="", encoding="utf-8") as stream:
        return [
            Inherited(**{name: kinds[name](value) for name, value in record.items()})
            for record in csv.DictReader(stream)
        ]


def by_supernet(found: Sequence[Inherited], macs: int) -> list[dict[str, Inherited]]:
    """Of the networks of a budget, what they reach by digest, one supernet after the other."""
    grouped: dict[str, dict[str, Inherited]] = {}
    for one in found:
        if one.macs_budget == macs:
            grouped.setdefault(one.supernet, {})[one.arch_digest] = one
    return list(grouped.values())


@cache
def supernet_work(drawn: str, macs: int, epochs: int) -> float:
    """Multiply-accumulates times images that a supernet's training takes."""
    space = SearchSpace.load(SPACE)
    recipe = SupernetRecipe.of(Recipe.load(RECIPE))
    draw = _drawer(drawn, macs)
    steps = [draw(space, recipe, 0, step) for step in range(DRAWS)]
    return LEARNING * sum(cost(arch).macs for step in steps for arch in step) / DRAWS * epochs * IMAGES


def measure(
    networks: Sequence[Network], data: str, *, drawn: str, macs: int, seed: int, epochs: int, work: Path, path: Path
) -> None:
    """Train a supernet, score the networks of a budget with its weights, and add them to the file.

    A training that was interrupted begins anew, because its processor time is a result.
    """
    torch.set_num_threads(THREADS)
    images = open_images(data)
    space = SearchSpace.load(SPACE).with_data(len(images.classes), images.in_chans)
    folder = work / name_of(drawn, macs, seed, epochs)
    shutil.rmtree(folder, ignore_errors=True)
    recipe = SupernetRecipe.of(Recipe.load(RECIPE)).override({"epochs": epochs, "augment_batches": False})
    began = time.process_time()
    with _drawing(drawn, macs):
        file = fit_supernet(space, images, recipe, seed=seed, device=torch.device("cpu"), folder=folder)
    seconds = round(time.process_time() - began, 1)
    supernet = Supernet.load(file, torch.device("cpu")).eval()
    batches = Batches(images.search, Inputs.of(images, space.image_size), EVALUATION_BATCH, torch.device("cpu"))
    found = read(path)
    for network in networks:
        if network.macs == macs and space.contains(network.arch):
            right, loss = right_and_loss(supernet.extract(network.arch), batches)
            found.append(
                Inherited(
                    drawn=drawn,
                    macs_budget=macs,
                    seed=seed,
                    epochs=epochs,
                    processor_seconds=seconds,
                    arch_digest=network.arch.digest,
                    name=network.name,
                    search_accuracy=round(100 * float(right.mean()), 4),
                    search_loss=round(loss, 4),
                )
            )
    _write(path, found)


def tunings(networks: Sequence[Network], recipe: Recipe, supernet: Path, epochs: int) -> list[TrainingJob]:
    """Short trainings that begin with a supernet's weights: of the networks that its file of scores would name.

    Args:
        networks: of the list.
        recipe: of the table.
        supernet: its folder.
        epochs: of each training.

    Raises:
        InputError: the folder does not have the name of a supernet of the table.
    """
    named = re.fullmatch(name_of(r"\w+", r"(\d+)", r"\d+", r"\d+"), supernet.name)
    if named is None:
        raise InputError(f"{supernet}: no supernet of the table; `truth_table.py supernet` makes them")
    space, macs = SearchSpace.load(SPACE), int(named[1])
    short = recipe.override({"epochs": epochs})
    return [
        replace(job_of(network, short, 0), init=supernet.name)
        for network in networks
        if network.macs == macs and space.contains(network.arch)
    ]


def inherited(supernet: Path, job: TrainingJob) -> PSViT:
    """The network of a job, with the weights of a supernet in a folder."""
    return _loaded(supernet).extract(job.arch)


@cache
def _loaded(supernet: Path) -> Supernet:
    return Supernet.load(supernet_file(supernet), torch.device("cpu"))


@contextmanager
def _drawing(drawn: str, macs: int) -> Iterator[None]:
    """Let a supernet's training draw as is said."""
    with mock.patch("psvit.supernet.train.architectures", _drawer(drawn, macs)):
        yield


def _drawer(drawn: str, macs: int) -> Callable[[SearchSpace, SupernetRecipe, int, int], list[Architecture]]:
    """What gives the architectures that a step trains."""

    def near(space: SearchSpace, recipe: SupernetRecipe, seed: int, step: int) -> list[Architecture]:
        rng = np.random.default_rng([seed, step])
        # Drawing uniformly from the members near the budget instead would nearly always give 1d networks of three
        # stages, because they have the most groupings.
        return [next(arch for arch in iter(partial(draw_one, space, rng), None) if is_near(arch, macs))]

    return architectures if drawn == UNIFORM else near


def is_near(arch: Architecture, macs: int) -> bool:
    """Whether a supernet of the budget alone trains a network."""
    return abs(cost(arch).macs - macs) <= NEAR * macs


def _write(path: Path, found: Sequence[Inherited]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Inherited)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(vars(one) for one in found)
    write_atomic(path, text.getvalue())
