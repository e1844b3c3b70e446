"""What a folder of a run holds, and what of it is lost, unreadable, or other than where nothing was stopped.

Lost is what was there before a command was started again and is not there afterwards:

- a whole line of a journal: the file must begin with all whole lines that it had;
- a document, which is any file that is no journal, no checkpoint and not hidden;
- the newest checkpoint of a run's own training, if there is neither it nor a newer one, nor the weights of the end.

A document is unreadable if it cannot be parsed to its end. Hidden files are being written, and may be anything as long
as others read none of them; those that are left in the end are stray.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml
from safetensors.numpy import load_file

JOURNAL, LOG = ".journal", "tfevents"
"""Endings of journals, and what is in the names of TensorBoard's logs, of which every start writes one."""

TRAININGS = ("selection", "trainings")
"""Folders of trainings whose checkpoints are removed as soon as their results are in a journal."""


def _check_csv(path: Path) -> None:
    lengths = {len(row) for row in csv.reader(io.StringIO(path.read_text()))}
    if len(lengths) != 1:
        raise ValueError(f"rows of {sorted(lengths)} cells")


def _check_html(path: Path) -> None:
    if not path.read_text().rstrip().endswith("</html>"):
        raise ValueError("it does not end with </html>")


def _check_onnx(path: Path) -> None:
    import onnx

    onnx.checker.check_model(str(path))


def _check_program(path: Path) -> None:
    with zipfile.ZipFile(path) as file:
        if file.testzip() is not None:
            raise ValueError("a part of it is damaged")


def _check_text(path: Path) -> None:
    if not path.read_text().endswith("\n"):
        raise ValueError("its last line has no end")


READERS: dict[str, Callable[[Path], Any]] = {
    ".yaml": lambda path: dict(yaml.safe_load(path.read_text())),
    ".json": lambda path: json.loads(path.read_text()),
    ".csv": _check_csv,
    ".html": _check_html,
    ".svg": ElementTree.parse,
    ".safetensors": load_file,
    ".onnx": _check_onnx,
    ".pt2": _check_program,
    ".md": _check_text,
}
"""What parses a file to its end."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a folder holds.

    Attributes:
        journals: the whole lines of each.
        documents: their names.
        checkpoints: the step of the newest, by the folder of the run that is trained.
        unreadable: documents that cannot be parsed, with the reason.
    """

    journals: dict[str, bytes]
    documents: frozenset[str]
    checkpoints: dict[str, int]
    unreadable: tuple[str, ...]

    @property
    def num_records(self) -> int:
        """Lines of journals, and steps up to the newest checkpoints."""
        return sum(lines.count(b"\n") for lines in self.journals.values()) + sum(self.checkpoints.values())

    def lost(self, after: Contents) -> list[str]:
        """What is not there any more."""
        lost = [
            f"{name}: some of {len(lines.splitlines())} records are gone"
            for name, lines in self.journals.items()
            if not after.journals.get(name, b"").startswith(lines)
        ]
        lost += [f"{name}: is gone" for name in sorted(self.documents - after.documents)]
        return lost + [
            f"{name}: the checkpoint of step {step} is gone"
            for name, step in self.checkpoints.items()
            if after.checkpoints.get(name, -1) < step and not after.weights_in(name)
        ]

    def weights_in(self, folder: str) -> bool:
        """Whether a folder holds weights that are no checkpoint."""
        return any(Path(name).parent == Path(folder) and name.endswith(".safetensors") for name in self.documents)


def look(folder: Path) -> Contents:
    """What a folder holds now."""
    journals, documents, steps, unreadable = {}, set(), dict[str, int](), []
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        if not path.is_file() or any(part.startswith(".") for part in place.parts) or LOG in path.name:
            continue
        if path.suffix == JOURNAL:
            content = path.read_bytes()
            journals[str(place)] = content[: content.rfind(b"\n") + 1]
            continue
        is_checkpoint = path.parent.name == "checkpoints"
        if is_checkpoint and path.stem.isdecimal() and not any(part in TRAININGS for part in place.parts):
            of = str(place.parent.parent)
            steps[of] = max(steps.get(of, 0), int(path.stem))
        if not is_checkpoint and not any(part in TRAININGS for part in place.parts):
            documents.add(str(place))
        try:
            READERS[path.suffix](path)
        except Exception as error:  # every format has errors of its own
            unreadable.append(f"{place}: {type(error).__name__}: {str(error)[:200]}")
    return Contents(journals=journals, documents=frozenset(documents), checkpoints=steps, unreadable=tuple(unreadable))


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What two runs that nothing stopped have in common.

    Attributes:
        names: of all files, hidden ones too, but not of TensorBoard's logs.
        same: the files that are equal in both to the last byte, with their content; the others hold times.
        seconds: of the processor, that the first process takes for a whole run.
        epochs: that are trained in one.
        longest: epochs of its longest training.
    """

    names: frozenset[str]
    same: dict[str, bytes]
    seconds: float
    epochs: int
    longest: int

    @classmethod
    def of(cls, folders: Sequence[Path], *, seconds: float, epochs: int, longest: int) -> Finished:
        """Compare two folders."""
        one, other = map(_files, folders)
        same = {name: path.read_bytes() for name, path in one.items()}
        same = {
            name: content for name, content in same.items() if name in other and other[name].read_bytes() == content
        }
        return cls(names=frozenset(one), same=same, seconds=seconds, epochs=epochs, longest=longest)

    def differences(self, folder: Path) -> list[str]:
        """What a folder has too much, too little, or of another content."""
        files = _files(folder)
        return [
            *(f"{name}: is stray" for name in sorted(files.keys() - self.names)),
            *(f"{name}: is missing" for name in sorted(self.names - files.keys())),
            *(
                f"{name}: is another than without kills"
                for name, content in self.same.items()
                if name in files and files[name].read_bytes() != content
            ),
        ]


def _files(folder: Path) -> dict[str, Path]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and LOG not in path.name)
    return {str(path.relative_to(folder)): path for path in paths}
