"""The YAML files that come with the package, by name."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import Literal

from psvit.errors import InputError

Kind = Literal["arch", "recipe", "space"]


def shipped(kind: Kind) -> list[str]:
    """The names of the files of a kind."""
    return sorted(path.stem for path in _folder(kind).glob("*.yaml"))


def find(kind: Kind, name_or_path: str | Path) -> Path:
    """The file of a shipped name, or a path as it is: what ends like a YAML file, or is a file.

    Raises:
        InputError: neither; names those that are shipped.
    """
    # `Path.is_file` raises if a name is too long for a file.
    if Path(name_or_path).suffix in (".yaml", ".yml") or os.path.isfile(name_or_path):
        return Path(name_or_path)
    if str(name_or_path) not in shipped(kind):
        known = ", ".join(shipped(kind))
        raise InputError(f"{kind} {str(name_or_path)!r}: unknown; permitted are {known}, or a .yaml file")
    return _folder(kind) / f"{name_or_path}.yaml"


def _folder(kind: Kind) -> Path:
    return Path(str(files("psvit.configs"))) / f"{kind}s"
