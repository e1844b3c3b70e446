"""Whether sharing attention saves the time that it saves in multiply-accumulates, and how fast the family runs.

Every figure is a ratio of two sides measured alternately in one process: the median over rounds, with the quartiles.

    python benchmarks/attention_sharing.py deit      PSViT that is DeiT against timm's DeiT
    python benchmarks/attention_sharing.py groups    groups of layers against as many separate layers
    python benchmarks/attention_sharing.py forms     the map against queries and keys, attention alone
    python benchmarks/attention_sharing.py pit       PSViT-2D against timm's PiT at its multiply-accumulates
    python benchmarks/attention_sharing.py profile   where the time of a group goes
"""

from __future__ import annotations

import argparse
import itertools
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import timm
import torch
from command_line import at_least
from timm.layers import use_fused_attn
from torch import nn

import psvit.model
from psvit import Architecture, SearchSpace, Stage, cost
from psvit.arch.costs import layers as layer_costs
from psvit.model import checkpoint_filter_fn
from psvit.nn.layers import AttentionGroup

Step = Callable[[], object]


def ratio(ours: Step, theirs: Step, synchronise: Step, rounds: int, seconds: float) -> np.ndarray:
    """Quartiles of the time of `ours` relative to `theirs`, alternating which goes first."""
    for step in (ours, theirs, ours, theirs):
        step()
    synchronise()
    number = max(1, round(seconds / max(1e-6, timed(theirs, 1, synchronise))))
    ratios = []
    for index in range(rounds):
        pair = [ours, theirs][:: 1 if index % 2 else -1]
        times = {step: timed(step, number, synchronise) for step in pair}
        ratios.append(times[ours] / times[theirs])
    return np.quantile(ratios, [0.25, 0.5, 0.75])


def timed(step: Step, number: int, synchronise: Step) -> float:
    """Seconds of one step."""
    begun = time.perf_counter()
    for _ in range(number):
        step()
    synchronise()
    return (time.perf_counter() - begun) / number


def inference(model: nn.Module, x: torch.Tensor) -> Step:
    """A forward pass as in deployment."""
    model.eval()

    def step() -> None:
        with torch.inference_mode():
            model(x)

    return step


def training(model: nn.Module, x: torch.Tensor) -> Step:
    """A forward and a backward pass, without the optimiser."""
    model.train()

    def step() -> None:
        for parameter in model.parameters():
            parameter.grad = None
        model(x).square().mean().backward()

    return step


MODES = {"inference": inference, "forward and backward": training}


def shown(quartiles: np.ndarray) -> str:
    """Median and quartiles for a table."""
    return f"{quartiles[1]:.3f} ({quartiles[0]:.3f} to {quartiles[2]:.3f})"


class Bench:
    """Device, precision, patience and how much of a table is wanted, as given on the command line."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.device = torch.device(args.device)
        self.dtype = getattr(torch, args.dtype)
        self.compile = args.compile
        self.rounds, self.seconds = args.rounds, args.seconds
        self.most_cells = args.cells

    def cells(self, *axes: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
        """The cells of a table, the last axis the fastest, or the first of them."""
        return itertools.islice(itertools.product(*axes), self.most_cells)

    def synchronise(self) -> None:
        """Wait for what the device still computes."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def ready(self, model: nn.Module) -> nn.Module:
        """A model where and as it is to be measured."""
        model = model.to(self.device, self.dtype)
        if self.compile:
            model.compile(fullgraph=True)
        return model

    def randn(self, *shape: int) -> torch.Tensor:
        """Inputs where and as they are to be measured."""
        return torch.randn(*shape, device=self.device, dtype=self.dtype)

    def ratio(self, ours: Step, theirs: Step) -> np.ndarray:
        """Quartiles of the time of `ours` relative to `theirs`."""
        return ratio(ours, theirs, self.synchronise, self.rounds, self.seconds)


def deit(bench: Bench) -> None:
    """The throughput of PSViT with DeiT's architecture and weights relative to timm's DeiT."""
    print("| network | batch | mode | throughput relative to timm's |\n|---|---|---|---|")
    for size, batch, (mode, step) in bench.cells(("tiny", "small"), (1, 32), MODES.items()):
        theirs = timm.create_model(f"deit_{size}_patch16_224")
        ours = psvit.create_model(f"deit-{size}")
        ours.load_state_dict(checkpoint_filter_fn(theirs.state_dict(), ours))
        x = bench.randn(batch, 3, 224, 224)
        found = bench.ratio(step(bench.ready(ours), x), step(bench.ready(theirs), x))
        print(f"| DeiT-{size} | {batch} | {mode} | {shown(1 / found[::-1])} |", flush=True)


def separate(length: int, width: int) -> nn.Module:
    """As many layers with fused attention of their own."""
    assert use_fused_attn()
    return nn.Sequential(*(AttentionGroup(1, width, width // 64, 4 * width, [0.0]) for _ in range(length)))


def groups(bench: Bench) -> None:
    """The time of a group of whole layers relative to separate layers, beside the ratio of multiply-accumulates."""
    print("| mode | N | batch | width | layers | MACs | time | over by |\n|---|---|---|---|---|---|---|---|")
    missed = total = 0
    cells = bench.cells(MODES.items(), (49, 196, 576), (1, 8, 32), (192, 384), (2, 3, 4))
    for (mode, step), tokens, batch, width, length in cells:
        shared = layer_costs(tokens, width, 4 * width, 1, length - 1)[0]
        macs = shared / layer_costs(tokens, width, 4 * width, length, 0)[0]
        x = bench.randn(batch, tokens, width)
        group = AttentionGroup(length, width, width // 64, 4 * width, [0.0] * length)
        found = bench.ratio(step(bench.ready(group), x), step(bench.ready(separate(length, width)), x))
        over = found[1] - macs
        missed, total = missed + (over > 0.05), total + 1
        print(
            f"| {mode} | {tokens} | {batch} | {width} | {length} | {macs:.3f} | {shown(found)} | {100 * over:+.1f} |",
            flush=True,
        )
    print(f"\n{total - missed} of {total} within MACs + 5 points")


def forms(bench: Bench) -> None:
    """The time of a whole group with the map relative to that with queries and keys."""
    print("| mode | N | batch | width | layers | map, MiB | map / qk | auto |\n|---|---|---|---|---|---|---|---|")
    cells = bench.cells(MODES.items(), (16, 49, 98, 196, 576), (1, 8, 32), (192, 384), (2, 3, 4))
    for (mode, step), tokens, batch, width, length in cells:
        heads = width // 64
        sides = {
            form: AttentionGroup(length, width, heads, 4 * width, [0.0] * length, sharing=form)
            for form in ("map", "qk")
        }
        x = bench.randn(batch, tokens, width)
        found = bench.ratio(*(step(bench.ready(group), x) for group in sides.values()))
        chosen = psvit.nn.layers.choose_sharing(batch, tokens, heads, bench.device.type)
        size = batch * heads * tokens**2 * x.element_size() / 2**20
        print(
            f"| {mode} | {tokens} | {batch} | {width} | {length} | {size:.1f} | {shown(found)} | {chosen} |", flush=True
        )


def of_pits_macs(space: str, widths: tuple[int, ...], depths: tuple[int, ...]) -> Architecture:
    """Three stages of even depth, all layers in groups of two, convolutions between."""
    pairs = zip(widths, depths, strict=True)
    stages = tuple(Stage(embed_dim=width, groups=(2,) * (depth // 2), mlp_ratio=4) for width, depth in pairs)
    of_pit = SearchSpace.load(space)
    return of_pit.network(of_pit.layouts[0], stages=stages, pools=("conv", "conv"))


def pit(bench: Bench) -> None:
    """The time of PSViT-2D relative to timm's PiT of about the same multiply-accumulates."""
    partners = {
        "pit_xs_224": of_pits_macs("psvit-2d-tiny", (256, 384, 512), (6, 4, 2)),
        "pit_s_224": of_pits_macs("psvit-2d-small", (384, 512, 704), (6, 4, 2)),
    }
    print("| network | MACs | PiT | MACs | batch | mode | time relative to PiT |\n|---|---|---|---|---|---|---|")
    for (name, arch), batch, (mode, step) in bench.cells(partners.items(), (1, 32), MODES.items()):
        theirs, ours = timm.create_model(name), psvit.create_model(arch)
        x = bench.randn(batch, 3, 224, 224)
        found = bench.ratio(step(bench.ready(ours), x), step(bench.ready(theirs), x))
        macs = f"{cost(arch).macs / 1e9:.3f} G | {name} | {counted(theirs) / 1e9:.3f} G"
        print(f"| PSViT-2D, groups of two | {macs} | {batch} | {mode} | {shown(found)} |", flush=True)


def counted(model: nn.Module) -> int:
    """Multiply-accumulates as PyTorch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model.to("meta").eval()(torch.randn(1, 3, 224, 224))
    return counter.get_total_flops() // 2


def profile(bench: Bench) -> None:
    """The operators of a group and of as many separate layers, at one shape where a map costs much."""
    from torch.profiler import ProfilerActivity, profile

    tokens, batch, width, length = 196, 8, 384, 2
    x = bench.randn(batch, tokens, width)
    sides = {
        "separate": separate(length, width),
        "map": AttentionGroup(length, width, width // 64, 4 * width, [0.0] * length, sharing="map"),
        "qk": AttentionGroup(length, width, width // 64, 4 * width, [0.0] * length, sharing="qk"),
    }
    for name, model in sides.items():
        step = inference(bench.ready(model), x)
        for _ in range(5):
            step()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(20):
                step()
        print(f"{name}: N {tokens}, batch {batch}, width {width}, {length} layers, 20 steps")
        print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=40))


def main() -> None:
    """Print versions and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["deit", "groups", "forms", "pit", "profile"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.1, help="least time of one side in one round")
    parser.add_argument("--cells", type=at_least(1), help="measure no more than so many cells; default: all")
    args = parser.parse_args()
    torch.manual_seed(0)
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}, "
        f"{torch.get_num_threads()} threads, {args.device}, {args.dtype}{', compiled' if args.compile else ''}, "
        f"median of {args.rounds} rounds (quartiles)\n"
    )
    {"deit": deit, "groups": groups, "forms": forms, "pit": pit, "profile": profile}[args.what](Bench(args))


if __name__ == "__main__":
    main()
