"""The executor on a Ray cluster: every item is a trial of Ray Tune.

Tune finds each item room and a process, in which others were done before, and starts it anew when that is lost. It
neither chooses what is done nor restores anything: work goes on from what it keeps itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import queue
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle, tune
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from psvit.errors import LostWorkersError
from psvit.executors.executor import Item, Outcome, Result, attempt
from psvit.executors.ray_cluster import check_room, connected, first_line, is_elsewhere, packed, room, room_here

RETRIES = 3
"""How often an item is begun anew whose process was lost."""

THREADS = 8
"""Of the actor that runs Tune: one does, one answers who waits for outcomes, the others take outcomes in."""

CLOSING_S = 3.0
"""Seconds that Tune has to end by itself."""

POLL_S = 1.0
"""Seconds for which one call waits for something to happen, before it asks again."""

PATIENCE_S = 600.0
"""Seconds without a node for any worker after which work is given up; a cluster may start nodes on demand."""

SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}
"""Of Tune, which would write results that nobody reads, and print tables; what goes wrong is told by whoever waits."""


class RayExecutor:
    """Works on a Ray cluster, on as many items at once as it has room for; each has a core, or a core and GPUs.

    If workers see the working folder, relative paths mean the same to them as here.

    Args:
        address: `ray` joins the cluster that `RAY_ADDRESS` names, or starts one on this machine; `ray://host:port`
            reaches a cluster that this process is not part of.
        gpus: of an item.
        retries: how often an item is begun anew whose process was lost.
    """

    def __init__(self, address: str, *, gpus: float = 0, retries: int = RETRIES) -> None:
        self._address = address
        self._resources = {"CPU": 1.0, **({"GPU": gpus} if gpus else {})}
        self._retries = retries

    def at_once(self) -> int:
        """How many workers the cluster holds, now or when it is started here.

        Raises:
            InputError: there is no cluster at the address, or no node of it holds a worker.
        """
        if not ray.is_initialized() and not is_elsewhere(self._address):
            return room_here(self._resources)
        with connected(self._address):
            return check_room(self._resources)

    def run(self, work: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[tuple[Item, Outcome[Result]]]:
        """See `Executor`.

        Raises:
            InputError: there is no cluster at the address, or no node of it holds a worker.
            LostWorkersError: the cluster is lost, or has no room for too long.
        """
        wanted = list(items)
        if not wanted:
            return
        with connected(self._address):
            check_room(self._resources)
            for position, outcome in self._done(work, wanted):
                yield wanted[position], outcome

    def _done(self, work: Callable[[Item], Result], wanted: list[Item]) -> Iterator[tuple[int, Outcome[Result]]]:
        """Positions with their outcomes, as they come. Nothing here refers to the cluster when it is left."""
        # Beside this process, or beside the server that a client talks to: if that node is lost, all is.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"num_cpus": 0, "max_concurrency": THREADS, "scheduling_strategy": here}
        trials: Any = ray.remote(Trials).options(**options).remote(len(wanted))
        try:
            what = cloudpickle.dumps((work, wanted))
            running = trials.run.remote(what, self._resources, self._retries, str(Path.cwd()))
            yield from self._outcomes(trials, len(wanted))
            ray.wait([running], timeout=CLOSING_S)
        finally:
            # The workers are the actor's, so they end with it, even those amid their work.
            ray.kill(trials)

    def _outcomes(self, trials: Any, number: int) -> Iterator[tuple[int, Outcome[Any]]]:
        """What the actor is told, each position once."""
        missing, seen = set(range(number)), time.monotonic()
        try:
            while missing:
                found, broken = ray.get(trials.outcomes.remote())
                for position, outcome in found:
                    if isinstance(outcome, bytes):
                        raise pickle.loads(outcome)
                    # A process that is lost just after it told is begun anew all the same.
                    if position in missing:
                        missing.remove(position)
                        yield position, outcome
                if broken and not found:
                    raise LostWorkersError(f"--workers {self._address}: {broken}")
                if found or room(self._resources):
                    seen = time.monotonic()
                elif time.monotonic() - seen > PATIENCE_S:
                    reason = f"the cluster had room for no worker for {PATIENCE_S:g} s"
                    raise LostWorkersError(f"--workers {self._address}: {reason}")
        except RayActorError as error:
            raise LostWorkersError(f"--workers {self._address}: the cluster was lost: {first_line(error)}") from error


# --- on the cluster


class Trials:
    """Runs Tune, and takes in what comes of the items meanwhile; an actor with threads.

    Args:
        number: of items.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._told: queue.SimpleQueue[tuple[int, Outcome[Any] | bytes]] = queue.SimpleQueue()
        self._broken = ""

    def tell(self, position: int, outcome: Outcome[Any] | bytes) -> None:
        """Take in what came of an item: its outcome, or the pickled exception that ends everything."""
        self._told.put((position, outcome))

    def outcomes(self) -> tuple[list[tuple[int, Outcome[Any] | bytes]], str]:
        """What was taken in since the last call, and why nothing more will come, if so."""
        broken, found = self._broken, []
        with contextlib.suppress(queue.Empty):
            found.append(self._told.get(timeout=POLL_S))
            while True:
                found.append(self._told.get_nowait())
        return found, broken

    def run(self, what: bytes, resources: dict[str, float], retries: int, place: str) -> None:
        """Have Tune do the work on all items.

        Args:
            what: the work and the items, pickled: this process needs nothing of what they load.
            resources: of an item.
            retries: how often an item is begun anew whose process was lost.
            place: the working folder.
        """
        os.environ.update(SETTINGS)
        logging.getLogger("ray.tune").setLevel(logging.ERROR)
        this = ray.get_runtime_context().current_actor
        broken = "Ray Tune ended early"
        try:
            with tempfile.TemporaryDirectory() as temporary:
                found = tune.Tuner(
                    tune.with_resources(tune.with_parameters(do_one, trials=this, what=what, place=place), resources),
                    param_space={"position": tune.grid_search(list(range(self._number)))},
                    # To start a process and to load PyTorch takes as long as a short training.
                    tune_config=tune.TuneConfig(reuse_actors=True),
                    run_config=tune.RunConfig(
                        name="tune",
                        storage_path=temporary,
                        failure_config=tune.FailureConfig(max_failures=retries),
                        verbose=0,
                    ),
                ).fit()
            for trial in (found[number] for number in range(len(found))):
                if trial.error is not None and trial.config is not None:
                    reason = f"its worker died {retries + 1} times: {first_line(trial.error)}"
                    self.tell(trial.config["position"], Outcome(failure=reason))
        except Exception as error:
            broken = f"Ray Tune failed: {type(error).__name__}: {first_line(error)}"
            raise
        finally:
            self._broken = broken


def do_one(config: dict[str, Any], trials: Any, what: bytes, place: str) -> None:
    """Do the work on one item, and tell what came of it; a trial.

    Args:
        config: the item's position.
        trials: the actor that is told.
        what: the work and the items, pickled.
        place: the working folder.
    """
    import torch  # only here: the actor that runs Tune does not compute, and it takes seconds

    torch.set_num_threads(1)
    if Path(place).is_dir():
        os.chdir(place)
    outcome: Outcome[Any] | bytes
    try:
        work, items = _unpickled(what)
        outcome = attempt(work, items[config["position"]])
    except Exception as error:  # all of it is raised again, where the work was asked for
        outcome = packed(error)
    ray.get(trials.tell.remote(config["position"], outcome))


@lru_cache(maxsize=1)
def _unpickled(what: bytes) -> Any:
    """The work and the items. A process does several items, and what the work has loaded stays."""
    return pickle.loads(what)
