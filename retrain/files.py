"""The files of a retraining: the weights that it begins with, and what says that it has come to its end."""

from __future__ import annotations

from pathlib import Path

from psvit.arch.architecture import ArchitectureFile
from psvit.classifier import NETWORK_FILE
from psvit.data import ImageData
from psvit.errors import InputError
from psvit.train.checkpoints import CheckpointConfig, Checkpoints
from psvit.train.distributed import World


def finished_before(folder: Path, world: World) -> ArchitectureFile | None:
    """What a run came to; `None` if it has not come to its end.

    Args:
        folder: of the run.
        world: the processes that train together; the first one removes what a killed one has left.
    """
    if not (folder / NETWORK_FILE).exists():
        return None
    if world.is_first:
        # Of a process that was killed between the two.
        Checkpoints(folder, CheckpointConfig()).clear()
    return ArchitectureFile.load(folder / NETWORK_FILE)


def weights_beside(file: Path | None, found: ArchitectureFile, data: ImageData, required: bool) -> Path | None:
    """The weights that a supernet left beside an architecture file.

    Args:
        file: the architecture file; the weights have its name and end in `.safetensors`. Without one there are none.
        found: what is in it.
        data: images; weights for other classes or channels are of no use for them.
        required: whether the weights are to be trained on, so that there must be some.

    Returns:
        `None` if there are no weights for these images and none are required.

    Raises:
        InputError: weights are required and not there.
    """
    if file is None:
        if required:
            raise InputError("--inherit: an architecture without a file has no weights beside it; name its file")
        return None
    weights = file.with_suffix(".safetensors")
    if weights.exists() and data.fits(found):
        return weights
    if required and weights.exists():
        raise InputError(
            f"{weights}: is for {found.arch.num_classes} classes and {found.arch.in_chans} channels, and "
            f"{data.name!r} has {len(data.classes)} and {data.in_chans}, or the classes have other names or another "
            "order; no training can begin with it; give --from-scratch"
        )
    if required:
        raise InputError(f"--inherit: {weights} does not exist")
    return None
