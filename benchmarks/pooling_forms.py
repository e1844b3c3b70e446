"""How a network with a class token is pooled best: along the flattened sequence, in rows, or on the grid.

A trained network is pooled at as many multiply-accumulates in three forms, and fine-tuned alike:

- `sequence`: neighbours in the flattened sequence, as in HVT (arXiv 2103.10619). A window may reach from the end of one
  row into the next.
- `rows`: neighbours in a row, the next pooling those in a column. As many tokens are left as with `sequence`.
- `grid`: rows and columns at once, which leaves a quarter of the tokens, so that pooling comes later.

    python benchmarks/pooling_forms.py NETWORK --data DATA
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from command_line import at_least, run_script
from torch import Tensor, nn

from psvit import Architecture, cost
from psvit.arch.architecture import Stage
from psvit.data import Batches, ImageData, open_data
from psvit.nn.network import PSViT, PSViTStage
from psvit.train.choices import choose_recipe
from psvit.train.job_runner import inputs_for, right_and_loss, train_job
from psvit.train.original import Original
from psvit.train.read_original import read_original
from psvit.train.training_job import TrainingJob

Form = Literal["sequence", "rows", "grid"]
FORMS: tuple[Form, ...] = ("sequence", "rows", "grid")


class FormPool(nn.Module):
    """Pooling of patch tokens; the class token passes by.

    Args:
        pool: `max` or `avg`, with kernel 3, stride 2 and padding 1 in every direction that is pooled.
        grid: rows and columns that come in.
        directions: which of them are pooled; neither pools the sequence.
    """

    def __init__(self, pool: str, grid: tuple[int, int], directions: tuple[bool, bool]) -> None:
        super().__init__()
        self.pool = pool
        self.grid = grid
        self.kernel = tuple(3 if pooled else 1 for pooled in directions)

    def forward(self, x: Tensor) -> Tensor:
        """From (B, 1 + N, D) to fewer tokens."""
        patches = x[:, 1:].transpose(1, 2).unflatten(2, self.grid)
        stride, padding = tuple(min(size, 2) for size in self.kernel), tuple(size // 2 for size in self.kernel)
        if self.pool == "max":
            pooled = F.max_pool2d(patches, self.kernel, stride, padding)
        else:
            pooled = F.avg_pool2d(patches, self.kernel, stride, padding, count_include_pad=False)
        return torch.cat([x[:, :1], pooled.flatten(2).transpose(1, 2)], dim=1)


def grids(form: Form, grid: tuple[int, int], poolings: int) -> list[tuple[tuple[int, int], tuple[bool, bool]]]:
    """The grid before each pooling and the directions that it pools, then the last grid."""
    found = []
    rows, columns = (1, math.prod(grid)) if form == "sequence" else grid
    for number in range(poolings + 1):
        directions = {"sequence": (False, True), "grid": (True, True), "rows": (number % 2 == 1, number % 2 == 0)}[form]
        found.append(((rows, columns), directions))
        rows = -(-rows // 2) if directions[0] else rows
        columns = -(-columns // 2) if directions[1] else columns
    return found


def macs(arch: Architecture, tokens: list[int]) -> int:
    """Multiply-accumulates of a network with so many patch tokens in its stages."""

    def of_layers(numbers: list[int]) -> int:
        total = 0
        for stage, patches in zip(arch.stages, numbers, strict=True):
            n, d = patches + 1, stage.embed_dim
            total += stage.depth * (4 * n * d * d + 2 * n * n * d + 2 * n * d * stage.hidden_dim)
        return total

    return cost(arch).macs - of_layers([rows * columns for rows, columns in arch.grids]) + of_layers(tokens)


def pooled(arch: Architecture, cuts: tuple[int, ...], pool: str) -> Architecture:
    """The network with poolings before these layers."""
    (stage,) = arch.stages
    ends = itertools.pairwise([0, *cuts, stage.depth])
    stages = tuple(
        Stage(embed_dim=stage.embed_dim, groups=(1,) * (end - begin), mlp_ratio=stage.mlp_ratio) for begin, end in ends
    )
    fields = {name: getattr(arch, name) for name in Architecture.model_fields}
    return Architecture(**{**fields, "stages": stages, "pools": (pool,) * len(cuts)})


def candidates(original: Architecture, form: Form, share: float, pool: str) -> list[tuple[Architecture, int]]:
    """For one pooling and for two, the evenest within a share of the multiply-accumulates, with what it costs."""
    found = []
    for number in (1, 2):
        within = []
        for cuts in itertools.combinations(range(1, original.depth), number):
            arch = pooled(original, cuts, pool)
            steps = grids(form, original.patches.grid, number)
            costs = macs(arch, [rows * columns for (rows, columns), _ in steps])
            if costs <= share * cost(original).macs:
                within.append((math.prod(stage.depth for stage in arch.stages), costs, arch))
        if within:
            _, costs, arch = max(within, key=lambda one: one[:2])
            found.append((arch, costs))
    return found


def network(original: Original, arch: Architecture, form: Form) -> PSViT:
    """The original, pooled."""
    found = PSViT(arch)
    weights = dict(original.network.state_dict())
    own: dict[str, Tensor] = {}
    layers = [name for name, module in original.network.named_modules() if name.endswith("norm1")]
    for place, name in enumerate(name for name, _ in found.named_modules() if name.endswith("norm1")):
        there, here = layers[place].removesuffix("norm1"), name.removesuffix("norm1")
        own |= {here + key.removeprefix(there): value for key, value in weights.items() if key.startswith(there)}
    own |= {key: value for key, value in weights.items() if not key.startswith("stages.")}
    found.load_state_dict(own)
    steps = grids(form, original.arch.patches.grid, len(arch.pools))
    for stage, pool, (grid, directions) in zip(found.stages[1:], arch.pools, steps, strict=False):
        assert isinstance(stage, PSViTStage)
        stage.pool = FormPool(pool, grid, directions)
    return found


def fine_tuned(original: Original, arch: Architecture, form: Form, data: ImageData, epochs: int, seed: int) -> float:
    """Top-1 on the search images after fine-tuning."""
    device = torch.device("cpu")
    chosen = choose_recipe(None, {}, data, arch.image_size, supernet=False, device=device, begin="original")
    recipe = chosen.with_epochs(epochs)
    job = TrainingJob(arch=arch, recipe=recipe, seed=seed, init="original", label=f"{form}, seed {seed}")
    inputs = inputs_for(data, job, device)
    with tempfile.TemporaryDirectory(prefix="psvit-") as folder:
        start = network(original, arch, form)
        trained = train_job(job, data, start, inputs=inputs, device=device, folder=Path(folder)).network
    right, _ = right_and_loss(trained, Batches(data.search, inputs, 128, device))
    return 100 * float(right.mean())


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--share", type=float, default=0.6, help="of the network's multiply-accumulates")
    parser.add_argument("--epochs", type=at_least(1), default=2)
    parser.add_argument("--seeds", type=at_least(1), default=2)
    parser.add_argument("--pools", nargs="+", default=["max", "avg"])
    run_script(parser, compare, parser.parse_args())


def compare(options: argparse.Namespace) -> None:
    """Fine-tune every form with every seed, and print accuracies."""
    data = open_data(options.data)
    original = read_original(options.network).fitted(data)
    print(
        f"{options.network} on {data.name}, {options.epochs} epochs, {options.seeds} seeds, PyTorch {torch.__version__}"
    )
    for form, pool in itertools.product(FORMS, options.pools):
        for arch, costs in candidates(original.arch, form, options.share, pool):
            found = [fine_tuned(original, arch, form, data, options.epochs, seed) for seed in range(options.seeds)]
            depths = ", ".join(str(stage.depth) for stage in arch.stages)
            shown = " ".join(f"{one:.2f}" for one in found)
            print(
                f"{form}, {pool}, layers {depths}: {100 * costs / cost(original.arch).macs:.1f} % of the MACs, "
                f"top-1 {np.mean(found):.2f} ({shown})",
                flush=True,
            )


if __name__ == "__main__":
    main()
