"""Setting: where and how a network runs when it is measured."""

from __future__ import annotations

from typing import Self

import torch
from pydantic import PositiveInt, model_validator

from psvit.io.documents import Value
from psvit.space.budget import Device, LatencyLimit, Precision, Runtime, Threads, read_setting


class Setting(Value):
    """Where and how a network runs.

    Attributes:
        device: `cpu`, `cuda`, ...
        batch_size: images in one forward pass; latencies are of the whole batch.
        threads: that operators may use; nothing leaves it at PyTorch's own number.
        precision: the type of weights and activations.
        runtime: what runs the network: PyTorch as it is, `torch.compile`, or ONNX Runtime.
    """

    device: Device = "cpu"
    batch_size: PositiveInt = 1
    threads: Threads | None = None
    precision: Precision = "float32"
    runtime: Runtime = "eager"

    @classmethod
    def of(cls, limit: LatencyLimit) -> Self:
        """The setting of a limit.

        Raises:
            InputError: nothing can be measured in it.
        """
        fields = {name: getattr(limit, name) for name in cls.model_fields}
        return cls.from_dict(fields, source=f"budget {limit}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a setting as it is written after the `@` of a limit, such as `cpu:batch=8,threads=1`.

        Raises:
            InputError: not such a setting, or nothing can be measured in it.
        """
        source = f"latency on {text!r}"
        return cls.from_dict(read_setting(text, source), source=source)

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        if self.runtime == "onnxruntime" and (self.device != "cpu" or self.precision != "float32"):
            raise ValueError(
                f"onnxruntime is measured on cpu in float32 only, received {self.device} in {self.precision}"
            )
        return self

    @property
    def num_threads(self) -> int:
        """The number of threads; PyTorch's own if none was given."""
        return self.threads or torch.get_num_threads()

    def __str__(self) -> str:
        threads = "PyTorch's own threads" if self.threads is None else f"{self.threads} threads"
        return f"{self.device}, batch {self.batch_size}, {threads}, {self.precision}, {self.runtime}"
