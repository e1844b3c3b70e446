"""Comparing trained networks on the validation images, see `psvit.train.bootstrap`."""

from __future__ import annotations

import html
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from psvit.classifier import Classifier, as_classifier
from psvit.data import Baseline, ImageData, Inputs, logistic_regression, open_data
from psvit.errors import InputError
from psvit.io.documents import Place, path_of
from psvit.io.progress import progress_bar
from psvit.io.tables import html_table, text_table
from psvit.train.bootstrap import CONFIDENCE, RESAMPLES, Bools, ComparedNetwork, Difference, compared
from psvit.train.choices import choose_device

_logger = logging.getLogger(__name__)

Trained = Classifier | Place
"""A trained network: a value, or what `psvit.Classifier.load` takes."""

BATCH_SIZE = 256


@dataclass(frozen=True, kw_only=True)
class Comparison(Sequence[ComparedNetwork]):
    """Networks side by side, each compared with the first. Intervals are not corrected for multiple comparisons.

    Attributes:
        networks: in the order in which they were given.
        images: how many validation images they were compared on.
        confidence: the confidence of every interval.
        resamples: the number of resamples that intervals rest on.
        baseline: logistic regression on the same images; `None` if images are not small.
    """

    networks: tuple[ComparedNetwork, ...]
    images: int
    confidence: float
    resamples: int
    baseline: Baseline | None

    def __getitem__(self, index: Any) -> Any:
        return self.networks[index]

    def __len__(self) -> int:
        return len(self.networks)

    @property
    def title(self) -> str:
        """What the table shows."""
        return f"top-1 on {self.images:,} validation images, with bootstrap intervals"

    @property
    def header(self) -> tuple[str, ...]:
        """What stands above the columns of `rows`."""
        percent = f"{100 * self.confidence:g} %"
        return ("network", "seeds", "top-1", percent, f"minus {self[0].name}", percent, "p")

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """Every network, in words."""
        return [
            (one.name, str(one.seeds), f"{one.accuracy:.2f} %", _range(one.interval), *_told(one.difference))
            for one in self.networks
        ]

    @property
    def lines(self) -> list[str]:
        """What the differences say, a line for each network but the first, and what logistic regression reaches."""
        said = [
            one.difference.in_words(one.name, self[0].name, self.confidence)
            for one in self.networks
            if one.difference is not None
        ]
        return [*said, f"For comparison, {self.baseline.in_words('these images')}."] if self.baseline else said

    def __str__(self) -> str:
        return "\n".join([self.title, text_table(self.rows, self.header), "", *self.lines])

    def _repr_html_(self) -> str:
        said = "".join(f"<p>{html.escape(line)}</p>" for line in self.lines)
        return f"<div>{html_table(self.rows, self.header, self.title)}{said}</div>"


def _range(interval: tuple[float, float], sign: str = "") -> str:
    return f"{interval[0]:{sign}.2f} to {interval[1]:{sign}.2f}"


def _told(difference: Difference | None) -> tuple[str, ...]:
    if difference is None:
        return "-", "-", "-"
    return f"{difference.points:+.2f}", _range(difference.interval, "+"), f"{difference.p:.2g}"


def compare(
    networks: Mapping[str, Trained | Sequence[Trained]] | Sequence[Trained | Sequence[Trained]],
    data: ImageData | str | Path,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Comparison:
    """Compare trained networks on the validation images, each with the first.

    If each network was trained once, an interval says how far other images would change the figures, and nothing about
    another training. So give several trainings of a network, which differ in their seed, as a list. Then the seeds are
    resampled too. In 1,000 simulated comparisons, an interval of 95 % held the true difference in 91 % of them with two
    seeds, and in 95 % with three.

    Args:
        networks: two or more networks, by name or in order. Each is a trained network, its run or its file, or a list
            of trainings that differ only in their seed.
        data: images: an `ImageData`, or what `psvit.ImageData.open` takes. They must have the networks' classes.
        resamples: how many resamples are drawn, at least 100.
        confidence: of the intervals, between 0 and 1.
        seed: the seed of the resamples. Equal calls give equal figures.
        device: where to compute. By default, a GPU if there is one.

    Raises:
        InputError: an argument cannot be used.
    """
    if resamples < 100:
        raise InputError(f"resamples must be at least 100, received {resamples}")
    if not 0 < confidence < 1:
        raise InputError(f"confidence must lie between 0 and 1, received {confidence}")
    named = _named(networks)
    place = choose_device(device)
    images = open_data(data)
    correct = [np.stack(list(_answers(name, trained, images, place))) for name, trained in named]
    return Comparison(
        networks=tuple(compared([name for name, _ in named], correct, resamples, confidence, seed)),
        images=len(images.val),
        confidence=confidence,
        resamples=resamples,
        baseline=logistic_regression(images.all_train, images.val),
    )


def _named(
    networks: Mapping[str, Trained | Sequence[Trained]] | Sequence[Trained | Sequence[Trained]],
) -> list[tuple[str, list[Trained]]]:
    """The trainings of each network, by its name; without one it is called as its value, folder or file."""
    if isinstance(networks, str | Path | Classifier):
        raise InputError("networks: give two or more, as a list or by name")
    pairs: list[tuple[str | None, Any]] = (
        list(networks.items()) if isinstance(networks, Mapping) else [(None, one) for one in networks]
    )
    if len(pairs) < 2:
        raise InputError(f"networks: give two or more to compare, received {len(pairs)}")
    named = []
    for name, one in pairs:
        trained = list(one) if isinstance(one, Sequence) and not isinstance(one, str) else [one]
        if not trained:
            raise InputError(f"networks: {name or 'one of them'} is an empty list")
        named.append((name or _name(trained[0]), trained))
    names = [name for name, _ in named]
    if len(set(names)) < len(names):
        named = [(f"{name} ({number})", trained) for number, (name, trained) in enumerate(named, start=1)]
    return named


def _name(trained: Trained) -> str:
    if isinstance(trained, Classifier):
        return trained.source.parent.resolve().name
    path = path_of(trained).resolve()
    return str(getattr(trained, "name", "") or (path.parent.name if path.is_file() else path.name))


def _answers(name: str, trained: Sequence[Trained], data: ImageData, device: torch.device) -> Iterator[Bools]:
    """Which validation images every training of a network recognises, (images,) each."""
    first: Classifier | None = None
    for one in trained:
        classifier = as_classifier(one, device)
        wanted = classifier.preprocessing
        if wanted.classes != data.classes or wanted.in_chans != data.in_chans:
            raise InputError(
                f"networks: {name} knows {len(wanted.classes)} classes on {wanted.in_chans} channels, which are not "
                f"those of {data.name!r}: {len(data.classes)} classes on {data.in_chans}"
            )
        first = first or classifier
        if _but_seed(classifier) != _but_seed(first):
            raise InputError(f"networks: those of {name} differ in more than their seed; give each on its own")
        yield _recognised(classifier, data)


def _but_seed(classifier: Classifier) -> Any:
    """What must be equal if trainings differ in their seed only, as far as it is known."""
    file = classifier.file
    return file and (file.arch, file.provenance.get("recipe"), file.provenance.get("inherited"))


def _recognised(classifier: Classifier, data: ImageData) -> Bools:
    file = classifier.file
    known = file.provenance.get("data", {}).get("digest") if file else None
    if known != data.digest:
        _logger.warning(
            "%s was trained on other images than %r; make sure that it was trained on none of these",
            classifier.source,
            data.name,
        )
    inputs = Inputs.of(data, classifier.preprocessing.image_size)
    batches = DataLoader(
        data.val.transformed(classifier.preprocessing.transform), BATCH_SIZE, num_workers=inputs.workers
    )
    found = []
    with progress_bar(f"testing {classifier.source}", len(data.val), "images") as advance:
        for images, labels in batches:
            found.append(classifier.probabilities(images).argmax(dim=1) == labels)
            advance(len(labels), "")
    answers: Bools = torch.cat(found).numpy()
    return answers
