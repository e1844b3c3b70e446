"""What a supernet keeps of the network that it began as: weights on the way from that network to the trained ones.

A supernet that learns poolings and shared maps forgets some of what its largest member, the network, could. Between
both sets of weights accuracies change smoothly: a part of the way brings most of what is gained for little of what is
lost (Wortsman et al., arXiv 2109.01903, section 3, which goes a part of the way of a fine-tuning).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

MOST_LOST = 0.5
"""Points of top-1 that the network may lose on the search images, at most."""

STEPS = 10
"""Into how many steps the way is divided."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """How far the weights went, and what that did to the network.

    Attributes:
        way: the share of the way from the network's weights to the trained ones.
        before: the network's top-1 in percent on the search images, as it came.
        trained: with the trained weights.
        after: with the weights that are kept.
        images: how many search images there are.
    """

    way: float
    before: float
    trained: float
    after: float
    images: int

    def __str__(self) -> str:
        """In words."""
        lost = f"{self.before:.2f} % before, {self.trained:.2f} % with all of what was learnt"
        return (
            f"the network itself has {self.after:.2f} % on {self.images:,} search images ({lost}): its weights go "
            f"{100 * self.way:.0f} % of the way"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable."""
        return asdict(self)


@torch.no_grad()
def keep(supernet: nn.Module, begun: Mapping[str, Tensor], accuracy: Callable[[], float], images: int) -> Kept:
    """Move the weights of a trained supernet back, as little as lets the network keep its accuracy.

    One image less is always allowed, because fewer cannot be told.

    Args:
        supernet: with the trained weights; afterwards, with those that are kept.
        begun: its weights before training, by their names.
        accuracy: the network's top-1 in percent with the weights that the supernet has now.
        images: how many images that is measured on.
    """
    trained = {name: weight.detach().clone() for name, weight in supernet.state_dict().items()}

    def go(step: int) -> None:
        for name, weight in supernet.state_dict().items():
            weight.copy_(torch.lerp(begun[name].to(weight), trained[name], step / STEPS))

    def accuracy_at(step: int) -> float:
        go(step)
        return accuracy()

    found = {0: accuracy_at(0), STEPS: accuracy_at(STEPS)}
    enough = found[0] - max(MOST_LOST, 100 / images) - 1e-6  # not to be missed by a rounding
    kept, beyond = (STEPS, STEPS) if found[STEPS] >= enough else (0, STEPS)
    while beyond - kept > 1:
        between = (kept + beyond) // 2
        found[between] = accuracy_at(between)
        kept, beyond = (between, beyond) if found[between] >= enough else (kept, between)
    go(kept)
    return Kept(way=kept / STEPS, before=found[0], after=found[kept], trained=found[STEPS], images=images)
