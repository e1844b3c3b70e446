"""Training one architecture as a network of its own, from scratch or from the weights it inherits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

import psvit
from psvit.arch.architecture import ArchitectureFile
from psvit.classifier import NETWORK_FILE, write_weights
from psvit.data import Batches, ImageData, accuracy, logistic_regression
from psvit.errors import InputError
from psvit.io.documents import write_atomic
from psvit.nn.network import PSViT, resolve
from psvit.nn.picture import draw
from psvit.retrain.files import finished_before, weights_beside
from psvit.retrain.report.document import Report, write_report
from psvit.retrain.report.predictions import Predictions, predict
from psvit.train.accuracies import BASELINE, BASELINE_IMAGES, INHERITED, ORIGINAL, STANDALONE
from psvit.train.checkpoints import CheckpointConfig, Checkpoints
from psvit.train.distributed import World
from psvit.train.job_runner import initial_network, inputs_for, train_job
from psvit.train.recipe import Recipe
from psvit.train.teacher import Teacher
from psvit.train.training_job import RANDOM, TrainingJob

PICTURE_FILE = "network.svg"


def retrain(
    found: ArchitectureFile,
    inherited: PSViT | None,
    data: ImageData,
    recipe: Recipe,
    *,
    inherit: bool,
    seed: int,
    device: torch.device,
    folder: Path,
    original: PSViT | None = None,
    teacher: Teacher | None = None,
    known: dict[str, float] | None = None,
    checkpointing: CheckpointConfig | None = None,
    world: World | None = None,
) -> ArchitectureFile:
    """Train a network on all training images, search images included, then look at the validation images once.

    Nothing is chosen by the validation images: the weights after the last epoch count. They are written to `folder`,
    and beside them a picture, a report and the architecture file that is returned. A run that is finished is returned
    as it is.

    Args:
        found: the architecture and what is known about it; classes and channels become the data's.
        inherited: the network with the supernet's weights, for comparison or to start from.
        data: images.
        recipe: how to train.
        inherit: whether to start from the weights of `inherited` instead of from scratch.
        seed: of everything random.
        device: where to train.
        folder: the run's.
        original: the network that a search made it of, for comparison.
        teacher: what is learnt from besides, where the recipe says so.
        known: top-1 in percent of the same network begun otherwise, by key of `psvit.train.accuracies.LABELS`.
        checkpointing: how often checkpoints are written and how many are kept.
        world: the processes that train together; the first one reports.

    Returns:
        The architecture with its score: `value` is the trained network's top-1 on the validation images in percent,
        `inherited` the same with the supernet's weights, `logistic_regression` that of scikit-learn's on raw pixels;
        the latter two are absent where there are no such weights, or where the images are not small. What is `known`
        stands beside them.

    Raises:
        InputError: the recipe wants a teacher and there is none, or the other way round; or see
            `psvit.train.training.train`.
    """
    world = world or World()
    if found_before := finished_before(folder, world):
        return found_before
    recipe.check_teacher(teacher is not None)
    arch = resolve(found.arch, num_classes=len(data.classes), in_chans=data.in_chans)
    job = TrainingJob(
        arch=arch,
        recipe=recipe,
        seed=seed,
        init=INHERITED if inherit else RANDOM,
        split="all_train",
        label="retraining",
    )
    inputs = inputs_for(data, job, device)
    network = initial_network(job)
    if inherit:
        assert inherited is not None
        network.load_state_dict(inherited.state_dict())
    trained = train_job(
        job,
        data,
        network,
        inputs=inputs,
        device=device,
        folder=folder,
        teacher=teacher.to(device) if teacher else None,
        checkpointing=checkpointing,
        world=world,
    )
    with world.first_goes_ahead():
        if not world.is_first:
            return ArchitectureFile.load(folder / NETWORK_FILE)
        batches = Batches(data.val, inputs, recipe.batch_size, device)
        others = {INHERITED: inherited, ORIGINAL: original}
        predictions = predict(trained.network, batches)
        score = _score(
            data, batches, predictions, {name: one.to(device) for name, one in others.items() if one}, known or {}
        )
        result = ArchitectureFile(
            arch=arch,
            score=score,
            budget=found.budget,
            # Classes and channels may be other ones than those of the network that was timed.
            latency=found.latency if arch == found.arch else {},
            provenance=_provenance(found, data, recipe, teacher, inherit=inherit, seed=seed),
        )
        write_report(Report(folder=folder, network=result, data=data, predictions=predictions, log=trained.log))
        _write(folder, result, trained.network, title=f"Trained on {data.name}: {score['value']:.2f} % top-1")
        return result


def _score(
    data: ImageData, batches: Batches, predictions: Predictions, others: Mapping[str, PSViT], known: dict[str, float]
) -> dict[str, Any]:
    """What the trained network is worth on the validation images, beside what it is compared with."""
    score: dict[str, Any] = {
        "value": round(predictions.accuracy, 4),
        "kind": STANDALONE,
        "meaning": "top-1 in percent after training, on the validation images",
        "images": len(data.val),
        **known,
    }
    for name, network in others.items():
        score[name] = round(accuracy(network.eval(), batches), 4)
    baseline = logistic_regression(data.all_train, data.val)
    if baseline is not None:
        score[BASELINE] = round(baseline.accuracy, 4)
        if baseline.images < baseline.of:
            score[BASELINE_IMAGES] = baseline.images
    return score


def _provenance(
    found: ArchitectureFile, data: ImageData, recipe: Recipe, teacher: Teacher | None, *, inherit: bool, seed: int
) -> dict[str, Any]:
    """Where a trained network comes from."""
    taught = {"teacher": {"name": teacher.name, "digest": teacher.digest}} if teacher else {}
    return {
        "found": {"score": found.score, **found.provenance},
        "data": data.describe(),
        "recipe": recipe.to_dict(),
        "inherited": inherit,
        **taught,
        "seed": seed,
        "versions": {"psvit": psvit.__version__, "torch": torch.__version__},
    }


def _write(folder: Path, result: ArchitectureFile, trained: PSViT, title: str) -> None:
    """Write the weights, the picture and the architecture file, and remove what is needed no more."""
    write_weights(folder / NETWORK_FILE, trained.state_dict())
    write_atomic(folder / PICTURE_FILE, draw(result.arch, titles=[title]))
    # Last, because its presence says that the run is finished.
    result.save(folder / NETWORK_FILE)
    Checkpoints(folder, CheckpointConfig()).clear()


def inherited_network(file: Path | None, found: ArchitectureFile, data: ImageData, required: bool) -> PSViT | None:
    """The network with the supernet's weights, which a search writes beside the architecture file.

    Args:
        file: see `psvit.retrain.files.weights_beside`, as for the others.
        found: what is in it.
        data: images.
        required: whether the weights are to be trained on, so that there must be some.

    Returns:
        `None` if there are no weights for these images and none are required.

    Raises:
        InputError: the weights are not this architecture's, or required and not there.
    """
    weights = weights_beside(file, found, data, required)
    if weights is None:
        return None
    network = PSViT(found.arch)
    try:
        network.load_state_dict(load_file(weights))
    except (SafetensorError, OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"{weights}: does not hold the weights of {weights.stem}.yaml: {reason}") from None
    return network
