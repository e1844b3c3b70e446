"""RetrainedNetwork: a network that was trained on its own, as a value; RetrainedNetworks: several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray

from psvit.arch.architecture import Architecture, ArchitectureFile
from psvit.arch.costs import Cost, cost
from psvit.classifier import NETWORK_FILE, Classifier
from psvit.errors import InputError
from psvit.io.tables import html_table, text_table
from psvit.nn.picture import draw
from psvit.report.page import HtmlFile
from psvit.retrain.report.confusion import read_matrix
from psvit.retrain.report.document import REPORT_FILE, next_command
from psvit.space.budget import format_cost
from psvit.train.accuracies import LABELS, accuracies, label_of, trained_as


@dataclass(frozen=True, kw_only=True)
class RetrainedNetwork:
    """A network that was trained on its own.

    Attributes:
        name: its name in tables.
        folder: the folder of its run.
        file: its architecture file. The weights lie beside it.
        about: the content of the file: score, budget, provenance.
        cost: multiply-accumulates, parameters, and bytes of activations of one image.
    """

    name: str
    folder: Path
    file: Path
    about: ArchitectureFile = field(repr=False)
    cost: Cost

    @classmethod
    def load(cls, folder: str | Path, name: str | None = None) -> RetrainedNetwork:
        """The network of a finished run, called as its folder by default.

        Args:
            folder: of the run, or the network's file in it.
            name: what to call it.

        Raises:
            InputError: there is none, or its file breaks a rule.
        """
        file = Path(folder) if Path(folder).is_file() else Path(folder) / NETWORK_FILE
        about = ArchitectureFile.load(file)
        name = name or file.resolve().parent.name
        return cls(name=name, folder=file.parent, file=file, about=about, cost=cost(about.arch))

    @property
    def arch(self) -> Architecture:
        """The architecture of the network."""
        return self.about.arch

    @property
    def accuracy(self) -> float:
        """Its top-1 on the validation images in percent."""
        return float(self.about.score["value"])

    @property
    def images(self) -> int:
        """How many validation images the accuracy rests on."""
        return int(self.about.score["images"])

    @property
    def how(self) -> str:
        """How it was trained: `fine_tuned` or `from_scratch`."""
        return trained_as(self.about)

    @property
    def accuracies(self) -> dict[str, float]:
        """Its top-1 in percent beside what it is compared with, by key of `psvit.train.accuracies.LABELS`."""
        return accuracies(self.about)

    @property
    def next_command(self) -> str:
        """The shell line that goes on from the network."""
        return next_command(self.folder)

    @property
    def report(self) -> HtmlFile:
        """The report, for a browser or a notebook: which classes it confuses, and which images it gets most wrong.

        Raises:
            InputError: there is none, because an older version of psvit trained the network.
        """
        path = self.folder / REPORT_FILE
        if not path.is_file():
            raise InputError(f"{self.folder}: has no {REPORT_FILE}, because psvit 0.1.0 trained it; train it anew")
        return HtmlFile(path)

    def confusion(self) -> NDArray[np.int64]:
        """How many validation images of each class it takes for which class.

        Returns:
            The counts, (classes, classes): a row for each true class, in the order of the images' classes.

        Raises:
            InputError: there are none, because there are too many classes, or an older version trained the network.
        """
        return read_matrix(self.folder)

    def classifier(self, device: torch.device | str = "cpu") -> Classifier:
        """The network with its weights, to be used on images.

        Raises:
            InputError: the weights are gone or damaged.
        """
        return Classifier.load(self.file, device)

    def _repr_html_(self) -> str:
        rows = [(label_of(key, self.about), f"{value:.2f} %") for key, value in self.accuracies.items()]
        table = html_table(rows, title=f"top-1 on {self.images:,} validation images")
        return f"<div>{draw(self.arch, titles=[self.name])}{table}</div>"


@dataclass(frozen=True, kw_only=True)
class RetrainedNetworks(Sequence[RetrainedNetwork]):
    """Networks that were trained on their own, in the order in which they were given.

    Attributes:
        networks: those that could be trained.
        folder: the folder of the run.
        file: the table of several networks, as CSV; `None` if one network was given.
        failures: by name, why the others could not be trained.
    """

    networks: tuple[RetrainedNetwork, ...]
    folder: Path
    file: Path | None
    failures: Mapping[str, str] = field(default_factory=dict)

    @overload
    def __getitem__(self, index: int) -> RetrainedNetwork: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[RetrainedNetwork, ...]: ...

    def __getitem__(self, index: int | slice) -> RetrainedNetwork | tuple[RetrainedNetwork, ...]:
        return self.networks[index]

    def __len__(self) -> int:
        return len(self.networks)

    @property
    def _known(self) -> list[str]:
        return [key for key in LABELS if any(key in network.accuracies for network in self)]

    @property
    def header(self) -> tuple[str, ...]:
        """What stands above the columns of `rows`."""
        return ("network", "MACs", "parameters", *(key.replace("_", " ") for key in self._known))

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The costs and accuracies of each network, in words."""
        return [
            (
                network.name,
                *(format_cost(key, getattr(network.cost, key)) for key in ("macs", "num_params")),
                *(f"{network.accuracies[key]:.2f} %" if key in network.accuracies else "-" for key in self._known),
            )
            for network in self
        ]

    def __str__(self) -> str:
        return text_table(self.rows, self.header)

    def _repr_html_(self) -> str:
        return html_table(self.rows, self.header, "top-1 on the validation images")
