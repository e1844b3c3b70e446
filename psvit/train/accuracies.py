"""Accuracies of a network side by side: its own, however it was trained, and what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping

from psvit.arch.architecture import ArchitectureFile

STANDALONE = "standalone accuracy"
"""The kind of a score that a training of its own gave."""

ORIGINAL, BASELINE = "original", "logistic_regression"
INHERITED, FINE_TUNED, FROM_SCRATCH = "inherited", "fine_tuned", "from_scratch"

BASELINE_IMAGES = "logistic_regression_images"
"""On how many training images the baseline was fitted, if these were not all."""

LABELS = {
    ORIGINAL: "the network that the search made it of",
    INHERITED: "inherited from the search, not trained further",
    FINE_TUNED: "fine-tuned from the inherited weights",
    FROM_SCRATCH: "trained from scratch",
    BASELINE: "logistic regression on the pixels, for comparison",
}
"""What stands before each of them, in the order in which they are shown."""


def label_of(key: str, file: ArchitectureFile) -> str:
    """What stands before an accuracy of a network, by key of `LABELS`."""
    images = file.score.get(BASELINE_IMAGES)
    if key == BASELINE and isinstance(images, int):
        return f"{LABELS[key]}, on {images:,} training images"
    return LABELS[key]


def caution(known: Mapping[str, float]) -> str:
    """What to say of accuracies, by key of `LABELS`, that are worse than those of a linear model; empty for others."""
    own = next((known[key] for key in (FROM_SCRATCH, FINE_TUNED) if key in known), None)
    if own is None or BASELINE not in known or own >= known[BASELINE]:
        return ""
    return (
        f"it is {known[BASELINE] - own:.2f} points worse than logistic regression: train it longer (--set epochs=), "
        "bring more images, or do without a network"
    )


def trained_as(file: ArchitectureFile) -> str:
    """How the weights of a retrained network came about: `fine_tuned` or `from_scratch`."""
    return FINE_TUNED if file.provenance.get("inherited") else FROM_SCRATCH


def accuracies(file: ArchitectureFile) -> dict[str, float]:
    """The top-1 accuracies in percent on the validation images that the file of a retrained network knows.

    Returns:
        By key of `LABELS`, in that order; empty for a file that is not of a retrained network.
    """
    if file.score.get("kind") != STANDALONE:
        return {}
    known = {**file.score, trained_as(file): file.score["value"]}
    return {key: float(known[key]) for key in LABELS if key in known}
