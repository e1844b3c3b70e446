"""Check what a device can do before anything is trained on it."""

from __future__ import annotations

import os

import torch
from torch import nn

from psvit.arch.architecture import Architecture
from psvit.arch.costs import cost
from psvit.errors import InputError
from psvit.nn.seeding import seeded
from psvit.space.budget import format_cost
from psvit.train.recipe import Precision, Recipe


def autocast(device: torch.device, precision: Precision, cache_enabled: bool = True) -> torch.autocast:
    """Matrix products in the precision; the cache keeps weights that were cast for other products of the block."""
    is_enabled = precision != "float32"
    return torch.autocast(device.type, getattr(torch, precision), enabled=is_enabled, cache_enabled=cache_enabled)


def with_precision(recipe: Recipe, device: torch.device) -> Recipe:
    """The recipe with `auto` precision decided for a device."""
    if recipe.precision != "auto":
        return recipe
    # Of GPUs that are elsewhere nothing is known here; one that cannot is refused there.
    can = device.type == "cuda" and (
        not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)
    )
    return recipe.override({"precision": "bfloat16" if can else "float32"})


NUMBERS_A_WEIGHT = 4
"""In training: the weight, its gradient, and two moments of the optimiser, four bytes each."""


def check_memory(arch: Architecture) -> None:
    """Refuse a network that this machine could not train if it had nothing else in its memory.

    Raises:
        InputError: its weights and the activations of one image do not fit.
    """
    costs = cost(arch)
    needed, there = 4 * NUMBERS_A_WEIGHT * costs.num_params + costs.activation_bytes, _memory_bytes()
    if there and needed > there:
        raise InputError(
            f"a network of {format_cost('num_params', costs.num_params)} and "
            f"{format_cost('activation_bytes', costs.activation_bytes)} of activations needs at least "
            f"{needed / 1e9:,.0f} GB to be trained, and this machine has {there / 1e9:,.0f} GB; take a smaller one"
        )


def _memory_bytes() -> int | None:
    """The memory of this machine; `None` where Python does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def check_device(device: torch.device, recipe: Recipe) -> None:
    """Make sure that a device can train by a recipe: that it computes in its precision, and its optimiser makes a step.

    Raises:
        InputError: it cannot.
    """
    from psvit.train.training_state import make_optimizer  # it loads timm

    check_precision(device, recipe.precision)
    try:
        with seeded(0, device=device):
            layer = nn.Linear(8, 8, device=device)
            optimizer = make_optimizer(layer, recipe.override({"layer_decay": None}))
            layer(torch.ones(2, 8, device=device)).sum().backward()
            optimizer.step()
    except Exception as error:  # they ask for libraries, devices and ways of training that are not here
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"opt {recipe.opt}: cannot be used on {device.type} here: {reason}; give adamw") from None


def check_precision(device: torch.device, precision: Precision) -> None:
    """Make sure that a device computes in a precision.

    Raises:
        InputError: it does not.
    """
    if precision == "float32":
        return
    reason = ""
    if (
        device.type == "cuda"
        and precision == "bfloat16"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        reason = "this GPU has no such type"
    elif not torch.amp.is_autocast_available(device.type):
        reason = "PyTorch has no autocast for it"
    else:
        try:
            with autocast(device, precision):
                layer = nn.Linear(8, 8, device=device)
                output = layer(torch.ones(2, 8, device=device))
            output.float().sum().backward()
            if output.dtype != getattr(torch, precision):
                reason = f"products stay in {str(output.dtype).removeprefix('torch.')}"
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
    if reason:
        raise InputError(f"precision {precision}: not available on {device.type}: {reason}; give float32")
