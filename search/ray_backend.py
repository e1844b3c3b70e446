"""The Ray backend: populations evaluated on a Ray cluster, through Ray Tune.

One Tune experiment lasts as long as the search. Its trials are the *workers*, so Tune finds them room on the cluster,
and starts them anew, elsewhere where need be, when they die. A worker loads supernet and images once; each of its
steps evaluates a *part* of a population, cut along the prefix tree, and reports the scores as Tune's result. Tune
neither chooses what is evaluated nor restores anything: a search continues by its study.

Parts are handed out by the *office*, an actor beside Tune's loop, because a trial for each part would cost a new
process, with supernet and images, for most of them: Tune keeps a single idle actor. What a worker holds when it dies is
handed to another, on another node where there is one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import shutil
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Literal

import ray
from ray import cloudpickle, tune
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from psvit.errors import LostWorkersError
from psvit.executors.ray_cluster import check_room, connect, first_line, packed
from psvit.search.evaluator import Candidate_contra, Evaluator
from psvit.search.trial import Score

_logger = logging.getLogger(__name__)

PARTS_PER_WORKER = 2
"""Parts that a population is cut into, where there are several workers: what one of them is slow in, others make up."""

POLL_S = 1.0
"""Seconds for which one call waits for something to happen, before it asks again."""

PATIENCE_S = 600.0
"""Seconds without any worker after which a search is given up; a cluster may start nodes on demand."""

CLOSING_S = 3.0
"""Seconds that Tune has to end its experiment by itself."""


@dataclass(frozen=True)
class Part:
    """What one worker evaluates at a time.

    Attributes:
        population: the number of the population it is of.
        positions: where its candidates stand there.
        candidates: architectures, or trainings of them; without any, only the evaluator's description is wanted.
        best: the best scores of others.
        parts: into how many parts the population was cut; of one that is divided later, as if all were.
        deaths: of workers that held it.
        nodes: where they died.
    """

    population: int
    positions: tuple[int, ...]
    candidates: tuple[Any, ...]
    best: tuple[float, ...]
    parts: int = 1
    deaths: int = 0
    nodes: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Outcome:
    """What came of a part.

    Attributes:
        population: the part's.
        positions: the part's.
        scores: those of its candidates.
        description: the evaluator's, where a worker came to have one.
        error: the pickled exception that evaluating it raised.
    """

    population: int
    positions: tuple[int, ...]
    scores: tuple[Score, ...] = ()
    description: dict[str, Any] | None = None
    error: bytes | None = None


class RayEvaluator(Generic[Candidate_contra]):
    """An evaluator whose workers are on a Ray cluster; to be used as a context manager.

    Scores are those of the evaluator that the workers make, and so is the description. A candidate whose worker
    dies time after time is failed.

    Args:
        make_evaluator: makes a worker's evaluator, once in its life; it is pickled.
        cut: cuts a population into parts, as positions, given how many are enough to keep all workers busy.
        address: `ray` joins the cluster that `RAY_ADDRESS` names, or starts one on this machine; `ray://host:port`
            reaches a cluster that this process is not part of.
        workers: how many; as many as the cluster holds when it is joined, where not given. Fewer work where nodes
            are missing.
        cpus_per_worker: cores of a worker, which computes with as many threads, and at least with one.
        gpus_per_worker: GPUs of a worker.
        folder: for Tune's own files; removed at the end unless something went wrong.
        retries: how many deaths of workers it takes for a part to be given up.
    """

    def __init__(
        self,
        make_evaluator: Callable[[], Evaluator[Candidate_contra]],
        *,
        cut: Callable[[Sequence[Any], int], list[list[int]]],
        address: str,
        workers: int | None = None,
        cpus_per_worker: float = 1,
        gpus_per_worker: float = 0,
        folder: Path,
        retries: int = 3,
    ) -> None:
        self._make_evaluator = make_evaluator
        self._cut = cut
        self._address = address
        self._num_workers = workers
        resources = {"CPU": cpus_per_worker, "GPU": gpus_per_worker}
        self._resources = {name: amount for name, amount in resources.items() if amount}
        self._folder = folder
        self._retries = retries
        self._population = 0
        self._description: dict[str, Any] | None = None
        self._is_ours = False
        self._office: Any = None
        self._running: Any = None

    def __enter__(self) -> RayEvaluator[Candidate_contra]:
        """Join or start the cluster and have Tune start the workers.

        Raises:
            InputError: there is no cluster at the address, or no node of it holds a worker.
        """
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            connect(self._address)
        try:
            if self._num_workers is None:
                self._num_workers = check_room(self._resources)
            # Beside this process, or beside the server that a client talks to: if that node is lost, all is.
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            office = ray.remote(Office).options(
                num_cpus=0, max_concurrency=self._num_workers + 8, scheduling_strategy=here
            )
            self._office = office.remote(self._num_workers, self._retries)
            self._running = self._office.run.remote(
                cloudpickle.dumps(self._make_evaluator),
                self._resources,
                None if ray.util.client.ray.is_connected() else str(self._folder.resolve()),
                str(Path.cwd()),
            )
        except BaseException:
            self._leave(graceful=False)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(graceful=kind is None)

    def evaluate(
        self, candidates: Sequence[Candidate_contra], best: Sequence[float] = (), parts: int = 1
    ) -> list[Score]:
        """The scores of a population; failed are also those over which workers died.

        Raises:
            LostWorkersError: workers do not start, or the cluster is lost. What an evaluation raises is raised here.
        """
        if not candidates:
            return []
        assert self._num_workers is not None, "a RayEvaluator is used as a context manager"
        wanted = self._num_workers * (PARTS_PER_WORKER if self._num_workers > 1 else 1)
        pieces = self._cut(candidates, wanted)
        assert sorted(position for piece in pieces for position in piece) == list(range(len(candidates)))
        cut = [(tuple(piece), tuple(candidates[i] for i in piece)) for piece in pieces]
        scores = self._collect(cut, tuple(best), parts * len(cut))
        return [scores[position] for position in range(len(candidates))]

    def describe(self) -> dict[str, Any]:
        """What the workers' evaluators say of themselves."""
        if self._description is None:
            self._collect([((), ())], (), 1)
        assert self._description is not None
        return self._description

    def _collect(
        self, pieces: Sequence[tuple[tuple[int, ...], tuple[Any, ...]]], best: tuple[float, ...], number: int
    ) -> dict[int, Score]:
        """Have parts evaluated; the scores by position."""
        self._population += 1
        scores: dict[int, Score] = {}
        wanted = sum(len(positions) for positions, _ in pieces)
        try:
            parts = [Part(self._population, positions, candidates, best, number) for positions, candidates in pieces]
            ray.get(self._office.submit.remote(self._population, parts))
            while len(scores) < wanted or (not parts[0].candidates and self._description is None):
                outcomes, broken = ray.get(self._office.outcomes.remote(self._population))
                for outcome in outcomes:
                    if outcome.error is not None:
                        raise pickle.loads(outcome.error)
                    self._description = self._description or outcome.description
                    for position, score in zip(outcome.positions, outcome.scores, strict=True):
                        # A part that was given to another worker as well may be done twice.
                        scores.setdefault(position, score)
                if broken and not outcomes:
                    raise LostWorkersError(f"--workers {self._address}: {broken}")
            return scores
        except RayActorError as error:
            raise LostWorkersError(f"--workers {self._address}: the cluster was lost: {first_line(error)}") from error
        except BaseException:
            # Whatever ends it, an interrupt too, nobody waits for the rest. This call does not wait either.
            if self._office is not None:
                self._office.submit.remote(self._population, [])
            raise

    def _leave(self, graceful: bool) -> None:
        """End the experiment, and the cluster if it was started here."""
        try:
            if self._office is not None:
                if graceful:
                    with contextlib.suppress(RayActorError):
                        self._office.close.remote()
                        ray.wait([self._running], timeout=CLOSING_S)
                # The workers are the office's, so they end with it, even those amid an evaluation.
                ray.kill(self._office)
                self._office = self._running = None
        finally:
            if self._is_ours:
                ray.shutdown()
        if graceful:
            shutil.rmtree(self._folder, ignore_errors=True)


# --- on the cluster


class Office:
    """Hands parts to workers and takes in what comes of them, while Tune runs the workers; an actor with threads.

    Args:
        num_workers: how many workers Tune runs.
        retries: how many deaths it takes for a part to be given up: for one of several candidates, to be divided.
    """

    def __init__(self, num_workers: int, retries: int) -> None:
        self._num_workers = num_workers
        self._retries = retries
        self._changed = threading.Condition()
        self._population = 0
        self._waiting: deque[Part] = deque()
        # By worker: its present life, where that is, and what it holds. A life has a token of its own.
        self._lives: dict[str, tuple[str, str]] = {}
        self._ended: set[str] = set()
        self._held: dict[str, Part] = {}
        self._done: list[Outcome] = []
        self._idle_deaths = 0
        self._alone_since = time.monotonic()
        self._closed = False
        self._broken = ""

    # Called by the search.

    def submit(self, population: int, parts: Sequence[Part]) -> None:
        """Take in the parts of a population; what is left of earlier ones is dropped."""
        with self._changed:
            self._population = population
            self._waiting = deque(parts)
            self._done = []
            self._changed.notify_all()

    def outcomes(self, population: int) -> tuple[list[Outcome], str]:
        """What has come of a population's parts since the last call, and why nothing more will, if so."""
        with self._changed:
            self._changed.wait_for(lambda: self._done or self._broken, POLL_S)
            if not self._lives and time.monotonic() - self._alone_since > PATIENCE_S:
                self._broken = self._broken or f"the cluster had room for no worker for {PATIENCE_S:g} s"
            done, self._done = self._done, []
            return [outcome for outcome in done if outcome.population == population], self._broken

    def close(self) -> None:
        """Send the workers home."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def run(self, make_evaluator: bytes, resources: dict[str, float], storage: str | None, folder: str) -> None:
        """Run Tune's experiment until the office is closed.

        Args:
            make_evaluator: what makes the evaluators, pickled.
            resources: of a worker.
            storage: where Tune keeps its files; a temporary folder where not given.
            folder: the working folder of the search, so that relative paths mean the same to workers.
        """
        # Tune's loggers would write every result three times; nobody reads them. Its errors are told by the search.
        os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
        os.environ["TUNE_PRINT_ALL_TRIAL_ERRORS"] = "0"
        office = ray.get_runtime_context().current_actor
        broken = "Ray Tune ended early"
        try:
            with tempfile.TemporaryDirectory() as temporary:
                worker = tune.with_parameters(
                    Worker,
                    office=office,
                    make_evaluator=make_evaluator,
                    threads=max(1, int(resources.get("CPU", 0))),
                    folder=folder,
                )
                tune.Tuner(
                    tune.with_resources(worker, resources),
                    tune_config=tune.TuneConfig(num_samples=self._num_workers, trial_dirname_creator=_dirname),
                    run_config=tune.RunConfig(
                        name="tune",
                        storage_path=storage or temporary,
                        # A worker may die as often as it likes: deaths are counted by part, in this office.
                        failure_config=tune.FailureConfig(max_failures=-1),
                        checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0),
                        callbacks=[Watch(office)],
                        verbose=0,
                    ),
                ).fit()
        except Exception as error:
            broken = f"Ray Tune failed: {type(error).__name__}: {first_line(error)}"
            raise
        finally:
            with self._changed:
                self._broken = self._broken or broken
                self._changed.notify_all()

    # Called by workers.

    def take(self, worker: str, token: str, node: str) -> Part | Literal["closed"] | None:
        """A part for a worker that has none, or nothing if there is none for a while.

        Args:
            worker: its name, which those that are started in its place have too.
            token: of this life of it.
            node: where it is.
        """
        with self._changed:
            if token in self._ended:
                return None
            if worker in self._held:  # a former life's, of whose end nobody has told
                self._give_back(worker, "it ended unnoticed")
            self._lives[worker] = token, node
            self._idle_deaths = 0
            deadline = time.monotonic() + POLL_S
            while not self._closed and token not in self._ended:
                part = self._choose(node)
                if part is not None:
                    self._held[worker] = part
                    return part
                if not self._changed.wait(deadline - time.monotonic()):
                    return None
            return "closed" if self._closed else None

    def _choose(self, node: str) -> Part | None:
        """The first part for a node; those over which a worker died there are for others, as long as there are some."""
        nodes = {where for _, where in self._lives.values()}
        for part in self._waiting:
            if node not in part.nodes or nodes <= part.nodes:
                self._waiting.remove(part)
                return part
        return None

    # Called by Tune's loop.

    def finished(self, worker: str, outcome: Outcome) -> None:
        """Take in what came of a worker's part."""
        with self._changed:
            self._held.pop(worker, None)
            if outcome.population == self._population:
                # A worker that was thought dead may still have come to the end of a part that was given to another.
                self._waiting = deque(part for part in self._waiting if part.positions != outcome.positions)
                self._done.append(outcome)
                self._changed.notify_all()

    def died(self, worker: str, why: str) -> None:
        """Take back what a worker held."""
        with self._changed:
            if worker in self._held:
                self._give_back(worker, why)
            else:
                self._idle_deaths += 1
                if self._idle_deaths >= (self._retries + 1) * self._num_workers:
                    self._broken = self._broken or f"workers do not start: {why}"
            token, _ = self._lives.pop(worker, ("", ""))
            self._ended.add(token)
            if not self._lives:
                self._alone_since = time.monotonic()
            self._changed.notify_all()

    def _give_back(self, worker: str, why: str) -> None:
        part = self._held.pop(worker)
        if part.population != self._population:
            return
        _, node = self._lives[worker]
        part = replace(part, deaths=part.deaths + 1, nodes=part.nodes | {node})
        if part.deaths < self._retries:
            self._waiting.appendleft(part)
        elif len(part.candidates) > 1:
            # It may be one of them that kills, and the others shall have their scores.
            whole = replace(part, parts=part.parts * len(part.candidates), deaths=0, nodes=frozenset())
            self._waiting.extend(
                replace(whole, positions=(position,), candidates=(candidate,))
                for position, candidate in zip(part.positions, part.candidates, strict=True)
            )
        elif part.candidates:
            reason = f"its worker died {part.deaths} times: {why}"
            score = Score(value=None, state="failed", reason=reason)
            self._done.append(Outcome(part.population, part.positions, (score,)))
        else:
            self._broken = self._broken or f"workers die before they can evaluate: {why}"
        self._changed.notify_all()


class Watch(tune.Callback):
    """Tells the office what Tune's loop sees.

    Args:
        office: the office's handle, though it is in this process, because Tune copies and pickles callbacks.
    """

    def __init__(self, office: Any) -> None:
        self._office = office

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A part is evaluated."""
        # Not kept in Tune's own record of last results. Waits, because the worker asks for its next part after this.
        if (outcome := result.pop("outcome", None)) is not None:
            ray.get(self._office.finished.remote(trial.trial_id, outcome))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker died and will be started again."""
        error = trial.get_error()
        why = "for an unknown reason" if error is None else first_line(error)
        ray.get(self._office.died.remote(trial.trial_id, why))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker died for good."""
        self.on_trial_recover(iteration, trials, trial)


class Worker(tune.Trainable):
    """Evaluates parts, one each step."""

    # Tune adds what `tune.with_parameters` holds to the arguments.
    def setup(  # type: ignore[override]
        self, config: dict[str, Any], office: Any, make_evaluator: bytes, threads: int, folder: str
    ) -> None:
        """Get ready; the evaluator is made when there is something to evaluate, so that a failure can be told."""
        import torch  # only here: neither the search's side nor the office computes, and it takes seconds

        torch.set_num_threads(threads)
        if Path(folder).is_dir():
            os.chdir(folder)
        self._office = office
        self._make_evaluator = make_evaluator
        self._evaluator: Evaluator[Any] | None = None
        self._token = uuid.uuid4().hex
        self._node = ray.get_runtime_context().get_node_id()

    def step(self) -> dict[str, Any]:
        """Wait for a part and evaluate it."""
        while True:
            part = ray.get(self._office.take.remote(self.trial_id, self._token, self._node))
            if part == "closed":
                return {"done": True}
            if part is not None:
                return {"outcome": self._evaluate(part), "candidates": len(part.candidates)}

    def _evaluate(self, part: Part) -> Outcome:
        try:
            if self._evaluator is None:
                self._evaluator = pickle.loads(self._make_evaluator)()
            scores = self._evaluator.evaluate(part.candidates, part.best, part.parts) if part.candidates else []
            assert len(scores) == len(part.candidates)
            return Outcome(part.population, part.positions, tuple(scores), self._evaluator.describe())
        except Exception as error:  # all of it is raised again, by the search
            return Outcome(part.population, part.positions, error=packed(error))


def _dirname(trial: Any) -> str:
    return f"worker-{trial.trial_id}"
