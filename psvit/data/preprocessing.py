"""Preprocessing: what becomes of an image before a trained network sees it, and what the network's outputs mean.

It travels with every exported network, so that whoever runs it needs to know nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from PIL import Image
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from psvit.arch.architecture import ArchitectureFile
from psvit.data import CROP_PCT, INTERPOLATION, Inputs, evaluation_transform
from psvit.data.images import as_picture
from psvit.data.pixels import Mode, read_image, to_eight_bits
from psvit.errors import InputError
from psvit.io.documents import Value

SCHEMA = "psvit/preprocessing/1"


class Preprocessing(Value):
    """How an image becomes the input of a network.

    Attributes:
        image_size: height and width in pixels of what the network sees.
        in_chans: 1 for grey, 3 for red, green and blue.
        mean: of every channel, for pixels from 0 to 1.
        std: standard deviation of every channel, for pixels from 0 to 1.
        crop_pct: part of the resized image that the crop in its centre keeps, by side.
        interpolation: of resizing.
        classes: what each output stands for, in order.
    """

    image_size: tuple[PositiveInt, PositiveInt]
    in_chans: Literal[1, 3]
    mean: tuple[float, ...]
    std: tuple[PositiveFloat, ...]
    crop_pct: Annotated[float, Field(gt=0, le=1)] = CROP_PCT
    interpolation: str = INTERPOLATION
    classes: tuple[str, ...]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not len(self.mean) == len(self.std) == self.in_chans:
            raise ValueError(
                f"mean and std must be one for each of {self.in_chans} channels, received {len(self.mean)} and "
                f"{len(self.std)}"
            )
        return self

    @classmethod
    def of(cls, file: ArchitectureFile, source: str | Path) -> Self:
        """That of a network which a search or a retraining wrote.

        Args:
            file: what is known about the network.
            source: what to call it in an error.

        Raises:
            InputError: it does not say what it was trained on.
        """
        data = file.provenance.get("data")
        if not isinstance(data, dict) or not {"mean", "std", "classes"} <= set(data):
            raise InputError(
                f"{source}: does not say on which images it was trained (provenance.data: mean, std, classes), "
                "as the files of psvit-retrain and of searches with images do"
            )
        found = cls.from_dict(
            {
                "image_size": file.arch.image_size,
                "in_chans": file.arch.in_chans,
                **{key: data[key] for key in ("mean", "std", "classes")},
            },
            source=f"{source}: provenance.data",
        )
        if len(found.classes) != file.arch.num_classes:
            raise InputError(
                f"{source}: names {len(found.classes)} classes, but the network has {file.arch.num_classes} outputs"
            )
        return found

    @property
    def mode(self) -> Mode:
        """Pillow's name for the images' channels."""
        return "L" if self.in_chans == 1 else "RGB"

    @property
    def transform(self) -> Callable[[Image.Image], Tensor]:
        """From an image of the right mode to the network's input, (C, height, width)."""
        inputs = Inputs(image_size=self.image_size, in_chans=self.in_chans, mean=self.mean, std=self.std)
        return evaluation_transform(inputs, self.crop_pct, self.interpolation)

    def read(self, image: Any) -> Tensor:
        """The network's input (C, height, width) for an image or its file.

        Args:
            image: a file; or an image of Pillow's, an array (height, width) or (height, width, channels) or a tensor
                (height, width) or (channels, height, width) of unsigned bytes.

        Raises:
            InputError: not a readable image, or one whose range is not known.
        """
        if isinstance(image, str | Path):
            return self.transform(read_image(str(image), self.mode))
        source = str(getattr(image, "filename", "") or "image")
        return self.transform(to_eight_bits(as_picture(image, source), self.mode, source))

    @property
    def steps(self) -> list[str]:
        """The same in words, for whoever writes it anew."""
        height, width = self.image_size
        sides = [int(side / self.crop_pct) for side in self.image_size]
        resized = (
            f"until its smaller side has {sides[0]} pixels"
            if height == width
            else f"until it just covers {sides[0]} x {sides[1]} pixels (height x width)"
        )
        return [
            f"convert the image to {'grey' if self.in_chans == 1 else 'RGB'} with 8 bits a channel, of 16 the upper 8",
            f"resize it in proportion ({self.interpolation}, antialiased) {resized}",
            f"cut {height} x {width} pixels (height x width) from its centre",
            "divide by 255, subtract the mean and divide by the standard deviation of each channel",
            "arrange as float32 of shape (batch, channels, height, width)",
            "the outputs are logits, one for each class; softmax makes them probabilities",
        ]

    def to_json(self) -> str:
        """The text of the file that lies beside an exported network."""
        return json.dumps({"schema": SCHEMA, **self.to_dict(), "steps": self.steps}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str | Path) -> Self:
        """What `to_json` wrote.

        Raises:
            InputError: it is something else.
        """
        try:
            data: Any = json.loads(text)
        except ValueError as error:
            raise InputError(f"{source}: not valid JSON: {error}") from None
        if not isinstance(data, dict) or data.pop("schema", None) != SCHEMA:
            raise InputError(f"{source}: expected a mapping with 'schema: {SCHEMA}'")
        data.pop("steps", None)
        return cls.from_dict(data, source=str(source))
