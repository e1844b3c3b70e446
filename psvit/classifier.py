"""Classifier: a trained network together with how it wants images and what its outputs mean."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from psvit.arch.architecture import ArchitectureFile
from psvit.data.preprocessing import Preprocessing
from psvit.errors import InputError
from psvit.io.arguments import whole
from psvit.io.bounded import read_text
from psvit.io.documents import Place, is_there, path_of, replacing

NETWORK_FILE = "network.yaml"
BEST_FILE = "best.yaml"
"""What a retraining and a search call the file of their network."""

COMPARISON_FOLDER = "comparison"
"""Within a retraining's folder, the one of the network that was begun otherwise, for comparison."""

WEIGHTS_SUFFIX = ".safetensors"
"""Weights lie beside the architecture file and have its name."""

TIMM_CONFIG, ONNX_FILE, TORCH_EXPORT_FILE = "config.json", "network.onnx", "network.pt2"
"""By which folders are known that timm can build a network from, and in which there is an exported one."""

_EXPORTS = {TIMM_CONFIG: "timm", ONNX_FILE: "onnx", TORCH_EXPORT_FILE: "torch-export"}

BATCH_SIZE = 64


class Classifier:
    """A trained network that takes images and gives classes.

    Args:
        network: the network, which is set to evaluation mode.
        preprocessing: how it wants images, and its classes.
        file: the architecture file with all that is known about it; `None` if there is none.
        source: where it was read from.
    """

    def __init__(
        self, network: nn.Module, preprocessing: Preprocessing, file: ArchitectureFile | None, source: Path
    ) -> None:
        self.network = network.eval()
        self.preprocessing = preprocessing
        self.file = file
        self.source = source

    @classmethod
    def load(cls, place: Place, device: torch.device | str = "cpu") -> Self:
        """Read a trained network.

        Args:
            place: the folder of a retraining or of a search with images, or what it gave back; an architecture file
                with its weights beside it; or a folder that `psvit-export --to timm` wrote.
            device: where to compute.

        Raises:
            InputError: there is no trained network, or it does not say what it was trained on.
        """
        place = path_of(place)
        if is_there(place) and (place / TIMM_CONFIG).is_file():
            return cls._of_timm(place, device)
        path = architecture_file(place)
        file = ArchitectureFile.load(path)
        preprocessing = Preprocessing.of(file, path)
        return cls(_with_weights(path).to(device), preprocessing, file, path)

    @classmethod
    def _of_timm(cls, folder: Path, device: torch.device | str) -> Self:
        """A network of a folder as timm saves it."""
        import timm  # two seconds, which who only asks where a network lies need not wait for
        from timm.data import resolve_model_data_config

        import psvit.model  # noqa: F401 - timm then knows our networks by name

        try:
            network: Any = timm.create_model(f"local-dir:{folder}", pretrained=True)
            classes = json.loads(read_text(folder / TIMM_CONFIG)).get("label_names")
        except InputError:
            raise
        except Exception as error:  # whatever timm raises over a folder that is not whole
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{folder}: timm cannot build a network from it: {reason}") from None
        config = resolve_model_data_config(network)
        in_chans, *image_size = config["input_size"]
        preprocessing = Preprocessing.from_dict(
            {
                "image_size": image_size,
                "in_chans": in_chans,
                "mean": config["mean"],
                "std": config["std"],
                "crop_pct": config["crop_pct"],
                "interpolation": config["interpolation"],
                "classes": classes or [str(number) for number in range(network.num_classes)],
            },
            source=str(folder / TIMM_CONFIG),
        )
        beside = folder / NETWORK_FILE
        file = ArchitectureFile.load(beside) if beside.is_file() else None
        return cls(network.to(device), preprocessing, file, folder)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.network.parameters()).device

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """From prepared images (B, C, height, width) to the probabilities of all classes (B, classes), on the CPU."""
        logits: Tensor = self.network(images.to(self.device))
        return logits.float().softmax(dim=1).cpu()

    def predict(self, image: Any, top: int = 5) -> list[tuple[str, float]]:
        """The most probable classes of an image with their probabilities, the most probable first.

        Args:
            image: a file; or an image of Pillow's, an array (height, width) or (height, width, channels) or a tensor
                (height, width) or (channels, height, width) of unsigned bytes.
            top: how many classes; all of them if there are fewer.

        Raises:
            InputError: not a readable image, or `top` is less than 1.
        """
        top = whole("top", top, 1)
        return self._top(self.probabilities(self.preprocessing.read(image)[None])[0], top)

    def predict_all(
        self, paths: Sequence[Path], top: int = 5, batch_size: int = BATCH_SIZE
    ) -> Iterator[tuple[Path, list[tuple[str, float]] | InputError]]:
        """The same for many files, some at a time; in the place of a file that cannot be read stands the error."""
        for begin in range(0, len(paths), batch_size):
            some = paths[begin : begin + batch_size]
            read = [self._read_or_error(path) for path in some]
            good = [image for image in read if isinstance(image, Tensor)]
            rows = iter(self.probabilities(torch.stack(good)) if good else ())
            for path, image in zip(some, read, strict=True):
                yield path, image if isinstance(image, InputError) else self._top(next(rows), top)

    def _read_or_error(self, path: Path) -> Tensor | InputError:
        try:
            return self.preprocessing.read(path)
        except InputError as error:
            return error

    def _top(self, probabilities: Tensor, top: int) -> list[tuple[str, float]]:
        values, positions = probabilities.topk(min(top, len(probabilities)))
        names = (self.preprocessing.classes[position] for position in positions.tolist())
        return list(zip(names, values.tolist(), strict=True))


def write_weights(file: Path, weights: Mapping[str, Tensor]) -> None:
    """Write weights beside an architecture file, from which the network can then be loaded.

    Args:
        file: the architecture file.
        weights: by name, as `state_dict` gives them.
    """
    with replacing(file.with_suffix(WEIGHTS_SUFFIX)) as temporary:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        save_file(tensors, temporary, {"format": "pt"})


def as_classifier(network: Classifier | Place, device: torch.device | str = "cpu") -> Classifier:
    """A trained network as it is, or read as `Classifier.load` does."""
    return network if isinstance(network, Classifier) else Classifier.load(network, device)


def architecture_file(place: Path) -> Path:
    """The architecture file that a path names: itself, or that of the network in a run's folder.

    Raises:
        InputError: there is none; says what there is instead.
    """
    if place.is_file():
        return place
    if not place.is_dir():
        raise InputError(f"{place}: no such file or folder; name the folder of a run, or an architecture file")
    for name in (NETWORK_FILE, BEST_FILE):
        if (place / name).is_file():
            return place / name
    several = sorted(path.parent for path in place.glob(f"*/{NETWORK_FILE}") if path.parent.name != COMPARISON_FOLDER)
    if several:
        raise InputError(f"{place}: holds several networks; name one of {', '.join(map(str, several))}")
    if (place / "config.yaml").is_file():
        raise InputError(f"{place}: its run has written no network yet; the same command continues it")
    raise InputError(
        f"{place}: holds no network: neither {NETWORK_FILE} of psvit-retrain, nor {BEST_FILE} of psvit-search, "
        f"nor {TIMM_CONFIG} of psvit-export --to timm"
    )


def exported_as(folder: Path) -> str | None:
    """The form in which `psvit-export --to` wrote a folder; `None` if it did not write it."""
    return next((form for file, form in _EXPORTS.items() if (folder / file).is_file()), None)


def _with_weights(path: Path) -> nn.Module:
    """The network of an architecture file with the weights beside it."""
    weights = path.with_suffix(WEIGHTS_SUFFIX)
    if not weights.is_file() and (form := exported_as(path.parent)):
        if form == "timm":
            raise InputError(f"{path}: is of an export --to timm, whose weights are called otherwise; name its folder")
        raise InputError(
            f"{path.parent}: is an export --to {form}, and its README.md says how to use it; "
            "name the run that it was made of, or an export --to timm"
        )
    if not weights.is_file():
        raise InputError(f"{path}: its weights {weights} do not exist; train it with psvit-retrain {path} --data DATA")
    from psvit.model import create_model  # it loads timm

    kwargs: dict[str, Any] = {"checkpoint_path": str(weights)}
    try:
        return create_model(path, **kwargs)
    except InputError:
        raise
    except (SafetensorError, OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"{weights}: does not hold the weights of {path.name}: {reason}") from None
