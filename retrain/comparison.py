"""Comparing trained networks on the validation images, with how sure one may be that they differ.

Intervals come from the percentile bootstrap (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter
13). It resamples what another experiment would draw anew:

- the images. All networks get the same ones, so that a difference is that of two networks on equal images;
- the seeds of a network that was trained several times. A resample draws S - 1 of S seeds. With S draws, the mean
  would vary too little (McCarthy and Snowden, "The Bootstrap and Finite Population Sampling", 1985).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from psvit.classifier import Classifier, as_classifier
from psvit.data import ImageData, Inputs, open_data
from psvit.errors import InputError
from psvit.io.documents import Place, path_of
from psvit.io.tables import html_table, text_table
from psvit.train.choices import choose_device

_logger = logging.getLogger(__name__)

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Trained = Classifier | Place
"""A trained network: a value, or what `psvit.Classifier.load` takes."""

RESAMPLES = 10_000
CONFIDENCE = 0.95

BATCH_SIZE = 256

AT_ONCE = 2**22
"""Numbers that one piece of the resamples may have."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference in top-1 between a network and the first one.

    Attributes:
        points: the difference; negative if the first is better.
        interval: its bootstrap interval, in points.
        p: the two-sided bootstrap p-value of no difference; small if the networks differ.
    """

    points: float
    interval: tuple[float, float]
    p: float

    @property
    def is_told(self) -> bool:
        """Whether the interval leaves zero out, so that the two can be told apart."""
        return not self.interval[0] <= 0 <= self.interval[1]


@dataclass(frozen=True, kw_only=True)
class ComparedNetwork:
    """The accuracy of one network.

    Attributes:
        name: its name.
        seeds: how many trainings of it were compared; they differ in their seed.
        accuracy: top-1 on the validation images in percent, the mean over the seeds.
        interval: its bootstrap interval, in percent.
        difference: the difference from the first network; `None` for the first network itself.
    """

    name: str
    seeds: int
    accuracy: float
    interval: tuple[float, float]
    difference: Difference | None


@dataclass(frozen=True, kw_only=True)
class Comparison(Sequence[ComparedNetwork]):
    """Networks side by side, each compared with the first. Intervals are not corrected for multiple comparisons.

    Attributes:
        networks: in the order in which they were given.
        images: how many validation images they were compared on.
        confidence: the confidence of every interval.
        resamples: the number of resamples that intervals rest on.
    """

    networks: tuple[ComparedNetwork, ...]
    images: int
    confidence: float
    resamples: int

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
        return ("network", "seeds", "top-1", percent, f"minus {self[0].name}", percent, "p", "")

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """Every network, in words."""
        return [
            (one.name, str(one.seeds), f"{one.accuracy:.2f} %", _range(one.interval), *_told(one.difference))
            for one in self.networks
        ]

    def __str__(self) -> str:
        return f"{self.title}\n{text_table(self.rows, self.header)}"

    def _repr_html_(self) -> str:
        return html_table(self.rows, self.header, self.title)


def _range(interval: tuple[float, float], sign: str = "") -> str:
    return f"{interval[0]:{sign}.2f} to {interval[1]:{sign}.2f}"


def _told(difference: Difference | None) -> tuple[str, ...]:
    if difference is None:
        return "-", "-", "-", ""
    verdict = ("better" if difference.points > 0 else "worse") if difference.is_told else "no clear difference"
    return f"{difference.points:+.2f}", _range(difference.interval, "+"), f"{difference.p:.2g}", verdict


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
    )


def compared(
    names: Sequence[str], correct: Sequence[Bools], resamples: int, confidence: float, seed: int
) -> list[ComparedNetwork]:
    """The accuracies and differences of networks, given the images that each of their trainings recognises.

    Args:
        names: what they are called.
        correct: for each network, whether a training recognises an image, (seeds, images).
        resamples: how many.
        confidence: of the intervals.
        seed: of the resamples.
    """
    totals = resampled_totals(correct, resamples, seed)
    images = correct[0].shape[1]
    tail = 100 * (1 - confidence) / 2

    def interval(values: Floats) -> tuple[float, float]:
        low, high = np.percentile(values, [tail, 100 - tail])
        return float(low), float(high)

    first, of_first = correct[0], totals[0]
    found = []
    for number, (name, own, total) in enumerate(zip(names, correct, totals, strict=True)):
        difference = None
        if number:
            drawn = _points(total, of_first, _drawn(own), _drawn(first), images)
            observed = float(_points(own.sum(), first.sum(), len(own), len(first), images))
            # With the observed one among the resamples, so that no p is zero.
            beyond = 1 + min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
            p = min(1.0, 2 * beyond / (resamples + 1))
            difference = Difference(points=observed, interval=interval(drawn), p=p)
        found.append(
            ComparedNetwork(
                name=name,
                seeds=len(own),
                accuracy=100 * float(own.mean()),
                interval=interval(100 * total / (_drawn(own) * images)),
                difference=difference,
            )
        )
    return found


def _drawn(correct: Bools) -> int:
    """How many of the seeds of a network, (seeds, images), a resample draws."""
    return max(1, len(correct) - 1)


def _points(right: Any, of_first: Any, seeds: int, seeds_of_first: int, images: int) -> Any:
    """The difference of two shares in points: whole numbers first, so that what is equal differs by exactly zero."""
    return (right * seeds_of_first - of_first * seeds) * (100 / (seeds * seeds_of_first * images))


def resampled_totals(correct: Sequence[Bools], resamples: int, seed: int) -> list[Floats]:
    """The number of right answers of each network in each resample, summed over the seeds that are drawn.

    Images with the same pattern of right and wrong answers are counted together: how often each pattern is drawn is
    multinomial. This is faster and gives the same distribution.

    Args:
        correct: for each network, whether a training recognises an image, (seeds, images).
        resamples: how many.
        seed: of the resamples.

    Returns:
        For each network whole numbers, (resamples,).
    """
    rng = np.random.default_rng(seed)
    kinds, counts = np.unique(np.concatenate(correct), axis=1, return_counts=True)
    images = int(counts.sum())
    ends = np.cumsum([len(own) for own in correct])
    totals = [np.empty(resamples) for _ in correct]
    step = max(1, AT_ONCE // len(counts))
    for begin in range(0, resamples, step):
        piece = slice(begin, min(begin + step, resamples))
        size = piece.stop - piece.start
        drawn = rng.multinomial(images, counts / images, size=size).astype(np.float64)
        right = drawn @ kinds.T.astype(np.float64)  # by training of every network
        for total, own, end in zip(totals, correct, ends, strict=True):
            seeds = len(own)
            chosen = rng.multinomial(_drawn(own), np.full(seeds, 1 / seeds), size=size)
            total[piece] = (chosen * right[:, end - seeds : end]).sum(axis=1)
    return totals


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
    found = [classifier.probabilities(images).argmax(dim=1) == labels for images, labels in batches]
    answers: Bools = torch.cat(found).numpy()
    return answers
