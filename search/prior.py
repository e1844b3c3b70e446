"""The prior: which networks of one kind are promising before any is trained, as far as other trainings tell.

It is a linear function of a network's structure, fitted by ridge regression on small networks that were trained alone
on CIFAR-10 (`benchmarks/truth`; `docs/benchmarks.md` says what it is worth). There it ranks networks of a cost that it
was not fitted on better than chance. For other images nobody knows, so what a search's own trainings tell takes its
place as they become more (`psvit.search.prediction`).
"""

from __future__ import annotations

import math

from psvit.arch.architecture import Architecture
from psvit.arch.costs import cost

POOLS = ("max", "avg", "conv")


def structure(arch: Architecture) -> dict[str, float]:
    """What the prior sees of a network: costs, depth, sharing, widths, MLPs, and how and where tokens are pooled.

    Returns:
        Numbers by name, always the same names. Costs and widths are natural logarithms.
    """
    costs, stages, depth, pools = cost(arch), arch.stages, arch.depth, arch.pools
    first, last = (pools[0] if pools else None), (pools[-1] if len(pools) > 1 else None)
    return {
        "log macs": math.log(costs.macs),
        "log params": math.log(costs.num_params),
        "log activation_bytes": math.log(costs.activation_bytes),
        "layers": float(depth),
        "maps a layer": sum(len(stage.groups) for stage in stages) / depth,
        "log first width": math.log(stages[0].embed_dim),
        "log last width": math.log(stages[-1].embed_dim),
        "mlp_ratio": sum(stage.mlp_ratio * stage.depth for stage in stages) / depth,
        "stages": float(len(stages)),
        "layers in the last stage": stages[-1].depth / depth,
        **{f"{pool} pools": float(pools.count(pool)) for pool in POOLS},
        "1d": float(arch.variant == "1d"),
        "conv stem": float(arch.stem == "conv"),
        **{f"first pool {pool}": float(first == pool) for pool in POOLS},
        **{f"last of several pools {pool}": float(last == pool) for pool in POOLS},
        "2d, last of several pools conv": float(last == "conv" and arch.variant == "2d"),
    }


WEIGHTS = {
    "log macs": 1.683,
    "log params": -0.4779,
    "log activation_bytes": 1.676,
    "layers": -0.1122,
    "maps a layer": 2.436,
    "log first width": 1.945,
    "log last width": -0.05,
    "mlp_ratio": -0.7199,
    "stages": 0.7523,
    "layers in the last stage": -0.2356,
    "max pools": 1.014,
    "avg pools": -0.3479,
    "conv pools": -0.1497,
    "1d": 0.6697,
    "conv stem": 1.056,
    "first pool max": 1.53,
    "first pool avg": -0.364,
    "first pool conv": -0.4335,
    "last of several pools max": 0.4072,
    "last of several pools avg": -0.3664,
    "last of several pools conv": 0.07033,
    "2d, last of several pools conv": 1.644,
}
"""Points of accuracy for one more of each, as `benchmarks/truth_table.py prior` fits them on `ROWS` rows."""

ROWS = 76
"""Rows of `benchmarks/truth/rows.csv` that the weights are fitted on, from the first on."""


def promise(arch: Architecture) -> float:
    """How accurate a network may become, in points; only differences between networks of one kind and cost count."""
    return sum(WEIGHTS[name] * value for name, value in structure(arch).items())
