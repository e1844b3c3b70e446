"""Thumbnails: small, in proportion, and of small images with every pixel."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from psvit.retrain.report.thumbnails import SIDE, thumbnail


def noise(height: int, width: int, channels: int) -> Image.Image:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, size=shape).astype(np.uint8))


def pixels_of(uri: str) -> Image.Image:
    kind, _, text = uri.partition(",")
    assert kind == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(text)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("height", "width", "shown", "is_magnified"),
    [
        (8, 8, (96, 96), True),
        (28, 28, (84, 84), True),
        (48, 48, (96, 96), True),
        (49, 49, (96, 96), False),
        (96, 96, (96, 96), False),
        (20, 40, (80, 40), True),
        (300, 600, (96, 48), False),
        (1, 5000, (96, 1), False),
    ],
)
def test_how_large_it_is_shown(height, width, channels, shown, is_magnified):
    picture = noise(height, width, channels)
    found = thumbnail(picture)
    assert (found.width, found.height) == shown
    assert found.is_magnified is is_magnified
    kept = pixels_of(found.uri)
    assert max(kept.size) <= SIDE
    assert kept.mode == picture.mode
    if max(height, width) <= SIDE:
        assert kept.tobytes() == picture.tobytes()
    assert picture.size == (width, height), "the image itself stays as it is"
