"""What a supernet's file says of itself beside the weights: its space, and where it comes from.

No network is needed to read it, so commands that only look at a supernet begin fast.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from psvit.data import ImageData
from psvit.errors import InputError
from psvit.io.documents import Place, digest_of_file, path_of
from psvit.space.search_space import SearchSpace
from psvit.train.checkpoints import CheckpointConfig, Checkpoints
from psvit.train.distributed import World

_logger = logging.getLogger(__name__)

SCHEMA = "psvit/supernet/1"
FILE_NAME = "supernet.safetensors"
METADATA = "psvit"


def supernet_file(path: Place) -> Path:
    """The file of a supernet, given that, its run folder or what the run gave back.

    Raises:
        InputError: there is none.
    """
    path = path_of(path)
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"supernet {str(path)!r}: expected a run folder with {FILE_NAME}, or such a file")
    return file


def finished_before(folder: Path, world: World) -> Path | None:
    """The file of a training that has come to its end; `None` if it has not.

    Args:
        folder: of the run.
        world: the processes that train together; the first one removes what a killed one has left.
    """
    file = folder / FILE_NAME
    if not file.exists():
        return None
    if world.is_first:
        # Of a process that was killed between the two.
        Checkpoints(folder, CheckpointConfig()).clear()
    return file


def read_space(path: Place) -> SearchSpace:
    """The space of a supernet, without its weights.

    Raises:
        InputError: there is no supernet, or the file is damaged.
    """
    return SearchSpace.from_dict(_about(path)["space"], source=str(supernet_file(path)))


def read_provenance(path: Place) -> dict[str, Any]:
    """Where a supernet comes from: data, seed, recipe.

    Raises:
        InputError: there is no supernet, or the file is damaged.
    """
    provenance: dict[str, Any] = _about(path)["provenance"]
    return provenance


def check_held_out(path: Place, data: ImageData) -> None:
    """Make sure that the search images of a data set are none that a supernet was trained on, as far as can be told.

    Those of another name are the user's to judge, which a warning says; of older supernets nothing is known.

    Raises:
        InputError: there is no supernet, or the images behind the name have changed since, so that they are split
            otherwise.
    """
    path = path_of(path)
    provenance = read_provenance(path)
    name, digest = str(provenance.get("data", "")), provenance.get("data_digest")
    if digest in (None, data.digest):
        return
    if name == data.name or Path(name).resolve() == Path(data.name).resolve():
        raise InputError(
            f"supernet {str(path)!r}: images of {data.name!r} were added, removed or changed since it was trained "
            f"(digest {digest} then, {data.digest} now), so some it was trained on would be searched on; restore them, "
            "or train another supernet"
        )
    _logger.warning(
        "the supernet %s was trained on %r, not on %r; make sure that the two have no image in common",
        path,
        name,
        data.name,
    )


def _about(path: Place) -> dict[str, Any]:
    """What is said beside the weights."""
    file = supernet_file(path)
    try:
        with safe_open(file, framework="pt") as stream:
            metadata: dict[str, str] = stream.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a readable safetensors file: {error}") from None
    try:
        about = json.loads(metadata.get(METADATA, "{}"))
    except (ValueError, RecursionError):
        about = {}
    if not isinstance(about, dict) or about.get("schema") != SCHEMA:
        named = about.get("schema") if isinstance(about, dict) else about
        raise InputError(f"{file}: not a supernet: schema must be {SCHEMA}, is {str(named)[:80]}")
    if not isinstance(about.get("space"), dict) or not isinstance(about.get("provenance"), dict):
        raise InputError(f"{file}: not a whole supernet: its metadata must hold the mappings space and provenance")
    return about


def supernet_digest(path: Place) -> str:
    """A digest of a supernet's file, to tell whether scores come from the same weights."""
    return digest_of_file(supernet_file(path))
