"""What finalists come to: top-1 accuracy after brief training from the weights that they inherit."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from psvit.architecture import Architecture
from psvit.data import Batches, ImageData, accuracy, open_data
from psvit.nn.network import PSViT
from psvit.recipe import Recipe
from psvit.search.failures import score_of
from psvit.search.fidelity.training import alone_inputs, train_network
from psvit.search.finalists import BriefTraining
from psvit.search.scoring import load_unchanged
from psvit.search.trial import Score
from psvit.supernet.supernet import Supernet


class BriefAccuracy:
    """Top-1 in percent on the search images after brief trainings; an evaluator of `BriefTraining`s.

    Args:
        data: the images; those for validation are not looked at.
        network_of: makes a network with the weights that it inherits.
        recipe: how to train, see `brief`.
        device: where to train.
        folder: for what trainings need meanwhile; one that was interrupted continues from there.
    """

    def __init__(
        self,
        data: ImageData,
        network_of: Callable[[Architecture], PSViT],
        recipe: Recipe,
        *,
        device: torch.device,
        folder: Path,
    ) -> None:
        self._data = data
        self._network_of = network_of
        self._recipe = recipe
        self._device = device
        self._folder = folder

    def evaluate(self, trainings: Sequence[BriefTraining], best: Sequence[float] = (), parts: int = 1) -> list[Score]:
        """The accuracies after trainings; failed are those that diverged or ran out of memory.

        Args:
            trainings: the trainings.
            best: of no use here.
            parts: likewise.
        """
        return [score for _, score in self.arrivals(trainings)]

    def arrivals(self, trainings: Iterable[BriefTraining]) -> Iterator[tuple[BriefTraining, Score]]:
        """As `evaluate`, each with its score when that is known; the next is asked for afterwards."""
        for training in trainings:
            yield training, score_of(partial(self._train, training), len(self._data.search))
            # By now whoever asked has written the score down.
            shutil.rmtree(self._place(training), ignore_errors=True)

    def _place(self, training: BriefTraining) -> Path:
        return self._folder / f"{training.arch.digest}-{training.seed}"

    def _train(self, training: BriefTraining) -> float:
        network = train_network(
            self._network_of(training.arch),
            self._data,
            self._data.train,
            self._recipe,
            seed=training.seed,
            device=self._device,
            folder=self._place(training),
            description=training.description,
        )
        inputs = alone_inputs(self._data, training.arch, self._device)
        return accuracy(network, Batches(self._data.search, inputs, self._recipe.batch_size, self._device))

    def describe(self) -> dict[str, Any]:
        """Says what the accuracy is of."""
        return {"kind": "accuracy after brief training"}


@dataclass(frozen=True, kw_only=True)
class Briefly:
    """Makes evaluators of brief trainings; picklable.

    Attributes:
        data: the name of the images.
        supernet: the file whose weights are inherited.
        digest: of the weights in it.
        recipe: how to train.
        device: where to train.
        folder: for what trainings need meanwhile, in the folder of the run; on a machine that does not see that, a
            temporary one, and what was begun there is begun anew by another.
    """

    data: str
    supernet: str
    digest: str
    recipe: Recipe
    device: str
    folder: str

    def __call__(self, data: ImageData | None = None, supernet: Supernet | None = None) -> BriefAccuracy:
        """An evaluator.

        Args:
            data: the images, where they are open already.
            supernet: the supernet, where it is loaded already.

        Raises:
            InputError: the file holds other weights.
        """
        device = torch.device(self.device)
        supernet = supernet or load_unchanged(self.supernet, self.digest, device)
        images = data or open_data(self.data)
        folder = Path(self.folder)
        if not folder.parent.is_dir():
            folder = Path(tempfile.mkdtemp(prefix="psvit-"))
        return BriefAccuracy(images, supernet.extract, self.recipe, device=device, folder=folder)
