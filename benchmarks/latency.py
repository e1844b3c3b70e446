"""Latency models on this CPU, held out, and one search with and without a limit on latency.

    python benchmarks/latency.py --out runs/latency

First a latency model of each space (`--spaces`) at each batch size, eager, with the error and the rank correlation on
held-out architectures beside those of a ridge regression on costs. Then two searches at the same MACs with the
training-free indicator, one of them under a limit on latency as well, and both winners measured in turns. Every step is
found again when the same line is given again. Let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from pathlib import Path

import numpy as np

from psvit import Architecture, SearchSpace, cost
from psvit.arch.architecture import ArchitectureFile
from psvit.errors import NoisyMachineError
from psvit.io.journal import Journal
from psvit.search.latency.measure import Setting, fingerprint, measure
from psvit.search.latency.model import LatencyModel
from psvit.search.latency.parts import fresh

SEARCHED, BUDGET = "psvit-2d-nano", "20..22MFLOPs"
"""The space of the two searches, and their limit on MACs."""

FASTER = 0.85
"""The limit on latency, relative to what the winner without one takes."""


def call(*command: str) -> None:
    """Run a command of the package, again and again while the machine is too noisy."""
    print("$", " ".join(command), flush=True)
    while True:
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        print(done.stderr, end="", flush=True)
        if done.returncode == 0:
            return
        if done.returncode != 1 or "too noisy" not in done.stderr:
            raise SystemExit(done.returncode)
        time.sleep(30)


def build(space: str, batch: int, out: Path, threads: tuple[str, ...], journal: Journal) -> LatencyModel:
    """A latency model, and how long its build took."""
    file = out / f"{space}-batch-{batch}.yaml"
    began = time.perf_counter()
    call("psvit-latency", "--space", space, "--batch", str(batch), *threads, "--out", str(file))
    if not any(record["what"] == file.name for record in journal.records):
        journal.add({"what": file.name, "seconds": time.perf_counter() - began})
    return LatencyModel.load(file)


def in_turns(archs: list[Architecture], setting: Setting, rounds: int, journal: Journal) -> np.ndarray:
    """Latencies in milliseconds of architectures that are measured one after another, (rounds, architectures)."""
    known = {(r["round"], r["winner"]): r["ms"] for r in journal.records if r["what"] == "winner"}
    for number in range(rounds):
        for winner, arch in enumerate(archs):
            while (number, winner) not in known:
                try:
                    latency = measure(fresh(arch), (arch.in_chans, *arch.image_size), setting)
                except NoisyMachineError:
                    time.sleep(30)
                    continue
                known[number, winner] = latency.median_ms
                journal.add({"what": "winner", "round": number, "winner": winner, "ms": latency.median_ms})
    return np.array([[known[number, winner] for winner in range(len(archs))] for number in range(rounds)])


def main() -> None:
    """Run the steps and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--spaces", nargs="+", default=[SEARCHED])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--threads", default=None, help="of operators; PyTorch's own number by default")
    parser.add_argument("--trials", default="128")
    parser.add_argument("--rounds", type=int, default=11, help="how often both winners are measured")
    parser.add_argument("--seed", default="0")
    options = parser.parse_args()
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    setting = Setting(threads=int(options.threads) if options.threads else None)
    here = fingerprint(setting)
    journal = Journal(out / "journal", {"fingerprint": here.to_dict(), "seed": options.seed, "trials": options.trials})
    threads = ("--threads", options.threads) if options.threads else ()

    rows = []
    for space in options.spaces:
        for batch in options.batches:
            model = build(space, batch, out, (*threads, "--seed", options.seed), journal)
            seconds = next(r["seconds"] for r in journal.records if r["what"] == f"{space}-batch-{batch}.yaml")
            least, greatest = model.reach(SearchSpace.load(space))
            rows.append(
                f"| `{space}` | {batch} | {least:.3g} to {greatest:.3g} ms | {model.validation.mape:.2f} % "
                f"| {model.validation.kendall_tau:.3f} | {model.ridge.mape:.2f} % | {model.ridge.kendall_tau:.3f} "
                f"| {len(model.parts)} | {seconds:.0f} s |"
            )

    model = build(SEARCHED, 1, out, (*threads, "--seed", options.seed), journal)
    search = (
        "psvit-search", "--space", SEARCHED, "--budget", BUDGET, "--trials", options.trials, "--seed", options.seed,
    )  # fmt: skip
    call(*search, "--out", str(out / "macs"))
    first = ArchitectureFile.load(out / "macs" / "best.yaml")
    limit = f"{FASTER * model.predict(first.arch):.4g}ms@cpu" + (f":threads={options.threads}" if threads else "")
    table = str(out / f"{SEARCHED}-batch-1.yaml")
    call(*search, "--budget", limit, "--latency", table, "--out", str(out / "macs-and-latency"))
    second = ArchitectureFile.load(out / "macs-and-latency" / "best.yaml")
    times = in_turns([first.arch, second.arch], setting, options.rounds, journal)

    print(f"\n{here.processor}, {here.cores} cores, {here.threads} threads, torch {here.torch}\n")
    print("| space | batch | latency | error | Kendall tau | ridge: error | tau | parts | build |")
    print("|---|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))
    print(f"\n{SEARCHED}, {BUDGET}, {options.trials} trials; {options.rounds} measurements of each winner in turns\n")
    print("| limits | MACs | score | predicted | median | interquartile range |\n|---|---|---|---|---|---|")
    for limits, found, ms in zip((BUDGET, f"{BUDGET}, {limit}"), (first, second), times.T, strict=True):
        low, median, high = np.quantile(ms, [0.25, 0.5, 0.75])
        print(
            f"| {limits} | {cost(found.arch).macs / 1e9:.3f} G | {found.score['value']:.4g} "
            f"| {model.predict(found.arch):.4g} ms | {median:.4g} ms | {high - low:.2g} ms |"
        )
    print(f"\nthe second is faster in {int((times[:, 1] < times[:, 0]).sum())} of {options.rounds} pairs;", end=" ")
    print("the winners differ" if first.arch != second.arch else "the winners are THE SAME")


if __name__ == "__main__":
    main()
