"""The forms in which a network is delivered: how each is written, read again, and used by whoever receives it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import timm
import torch
from torch import Tensor

import psvit
from psvit.classifier import ONNX_FILE, TIMM_CONFIG, TORCH_EXPORT_FILE, Classifier
from psvit.data.preprocessing import Preprocessing
from psvit.errors import InputError

PREPROCESSING_FILE = "preprocessing.json"
PREPROCESSING_KEY = "preprocessing"
"""Under which a file of a network has the text of that file in its own metadata."""

TIMM_WEIGHTS = "model.safetensors"
"""What timm calls the weights of a folder."""

INPUT, OUTPUT = "images", "logits"
"""What goes into an ONNX network and what comes out of it."""

Run = Callable[[Tensor], Tensor]
"""From images (B, C, height, width) on the CPU to logits (B, classes)."""


@dataclass(frozen=True)
class Format:
    """One form.

    Attributes:
        name: as `--to` takes it.
        what: what it is, for people.
        library: what loads it, as model hubs call it.
        files: what `write` writes, by name.
        write: writes a network, which is on the CPU, into a folder.
        read: makes something that can be run of what was written.
        usage: Python that classifies `image.png`, from the folder that it lies in.
        notes: paragraphs of Markdown on its use.
    """

    name: str
    what: str
    library: str
    files: tuple[str, ...]
    write: Callable[[Classifier, Path], None]
    read: Callable[[Path], Run]
    usage: Callable[[Preprocessing], str]
    notes: tuple[str, ...] = ()


# --- ONNX


def _write_onnx(classifier: Classifier, folder: Path) -> None:
    # Two images, because a batch of one would be taken for a constant.
    model = _onnx_runtime().to_onnx(
        classifier.network, example(classifier.preprocessing, 2), names=(INPUT, OUTPUT), dynamic_batch=True
    )
    model.producer_name, model.producer_version = "psvit", psvit.__version__
    entry = model.metadata_props.add()
    entry.key, entry.value = PREPROCESSING_KEY, classifier.preprocessing.to_json()
    (folder / ONNX_FILE).write_bytes(model.SerializeToString())


def _read_onnx(folder: Path) -> Run:
    session = _onnx_runtime().session(folder / ONNX_FILE)

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run([OUTPUT], {INPUT: images.numpy()})
        return torch.from_numpy(logits)

    return run


def _onnx_runtime() -> ModuleType:
    try:
        from psvit.nn import onnx_runtime
    except ImportError as error:
        raise InputError(f"--to onnx: {error.name} is not installed; it comes with pip install 'psvit[onnx]'") from None
    return onnx_runtime


def _onnx_usage(preprocessing: Preprocessing) -> str:
    return f"""\
import json
import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession("{ONNX_FILE}")
about = json.loads(session.get_modelmeta().custom_metadata_map["{PREPROCESSING_KEY}"])
{_prepared(preprocessing)}
(logits,) = session.run(None, {{"{INPUT}": images}})
print(about["classes"][logits[0].argmax()])
"""


# --- torch.export


def _write_torch_export(classifier: Classifier, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            classifier.network,
            (example(classifier.preprocessing, 2),),
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        )
        torch.export.save(
            program,
            folder / TORCH_EXPORT_FILE,
            extra_files={PREPROCESSING_FILE: classifier.preprocessing.to_json()},
        )


def _read_torch_export(folder: Path) -> Run:
    module: Run = torch.export.load(folder / TORCH_EXPORT_FILE).module()
    return module


def _torch_export_usage(preprocessing: Preprocessing) -> str:
    return f"""\
import json
import numpy as np
import torch
from PIL import Image

network = torch.export.load("{TORCH_EXPORT_FILE}").module()
about = json.load(open("{PREPROCESSING_FILE}"))
{_prepared(preprocessing)}
logits = network(torch.from_numpy(images))
print(about["classes"][int(logits[0].argmax())])
"""


# --- timm


def _write_timm(classifier: Classifier, folder: Path) -> None:
    preprocessing = classifier.preprocessing
    timm.models.save_for_hf(
        classifier.network,
        str(folder),
        model_config={"label_names": list(preprocessing.classes)},
        safe_serialization=True,
        data_config={
            "input_size": [preprocessing.in_chans, *preprocessing.image_size],
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "crop_pct": preprocessing.crop_pct,
            "crop_mode": "center",
            "interpolation": preprocessing.interpolation,
        },
    )


def _read_timm(folder: Path) -> Run:
    network: Run = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    return network


def _timm_usage(preprocessing: Preprocessing) -> str:
    return """\
import psvit
classifier = psvit.Classifier.load(".")
print(classifier.predict("image.png"))
"""


_TIMM_NOTE = """\
It is a timm model as well, once psvit has made its family known to timm:

```python
import psvit.model, timm
network = timm.create_model("local-dir:.", pretrained=True).eval()
prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
```"""


# --- all


FORMATS = {
    one.name: one
    for one in (
        Format(
            name="onnx",
            what="ONNX, for ONNX Runtime and others",
            library="onnx",
            files=(ONNX_FILE,),
            write=_write_onnx,
            read=_read_onnx,
            usage=_onnx_usage,
        ),
        Format(
            name="torch-export",
            what="a program of torch.export, which needs PyTorch and not psvit",
            library="pytorch",
            files=(TORCH_EXPORT_FILE,),
            write=_write_torch_export,
            read=_read_torch_export,
            usage=_torch_export_usage,
        ),
        Format(
            name="timm",
            what="a folder from which timm builds the network",
            library="timm",
            files=(TIMM_CONFIG, TIMM_WEIGHTS),
            write=_write_timm,
            read=_read_timm,
            usage=_timm_usage,
            notes=(_TIMM_NOTE,),
        ),
    )
}
"""The forms by name."""


def example(preprocessing: Preprocessing, batch_size: int) -> Tensor:
    """Normalised images (B, C, height, width) of noise, the same in every call."""
    generator = torch.Generator().manual_seed(batch_size)
    return torch.randn(batch_size, preprocessing.in_chans, *preprocessing.image_size, generator=generator)


def _prepared(preprocessing: Preprocessing) -> str:
    """Python lines, for those who have neither psvit nor timm, that do what `Preprocessing.transform` does."""
    height, width = preprocessing.image_size
    sides = [int(side / preprocessing.crop_pct) for side in preprocessing.image_size]
    if sides[0] == sides[1]:
        size = f"[{sides[0]} * side // min(image.size) for side in image.size]"
        ratio = ""
    else:
        size = "[round(side / ratio) for side in image.size]"
        ratio = f"ratio = min(image.height / {sides[0]}, image.width / {sides[1]})\n"
    axes = "[None, None]" if preprocessing.in_chans == 1 else ".transpose(2, 0, 1)[None]"
    return f"""\
image = Image.open("image.png")
if image.mode.startswith("I"):  # 16 bits, of which the upper 8 count
    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
image = image.convert("{preprocessing.mode}")
{ratio}image = image.resize({size}, Image.Resampling.{preprocessing.interpolation.upper()})
left, top = round((image.width - {width}) / 2), round((image.height - {height}) / 2)
image = image.crop((left, top, left + {width}, top + {height}))
pixels = (np.asarray(image, np.float32) / 255 - np.float32(about["mean"])) / np.float32(about["std"])
images = pixels{axes}"""
