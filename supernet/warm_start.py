"""Warm start: a supernet that begins with the weights of a vision transformer instead of random ones."""

from __future__ import annotations

import torch
from torch import nn

from psvit.nn.network import PSViT
from psvit.nn.vit_weights import TransferReport, Weights, in_block, stem_and_head, transfer_weights
from psvit.space.search_space import SearchSpace
from psvit.supernet.supernet import Supernet


def warm_start(supernet: Supernet, weights: Weights) -> TransferReport:
    """Fill the supernet's leading slice: blocks onto the list of layers in order, leading channels and heads.

    A layer that shares its neighbour's map does so in the drawn architecture; the supernet keeps queries and keys for
    the others. So DeiT's own architecture, where the space holds it, gives DeiT's outputs from DeiT's weights.

    Returns:
        What was filled and what was not.
    """
    transferred = _transfer(supernet, weights)
    supernet.load_state_dict(transferred.weights, strict=False)
    return transferred


@torch.no_grad()
def begin_as(supernet: Supernet, network: PSViT) -> None:
    """Fill the supernet so that one of its architectures gives the outputs of a network.

    In a space around the network (`SearchSpace.around`), that is the largest, and nothing else is left to fill.

    Raises:
        ValueError: the network's architecture is no member of the space.
    """
    weights = network.state_dict()
    for name, part in supernet.slices(network.arch).items():
        part.copy_(weights[name])


def plan(space: SearchSpace, weights: Weights) -> TransferReport:
    """The parameters that a warm start would fill, without making the supernet. Their values mean nothing."""
    with torch.device("meta"):
        return _transfer(Supernet(space), weights)


def _transfer(supernet: Supernet, weights: Weights) -> TransferReport:
    plain = {name: supernet.plain_name(name) for name, _ in supernet.named_parameters()}
    known = stem_and_head(plain.values())
    sources = {name: known[of_network] for name, of_network in plain.items() if of_network in known}
    # A gap between stages is no layer.
    places = [place for place, layer in enumerate(supernet.layers) if not isinstance(layer, nn.Identity)]
    for block, place in enumerate(places):
        for name, _ in supernet.layers[place].named_parameters():
            sources[f"layers.{place}.{name}"] = in_block(block, name)
    return transfer_weights(weights, dict(supernet.named_parameters()), sources, supernet.space.patches.grid)
