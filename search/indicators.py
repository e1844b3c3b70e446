"""Training-free indicators: scores of architectures at random initialisation, without anything trained.

All candidates are slices of one randomly initialised supernet, which is made once, instead of networks built anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from psvit.arch.architecture import Architecture
from psvit.executors.failures import NO_NUMBERS, out_of_memory
from psvit.nn.filled import filled
from psvit.nn.network import PSViT
from psvit.nn.precision import float32_products
from psvit.nn.seeding import seeded
from psvit.search.evaluator import Evaluator
from psvit.search.trial import Score
from psvit.space.search_space import SearchSpace
from psvit.supernet.supernet import Supernet


class DSS:
    """The DSS indicator of TF-TAS ("Training-free Transformer Architecture Search", arXiv 2203.12217, section 3.3).

    The sum over attention matrices W of |dL/dW|_nuc * |W|_nuc (synaptic diversity) and over MLP matrices of the
    absolute entries of dL/dW * W (synaptic saliency), where all weights are made positive, the image is all ones and
    L is the sum of the logits. One forward and backward pass of one image, no data.

    The paper knows neither pooling nor shared maps. Layers that share a map have fewer attention matrices to sum
    over, so the indicator tends to prefer their having maps of their own. On few networks within one budget its ranking
    could not be told from that of their MACs; see docs/benchmarks-older.md.

    Args:
        space: the space whose members are scored.
        seed: of the random weights.
        device: where to compute.
    """

    def __init__(self, space: SearchSpace, seed: int, device: torch.device) -> None:
        with seeded(seed):
            self._supernet = Supernet(space).to(device).eval()
        with torch.no_grad():
            for parameter in self._supernet.parameters():
                parameter.abs_()
        self._weight_norms: dict[tuple[str, torch.Size], Tensor] = {}
        self._image = torch.ones(1, space.in_chans, *space.image_size, device=device)

    @float32_products("highest")
    def evaluate(self, archs: Sequence[Architecture], best: Sequence[float] = (), parts: int = 1) -> list[Score]:
        """The indicators of a population; nothing is raced, because there are no images."""
        return [self._score(arch) for arch in archs]

    def _score(self, arch: Architecture) -> Score:
        try:
            value = self._indicator(arch)
        except Exception as error:
            reason = out_of_memory(error)
            if not reason:
                raise
        else:
            if math.isfinite(value):
                return Score(value=value)
            reason = NO_NUMBERS
        return Score(value=None, state="failed", reason=reason)

    def _indicator(self, arch: Architecture) -> float:
        """The indicator of one architecture; not finite where an output or a gradient is not."""
        structure, slices = self._supernet.structure(arch), self._supernet.slices(arch)
        return _indicator(structure, slices, self._image, lambda name, weight: self._weight_norm(arch, name, weight))

    def _weight_norm(self, arch: Architecture, name: str, weight: Tensor) -> Tensor:
        """The nuclear norm of a slice of the random weights; many architectures have the same slices."""
        key = (self._supernet.source(arch, name).name, weight.shape)
        if key not in self._weight_norms:
            self._weight_norms[key] = _nuclear_norm(weight.detach())
        return self._weight_norms[key]

    def describe(self) -> dict[str, Any]:
        """Names the indicator and its source."""
        return {
            "kind": "training-free indicator DSS",
            "meaning": "synaptic diversity and saliency at random initialisation (TF-TAS, arXiv 2203.12217)",
            "images": 0,
            "fidelity": "not measured",
        }


def network_dss(arch: Architecture, seed: int) -> float:
    """The indicator of one network with random weights of its own, also where no space has it; on the CPU.

    Args:
        arch: the network.
        seed: of the random weights.
    """
    with seeded(seed):
        network = PSViT(arch).eval()
    weights = {name: weight.detach().abs() for name, weight in network.state_dict().items()}
    image = torch.ones(1, arch.in_chans, *arch.image_size)
    return _indicator(network, weights, image, lambda _, weight: _nuclear_norm(weight.detach()))


def _indicator(
    structure: nn.Module,
    positive: Mapping[str, Tensor],
    image: Tensor,
    weight_norm: Callable[[str, Tensor], Tensor],
) -> float:
    """The indicator from a network's form and its positive weights; NaN where an output or a gradient is not finite."""
    weights = {name: weight.detach().clone().requires_grad_() for name, weight in positive.items()}
    scored = {name: weight for name, weight in weights.items() if weight.dim() == 2 and ".layers." in name}
    logits = filled(structure, weights, training=False)(image)
    gradients = torch.autograd.grad(logits.sum(), list(scored.values()))
    # Asking for singular values of a matrix that holds NaN is an error.
    if not all(bool(tensor.isfinite().all()) for tensor in (logits, *gradients, *weights.values())):
        return math.nan
    total = torch.zeros((), dtype=torch.float64)
    for (name, weight), gradient in zip(scored.items(), gradients, strict=True):
        if ".attn." in name:
            total += _nuclear_norm(gradient) * weight_norm(name, weight)
        else:
            total += (gradient * weight.detach()).abs().sum(dtype=torch.float64).cpu()
    return float(total)


def _nuclear_norm(matrix: Tensor) -> Tensor:
    """The sum of singular values, from the smaller Gram matrix, several times faster than a decomposition."""
    matrix = matrix.double()
    rows, columns = matrix.shape
    gram = matrix @ matrix.T if rows < columns else matrix.T @ matrix
    return torch.linalg.eigvalsh(gram).clamp_min(0).sqrt().sum().cpu()


INDICATORS: dict[str, Callable[[SearchSpace, int, torch.device], Evaluator]] = {"DSS": DSS}
"""All indicators by name, made from a space, a seed of random weights and a device."""
