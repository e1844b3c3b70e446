"""Training one architecture as a network of its own, from scratch or from the weights it inherits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import psvit
from psvit.architecture import ArchitectureFile
from psvit.data import Batches, ImageData, Inputs, accuracy, logistic_regression_accuracy, training_loader
from psvit.documents import replacing
from psvit.errors import InputError
from psvit.model import PSViT, resolve
from psvit.recipe import Recipe
from psvit.seeding import seeded
from psvit.training import Classification, train

NETWORK_FILE = "network.yaml"
WEIGHTS_FILE = "network.safetensors"


def retrain(
    found: ArchitectureFile,
    inherited_weights: Path | None,
    data: ImageData,
    recipe: Recipe,
    *,
    inherit: bool,
    seed: int,
    device: torch.device,
    folder: Path,
) -> ArchitectureFile:
    """Train a network on all training images, search images included, then look at the validation images once.

    Nothing is chosen by the validation images: the weights after the last epoch count. They are written to `folder`,
    and beside them the architecture file that is returned. A run that is finished is returned as it is.

    Args:
        found: the architecture and what is known about it; classes and channels become the data's.
        inherited_weights: the slice of the supernet that found it, for comparison or to start from.
        data: images.
        recipe: how to train.
        inherit: whether to start from `inherited_weights` instead of from scratch.
        seed: of everything random.
        device: where to train.
        folder: the run's.

    Returns:
        The architecture with its score: `value` is the trained network's top-1 on the validation images in percent,
        `inherited` the same with the supernet's weights, `logistic_regression` that of scikit-learn's on raw pixels;
        the latter two are absent where there are no such weights, or where the images are too many.

    Raises:
        InputError: weights to inherit are missing or do not fit.
    """
    if (folder / NETWORK_FILE).exists():
        return ArchitectureFile.load(folder / NETWORK_FILE)
    arch = resolve(found.arch, num_classes=len(data.classes), in_chans=data.in_chans)
    inputs = Inputs.of(data, arch.image_size)
    with seeded(seed):
        network = PSViT(arch, drop_path_rate=recipe.drop_path_rate)
    start = PSViT(arch) if inherited_weights else None
    if start is not None and inherited_weights is not None:
        _load_weights(start, inherited_weights)
        start.to(device).eval()
    if inherit:
        if start is None:
            raise InputError("--inherit: no weights stand beside the architecture file")
        network.load_state_dict(start.state_dict())
    trained = train(
        Classification(network),
        training_loader(data.all_train, inputs, recipe),
        recipe,
        num_classes=len(data.classes),
        seed=seed,
        device=device,
        folder=folder,
        description="retraining",
    ).model.eval()

    batches = Batches(data.val, inputs, recipe.batch_size, device)
    score: dict[str, Any] = {
        "value": round(accuracy(trained, batches), 4),
        "kind": "standalone accuracy",
        "meaning": "top-1 in percent after training, on the validation images",
        "images": len(data.val),
    }
    if start is not None:
        score["inherited"] = round(accuracy(start, batches), 4)
    baseline = logistic_regression_accuracy(data.all_train, data.val)
    if baseline is not None:
        score["logistic_regression"] = round(baseline, 4)
    result = ArchitectureFile(
        arch=arch,
        score=score,
        budget=found.budget,
        provenance={
            "found": {"score": found.score, **found.provenance},
            "data": data.describe(),
            "recipe": recipe.to_dict(),
            "inherited": inherit,
            "seed": seed,
            "versions": {"psvit": psvit.__version__, "torch": torch.__version__},
        },
    )
    with replacing(folder / WEIGHTS_FILE) as temporary:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in trained.state_dict().items()}
        save_file(tensors, temporary, {"format": "pt"})
    # Last, because its presence says that the run is finished.
    result.save(folder / NETWORK_FILE)
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    return result


def _load_weights(network: PSViT, path: Path) -> None:
    """Fill a network from a safetensors file."""
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"{path}: does not hold the weights of this architecture for these images: {reason}") from None
