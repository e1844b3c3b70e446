"""Processes that train together do what one process does with the same batches."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import traceback

import numpy as np
import pytest
import torch
from ray import cloudpickle
from safetensors.torch import load_file

from psvit.data import Inputs
from psvit.errors import InputError
from psvit.nn.seeding import seeded
from psvit.supernet.supernet import Supernet
from psvit.supernet.train import SupernetTask, fit_supernet
from psvit.train.checkpoints import CheckpointConfig
from psvit.train.distributed import World, joined
from psvit.train.recipe import SupernetRecipe
from psvit.train.training import train
from psvit.train.training_loader import training_loader

# One server of processes for all of these tests, on however many processes they run: loading the libraries takes long.
pytestmark = pytest.mark.xdist_group("processes")

# The processes cannot import the tests, so functions travel by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

CPU = torch.device("cpu")

RECIPE = SupernetRecipe(
    epochs=2, batch_size=8, lr=0.05, opt="momentum", smoothing=0.1, crop_scale=(0.5, 1.0), hflip=0.5, random_erasing=0.3
)
"""Weights move in proportion to gradients, and images are augmented. Stochastic depth is drawn for each process."""

CASES = {
    "uniform": {},
    "sandwich": {"sampling": "sandwich", "target": "inplace"},
    "macs": {"sampling": "macs"},
    "mixed, clipped and averaged": {"mixup": 0.8, "cutmix": 1.0, "clip_grad": 0.1, "ema_decay": 0.9},
    "in micro-batches": {"accumulate": 2, "mixup": 0.8},
    "adamw": {"opt": "adamw", "lr": 1e-4},
}


@pytest.fixture
def in_processes(make_process):
    """Calls a function of a world in several processes joined by gloo; returns what each returns."""

    def call(size, function):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        results = multiprocessing.get_context("forkserver").SimpleQueue()

        def process(rank, results):
            os.environ.update(
                RANK=str(rank),
                WORLD_SIZE=str(size),
                LOCAL_RANK=str(rank),
                MASTER_ADDR="localhost",
                MASTER_PORT=str(port),
            )
            try:
                with joined(CPU) as world:
                    result = function(world)
            except BaseException as error:
                result = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
            results.put((rank, result))

        processes = [make_process(process, rank, results) for rank in range(size)]
        for one in processes:
            one.start()
        found = dict(results.get() for _ in processes)
        for one in processes:
            one.join()
        return [found[rank] for rank in range(size)]

    return call


def trained(world, space, data, recipe, folder, checkpointing=None):
    fit_supernet(space, data, recipe, seed=3, device=CPU, folder=folder, world=world, checkpointing=checkpointing)
    return str(world)


@pytest.mark.slow
def test_two_processes_end_like_one(in_processes, tiny_space, tiny_data, tmp_path):
    def every_case(world):
        for name, changes in CASES.items():
            trained(world, tiny_space, tiny_data(), RECIPE.override(changes), tmp_path / "two" / name)
        return world.rank

    assert in_processes(2, every_case) == [0, 1]
    for name, changes in CASES.items():
        trained(World(), tiny_space, tiny_data(), RECIPE.override(changes), tmp_path / "one" / name)
        one, two = (load_file(tmp_path / which / name / "supernet.safetensors") for which in ("one", "two"))
        for parameter, tensor in one.items():
            torch.testing.assert_close(two[parameter], tensor, rtol=1e-3, atol=2e-5, msg=lambda text: f"{name}: {text}")  # noqa: B023


def test_two_processes_have_the_gradients_of_one(in_processes, tiny_space, tiny_data, tmp_path):
    """Also that parameters that a step does not use have none, in no process."""

    def gradients(world):
        found = []

        class Watching(torch.optim.SGD):
            def step(self, closure=None):
                named = names.items()
                gradients = {name: p.grad.numpy().copy() for name, p in named if p.grad is not None}
                # Whether the optimiser can be used is tried on a layer that is not the supernet's.
                found.extend([gradients] if gradients else [])
                return super().step(closure)

        with seeded(0):
            supernet = Supernet(tiny_space)
        names = dict(supernet.named_parameters())
        recipe = RECIPE.override({"epochs": 1, "batch_size": 12})
        with pytest.MonkeyPatch.context() as patch:
            optimizer = "psvit.train.training_state.create_optimizer_v2"
            patch.setattr(optimizer, lambda model, **_: Watching(model.parameters(), lr=0.0))
            data = tiny_data()
            loader = training_loader(data.train, Inputs.of(data, tiny_space.image_size), recipe)
            train(
                SupernetTask(model=supernet, recipe=recipe, seed=1),
                loader,
                recipe,
                num_classes=3,
                seed=1,
                device=CPU,
                folder=tmp_path / f"{world.size}",
                description="",
                world=world,
            )
        return found

    first, second = in_processes(2, gradients)
    one = gradients(World())
    assert len(one) == len(first) == len(second) == 3
    unused = set()
    for alone, here, there in zip(one, first, second, strict=True):
        assert alone.keys() == here.keys() == there.keys()
        unused |= set(alone) ^ set(one[0])
        for name, gradient in alone.items():
            np.testing.assert_array_equal(here[name], there[name])
            np.testing.assert_allclose(here[name], gradient, rtol=1e-4, atol=1e-6)
    assert unused  # the steps differ in what they use


def test_processes_begin_with_the_same_weights(in_processes, tiny_space):
    def spread(world):
        supernet = Supernet(tiny_space)
        with torch.no_grad():
            for parameter in supernet.parameters():
                parameter.fill_(world.rank + 1)
        world.broadcast_(list(supernet.state_dict().values()))
        return {float(value) for parameter in supernet.parameters() for value in parameter.unique()}

    assert in_processes(2, spread) == [{1.0}, {1.0}]


def test_means_are_taken_in_pieces(in_processes):
    def average(world):
        tensors = [torch.full(shape, float(world.rank)) for shape in ((3, 4), (2,), (), (7,), (1, 1))]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("psvit.train.distributed.PIECE", 10)
            world.average_([tensor.t() if tensor.dim() == 2 else tensor for tensor in tensors])
        return [(tuple(tensor.shape), set(tensor.flatten().tolist())) for tensor in tensors]

    expected = [(shape, {0.5}) for shape in ((3, 4), (2,), (), (7,), (1, 1))]
    assert in_processes(2, average) == [expected, expected]


def test_a_run_may_be_continued_by_another_number_of_processes(in_processes, tiny_space, tiny_data, tmp_path):
    class Stops(Exception):
        pass

    def stops(world):
        calls = iter(range(100))

        def average_(self, tensors, average=World.average_):
            if next(calls) == 3:
                raise Stops
            average(self, tensors)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(World, "average_", average_)
            with pytest.raises(Stops):
                trained(world, tiny_space, tiny_data(), RECIPE, tmp_path / "run", CheckpointConfig(every_seconds=0))
        return True

    assert in_processes(2, stops) == [True, True]
    (checkpoint,) = (tmp_path / "run/checkpoints").iterdir()
    assert checkpoint.stem == "0000000003"
    trained(World(), tiny_space, tiny_data(), RECIPE, tmp_path / "run")
    trained(World(), tiny_space, tiny_data(), RECIPE, tmp_path / "whole")
    run, whole = (load_file(tmp_path / name / "supernet.safetensors") for name in ("run", "whole"))
    for name, tensor in whole.items():
        torch.testing.assert_close(run[name], tensor, rtol=1e-3, atol=1e-5)


def test_what_the_first_process_refuses_all_refuse(in_processes):
    def refuse(world):
        def make():
            raise InputError("no such folder")

        with pytest.raises(InputError, match="no such folder"):
            world.first_alone(make)
        with pytest.raises(InputError, match="no such images"), world.first_goes_ahead():
            raise InputError("no such images")
        return True

    assert in_processes(2, refuse) == [True, True]


def test_batches_that_processes_cannot_share_are_refused(in_processes, tiny_space, tiny_data, tmp_path):
    def refuse(world):
        with pytest.raises(InputError, match="multiple of processes times accumulate, 3; received 8"):
            trained(world, tiny_space, tiny_data(), RECIPE, tmp_path)
        return True

    assert in_processes(3, refuse) == [True, True, True]
