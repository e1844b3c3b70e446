"""Ratios of times of two sides, measured by turns: timm's DeiT, the two forms of sharing, groups, separate layers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from itertools import product

import timm
import torch
from attention_sharing import Step, inference, ratio, separate, training
from torch import nn

import psvit.model
from gpu_stages.stage import Cell, Measured
from psvit.arch.costs import layers as layer_costs
from psvit.model import checkpoint_filter_fn
from psvit.nn.layers import AttentionGroup, choose_sharing
from psvit.nn.precision import float32_products
from psvit.search.latency.waiting import wait_for

ROUNDS = 9
SECONDS = 0.1
MODES = {"inference": inference, "forward and backward": training}


class Pair:
    """Two sides on a device, in a precision."""

    def __init__(self, options: argparse.Namespace, dtype: str, is_compiled: bool = False) -> None:
        self._device = torch.device(options.device)
        self._dtype = getattr(torch, dtype)
        self._is_compiled = is_compiled
        self._rounds = ROUNDS if options.seconds is None else 2
        self._seconds: float = SECONDS if options.seconds is None else options.seconds

    def randn(self, *shape: int) -> torch.Tensor:
        """Inputs."""
        return torch.randn(*shape, device=self._device, dtype=self._dtype)

    def ready(self, model: nn.Module) -> nn.Module:
        """A model as it is measured."""
        model = model.to(self._device, self._dtype)
        if self._is_compiled:
            torch.compiler.reset()
            model.compile(fullgraph=True, mode="reduce-overhead" if self._device.type == "cuda" else None)
        return model

    def ratio(self, ours: Step, theirs: Step) -> Measured:
        """Quartiles of the time of one side relative to the other."""
        with float32_products("highest", self._device.type):
            low, median, high = ratio(ours, theirs, partial(wait_for, self._device), self._rounds, self._seconds)
        return {"ratio": float(median), "low": float(low), "high": float(high)}


def deit(options: argparse.Namespace) -> Iterator[Cell]:
    """How many times as fast as timm's DeiT the same network of ours is."""
    # Compiling takes a minute a network, so it comes last.
    axes = product((False, True), ("tiny", "small"), (1, 32, 256), ("float32", "bfloat16"), MODES)
    for is_compiled, size, batch, dtype, mode in axes:
        if is_compiled and mode != "inference":
            continue

        def measure(
            left: float, size: str = size, batch: int = batch, dtype: str = dtype, compiled: bool = is_compiled,
            mode: str = mode,
        ) -> Measured:  # fmt: skip
            theirs = timm.create_model(f"deit_{size}_patch16_224")
            ours = psvit.model.create_model(f"deit-{size}")
            ours.load_state_dict(checkpoint_filter_fn(theirs.state_dict(), ours))
            pair = Pair(options, dtype, compiled)
            x = pair.randn(batch, 3, 224, 224)
            step = MODES[mode]
            return pair.ratio(step(pair.ready(theirs), x), step(pair.ready(ours), x))

        words = "compiled" if is_compiled else "eager"
        yield Cell(f"DeiT-{size}, batch {batch}, {dtype}, {words}, {mode}", measure)


def forms(options: argparse.Namespace) -> Iterator[Cell]:
    """The time of a group with the map relative to that with queries and keys, and which is chosen."""
    axes = product(("float32", "bfloat16"), (1, 32, 256), (49, 64, 196), (192, 384), (2, 4), MODES)
    for dtype, batch, tokens, width, length, mode in axes:

        def measure(
            left: float, dtype: str = dtype, batch: int = batch, tokens: int = tokens, width: int = width,
            length: int = length, mode: str = mode,
        ) -> Measured:  # fmt: skip
            pair, heads = Pair(options, dtype), width // 64
            x = pair.randn(batch, tokens, width)
            sides = [
                pair.ready(AttentionGroup(length, width, heads, 4 * width, [0.0] * length, sharing=form))
                for form in ("map", "qk")
            ]
            found = pair.ratio(*(MODES[mode](side, x) for side in sides))
            chosen = choose_sharing(batch, tokens, heads, options.device.partition(":")[0])
            return {**found, "auto": chosen, "faster": "map" if found["ratio"] < 1 else "qk"}

        yield Cell(f"{dtype}, batch {batch}, {tokens} tokens, width {width}, {length} layers, {mode}", measure)


def groups(options: argparse.Namespace) -> Iterator[Cell]:
    """The time of a group relative to that of separate layers, beside the ratio of their multiply-accumulates."""
    axes = product(("float32", "bfloat16"), (1, 32, 256), (49, 196), (192, 384), (2, 4))
    for dtype, batch, tokens, width, length in axes:

        def measure(
            left: float, dtype: str = dtype, batch: int = batch, tokens: int = tokens, width: int = width,
            length: int = length,
        ) -> Measured:  # fmt: skip
            pair = Pair(options, dtype)
            x = pair.randn(batch, tokens, width)
            group = pair.ready(AttentionGroup(length, width, width // 64, 4 * width, [0.0] * length))
            alone = pair.ready(separate(length, width))
            macs = layer_costs(tokens, width, 4 * width, 1, length - 1)[0]
            return {
                **pair.ratio(inference(group, x), inference(alone, x)),
                "macs": macs / layer_costs(tokens, width, 4 * width, length, 0)[0],
            }

        yield Cell(f"{dtype}, batch {batch}, {tokens} tokens, width {width}, {length} layers", measure)
