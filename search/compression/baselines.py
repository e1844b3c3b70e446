"""Baselines: what is to be had from a trained network without a search, at as many multiply-accumulates."""

from __future__ import annotations

from dataclasses import dataclass

from psvit.arch.architecture import Architecture
from psvit.arch.costs import cost
from psvit.executors.executor import Portable
from psvit.nn.network import PSViT
from psvit.nn.seeding import seeded
from psvit.space.around import shortened
from psvit.train.training_job import TrainingJob


def fewer_layers(arch: Architecture, macs: int) -> Architecture | None:
    """The network without as many of its last layers as it takes to cost at most so many multiply-accumulates.

    That the last ones can be spared best is what arXiv 2004.03844 found. `None` if no layer is left.
    """
    shorter = (shortened(arch, layers) for layers in range(arch.depth - 1, 0, -1))
    return next((one for one in shorter if cost(one).macs <= macs), None)


@dataclass(frozen=True)
class ShortenedNetworks:
    """Makes the networks of jobs from one that has more layers; picklable.

    Attributes:
        original: that network.
    """

    original: Portable[PSViT]

    def __call__(self, job: TrainingJob) -> PSViT:
        """The network of a job, with the weights of the layers that it has.

        Where it ends in a stage of another width, its final norm and its classifier are new.
        """
        with seeded(job.seed):
            network = PSViT(job.arch, drop_path_rate=job.recipe.drop_path_rate)
        weights = self.original.get().state_dict()
        own = network.state_dict()
        kept = {name: weights[name] for name, value in own.items() if weights[name].shape == value.shape}
        network.load_state_dict({**own, **kept})
        return network
