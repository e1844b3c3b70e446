"""The whole way once: supernet, search, and short trainings of the winner, a random network and a DeiT-like one.

    python benchmarks/end_to_end.py --data CIFAR10 --out runs/end-to-end

All three networks have at most the budget's MACs and the same recipe. The script only calls the commands, and each of
them continues where it was interrupted, so the same line continues the whole. It ends with a Markdown table.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from pathlib import Path

import numpy as np

from psvit import Architecture, Budget, SearchSpace, Stage, cost
from psvit.arch.architecture import ArchitectureFile


def deit_like(space: SearchSpace, budget: Budget) -> Architecture:
    """The 1d network of one stage, without sharing, that is widest within the budget at six layers and ratio 4."""
    fits = []
    head_dim = space.layouts[0].head_dim
    for heads in range(1, 17):
        arch = Architecture(
            variant="1d",
            **{name: getattr(space, name) for name in ("image_size", "in_chans", "num_classes", "patch_size")},
            patch_stride=space.patch_stride,
            head_dim=head_dim,
            stages=(Stage(embed_dim=heads * head_dim, groups=(1,) * 6, mlp_ratio=4.0),),
            pools=(),
        )
        if cost(arch).macs <= budget.limits[0].upper:
            fits.append(arch)
    return fits[-1]


def call(*command: str) -> float:
    """Run a command of the package; returns its seconds."""
    began = time.perf_counter()
    print("$", " ".join(command), flush=True)
    subprocess.run(command, check=True)
    return time.perf_counter() - began


def main() -> None:
    """Run the steps and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CIFAR-10 as an image folder")
    parser.add_argument("--space", default="psvit-2d-nano")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", default="23MFLOPs")
    parser.add_argument("--supernet-epochs", default="30")
    parser.add_argument("--trials", default="128")
    parser.add_argument("--epochs", default="6", help="of the three final trainings")
    parser.add_argument("--seed", default="0")
    options = parser.parse_args()
    out, seed = options.out, options.seed
    budget = Budget.parse(options.budget)

    common = ("--data", options.data, "--seed", seed)
    epochs = ("--set", f"epochs={options.supernet_epochs}")
    call("psvit-supernet", *common, "--space", options.space, *epochs, "--out", str(out / "supernet"))
    call(
        "psvit-search", "--supernet", str(out / "supernet"), *common, "--budget", options.budget,
        "--trials", options.trials, "--out", str(out / "search"),
    )  # fmt: skip
    found = ArchitectureFile.load(out / "search" / "best.yaml")
    space = SearchSpace.load(options.space)
    space = space.with_data(found.arch.num_classes, found.arch.in_chans)
    drawn = space.sample(np.random.default_rng(int(seed)), 1, budget.spent(0.9))[0]
    drawn.save(out / "random.yaml")
    deit_like(space, budget).save(out / "deit-like.yaml")

    rows = []
    files = {"found": out / "search" / "best.yaml", "random": out / "random.yaml", "DeiT-like": out / "deit-like.yaml"}
    for name, file in files.items():
        folder = out / f"retrain-{file.stem}"
        call("psvit-retrain", str(file), *common, "--set", f"epochs={options.epochs}", "--set", "warmup_epochs=1",
             "--out", str(folder))  # fmt: skip
        result = ArchitectureFile.load(folder / "network.yaml")
        price = cost(result.arch)
        inherited = result.score.get("inherited")
        rows.append(
            f"| {name} | {price.macs / 1e6:.1f} M | {price.num_params / 1e6:.2f} M "
            f"| {'-' if inherited is None else f'{inherited:.2f}'} | {result.score['value']:.2f} |"
        )
    print("| network | MACs | parameters | inherited top-1 | trained top-1 |\n|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
