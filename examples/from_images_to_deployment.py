"""The whole way in Python: train a supernet, retrain two networks, compare them, measure one, export it, use it.

    python examples/from_images_to_deployment.py FOLDER

Every function gives a value that the next one takes, and that a notebook shows as a table or a picture. Settings are
tiny, so that it takes a minute on scikit-learn's digits; leave them out for networks that are worth something.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import psvit
from psvit.errors import NoisyMachineError

BRIEF = {"epochs": 2, "warmup_epochs": 0}


def main(folder: Path) -> None:
    """Everything, from images to a network that others run."""
    data = psvit.ImageData.open("digits")
    supernet = psvit.train_supernet("psvit-2d-digits", data, settings=BRIEF, out=folder / "supernet")

    # A search would choose; here are the smallest and the largest network of the space.
    small, large = (
        [psvit.retrain_network(arch, data, settings=BRIEF, seed=seed, out=folder / f"{name}-{seed}") for seed in (0, 1)]
        for name, arch in (("smallest", supernet.space.smallest), ("largest", supernet.space.largest))
    )
    # Trained twice each, so that the comparison knows how much a seed matters.
    print(psvit.compare({"smallest": small, "largest": large}, data))

    try:
        latency = psvit.measure_latency(large[0], "cpu:batch=8,threads=1")
        print(f"largest: {latency.median_ms:.2f} ms for 8 images (interquartile range {latency.iqr_ms:.2f})")
    except NoisyMachineError as error:  # nothing is said that was not measured well
        print(f"largest: {error}")

    exported = psvit.export_network(large[0], "torch-export", out=folder / "exported")
    print(f"exported to {exported.folder}; {exported.card} says how to use it")
    image, label = data.val[0]
    name, probability = large[0].classifier().predict(image, top=1)[0]
    print(f"an image of a {data.classes[label]}: {name}, {100 * probability:.0f} %")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main(Path(sys.argv[1]))
