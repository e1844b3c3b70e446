"""Original: a trained network that a search begins with, to find cheaper ones that keep its accuracy.

It is read from where a user has it, becomes a network of this family with equal outputs, and is fitted to the images.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.data import resolve_model_data_config
from timm.models import adapt_input_conv, load_state_dict
from torch import Tensor, nn

from psvit.arch.architecture import Architecture, ArchitectureFile
from psvit.classifier import TIMM_CONFIG, WEIGHTS_SUFFIX, Classifier
from psvit.data import ImageData, Inputs
from psvit.errors import InputError
from psvit.io.bounded import read_text
from psvit.io.documents import replacing
from psvit.nn.from_timm import from_timm
from psvit.nn.network import PSViT
from psvit.nn.seeding import seeded
from psvit.nn.vit_weights import SOURCES, load_weights, pretrained
from psvit.train.teacher import Teacher

FORMS = (
    "a model of timm such as deit_tiny_patch16_224, hf-hub:OWNER/NAME, a folder that timm wrote, a .safetensors or "
    ".pth file with timm's config.json beside it, a checkpoint of timm's train.py, or a run of psvit-retrain"
)
"""What can be named."""

ORIGINAL_FILE = "original.yaml"
"""In the run of a search, the file of the network that it begins with, as fitted; the weights lie beside it."""

ARCHITECTURES, WEIGHTS = (".yaml", ".yml"), (".safetensors", ".pth", ".pt", ".bin", ".tar")


@dataclass(frozen=True, kw_only=True)
class Original:
    """A trained network that shall become cheaper.

    Attributes:
        name: as given.
        network: the network, in evaluation mode.
        mean, std: of every channel, as it expects images to be normalised.
        classes: the names of its classes; `None` if they are not known.
        keeps_head: whether its classifier is the trained one.
        changes: what was changed to fit it to images, in words.
    """

    name: str
    network: PSViT
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...] | None
    keeps_head: bool = True
    changes: tuple[str, ...] = ()

    @property
    def arch(self) -> Architecture:
        """Its architecture."""
        return self.network.arch

    @cached_property
    def digest(self) -> str:
        """A short hash of the weights and of what they are for."""
        digest = hashlib.sha256(json.dumps([self.arch.to_dict(), self.mean, self.std], sort_keys=True).encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def teacher(self, inputs: Inputs) -> Teacher:
        """The network as a teacher of others.

        Args:
            inputs: of the images that it was fitted to.
        """
        network = copy.deepcopy(self.network).eval().requires_grad_(False)
        return Teacher(name=self.name, network=network, inputs=inputs)

    def save(self, file: Path, data: ImageData) -> None:
        """Write an architecture file, and the weights beside it, from which the network can be used on the images.

        Args:
            file: the architecture file.
            data: the images that it was fitted to.
        """
        with replacing(file.with_suffix(WEIGHTS_SUFFIX)) as temporary:
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}
            save_file(tensors, temporary, {"format": "pt"})
        about = {"name": self.name, "digest": self.digest, "keeps_head": self.keeps_head}
        provenance = {"original": about, "data": data.describe()}
        ArchitectureFile(arch=self.arch, provenance=provenance).save(file)

    @torch.no_grad()
    def fitted(self, data: ImageData, image_size: tuple[int, int] | None = None, seed: int = 0) -> Original:
        """The network for other images: their size, channels, normalisation and classes.

        Positions are interpolated, kernels of the first layer adapted to the channels as timm does, and the
        normalisation is multiplied into the first layer, which changes no output except at the borders of an image
        behind a convolutional stem. A classifier for other classes is made anew.

        Args:
            data: the images.
            image_size: height and width; by default, the network's own.
            seed: of a classifier that is made anew.

        Raises:
            InputError: the network's patches do not cover such images.
        """
        network, changes = copy.deepcopy(self.network), []
        size = image_size or self.arch.image_size
        if size != self.arch.image_size:
            before = self.arch.image_size
            try:
                network.set_input_size(size)
            except InputError as error:
                raise InputError(f"{self.name}: cannot see images of {size[0]} x {size[1]} pixels: {error}") from None
            changes.append(
                f"its positions were interpolated from images of {_pixels(before)} to {_pixels(size)} pixels"
            )
        mean, std = self.mean, self.std
        if data.in_chans != network.in_chans:
            changes.append(f"its first layer was adapted from {network.in_chans} to {data.in_chans} channels")
            network = _with_channels(network, data.in_chans)
            mean, std = (_for_channels(values, data.in_chans) for values in (mean, std))
        if (mean, std) != (data.mean, data.std):
            _normalise_otherwise(_first_layer(network), (mean, std), (data.mean, data.std))
        keeps, said = self._fit_head(network, data.classes, seed)
        return replace(
            self,
            network=network.eval(),
            mean=data.mean,
            std=data.std,
            classes=data.classes,
            keeps_head=keeps,
            changes=(*changes, *said),
        )

    def _fit_head(self, network: PSViT, classes: Sequence[str], seed: int) -> tuple[bool, list[str]]:
        """Fit the classifier to classes; whether it is still the trained one, and what was changed."""
        if len(classes) == network.num_classes and self.classes in (None, tuple(classes)):
            return True, []
        if self.classes is not None and sorted(self.classes) == sorted(classes):
            order = [self.classes.index(name) for name in classes]
            head = network.get_classifier()
            assert isinstance(head, nn.Linear)
            head.weight.copy_(head.weight[order].clone())
            head.bias.copy_(head.bias[order].clone())
            return True, ["its classes were put into the order of the images'"]
        had = network.num_classes
        with seeded(seed):
            network.reset_classifier(len(classes))
        others = f"its {had} classes" if had != len(classes) else f"its {had} classes, which have other names,"
        return False, [
            f"its classifier is new, for {len(classes)} classes, because {others} are not those of the images"
        ]


def is_made_of_another(about: ArchitectureFile) -> bool:
    """Whether a search made a network of a trained one, so that it has weights worth keeping."""
    return "original" in about.provenance


def original_of(file: Path | None, about: ArchitectureFile) -> PSViT | None:
    """The network that a search made another of, from its run; `None` if it is not there or knows no classes.

    Args:
        file: the other's architecture file.
        about: what is in it.

    Raises:
        InputError: the weights are damaged.
    """
    if file is None or not is_made_of_another(about):
        return None
    # The points of a front lie in a folder of the run.
    place = next(
        (folder / ORIGINAL_FILE for folder in file.absolute().parents[:2] if (folder / ORIGINAL_FILE).is_file()), None
    )
    if place is None or not ArchitectureFile.load(place).provenance.get("original", {}).get("keeps_head"):
        return None
    network = Classifier.load(place).network
    assert isinstance(network, PSViT)
    return network


def read_original(name: str | Path, weights: str | Path | None = None) -> Original:
    """A trained network from where a user has it.

    Args:
        name: a model of timm, also of a hub (`hf-hub:`) or a folder that timm wrote (`local-dir:`, or its path); a
            .safetensors or .pth file with timm's config.json beside it; a checkpoint of timm's train.py; the run of a
            retraining; or the .yaml file of an architecture with its weights beside it.
        weights: a .safetensors or .pth file for a model of timm. By default, timm's pretrained weights.

    Raises:
        InputError: there is no such network, it cannot be read, or it has a part that this family has no form for.
    """
    text, path = str(name), Path(name)
    if weights is not None and not Path(weights).is_file():
        raise InputError(f"--init-weights {weights}: no such file")
    if weights is None and path.is_dir() and not (path / TIMM_CONFIG).is_file():
        return _ours(Classifier.load(path), text)
    if path.suffix in ARCHITECTURES:
        return _ours(Classifier.load(path), text)
    if path.is_dir():
        text = f"local-dir:{path}"
    elif path.suffix in WEIGHTS:
        return _of_file(path)
    if not text.startswith(SOURCES) and not timm.is_model(text):
        raise InputError(f"--init {name}: no such network; give {FORMS}")
    return _of_timm(text, None if weights is None else Path(weights))


def _ours(classifier: Classifier, name: str) -> Original:
    """A network that psvit trained."""
    about = classifier.preprocessing
    network = classifier.network
    assert isinstance(network, PSViT)
    return _checked(Original(name=name, network=network, mean=about.mean, std=about.std, classes=about.classes))


def _of_file(weights: Path) -> Original:
    """A file of weights, of the network that it names itself or that timm's configuration beside it names."""
    config = weights.parent / TIMM_CONFIG
    if not weights.is_file():
        raise InputError(f"--init {weights}: no such file")
    if not config.is_file():
        name, args = _named_in(weights)
        if name:
            given = {key: args[key] for key in ("mean", "std") if args.get(key)}
            return _of_network(_loaded(name, weights, **_shape_of(name, weights)), str(weights), given)
        raise InputError(
            f"--init {weights}: does not say which network its weights are of; name it, as in --init "
            f"deit_tiny_patch16_224 --init-weights {weights}, or put timm's config.json beside it"
        )
    try:
        about = json.loads(read_text(config))
        name, args = about["architecture"], {"num_classes": about["num_classes"], **(about.get("model_args") or {})}
        about = {**about, **(about.get("pretrained_cfg") or {})}
        if not timm.is_model(name):
            raise KeyError(name)
        given = {key: about[key] for key in ("mean", "std") if key in about}
        network = _loaded(name, weights, **args)
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise InputError(f"{config}: is not the configuration that timm writes beside the weights of a model") from None
    names = about.get("label_names")
    return _of_network(network, str(weights), given, names if isinstance(names, list) else None)


def _of_timm(name: str, weights: Path | None) -> Original:
    """A model of timm, pretrained or with weights from a file."""
    if weights is not None:
        return _of_network(_loaded(name, weights, **_shape_of(name, weights)), f"{name} with {weights}")
    try:
        network = pretrained(name)
    except Exception as error:  # whatever a download may end with
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"--init {name}: its weights cannot be had ({reason}); --init-weights takes a file") from None
    return _of_network(network, name)


def _of_network(
    network: nn.Module, name: str, given: dict[str, Any] | None = None, classes: list[str] | None = None
) -> Original:
    """A model of timm as a network of this family."""
    config = resolve_model_data_config(network, args=given or {})
    names = classes or (getattr(network, "pretrained_cfg", None) or {}).get("label_names")
    found = network if isinstance(network, PSViT) else from_timm(network, f"--init {name}")
    known = tuple(map(str, names)) if names and len(names) == found.num_classes else None
    return _checked(
        Original(
            name=name,
            network=found.eval(),
            mean=_for_channels(config["mean"], found.in_chans),
            std=_for_channels(config["std"], found.in_chans),
            classes=known,
        )
    )


def _for_channels(values: Sequence[float], in_chans: int) -> tuple[float, ...]:
    """A mean or standard deviation of every channel, for other channels the same for all."""
    if len(values) == in_chans:
        return tuple(map(float, values))
    return (sum(values) / len(values),) * in_chans


def _checked(original: Original) -> Original:
    """Refuse a network whose layers share maps already: a layer without queries and keys cannot get any back."""
    for stage in original.arch.stages:
        if max(stage.groups) > 1:
            raise InputError(
                f"--init {original.name}: some of its layers share an attention map already, so they have no queries "
                "and keys of their own; give the network that it was made of"
            )
    return original


def _named_in(weights: Path) -> tuple[str, dict[str, Any]]:
    """The name of the model in a checkpoint of timm's train.py, and the options it was trained with; empty without."""
    if weights.suffix == ".safetensors":
        return "", {}
    try:
        # Options are kept as argparse has them. No other objects are read.
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(weights, map_location="cpu", weights_only=True)
        name, args = checkpoint.get("arch"), checkpoint.get("args")
    except Exception:  # every format has errors of its own; that it names no network is said
        return "", {}
    is_known = isinstance(name, str) and timm.is_model(name)
    return (name, vars(args) if isinstance(args, argparse.Namespace) else {}) if is_known else ("", {})


def _shape_of(name: str, weights: Path) -> dict[str, Any]:
    """How a vision transformer of timm has to be built for weights: with which classes, channels and size of images.

    The size is that of square images, as its number of positions has it.
    """
    try:
        state = load_state_dict(str(weights), device="cpu", weights_only=True)
    except Exception as error:  # every format has errors of its own
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"--init {name}: {weights} cannot be read: {reason}") from None
    found: dict[str, Any] = {"num_classes": len(state["head.weight"]) if "head.weight" in state else 0}
    kernels, positions = state.get("patch_embed.proj.weight"), state.get("pos_embed")
    if kernels is not None and kernels.dim() == 4:
        found["in_chans"] = kernels.shape[1]
        number = 0 if positions is None or positions.dim() != 3 else positions.shape[1] - int("cls_token" in state)
        side = math.isqrt(max(number, 0))
        if side and side**2 == number:
            found["img_size"] = side * kernels.shape[2]
    return found


def _loaded(name: str, weights: Path, **kwargs: Any) -> nn.Module:
    """A model of timm with weights from a file, all of them."""
    try:
        network: nn.Module = timm.create_model(name, **kwargs)
        load_weights(network, weights)
    except Exception as error:  # every format has errors of its own
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"--init {name}: {weights} does not hold its weights: {reason}") from None
    return network


def _first_layer(network: PSViT) -> nn.Conv2d:
    """The convolution that sees the image."""
    return next(module for module in network.patch_embed.modules() if isinstance(module, nn.Conv2d))


def _with_channels(network: PSViT, in_chans: int) -> PSViT:
    """The same network for images of other channels."""
    first = _first_layer(network)
    name = next(name for name, module in network.named_modules() if module is first)
    state = network.state_dict()
    weight = state[f"{name}.weight"]
    if weight.shape[1] == 1:
        state[f"{name}.weight"] = weight.expand(-1, in_chans, -1, -1) / in_chans
    else:
        state[f"{name}.weight"] = adapt_input_conv(in_chans, weight, base_chans=weight.shape[1])
    found = PSViT(network.arch, in_chans=in_chans)
    found.load_state_dict(state)
    return found


Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of every channel."""


@torch.no_grad()
def _normalise_otherwise(first: nn.Conv2d, had: Normalisation, given: Normalisation) -> None:
    """Change a first layer so that it gives the same for images that are normalised otherwise."""
    (mean_had, std_had), (mean, std) = ([_row(values, first.weight) for values in pair] for pair in (had, given))
    assert first.bias is not None
    # What it expects is (image * std + mean - mean_had) / std_had.
    shift = ((mean - mean_had) / std_had).view(1, -1, 1, 1)
    first.bias += (first.weight * shift).sum(dim=(1, 2, 3))
    first.weight *= (std / std_had).view(1, -1, 1, 1)


def _row(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
