"""At which size networks see images."""

from __future__ import annotations

import numpy as np
import pytest

from psvit.data import ImageData, seen_size
from psvit.errors import InputError
from psvit.io.arguments import read_image_size


@pytest.mark.parametrize("size", [(96, 64), (8, 8), (512, 512), (400, 500)])
def test_images_are_seen_at_their_own_size(size):
    assert seen_size(size) == size


@pytest.mark.parametrize(
    ("size", "smaller"),
    [
        ((480, 640), (224, 299)),
        ((640, 480), (299, 224)),
        ((1024, 1024), (224, 224)),
        # The smaller side is not enlarged for it, nor is the other left too long.
        ((600, 100), (512, 85)),
        ((300, 2000), (77, 512)),
        # In proportion they would be too thin.
        ((4000, 20), (512, 8)),
        ((4, 6), (8, 8)),
    ],
)
def test_images_that_no_space_is_made_for_are_seen_at_another_size(size, smaller):
    assert seen_size(size) == smaller


@pytest.mark.parametrize("given", [224, "224", (224, 224)])
def test_one_number_is_both_sides(given):
    assert read_image_size(given) == (224, 224)


@pytest.mark.parametrize("given", ["96x64", (96, 64), [96, 64]])
def test_height_comes_before_width(given):
    assert read_image_size(given) == (96, 64)


@pytest.mark.parametrize(
    "given", ["", "x", "96x", "96x64x3", "-5", "0", 0, -3, "9.5", (1, 2, 3), (96.0, 64), "1e3", None]
)
def test_what_is_no_size_is_refused(given):
    with pytest.raises(InputError, match="must be a side in pixels, or height and width, as in 224 and 96x64"):
        read_image_size(given)


def test_the_typical_size_is_the_median_of_heights_and_of_widths():
    def of(*sizes):
        made = [(np.zeros(size, np.uint8), index % 2) for index, size in enumerate(sizes * 24)]
        return ImageData.from_datasets(made, made[:4]).image_size

    assert of((10, 20)) == (10, 20)
    assert of((10, 20), (30, 8), (14, 9)) == (14, 9)
