"""A filled module does what PyTorch's `functional_call` does with it, and leaves it as it was."""

from __future__ import annotations

import torch
from torch import nn
from torch.func import functional_call

from psvit.nn.filled import filled


def bare():
    """A module with dropout, and a layer without a bias."""
    return nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Dropout(0.5), nn.LayerNorm(6), nn.Linear(6, 3, bias=False))


def weights_for(module):
    return {
        name: torch.randn(parameter.shape).requires_grad_()
        for name, parameter in module.named_parameters(remove_duplicate=False)
    }


def test_outputs_and_gradients_are_those_of_a_functional_call():
    module = bare()
    weights, x = weights_for(module), torch.randn(5, 4)
    for training in (True, False):
        found = []
        for call in (
            lambda training=training: filled(module, weights, training)(x),
            lambda training=training: functional_call(module.train(training), weights, (x,)),
        ):
            torch.manual_seed(0)
            output = call()
            found.append((output, *torch.autograd.grad(output.sum(), list(weights.values()))))
        assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_nothing_of_the_module_changes():
    module = bare().to("meta").eval()
    before = [(vars(part), dict(vars(part)), dict(part._parameters)) for part in module.modules()]
    copy = filled(module, weights_for(module), training=True)
    assert all(part.training for part in copy.modules())
    copy(torch.randn(2, 4))
    for now, attributes, parameters in before:
        assert now == attributes
        assert all(now["_parameters"][name] is parameter for name, parameter in parameters.items())


def test_a_submodule_in_several_places_gets_parameters_of_each():
    shared = nn.Linear(4, 4, device="meta")
    module = nn.Sequential(shared, shared)
    weights, x = weights_for(module), torch.randn(3, 4)
    expected = x @ weights["0.weight"].T + weights["0.bias"]
    expected = expected @ weights["1.weight"].T + weights["1.bias"]
    torch.testing.assert_close(filled(module, weights, training=False)(x), expected)
