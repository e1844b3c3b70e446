"""Check what a device can do before anything is trained on it."""

from __future__ import annotations

import torch
from torch import nn

from psvit.errors import InputError
from psvit.nn.seeding import seeded
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
