"""How quickly a space is priced, counted and sampled, on one core.

    OMP_NUM_THREADS=1 python benchmarks/costs.py

Prints two Markdown tables: the rates that searching rests on, and how long each shipped space's tables, counts, reach
and nearest architectures take. Times are medians, with the least and the greatest.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from psvit import Budget, SearchSpace
from psvit.space import feasible, pricing
from psvit.space.feasible import FeasibleSet
from psvit.space.search_space import shipped_spaces

DRAWN = 100_000
"""Architectures that are drawn at once."""


def seconds(call: Callable[[], object], repeats: int) -> list[float]:
    """The times of several calls."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return times


def shown(values: list[float], form: str) -> str:
    """Median, least and greatest."""
    median, least, greatest = (format(f(values), form) for f in (statistics.median, min, max))
    return f"{median} ({least} to {greatest})"


def rates(seed: int, repeats: int) -> None:
    """Architectures a second in psvit-2d-small, priced and drawn."""
    space = SearchSpace.load("psvit-2d-small")
    rng = np.random.default_rng(seed)
    print("| psvit-2d-small | of so many | architectures a second |\n|---|---|---|")
    rows = space.sample(rng, 1_000_000).rows
    priced = seconds(lambda: space.price(rows), repeats)
    print(f"| priced | {space.size:,} | {shown([len(rows) / t for t in priced], ',.0f')} |")
    for texts in (["2GFLOPs"], ["1.998..2GFLOPs"], ["2GFLOPs", "22Mparams"], ["2GFLOPs", "3MB"]):
        found = FeasibleSet(space, Budget.parse(*texts))
        drawn = seconds(partial(found.sample, rng, DRAWN), repeats)
        print(f"| drawn within {', '.join(texts)} | {found.count:,} | {shown([DRAWN / t for t in drawn], ',.0f')} |")


def spaces(names: Sequence[str], repeats: int) -> None:
    """What has to be waited for before anything is drawn, and when nothing can be."""
    print("| space | architectures | reach, s | tables, s | count, one limit, s | three limits, s | nearest, s |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        space = SearchSpace.load(name)

        (least, macs), (_, params), (_, memory) = (
            space.reach(metric) for metric in ("macs", "num_params", "activation_bytes")
        )
        one = Budget.parse(f"{macs // 4}FLOPs")
        three = Budget.parse(f"{macs // 4}FLOPs", f"{params // 4}params", f"{memory // 2}B")
        # Costs that are possible alone and not together are the slowest to tell from possible ones.
        impossible = [
            Budget.parse(f"{least - 1}FLOPs"),
            Budget.parse(f"{macs}..{macs}FLOPs", f"{params // 2}params"),
            Budget.parse(f"{macs // 3}..{macs // 3}FLOPs", f"{params // 3}..{params // 3}params", f"{memory // 2}B"),
        ]
        assert not any(space.count(budget) for budget in impossible)
        columns = [
            seconds(partial(afresh, feasible.reach, space), repeats),
            seconds(partial(afresh, feasible._parts, space), repeats),
            seconds(partial(FeasibleSet, space, one), repeats),
            seconds(partial(FeasibleSet, space, three), repeats),
            [time for budget in impossible for time in seconds(partial(space.nearest, budget), 1)],
        ]
        print(f"| {name} | {space.size:,} | {' | '.join(shown(column, '.2f') for column in columns)} |")


def afresh(function: Any, space: SearchSpace) -> None:
    """Call a function that remembers what it returned as if it did not."""
    pricing.stage_tables.cache_clear()
    function.cache_clear()
    function(space)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--spaces", nargs="+", default=shipped_spaces(), help="of the second table; default: all shipped"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, NumPy {np.__version__}\n")
    rates(options.seed, options.repeats)
    print()
    spaces(options.spaces, options.repeats)


if __name__ == "__main__":
    main()
