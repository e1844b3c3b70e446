"""Which networks the truth table holds, and in which order they are trained.

The list is drawn once, by `python benchmarks/truth_table.py draw`, and committed before the first training.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from baselines import fit

from psvit import Architecture, Budget, SearchSpace, cost
from psvit.arch.operators import Stem
from psvit.io.documents import Value, dump_yaml, read_yaml, write_atomic
from psvit.space.references import DEIT, HVT, PIT
from psvit.train.recipe import Recipe
from psvit.train.training_job import TrainingJob

FOLDER = Path(__file__).parent
NETWORKS_FILE = FOLDER / "networks.yaml"
SCHEMA = "psvit/truth-networks/1"

SPACES = ("psvit-1d-nano", "psvit-2d-nano")
STEMS: tuple[Stem, ...] = ("patch", "conv")
TOLERANCE = 0.05
"""By which share the multiply-accumulates of a network may differ from its budget, stem included."""

HEAD_DIMS = range(8, 33)
"""Channels that a reference's heads may have; with wider steps a network of one width comes near no small budget."""


class Group(Value):
    """Networks of one budget.

    Attributes:
        macs: the budget.
        random: networks drawn of every (variant, stem).
        depth: layers of the references, relative to those of their papers.
        second_seeds: networks that are trained a second time.
    """

    macs: int
    random: int
    depth: float
    second_seeds: int


GROUPS = (
    Group(macs=5_000_000, random=8, depth=1 / 3, second_seeds=12),
    Group(macs=10_000_000, random=5, depth=5 / 12, second_seeds=10),
)

DRAW_SEED = 2108_03428


class Network(Value):
    """One network of the table.

    Attributes:
        name: short and unique.
        macs: its budget.
        origin: `random`, or the family that it is fitted after.
        seeds: with which it is trained.
        arch: what it is.
    """

    name: str
    macs: int
    origin: str
    seeds: tuple[int, ...]
    arch: Architecture

    @property
    def stratum(self) -> str:
        """Variant and stem."""
        return stratum_of(self.arch)


def job_of(network: Network, recipe: Recipe, seed: int) -> TrainingJob:
    """The training of a network of the list."""
    return TrainingJob(arch=network.arch, recipe=recipe, seed=seed, label=network.name)


def stratum_of(arch: Architecture) -> str:
    """Variant and stem of a network; ranking within these says more than telling them apart."""
    return f"{arch.variant} {arch.stem}"


def load() -> list[Network]:
    """The committed list, in the order of training."""
    data = read_yaml(NETWORKS_FILE, SCHEMA)
    return [Network.from_dict(one, source=NETWORKS_FILE.name) for one in data["networks"]]


def save(networks: list[Network]) -> None:
    """Write the list."""
    listed: list[dict[str, Any]] = [network.to_dict() for network in networks]
    write_atomic(NETWORKS_FILE, dump_yaml({"schema": SCHEMA, "networks": listed}))


def trainings(networks: list[Network]) -> list[tuple[Network, int]]:
    """Pairs of network and seed in the order of training: budget by budget, all first seeds, then the second ones."""
    return [
        (network, network.seeds[place])
        for group in GROUPS
        for place in range(max(len(network.seeds) for network in networks))
        for network in networks
        if network.macs == group.macs and place < len(network.seeds)
    ]


def draw() -> list[Network]:
    """The list, the same at every call: of every group references first, then random networks, strata in turn."""
    rng = np.random.default_rng(DRAW_SEED)
    found = []
    for group in GROUPS:
        million = group.macs // 1_000_000
        archs = {f"{million}M-{origin}-{stem}": (origin, arch) for origin, stem, arch in _references(group)}
        drawn = {(space, stem): _random(space, stem, group, rng) for space in SPACES for stem in STEMS}
        for number in range(group.random):
            for (_, stem), members in drawn.items():
                arch = members[number]
                archs[f"{million}M-{arch.variant}-{stem}-{number}"] = ("random", arch)
        # Spread over the whole list, so that references, strata and good and bad networks are among them.
        twice = set(rng.choice(len(archs), size=group.second_seeds, replace=False).tolist())
        found += [
            Network(name=name, macs=group.macs, origin=origin, seeds=(0, 1) if place in twice else (0,), arch=arch)
            for place, (name, (origin, arch)) in enumerate(archs.items())
        ]
    return found


def _references(group: Group) -> Iterator[tuple[str, Stem, Architecture]]:
    space = SearchSpace.load(SPACES[0])
    for stem in STEMS:
        for family in (DEIT, PIT, HVT):
            arch = fit(family, space, group.macs, group.depth, stem=stem, head_dims=HEAD_DIMS, tolerance=TOLERANCE)
            yield family.name.removesuffix("-like").lower(), stem, arch


def _random(name: str, stem: Stem, group: Group, rng: np.random.Generator) -> list[Architecture]:
    """Distinct members of a space behind a stem, uniformly drawn among those whose costs with it are near the budget.

    A space knows the cost behind a patch stem only, so members are drawn from a wider range and those behind whose stem
    the cost is not near the budget are passed over, which leaves the others uniformly distributed.
    """
    space = SearchSpace.load(name)
    least, most = round((1 - TOLERANCE) * group.macs), round((1 + TOLERANCE) * group.macs)
    reachable = Budget.parse(f"{round(0.3 * least)}..{most}FLOPs")
    chosen: dict[str, Architecture] = {}
    while len(chosen) < group.random:
        (member,) = space.sample(rng, 1, reachable)
        arch = Architecture.from_dict({**member.to_dict(), "stem": stem})
        if least <= cost(arch).macs <= most:
            chosen.setdefault(arch.digest, arch)
    return list(chosen.values())
