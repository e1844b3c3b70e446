"""Reaching a Ray cluster, or starting one on this machine; whoever computes on one begins here."""

from __future__ import annotations

import logging
import os
import socket

import ray

from psvit.errors import InputError
from psvit.openmp import waiting_settings

ANSWER_S = 10.0
"""Seconds within which a cluster has to answer before it counts as gone."""

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

    Workers wait as this process is told to (`psvit.openmp`), on every node, whatever a node's own environment says.

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
            ray.init(target, runtime_env=environment)
        elif target == "local":
            ray.init(
                target,
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


def is_elsewhere(address: str) -> bool:
    """Whether `connect` reaches a cluster that is there already, which may have nodes that are unlike this machine."""
    return _target(address) != "local"


def _target(address: str) -> str:
    """Where Ray shall look for a cluster."""
    return os.environ.get("RAY_ADDRESS", "local") if address == "ray" else address


def first_line(error: BaseException) -> str:
    """What an error says, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
