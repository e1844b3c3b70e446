"""A score of one's own: bring a function, get the shortlist, the front, `best.yaml` and the report of any search.

    python examples/own_score.py FOLDER

The function here needs no training: how far apart the outputs of a network with random weights are for different
images, relative to their size. Run it twice: the second time everything is found done. Change VERSION, and the run is
refused, because half of its scores would be of another kind.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import psvit

VERSION = "1"


def spread_of_outputs(archs: Sequence[psvit.Architecture]) -> list[float]:
    """How far apart a network's outputs are for random images, in units of their size; more is better."""
    scores = []
    for arch in archs:
        torch.manual_seed(0)
        network = psvit.create_model(arch).eval()
        with torch.inference_mode():
            outputs = network(torch.randn(16, arch.in_chans, *arch.image_size))
        scores.append(float(torch.pdist(outputs).mean() / outputs.norm(dim=1).mean()))
    return scores


def main(folder: Path) -> None:
    """Search for networks of about a million multiply-accumulates; train the best on digits, and choose."""
    result = psvit.run_search(
        "psvit-2d-digits",
        budget="1MFLOPs",
        evaluator=psvit.ScoringFunction(
            spread_of_outputs,
            name="spread of outputs",
            version=VERSION,
            meaning="mean distance of outputs of a random network, relative to their length",
        ),
        data="digits",
        trials=32,
        finalists=3,
        out=folder,
        device="cpu",
    )
    print(f"best: {result.best.name}, {result.best.score:.4f}, {result.best.cost.macs:,} MACs")
    for one in result.finalists:
        print(f"  {one.name}: {one.accuracy:.1f} % after {one.looks[-1].epoch} epochs of training")
    if result.verdict:  # there is none if no hand-made network is within the space and the budget
        print(f"verdict: {result.verdict}")
    print(f"front of score and MACs: {len(result.front)} of {len(result.trials)} trials")
    print(f"report: {result.report.path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
