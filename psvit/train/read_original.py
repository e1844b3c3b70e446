"""Reads a trained network that shall become cheaper from where a user has it: timm's models and files, or ours."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import load_state_dict
from torch import nn

from psvit.classifier import TIMM_CONFIG, Classifier
from psvit.errors import InputError
from psvit.io.bounded import read_text
from psvit.nn.from_timm import check_parts, from_timm
from psvit.nn.network import PSViT
from psvit.nn.vit_weights import SOURCES, load_weights, pretrained
from psvit.train.original import Original, for_channels

FORMS = (
    "a model of timm such as deit_tiny_patch16_224, hf-hub:OWNER/NAME, a folder that timm wrote, a .safetensors or "
    ".pth file with timm's config.json beside it, a checkpoint of timm's train.py, or a run of psvit-retrain"
)
"""What can be named."""

ARCHITECTURES, WEIGHTS = (".yaml", ".yml"), (".safetensors", ".pth", ".pt", ".bin", ".tar")


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
    is_ours = path.suffix in ARCHITECTURES or (path.is_dir() and not (path / TIMM_CONFIG).is_file())
    if weights is not None and (is_ours or path.suffix in WEIGHTS):
        raise InputError(
            f"--init-weights {weights}: goes with the name of a model of timm, and --init {name} has weights of its "
            "own; leave one of them out"
        )
    if is_ours:
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
    if timm.is_model(name):
        # Before anything is fetched, without memory for weights.
        with torch.device("meta"):
            shell = timm.create_model(name)
        if not isinstance(shell, PSViT):
            check_parts(shell, f"--init {name}")
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
            mean=for_channels(config["mean"], found.in_chans),
            std=for_channels(config["std"], found.in_chans),
            classes=known,
        )
    )


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
