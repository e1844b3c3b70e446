"""A module of the same code with other tensors for parameters: how slices of a supernet become a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def filled(bare: Module, weights: Mapping[str, Tensor], training: bool, prefix: str = "") -> Module:
    """A copy of a module whose parameters are the given tensors; nothing of the module changes.

    It does what `torch.func.functional_call` does, in a fifth of the time, and gradients flow to the tensors in the
    same way. The module may hold one submodule in several places: the copies have parameters of their own.

    Args:
        bare: usually on the meta device.
        weights: by the parameters' names.
        training: the mode of the copy.
        prefix: of the names.
    """
    if not (bare._parameters or bare._modules) and bare.training == training:
        return bare
    # The dictionaries behind a module, because registering would ask for parameters, and slices are none.
    parameters = {name: None if own is None else weights[prefix + name] for name, own in bare._parameters.items()}
    modules = {
        name: None if child is None else filled(child, weights, training, f"{prefix}{name}.")
        for name, child in bare._modules.items()
    }
    copy = bare.__new__(type(bare))
    copy.__dict__ = bare.__dict__ | {"_parameters": parameters, "_modules": modules, "training": training}
    return copy
