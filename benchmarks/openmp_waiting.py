"""What a training step loses beside another busy process, by how OpenMP's threads wait for one another.

    python benchmarks/openmp_waiting.py
    python benchmarks/openmp_waiting.py --settings default 1000 3000 10000 30000 passive

A setting is `default`, a number of rounds that a thread spins before it sleeps (`GOMP_SPINCOUNT`), or `passive`
(`OMP_WAIT_POLICY`). A step is what training does (forward, backward, clipping, AdamW), of one network of about 10 M
multiply-accumulates. Every figure comes from a process of its own, because OpenMP reads its settings once. The threads
have as many cores as they are, and share them with the busy process where there is one; that computes in its registers,
so it takes time and nothing else. In every round each setting is measured alone and beside it, and which setting begins
changes from round to round. It ends with a Markdown table of images a second. Let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product

import numpy as np
import torch
from command_line import at_least
from supernet_step import make_step

from psvit import Architecture, Budget, SearchSpace, cost, create_model
from psvit.executors.openmp import SPIN_COUNT
from psvit.nn.seeding import seeded

SPACE, BUDGET = "psvit-2d-nano", "9.9..10.1MFLOPs"
"""Where the network is drawn."""


def variables(setting: str) -> dict[str, str]:
    """The environment variables of a setting."""
    named = {"default": {}, "passive": {"OMP_WAIT_POLICY": "passive"}}
    return named.get(setting, {"GOMP_SPINCOUNT": setting})


def read_setting(text: str) -> str:
    """A setting from the command line."""
    if text not in ("default", "passive") and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither default nor passive nor a number")
    return text


def drawn(seed: int) -> Architecture:
    """The network that is trained."""
    return SearchSpace.load(SPACE).sample(np.random.default_rng(seed), 1, Budget.parse(BUDGET))[0]


def images_per_second(options: argparse.Namespace) -> float:
    """How fast this process makes training steps."""
    torch.set_num_threads(options.threads)
    arch = drawn(options.seed)
    with seeded(options.seed):
        network = create_model(arch).train()
        images = torch.randn(options.batch_size, arch.in_chans, *arch.image_size)
        labels = torch.randint(arch.num_classes, (options.batch_size,))
    step = make_step(network, network, images, labels)
    step()  # makes the optimiser's state
    steps, began = 0, time.perf_counter()
    while steps < options.least_steps or time.perf_counter() - began < options.seconds:
        step()
        steps += 1
    return float(options.batch_size * steps / (time.perf_counter() - began))


def measured_afresh(setting: str, is_beside: bool) -> float:
    """Images a second of a new process, which is given the same command line."""
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    with busy(is_beside):
        done = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--here"],
            env=kept | variables(setting), check=True, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    return float(json.loads(done.stdout))


@contextmanager
def busy(is_wanted: bool) -> Iterator[None]:
    """Where wanted, another process is busy as long as the block lasts."""
    if not is_wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def shown(values: list[float]) -> str:
    """Median, quartiles and range."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{middle:,.0f} (quartiles {low:,.0f} to {high:,.0f}, from {min(values):,.0f} to {max(values):,.0f})"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=read_setting, nargs="+", default=["default", SPIN_COUNT, "passive"])
    parser.add_argument("--threads", type=at_least(1), default=2)
    parser.add_argument("--batch-size", type=at_least(1), default=128)
    parser.add_argument("--rounds", type=at_least(1), default=7)
    parser.add_argument("--seconds", type=float, default=5.0, help="least time of one measurement")
    parser.add_argument("--least-steps", type=at_least(1), default=3, help="of one measurement")
    parser.add_argument("--seed", type=at_least(0), default=0)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(images_per_second(options)))
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < options.threads:
        parser.error(f"--threads {options.threads}: this process may use {len(cores)} cores; give no more than that")
    os.sched_setaffinity(0, cores[: options.threads])  # inherited by all that is started
    arch = drawn(options.seed)
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, {options.threads} threads on as many cores, "
        f"batch {options.batch_size}, a network of {SPACE} with {cost(arch).macs / 1e6:.2f} M multiply-accumulates"
    )
    found: dict[tuple[str, bool], list[float]] = {cell: [] for cell in product(options.settings, (False, True))}
    for number in range(options.rounds):
        turn = number % len(options.settings)
        for setting in options.settings[turn:] + options.settings[:turn]:
            for is_beside in (False, True) if number % 2 else (True, False):
                found[setting, is_beside].append(measured_afresh(setting, is_beside))
            alone, beside = (found[setting, is_beside][-1] for is_beside in (False, True))
            print(f"{number + 1}: {setting}: {alone:,.0f} alone, {beside:,.0f} beside", flush=True)
    print("\n| setting | images/s alone | beside one busy process |\n|---|---|---|")
    for setting in options.settings:
        name = " ".join("=".join(pair) for pair in variables(setting).items()) or setting
        print(f"| `{name}` | {shown(found[setting, False])} | {shown(found[setting, True])} |")


if __name__ == "__main__":
    main()
