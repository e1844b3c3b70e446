"""An objective of one's own, improved beside the score, and as a limit.

    python examples/own_objective.py FOLDER

An objective is a function of an architecture. Among the `objectives` it is improved; in the `budget`, where it has an
end, it is kept to.
"""

from __future__ import annotations

import sys
from pathlib import Path

import psvit

PICOJOULES_PER_MAC, PICOJOULES_PER_BYTE = 4.6, 20.0
"""What an operation and a byte from memory take in some processor, say."""


def energy_uj(arch: psvit.Architecture) -> float:
    """A rough estimate of the energy of one image in microjoules."""
    cost = psvit.cost(arch)
    return 1e-6 * (PICOJOULES_PER_MAC * cost.macs + PICOJOULES_PER_BYTE * (4 * cost.num_params + cost.activation_bytes))


def maps(arch: psvit.Architecture) -> int:
    """How many attention maps are computed: one for each group of layers."""
    return sum(len(stage.groups) for stage in arch.stages)


def main(folder: Path) -> None:
    """Networks that score well with little energy and many attention maps, of at most 9 microjoules."""
    energy = psvit.Objective("energy_uj", energy_uj, direction="minimize", upper=9.0, unit="µJ")
    result = psvit.run_search(
        "psvit-2d-digits",
        budget=["0..1.2MFLOPs", energy],
        objectives=["score", energy, psvit.Objective("maps", maps, direction="maximize")],
        trials=64,
        control=0,
        out=folder,
        device="cpu",
    )
    print(f"a front of {len(result.front)} networks:")
    for point in result.front[:5]:
        print(f"  {point.file}: {energy_uj(point.arch):.2f} µJ, {maps(point.arch)} maps, score {point.score:.4g}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
