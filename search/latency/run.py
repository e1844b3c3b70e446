"""Measuring the latency of one network, and building the model that predicts that of a space's networks."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, field
from pathlib import Path

from timm.data import resolve_model_data_config
from torch import nn

from psvit.arch.architecture import Architecture, ArchitectureFile
from psvit.classifier import Classifier, architecture_file
from psvit.data import ImageData, open_data
from psvit.errors import InputError
from psvit.io.announcements import announce
from psvit.io.documents import Place, path_of
from psvit.io.tables import html_table
from psvit.nn.network import PSViT
from psvit.search.latency import measure as measuring
from psvit.search.latency.build import LatencyPlan, build_model
from psvit.search.latency.measure import Latency
from psvit.search.latency.model import LatencyModel
from psvit.search.latency.parts import fresh
from psvit.search.latency.setting import Setting
from psvit.space.search_space import SearchSpace
from psvit.train.choices import choose_device


@dataclass(frozen=True, kw_only=True)
class BuiltLatencyModel:
    """A latency model, built now or before.

    Attributes:
        model: the model. It predicts the latency of the space's members in milliseconds.
        file: the file of the model.
        space: the space. If images were given, it has their classes and channels.
        was_there: whether the model had been built before, so that nothing was measured.
        range_ms: the least and the greatest latency that it predicts in the space.
    """

    model: LatencyModel = field(repr=False)
    file: Path
    space: SearchSpace = field(repr=False)
    was_there: bool
    range_ms: tuple[float, float]

    @property
    def rows(self) -> list[tuple[str, str]]:
        """What the model rests on and how well it agrees with measurements, in words."""
        model, (least, greatest) = self.model, self.range_ms
        ridge = model.ridge
        return [
            ("setting", str(model.setting)),
            ("device", f"{model.fingerprint.processor}, {model.fingerprint.cores} cores"),
            ("parts measured", f"{len(model.parts)} in {model.rounds} rounds"),
            ("architectures measured", f"{model.calibrated_on} to calibrate, {len(model.held_out)} held out"),
            ("predicted over the space", f"{least:.4g} to {greatest:.4g} ms"),
            ("held out: mean absolute error", f"{model.validation.mape:.2f} % (ridge on costs: {ridge.mape:.2f} %)"),
            ("held out: Kendall tau", f"{_shown(model.validation.kendall_tau)} ({_shown(ridge.kendall_tau)})"),
            ("held out: R2", f"{_shown(model.validation.r2)} ({_shown(ridge.r2)})"),
        ]

    def _repr_html_(self) -> str:
        return html_table(self.rows, title=f"latency model of {self.space.name}")


def _shown(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.3f}"


def build_latency_model(
    space: SearchSpace | str | Path,
    on: Setting | str = "cpu",
    *,
    data: ImageData | str | Path | None = None,
    out: str | Path,
    seed: int = 0,
) -> BuiltLatencyModel:
    """Measure the parts of a space's networks and write a model that predicts their latency on this device.

    The model is calibrated on some random architectures that are measured whole, and validated on others. Let nothing
    else run meanwhile. The same call continues a build that was stopped. A finished model is not built again.

    Args:
        space: a space, the name of a shipped one, or a file.
        on: the setting, as it is written after the `@` of a budget: `cpu:batch=8,threads=1`.
        data: images. The networks get their number of classes and channels.
        out: the model's file, such as `table.yaml`.
        seed: the seed that draws the architectures that are measured whole, at least 0.

    Raises:
        InputError: an argument cannot be used, or the file holds something else; nothing is written.
        NoisyMachineError: the machine was too noisy; the same call continues.
    """
    space = space if isinstance(space, SearchSpace) else SearchSpace.load(space)
    if data is not None:
        images = open_data(data)
        space = space.with_data(len(images.classes), images.in_chans)
    setting = on if isinstance(on, Setting) else Setting.parse(on)
    choose_device(setting.device)
    model, was_there = build_model(LatencyPlan.of(space, setting, seed), Path(out), measuring.measure)
    if was_there:
        announce(f"{out}: holds this latency model already; nothing was measured")
    return BuiltLatencyModel(model=model, file=Path(out), space=space, was_there=was_there, range_ms=model.reach(space))


def measure_latency(
    network: Architecture | ArchitectureFile | Classifier | nn.Module | Place,
    on: Setting | str = "cpu",
    *,
    input_size: tuple[int, int, int] | None = None,
) -> Latency:
    """Measure how long one forward pass of a network takes on this device. Let nothing else run meanwhile.

    Args:
        network: an architecture or its file, a trained network or its run, or any module. A copy is measured.
        on: the setting, as it is written after the `@` of a budget: `cpu:batch=8,threads=1`.
        input_size: channels, height and width of an image. It is needed only for modules that do not say it.

    Returns:
        Median and interquartile range in milliseconds for the whole batch, with setting and device.

    Raises:
        InputError: an argument cannot be used, the runtime is not installed, or a batch does not fit into memory.
        MismatchError: the runtime gives other outputs than PyTorch does.
        NoisyMachineError: the machine was too noisy.
    """
    setting = on if isinstance(on, Setting) else Setting.parse(on)
    choose_device(setting.device)
    module, shape = _module(network, input_size)
    return measuring.measure(module, shape, setting)


def _module(
    network: Architecture | ArchitectureFile | Classifier | nn.Module | Place, input_size: tuple[int, int, int] | None
) -> tuple[nn.Module, tuple[int, ...]]:
    """A network of its own to be measured, and the shape of an image."""
    if isinstance(network, Classifier):
        wanted = network.preprocessing
        return copy.deepcopy(network.network), (wanted.in_chans, *wanted.image_size)
    if isinstance(network, nn.Module):
        return copy.deepcopy(network), input_size or _input_size(network)
    if isinstance(network, Architecture):
        arch = network
    elif isinstance(network, ArchitectureFile):
        arch = network.arch
    else:
        path = path_of(network)
        arch = Architecture.load(architecture_file(path) if os.path.isdir(path) else path)
    return fresh(arch), (arch.in_chans, *arch.image_size)


def _input_size(network: nn.Module) -> tuple[int, ...]:
    """Channels, height and width of the images of a module, as far as it says so."""
    if isinstance(network, PSViT):
        return network.arch.in_chans, *network.arch.image_size
    if not getattr(network, "pretrained_cfg", None):
        raise InputError(f"input_size: {type(network).__name__} does not say how large images are; give (C, H, W)")
    config: dict[str, tuple[int, ...]] = resolve_model_data_config(network)
    return config["input_size"]
