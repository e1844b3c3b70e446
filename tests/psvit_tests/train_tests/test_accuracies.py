"""What is said of accuracies side by side."""

import pytest

from psvit.train.accuracies import BASELINE, FINE_TUNED, FROM_SCRATCH, INHERITED, ORIGINAL, caution


@pytest.mark.parametrize(
    ("known", "points"),
    [
        ({FROM_SCRATCH: 35.8, BASELINE: 80.6}, "44.80 points worse"),
        ({INHERITED: 90.0, FINE_TUNED: 80.0, BASELINE: 80.5}, "0.50 points worse"),
        ({FROM_SCRATCH: 80.6, BASELINE: 80.6}, ""),
        ({ORIGINAL: 10.0, FINE_TUNED: 91.0, BASELINE: 80.5}, ""),
        ({FROM_SCRATCH: 35.8}, ""),
        ({}, ""),
    ],
)
def test_who_is_worse_than_a_linear_model_is_told(known, points):
    said = caution(known)
    assert points in said
    assert bool(said) is bool(points)
