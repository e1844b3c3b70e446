"""Reaching a Ray cluster, or starting one on this machine; whoever computes on one begins here."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import ray
from ray import cloudpickle

from psvit.errors import InputError
from psvit.executors.openmp import waiting_settings
from psvit.io.cores import usable_cores

ANSWER_S = 10.0
"""Seconds within which a cluster has to answer before it counts as gone."""

ATTEMPTS = 3
"""To connect to a cluster from outside."""

OBJECT_STORE_BYTES = 128 * 2**20
"""Of a cluster that is started here: nothing larger than architectures travels."""


def check_cluster(address: str) -> None:
    """Make sure that something answers where a cluster should be; Ray itself would try for minutes.

    Args:
        address: as of `connect`.

    Raises:
        InputError: nothing does.
    """
    target = _target(address)
    host, _, port = target.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():  # one that is started here, or a word that Ray knows
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"--workers {address}: no Ray cluster at {target}: {first_line(error)}") from None


def connect(address: str) -> None:
    """Connect this process to a cluster, starting one if need be.

    Workers wait as this process is told to (`psvit.executors.openmp`), on every node, whatever a node's own environment
    says.

    Args:
        address: `ray` joins the cluster that `RAY_ADDRESS` names, or starts one on this machine; `ray://host:port`
            reaches one from outside.

    Raises:
        InputError: there is no cluster at the address.
    """
    check_cluster(address)
    # Read by the processes of a cluster that is started here; nothing is reported to Ray's makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Workers as important as what was asked for would be without them; by Ray's default anything else goes first.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # A job that was submitted with the same variable has given it to this process too, so the values are equal; Ray
    # would refuse to see it twice.
    os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")
    # Of processes that a cluster starts for us, before they load anything. An environment is not inherited over nodes.
    environment = {"env_vars": waiting_settings()}
    target = _target(address)
    try:
        if target.startswith("ray://"):
            _reach(target, environment)
        elif target == "local":
            ray.init(
                target,
                num_cpus=usable_cores(),
                runtime_env=environment,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=OBJECT_STORE_BYTES,
            )
        else:
            ray.init(target, runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError) as error:
        raise InputError(f"--workers {address}: no Ray cluster at {target}: {first_line(error)}") from error


def _reach(target: str, environment: Mapping[str, Any]) -> None:
    """Connect to a cluster from outside. On a busy machine, the process that Ray starts for it there may die."""
    for left in reversed(range(ATTEMPTS)):
        try:
            ray.init(target, runtime_env=environment)
        except ConnectionAbortedError:
            ray.util.disconnect()  # Ray counts as connected halfway
            if not left:
                raise
        else:
            return


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Be connected to a cluster in a block. One that is connected to already stays so; see `connect`."""
    if ray.is_initialized():
        yield
        return
    connect(address)
    try:
        yield
    finally:
        ray.shutdown()


def room(resources: Mapping[str, float]) -> int:
    """How many workers with such resources the nodes that are alive hold."""
    return sum(_held(node["Resources"], resources) for node in ray.nodes() if node["Alive"])


def room_here(resources: Mapping[str, float]) -> int:
    """How many workers with such resources a cluster will hold that is started here; one, if it will hold none."""
    import torch  # who starts workers need not compute

    has = {"CPU": usable_cores(), "GPU": torch.cuda.device_count()}
    return max(1, _held(has, resources))


def _held(has: Mapping[str, float], resources: Mapping[str, float]) -> int:
    """How many workers with such resources fit into what a machine has."""
    return min(int(has.get(name, 0) / amount) for name, amount in resources.items())


def check_room(resources: Mapping[str, float]) -> int:
    """How many workers with such resources a cluster holds.

    Raises:
        InputError: none.
    """
    if found := room(resources):
        return found
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    worker = " and ".join(f"{amount:g} {name}" for name, amount in resources.items())
    most = max((f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in nodes), default="none")
    raise InputError(f"--workers: no node of the Ray cluster holds a worker with {worker}; they have up to {most}")


def packed(error: Exception) -> bytes:
    """An exception with its traceback as a note, pickled; if it cannot be pickled, another one that says the same."""
    trace = f"On a Ray worker:\n{traceback.format_exc()}"
    error.add_note(trace)
    try:
        found = cloudpickle.dumps(error)
        pickle.loads(found)
    except Exception:
        found = cloudpickle.dumps(RuntimeError(f"{type(error).__name__}: {error}\n{trace}"))
    return bytes(found)


def is_elsewhere(address: str) -> bool:
    """Whether `connect` reaches a cluster that is there already, which may have nodes that are unlike this machine."""
    return _target(address) != "local"


def _target(address: str) -> str:
    """Where Ray shall look for a cluster."""
    return os.environ.get("RAY_ADDRESS", "local") if address == "ray" else address


def first_line(error: BaseException) -> str:
    """The message of an error on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
