"""Teacher: a trained network whose outputs another one learns (arXiv 1503.02531, and as DeiT does, 2012.12877).

DeiT's distillation token is not here: the network that learns has one output, which learns labels and teacher both.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from psvit.arch.architecture import ArchitectureFile
from psvit.classifier import TIMM_CONFIG
from psvit.data import ImageData, Inputs
from psvit.errors import InputError
from psvit.io.bounded import read_text
from psvit.model import create_model
from psvit.nn.vit_weights import SOURCES, load_weights, pretrained
from psvit.train.recipe import Recipe

ARCHITECTURE_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A trained network with the images that it expects.

    Attributes:
        name: as given.
        network: the network, in evaluation mode.
        inputs: how it wants images.
    """

    name: str
    network: nn.Module
    inputs: Inputs

    @property
    def digest(self) -> str:
        """A digest of its weights, to tell whether two runs have the same teacher."""
        digest = hashlib.sha256()
        for name, tensor in self.network.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def to(self, device: torch.device) -> Teacher:
        """The same teacher on another device."""
        return Teacher(name=self.name, network=self.network.to(device), inputs=self.inputs)

    @torch.no_grad()
    def logits(self, images: Tensor, inputs: Inputs) -> Tensor:
        """Logits (B, classes) for images (B, C, height, width) that were prepared for another network.

        It sees the same augmented images: normalised anew and resized where it expects them so.

        Args:
            images: the images.
            inputs: how they were prepared.
        """
        if (inputs.mean, inputs.std) != (self.inputs.mean, self.inputs.std):
            here = images.device, images.dtype
            images = images * _channels(inputs.std, *here) + _channels(inputs.mean, *here)
            images = images.expand(-1, self.inputs.in_chans, -1, -1)  # grey ones become colour
            images = (images - _channels(self.inputs.mean, *here)) / _channels(self.inputs.std, *here)
        elif inputs.in_chans != self.inputs.in_chans:
            images = images.expand(-1, self.inputs.in_chans, -1, -1)
        if tuple(images.shape[-2:]) != self.inputs.image_size:
            images = F.interpolate(images, self.inputs.image_size, mode="bicubic", antialias=True)
        logits: Tensor = self.network(images)
        return logits


@lru_cache(maxsize=16)
def _channels(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """A number for every channel, shaped to be combined with images; kept, because sending it makes a GPU wait."""
    return torch.tensor(values, device=device, dtype=dtype).view(1, -1, 1, 1)


def taught_loss(of_labels: Tensor, logits: Tensor, taught: Tensor, recipe: Recipe) -> Tensor:
    """The loss of a network that learns labels and a teacher.

    Soft: cross entropy with the teacher's probabilities at a temperature T, times T squared, which keeps gradients as
    large as they are at 1. It is the Kullback-Leibler divergence of arXiv 1503.02531 but for a constant.
    Hard: cross entropy with the teacher's classes.

    Args:
        of_labels: the loss towards the labels.
        logits: of the network, (B, classes).
        taught: logits of the teacher, (B, classes).
        recipe: says which, with which weight and temperature.
    """
    if recipe.target == "hard":
        of_teacher = F.cross_entropy(logits, taught.argmax(dim=1))
    else:
        temperature = recipe.temperature
        soft = (taught.float() / temperature).softmax(dim=1)
        of_teacher = F.cross_entropy(logits / temperature, soft) * temperature**2
    return (1 - recipe.teacher_weight) * of_labels + recipe.teacher_weight * of_teacher


def choose_teacher(name: str | None, weights: str | Path | None, data: ImageData) -> Teacher | None:
    """The teacher that is named, or `None`.

    Raises:
        InputError: it cannot be had or does not fit.
    """
    if weights and not name:
        raise InputError(f"--teacher-weights {weights}: of which network? name it with --teacher")
    return open_teacher(name, weights, data) if name else None


def open_teacher(name: str, weights: str | Path | None, data: ImageData) -> Teacher:
    """A teacher for images, see `load_teacher`.

    Raises:
        InputError: as there; or it is ours and knows other classes, or in another order.
    """
    teacher = load_teacher(name, Path(weights) if weights else None, data.in_chans, len(data.classes))
    if Path(name).suffix in ARCHITECTURE_SUFFIXES and not data.has_classes_of(ArchitectureFile.load(Path(name))):
        raise InputError(
            f"--teacher {name}: knows other classes than the images have, or in another order; give a network that was "
            "trained on these classes"
        )
    return teacher


def load_teacher(name: str, weights: Path | None, in_chans: int, num_classes: int) -> Teacher:
    """A teacher for images.

    Args:
        name: a model of timm, also of a hub (`hf-hub:`) or a folder (`local-dir:`), or the .yaml file of an
            architecture of ours.
        weights: a .safetensors or .pth file; without it timm's pretrained weights, or the file beside the .yaml. How
            they want images, timm's config.json beside them says, where it is of the same model; without one it is
            taken to be as timm says for the name.
        in_chans: of the images.
        num_classes: of the images.

    Raises:
        InputError: there is no such model, no weights for it, or its classes or channels are not those of the images.
    """
    is_file = Path(name).suffix in ARCHITECTURE_SUFFIXES
    network = _ours(Path(name), weights) if is_file else _of_timm(name, weights, num_classes)
    config = resolve_model_data_config(network, args=_beside(weights, network))
    wanted = Inputs(
        image_size=(config["input_size"][1], config["input_size"][2]),
        in_chans=config["input_size"][0],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
    if is_file:
        # What the network was trained on is recorded beside it.
        data = ArchitectureFile.load(Path(name)).provenance.get("data")
        if isinstance(data, dict):
            wanted = Inputs(
                image_size=wanted.image_size,
                in_chans=wanted.in_chans,
                mean=tuple(data["mean"]),
                std=tuple(data["std"]),
            )
    classes = getattr(network, "num_classes", None)
    if classes != num_classes:
        raise InputError(f"--teacher {name}: has {classes} classes, but the images have {num_classes}")
    if wanted.in_chans not in (in_chans, 3) or (wanted.in_chans == 3 and in_chans not in (1, 3)):
        raise InputError(f"--teacher {name}: takes {wanted.in_chans} channels, but the images have {in_chans}")
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return Teacher(name=name, network=network.eval(), inputs=wanted)


def _ours(file: Path, weights: Path | None) -> nn.Module:
    """The network of an architecture file with its weights."""
    weights = weights or file.with_suffix(".safetensors")
    if not weights.is_file():
        raise InputError(f"--teacher {file}: its weights {weights} do not exist; name them with --teacher-weights")
    return _loaded(str(file), weights, lambda: create_model(file))


def _of_timm(name: str, weights: Path | None, num_classes: int) -> nn.Module:
    """A model of timm, pretrained or with weights from a file."""
    if not (name.startswith(SOURCES) or timm.is_model(name)):
        raise InputError(
            f"--teacher {name}: neither a model of timm, such as regnety_160, hf-hub:OWNER/NAME or local-dir:FOLDER, "
            "nor the .yaml file of an architecture"
        )
    if weights is not None and not weights.is_file():
        raise InputError(f"--teacher-weights {weights}: no such file")
    if weights is not None:
        return _loaded(name, weights, lambda: timm.create_model(name, num_classes=num_classes))
    try:
        return pretrained(name)
    except Exception as error:  # whatever a download may end with
        raise InputError(f"--teacher {name}: its weights cannot be had: {' '.join(str(error).split())[:200]}") from None


def _beside(weights: Path | None, network: nn.Module) -> dict[str, Any]:
    """How images are normalised for weights, where timm's configuration beside their file says so.

    One of another model is of other weights, which happen to lie in the same folder.
    """
    try:
        about = json.loads(read_text(weights.parent / TIMM_CONFIG)) if weights else {}
    except (ValueError, RecursionError):
        return {}
    known = getattr(network, "pretrained_cfg", None) or {}
    if not isinstance(about, dict) or about.get("architecture", "") != known.get("architecture"):
        return {}
    config = about.get("pretrained_cfg")
    return {key: config[key] for key in ("mean", "std") if key in config} if isinstance(config, dict) else {}


def _loaded(name: str, weights: Path, make: Any) -> nn.Module:
    """A network with weights from a file, all of them."""
    try:
        network: nn.Module = make()
        load_weights(network, weights)
    except InputError:
        raise
    except Exception as error:  # every format has errors of its own
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"--teacher {name}: {weights} does not hold its weights: {reason}") from None
    return network
