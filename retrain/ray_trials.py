"""Several networks retrained at once on a Ray cluster, as trials of Ray Tune; the only file here that knows Ray.

Tune finds each of them room and starts it anew when its process is lost. It neither chooses what is trained nor
restores anything: a network is trained in its own folder, where it goes on from its own checkpoints.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune

from psvit.errors import InputError, RunError
from psvit.ray_cluster import connect
from psvit.retrain.several import Network, Retraining
from psvit.run_folder import RunFolder

RETRIES = 3
"""How often a network is begun anew whose process was lost."""


def retrain_on_ray(
    retraining: Retraining, networks: Sequence[tuple[Network, dict[str, Any]]], folder: Path
) -> dict[str, str]:
    """Train several networks at once, one on each core, or on each GPU where they are trained on one.

    Args:
        retraining: how.
        networks: those that are not finished, each with its run's configuration; their folders, the images and the
            weights lie under the same paths on every node.
        folder: for Tune's own files; removed at the end.

    Returns:
        By name, why a network could not be trained; the others are.

    Raises:
        InputError: there is no cluster where `RAY_ADDRESS` says.
    """
    by_name = {network.name: (network, config) for network, config in networks}
    resources = {"cpu": 1.0, **({"gpu": 1.0} if retraining.device.startswith("cuda") else {})}
    with _cluster(), _quiet():
        trials = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(train_one, retraining=retraining, by_name=by_name, place=str(Path.cwd())),
                resources,
            ),
            param_space={"network": tune.grid_search(list(by_name))},
            run_config=tune.RunConfig(
                name=folder.name,
                storage_path=str(folder.parent.resolve()),
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                verbose=0,
            ),
        ).fit()
    failures = {}
    for trial in (trials[number] for number in range(len(trials))):
        told = (trial.metrics or {}).get("failure")
        if trial.error is not None:
            told = str(trial.error).strip().splitlines()[-1]
        if told and trial.config is not None:
            failures[trial.config["network"]] = told
    shutil.rmtree(folder, ignore_errors=True)
    return failures


def train_one(
    config: dict[str, Any], retraining: Retraining, by_name: dict[str, tuple[Network, dict[str, Any]]], place: str
) -> None:
    """Train a network; a trial.

    Args:
        config: names it.
        retraining: how.
        by_name: all networks and the configurations of their runs.
        place: the working folder, so that relative paths mean the same here.
    """
    import torch

    torch.set_num_threads(1)
    if Path(place).is_dir():
        os.chdir(place)
    network, run_config = by_name[config["network"]]
    try:
        held = RunFolder(network.folder, "psvit-retrain", run_config)
        result = retraining.run(network, *retraining.open(network.found))
        del held
    except (InputError, RunError) as error:
        # Told instead of raised, because it would be no other the second time.
        tune.report({"failure": str(error)})
    else:
        tune.report({"failure": "", "top1": result.score["value"]})


@contextlib.contextmanager
def _cluster() -> Iterator[None]:
    """Join the cluster that `RAY_ADDRESS` names, or start one on this machine, for the block."""
    if ray.is_initialized():
        yield
        return
    if (target := os.environ.get("RAY_ADDRESS", "")).startswith("ray://"):
        raise InputError(f"--workers ray: RAY_ADDRESS is {target}; join the cluster on one of its nodes, as auto")
    connect("ray")
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Tune's logs, which nobody reads, and with Ctrl-C as everywhere else."""
    settings = {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
    }
    before = {key: os.environ.get(key) for key in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
