"""The Ray backend: populations evaluated on a Ray cluster, by workers that are actors.

A worker loads supernet and images once. It evaluates one *part* of a population after the other, cut along the prefix
tree. Ray finds workers room, and starts them anew, elsewhere where need be, when they die. What a worker held when it
died is given to another, on another node where there is one: that is decided here, because Ray itself would repeat a
call in the place where it failed, and knows nothing of parts that can be divided.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import RayActorError, RayError, RayTaskError

from psvit.arch.architecture import Architecture
from psvit.errors import LostWorkersError
from psvit.executors.ray_cluster import check_room, connected, first_line, packed
from psvit.search.evaluator import Evaluator
from psvit.search.trial import Score

PARTS_PER_WORKER = 2
"""Parts that a population is cut into, where there are several workers: what one of them is slow in, others make up."""

POLL_S = 1.0
"""Seconds for which one call waits for something to happen, before patience is looked at."""

PATIENCE_S = 600.0
"""Seconds without any worker after which a search is given up; a cluster may start nodes on demand."""


@dataclass(frozen=True)
class Part:
    """The part of a population that one worker evaluates at a time.

    Attributes:
        positions: where its architectures stand in their population.
        archs: the architectures; without any, only the evaluator's description is wanted.
        best: the best scores of others.
        parts: into how many parts the population was cut; of one that is divided later, as if all were.
        deaths: of workers that held it.
        nodes: where they died.
    """

    positions: tuple[int, ...]
    archs: tuple[Architecture, ...]
    best: tuple[float, ...] = ()
    parts: int = 1
    deaths: int = 0
    nodes: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Outcome:
    """The outcome of a part.

    Attributes:
        scores: those of its architectures.
        description: the evaluator's, where a worker came to have one.
        error: the pickled exception that evaluating it raised.
    """

    scores: tuple[Score, ...] = ()
    description: dict[str, Any] | None = None
    error: bytes | None = None


class Parts:
    """The parts of a population that wait for a worker.

    Args:
        parts: all of them.
        retries: how many deaths it takes for a part to be given up: for one of several architectures, to be divided.
    """

    def __init__(self, parts: Sequence[Part], retries: int) -> None:
        self._waiting = deque(parts)
        self._retries = retries

    def take(self, node: str, nodes: Collection[str]) -> Part | None:
        """The first part for a worker; those over which one died on its node are for others, as long as there are some.

        Args:
            node: where the worker is.
            nodes: where there are workers.
        """
        for part in self._waiting:
            if node not in part.nodes or set(nodes) <= part.nodes:
                self._waiting.remove(part)
                return part
        return None

    def give_back(self, part: Part, node: str, why: str) -> dict[int, Score]:
        """Take back what a worker held that died on a node; the scores of what is given up, by position.

        Raises:
            LostWorkersError: it held no architecture.
        """
        part = replace(part, deaths=part.deaths + 1, nodes=part.nodes | {node})
        if part.deaths < self._retries:
            self._waiting.appendleft(part)
            return {}
        if not part.archs:
            raise LostWorkersError(f"workers die before they can evaluate: {why}")
        if len(part.archs) == 1:
            reason = f"its worker died {part.deaths} times: {why}"
            return {part.positions[0]: Score(value=None, state="failed", reason=reason)}
        # It may be one of them that kills, and the others shall have their scores.
        whole = replace(part, parts=part.parts * len(part.archs), deaths=0, nodes=frozenset())
        self._waiting.extend(
            replace(whole, positions=(position,), archs=(arch,))
            for position, arch in zip(part.positions, part.archs, strict=True)
        )
        return {}


@dataclass(frozen=True)
class _Asked:
    """What a worker on a node was asked: to evaluate a part of the population with this number."""

    worker: Any
    node: str
    population: int
    part: Part


class RayEvaluator:
    """An evaluator whose workers are on a Ray cluster; to be used as a context manager.

    Scores are those of the evaluator that the workers make, and so is the description. An architecture whose
    worker dies time after time is failed.

    Args:
        make_evaluator: makes a worker's evaluator, once in its life; it is pickled.
        cut: cuts a population into parts, as positions, given how many are enough to keep all workers busy.
        address: `ray` joins the cluster that `RAY_ADDRESS` names, or starts one on this machine; `ray://host:port`
            reaches a cluster that this process is not part of.
        workers: how many; as many as the cluster holds when it is joined, where not given. Fewer work where nodes
            are missing.
        cpus_per_worker: cores of a worker, which computes with as many threads, and at least with one.
        gpus_per_worker: GPUs of a worker.
        retries: how many deaths of workers it takes for a part to be given up.
    """

    def __init__(
        self,
        make_evaluator: Callable[[], Evaluator],
        *,
        cut: Callable[[Sequence[Architecture], int], list[list[int]]],
        address: str,
        workers: int | None = None,
        cpus_per_worker: float = 1,
        gpus_per_worker: float = 0,
        retries: int = 3,
    ) -> None:
        self._make_evaluator = make_evaluator
        self._cut = cut
        self._address = address
        self._num_workers = workers
        self._cpus, self._gpus = cpus_per_worker, gpus_per_worker
        self._retries = retries
        self._population = 0
        self._description: dict[str, Any] | None = None
        self._cluster = contextlib.ExitStack()
        self._workers: list[Any] = []
        # Each worker is in one of these: asked for a part, or where it is (by reference), or idle, with its node.
        self._busy: dict[Any, _Asked] = {}
        self._greeted: dict[Any, Any] = {}
        self._idle: list[tuple[Any, str]] = []
        self._seen = 0.0

    def __enter__(self) -> RayEvaluator:
        """Join or start the cluster and have Ray start the workers.

        Raises:
            InputError: there is no cluster at the address, or no node of it holds a worker.
        """
        self._cluster.enter_context(connected(self._address))
        try:
            if self._num_workers is None:
                resources = {"CPU": self._cpus, "GPU": self._gpus}
                self._num_workers = check_room({name: amount for name, amount in resources.items() if amount})
            worker: Any = ray.remote(Worker).options(num_cpus=self._cpus, num_gpus=self._gpus, max_restarts=-1)
            made = cloudpickle.dumps(self._make_evaluator)
            self._workers = [
                worker.remote(made, max(1, int(self._cpus)), str(Path.cwd())) for _ in range(self._num_workers)
            ]
            for one in self._workers:
                self._greet(one)
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def evaluate(self, archs: Sequence[Architecture], best: Sequence[float] = (), parts: int = 1) -> list[Score]:
        """The scores of a population; failed are also those over which workers died.

        Raises:
            LostWorkersError: workers do not start, or the cluster is lost. What an evaluation raises is raised here.
        """
        if not archs:
            return []
        assert self._num_workers is not None, "a RayEvaluator is used as a context manager"
        wanted = self._num_workers * (PARTS_PER_WORKER if self._num_workers > 1 else 1)
        pieces = self._cut(archs, wanted)
        assert sorted(position for piece in pieces for position in piece) == list(range(len(archs)))
        cut = [Part(tuple(piece), tuple(archs[i] for i in piece), tuple(best), parts * len(pieces)) for piece in pieces]
        scores = self._collect(cut)
        return [scores[position] for position in range(len(archs))]

    def describe(self) -> dict[str, Any]:
        """The description that the workers' evaluators give."""
        if self._description is None:
            self._collect([Part((), ())])
        assert self._description is not None
        return self._description

    def _collect(self, parts: Sequence[Part]) -> dict[int, Score]:
        """Have parts evaluated; the scores by position.

        Whatever ends it, an interrupt too, nobody waits for the rest: what workers are still at is of a population
        before, and what comes of it is passed over.
        """
        self._population += 1
        self._seen = time.monotonic()
        waiting = Parts(parts, self._retries)
        scores: dict[int, Score] = {}
        wanted = sum(len(part.positions) for part in parts)
        try:
            # Nobody describes the scores of a population over which all workers died.
            while len(scores) < wanted or (not wanted and self._description is None):
                self._hand_out(waiting)
                for asked, answer in self._answers():
                    if not isinstance(answer, Outcome):
                        self._greet(asked.worker)
                        if asked.population == self._population:
                            scores |= waiting.give_back(asked.part, asked.node, first_line(answer))
                        continue
                    self._idle.append((asked.worker, asked.node))
                    if asked.population != self._population:
                        continue
                    if answer.error is not None:
                        raise pickle.loads(answer.error)
                    self._description = self._description or answer.description
                    scores |= dict(zip(asked.part.positions, answer.scores, strict=True))
        except LostWorkersError as error:
            raise LostWorkersError(f"--workers {self._address}: {error}") from error
        return scores

    def _hand_out(self, waiting: Parts) -> None:
        """Give parts to workers that have none."""
        nodes = {node for _, node in self._idle} | {asked.node for asked in self._busy.values()}
        idle, self._idle = self._idle, []
        for worker, node in idle:
            part = waiting.take(node, nodes)
            if part is None:
                self._idle.append((worker, node))
            else:
                reference = worker.evaluate.remote(part.archs, part.best, part.parts)
                self._busy[reference] = _Asked(worker, node, self._population, part)

    def _greet(self, worker: Any) -> None:
        """Ask a worker where it is, which it answers as soon as it lives."""
        self._greeted[worker.where.remote()] = worker

    def _answers(self) -> list[tuple[_Asked, Outcome | RayActorError]]:
        """What workers have come to, with what they were asked: an outcome, or how they died.

        Raises:
            LostWorkersError: no worker can be started, none was for too long, or the cluster is lost.
        """
        found: list[tuple[_Asked, Outcome | RayActorError]] = []
        try:
            done, _ = ray.wait([*self._busy, *self._greeted], timeout=POLL_S)
            for reference in done:
                try:
                    answer = ray.get(reference)
                except RayActorError as error:
                    answer = error
                if asked := self._busy.pop(reference, None):
                    found.append((asked, answer))
                else:
                    self._came(self._greeted.pop(reference), answer)
        except RayTaskError:
            raise
        except (RayError, ConnectionError) as error:
            raise LostWorkersError(f"the cluster was lost: {first_line(error)}") from error
        if self._idle or self._busy or found:
            self._seen = time.monotonic()
        elif time.monotonic() - self._seen > PATIENCE_S:
            raise LostWorkersError(f"no worker was ready for {PATIENCE_S:g} s")
        return found

    def _came(self, worker: Any, answer: str | RayActorError) -> None:
        """Take in where a worker is, or that it never will be: Ray asks again for as long as it can start it."""
        if isinstance(answer, str):
            self._idle.append((worker, answer))
            return
        self._workers.remove(worker)
        if not self._workers:
            raise LostWorkersError(f"workers do not start: {first_line(answer)}")

    def _leave(self) -> None:
        """End the workers, even those amid an evaluation, and the cluster if it was started here."""
        try:
            for worker in self._workers:
                ray.kill(worker)
        finally:
            # Nothing refers to the cluster when it is left.
            self._workers, self._busy, self._greeted, self._idle = [], {}, {}, []
            self._cluster.close()


class Worker:
    """Evaluates parts; an actor.

    Args:
        make_evaluator: makes its evaluator, pickled. That is done when there is something to evaluate, so that a
            failure can be told.
        threads: to compute with.
        folder: the working folder of the search, so that relative paths mean the same.
    """

    def __init__(self, make_evaluator: bytes, threads: int, folder: str) -> None:
        import torch  # only here: the search's side does not compute, and it takes seconds

        torch.set_num_threads(threads)
        if Path(folder).is_dir():
            os.chdir(folder)
        self._make_evaluator = make_evaluator
        self._evaluator: Evaluator | None = None

    @ray.method(max_task_retries=-1)
    def where(self) -> str:
        """The node that it lives on."""
        node: str = ray.get_runtime_context().get_node_id()
        return node

    def evaluate(self, archs: Sequence[Architecture], best: Sequence[float], parts: int) -> Outcome:
        """What comes of a part."""
        try:
            if self._evaluator is None:
                self._evaluator = pickle.loads(self._make_evaluator)()
            scores = self._evaluator.evaluate(archs, best, parts) if archs else []
            assert len(scores) == len(archs)
            return Outcome(tuple(scores), self._evaluator.describe())
        except Exception as error:  # all of it is raised again, by the search
            return Outcome(error=packed(error))
