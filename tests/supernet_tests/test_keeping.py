"""What a supernet keeps of the network that it began as."""

import pytest
import torch
from torch import nn

from psvit.supernet.keeping import keep


class Line(nn.Module):
    """A weight that goes from 0 to 1, and what is right with it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 3))

    @property
    def place(self) -> float:
        return self.weight.mean().item()


@pytest.mark.parametrize(
    ("lost", "images", "way"),
    [
        (0.0, 5000, 1.0),  # nothing is lost
        (0.4, 5000, 1.0),
        (1.0, 5000, 0.5),
        (4.0, 5000, 0.1),
        (60.0, 5000, 0.0),
        (-3.0, 5000, 1.0),  # it became better
        (6.0, 20, 0.8),  # one image of 20 is 5 points
        (3.0, 20, 1.0),
    ],
)
def test_weights_go_as_far_as_the_network_keeps_its_accuracy(lost, images, way):
    line = Line()
    begun = {name: torch.zeros_like(weight) for name, weight in line.state_dict().items()}
    seen = []

    def accuracy():
        seen.append(line.place)
        return 80 - lost * line.place

    kept = keep(line, begun, accuracy, images)
    assert kept.way == pytest.approx(way)
    assert line.place == pytest.approx(way)
    assert kept.before == pytest.approx(80)
    assert kept.trained == pytest.approx(80 - lost)
    assert kept.after == pytest.approx(80 - lost * way)
    assert kept.before - kept.after <= max(0.5, 100 / images) + 1e-5
    assert len(seen) <= 7
    if way == 1:
        assert torch.equal(line.weight, torch.ones(2, 3))
