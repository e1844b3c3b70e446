"""Populations on a Ray cluster: the same scores as in one process, whatever happens to workers and nodes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import ray
import torch
from optuna.storages import InMemoryStorage
from ray import cloudpickle
from ray.exceptions import RayActorError

from psvit.errors import InputError, LostWorkersError
from psvit.search import ray_backend
from psvit.search.candidates import Candidates
from psvit.search.racing import Field, Race
from psvit.search.ray_backend import Part, Parts, RayEvaluator, Worker
from psvit.search.search import search
from psvit.search.searchers import make_searcher
from psvit.search.study import Study
from psvit.search.trial import Score
from psvit.space.budget import Budget

# One cluster at a time, on however many processes the tests run.
pytestmark = pytest.mark.xdist_group("ray")

WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")

# Workers cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Landscape:
    """Scores by a formula, slowly where asked, and keeps a log of files: `started` and `finished`, one of each a call.

    Args:
        space: the space of the architectures.
        log: the folder of the log.
        seconds: for one architecture.
        on: by index in the space, what happens instead of a score.
    """

    def __init__(self, space, log, seconds=0.0, on=None):
        self.space, self.log, self.seconds, self.on = space, log, seconds, on or {}
        self.write("made", [])

    def write(self, event, archs):
        node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
        entry = {
            "event": event,
            "archs": [self.space.index(arch) for arch in archs],
            "pid": os.getpid(),
            "node": node,
            "threads": torch.get_num_threads(),
        }
        temporary = self.log / f".{uuid.uuid4().hex}"
        temporary.write_text(json.dumps(entry))
        temporary.rename(self.log / f"{uuid.uuid4().hex}.json")

    def evaluate(self, archs, best=(), parts=1):
        self.write("started", archs)
        scores = []
        for arch in archs:
            index = self.space.index(arch)
            if index in self.on:
                self.on[index]()
            time.sleep(self.seconds)
            value = sum((stage.depth - 2.5) ** 2 + stage.embed_dim / 64 for stage in arch.stages) + index / 1e5
            scores.append(Score(value=-value, images=3, state="raced" if best and -value < best[-1] else "complete"))
        self.write("finished", archs)
        return scores

    def describe(self):
        return {"kind": "landscape"}


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def refuse():
    raise InputError("this one is refused")


class TwoArgumentError(Exception):
    """Cannot be unpickled."""

    def __init__(self, one, other):
        super().__init__(f"{one} and {other}")


def stumble():
    raise TwoArgumentError("this", "that")


def read(log, event):
    entries = [json.loads(path.read_text()) for path in log.glob("*.json")]
    return [entry for entry in entries if entry["event"] == event]


def stripes(archs, k):
    """A stand-in for cutting along the prefix tree."""
    return [list(range(i, len(archs), k)) for i in range(min(k, len(archs)))]


def draw(space, n, seed=0):
    return [space[int(i)] for i in np.random.default_rng(seed).permutation(space.size)[:n]]


@pytest.fixture
def log(tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()
    return folder


@pytest.fixture
def alone(tmp_path, digits_space):
    """The scores of one process."""
    folder = tmp_path / "alone"
    folder.mkdir()
    return Landscape(digits_space, folder)


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="the tests run in one process")
def test_tests_with_a_cluster_are_kept_in_one_process(request):
    """Two clusters at a time are too much for small machines; grouping once stopped working without a word."""
    assert request.node.nodeid.endswith("@ray")


# --- parts, and workers, without a cluster


def parts_of(archs, retries=2):
    return Parts([Part((i, i + 1), tuple(archs[i : i + 2])) for i in range(0, len(archs), 2)], retries)


def test_a_part_goes_to_another_node_when_its_worker_dies(digits_space):
    parts = parts_of(draw(digits_space, 4))
    first = parts.take("node 1", ["node 1", "node 2"])
    parts.take("node 2", ["node 1", "node 2"])
    assert parts.give_back(first, "node 1", "killed") == {}
    assert parts.take("node 1", ["node 1", "node 2"]) is None, "there is another, whose worker will be free again"
    again = parts.take("node 2", ["node 1", "node 2"])
    assert (again.positions, again.deaths, again.nodes) == (first.positions, 1, {"node 1"})


def test_a_part_stays_on_its_node_where_there_is_no_other(digits_space):
    parts = parts_of(draw(digits_space, 2))
    first = parts.take("node 1", ["node 1"])
    parts.give_back(first, "node 1", "killed")
    assert parts.take("node 1", ["node 1"]).positions == first.positions


def test_a_part_that_kills_is_divided_and_only_who_kills_fails(digits_space):
    parts = parts_of(draw(digits_space, 2))
    seen, failed = [], {}
    while part := parts.take("node 1", ["node 1"]):
        seen.append(part.positions)
        if 1 in part.positions:
            failed |= parts.give_back(part, "node 1", "killed")
    assert seen == [(0, 1), (0, 1), (0,), (1,), (1,)]
    assert failed == {1: Score(value=None, state="failed", reason="its worker died 2 times: killed")}


def test_workers_that_cannot_even_describe_end_the_search():
    parts = Parts([Part((), ())], retries=1)
    part = parts.take("node 1", ["node 1"])
    with pytest.raises(LostWorkersError, match="workers die before they can evaluate: killed"):
        parts.give_back(part, "node 1", "killed")


class Answer:
    """Stands in for a reference to what a call comes to."""

    def __init__(self, value):
        self.value = value


class Nearby:
    """Stands in for a worker: evaluates at once in this process, after it has died as often as it shall.

    Args:
        evaluator: what it has.
        node: where it says that it is; without one it cannot be started.
        deaths: how often it dies over a part.
    """

    def __init__(self, evaluator, node="node 1", deaths=0):
        self._worker = Worker.__new__(Worker)
        self._worker._evaluator = evaluator
        self._deaths = deaths
        self.parts = []
        where = node or RayActorError(error_msg="no module named psvit")
        self.where = SimpleNamespace(remote=lambda: Answer(where))
        self.evaluate = SimpleNamespace(remote=self._evaluate)

    def _evaluate(self, *part):
        self.parts.append(part)
        if self._deaths:
            self._deaths -= 1
            return Answer(RayActorError(error_msg="killed"))
        return Answer(self._worker.evaluate(*part))


@pytest.fixture
def nearby(monkeypatch):
    """Makes a Ray evaluator of some workers without a cluster."""

    def get(answer):
        if isinstance(answer.value, Exception):
            raise answer.value
        return answer.value

    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "wait", lambda answers, timeout: (answers[:1], answers[1:]))

    def make(*workers, retries=3):
        made = RayEvaluator(lambda: None, cut=stripes, address="ray", workers=len(workers), retries=retries)
        made._workers = list(workers)
        for worker in workers:
            made._greet(worker)
        return made

    return make


def test_workers_that_do_not_start_end_the_search_when_there_are_no_others(nearby, alone, digits_space):
    archs = draw(digits_space, 6)
    one = nearby(Nearby(alone, node=None), Nearby(alone))
    assert one.evaluate(archs) == alone.evaluate(archs)
    with pytest.raises(LostWorkersError, match=r"--workers ray: workers do not start: .*no module named psvit"):
        nearby(Nearby(alone, node=None), Nearby(alone, node=None)).evaluate(archs)


def test_a_worker_that_died_is_given_parts_again_when_it_lives(nearby, alone, digits_space):
    archs, mortal = draw(digits_space, 6), Nearby(alone, deaths=2)
    assert nearby(mortal).evaluate(archs) == alone.evaluate(archs)
    assert [len(candidates) for candidates, *_ in mortal.parts] == [6, 6, 6]


def test_what_comes_of_a_population_before_is_passed_over(nearby, alone, digits_space):
    """After an interrupt workers are still at its parts."""
    archs = draw(digits_space, 4)
    evaluator = nearby(Nearby(alone), Nearby(alone, deaths=1))
    evaluator._collect([Part((0,), tuple(archs[:1]))])
    evaluator._hand_out(Parts([Part((0, 1), tuple(archs[2:])), Part((2, 3), tuple(archs[2:]))], 1))
    assert evaluator.evaluate(archs) == alone.evaluate(archs)


def test_without_a_worker_for_long_the_search_is_given_up(nearby, alone, digits_space, monkeypatch):
    monkeypatch.setattr(ray_backend, "PATIENCE_S", 0.0)
    monkeypatch.setattr(ray, "wait", lambda answers, timeout: ([], answers))
    with pytest.raises(LostWorkersError, match="no worker was ready for 0 s"):
        nearby(Nearby(alone)).evaluate(draw(digits_space, 2))


def test_a_cluster_that_is_lost_is_told(nearby, alone, digits_space, monkeypatch):
    def lost(*args, **kwargs):
        raise ConnectionError("its power failed\nlong ago")

    evaluator = nearby(Nearby(alone))
    monkeypatch.setattr(ray, "wait", lost)
    with pytest.raises(LostWorkersError, match=r"--workers ray: the cluster was lost: its power failed$"):
        evaluator.evaluate(draw(digits_space, 2))


@pytest.mark.parametrize(("workers", "number"), [(1, 1), (2, 4), (8, 16)])
def test_the_parts_of_a_population_share_the_risk_that_a_race_takes(digits_space, nearby, workers, number):
    races = []

    class Racing:
        def evaluate(self, archs, best=(), parts=1):
            races.append(Field(Race(keep=10).of_parts(parts), len(archs), 1000, 4, [900] * 10))
            return [Score(value=1.0) for _ in archs]

        def describe(self):
            return {}

    racing = Racing()
    nearby(*(Nearby(racing) for _ in range(workers))).evaluate(draw(digits_space, 32), [90.0] * 10)
    assert len(races) == number
    # All comparisons at all four looks together: of ordered pairs within a part, and of everyone with the known best.
    n = 32 // number
    risk = sum(4 * (n * (n - 1) * race._alpha_pair + n * race._alpha_known) for race in races)
    assert risk == pytest.approx(0.05 if n > 1 else 0.025)


def test_an_evaluator_without_workers_of_its_own_is_told_of_parts_too(digits_space, nearby):
    told = []

    class Told:
        def evaluate(self, archs, best=(), parts=1):
            told.append(parts)
            return [Score(value=1.0) for _ in archs]

        def describe(self):
            return {}

    evaluator = nearby(Nearby(Told()))
    evaluator.evaluate(draw(digits_space, 4))
    evaluator.evaluate(draw(digits_space, 4), parts=3)
    assert told == [1, 3]


def test_what_a_divided_part_risks_is_shared_by_those_it_is_divided_into(digits_space):
    archs = draw(digits_space, 5)
    parts = Parts([Part((0, 1, 2), tuple(archs[:3]), parts=2), Part((3, 4), tuple(archs[3:]), parts=2)], retries=1)
    parts.give_back(parts.take("node 1", ["node 1"]), "node 1", "killed")
    shares = {}
    while part := parts.take("node 1", ["node 1"]):
        shares[part.positions] = part.parts
    assert shares == {(3, 4): 2, (0,): 6, (1,): 6, (2,): 6}


# --- a cluster of several nodes


@pytest.fixture
def on_cluster(cluster, monkeypatch, tmp_path):
    """Evaluators of that cluster."""
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)

    def make(make_evaluator, **options):
        options = {"cut": stripes, "address": "ray", **options}
        return RayEvaluator(make_evaluator, **options)

    return make


@pytest.mark.slow
def test_scores_are_those_of_one_process_and_workers_stay(on_cluster, digits_space, log, alone, tmp_path):
    with on_cluster(lambda: Landscape(digits_space, log, seconds=0.05)) as evaluator:
        # Until both have begun to work; on a busy machine one of them takes much longer to start.
        warm = 0
        while len(read(log, "made")) < 2:
            evaluator.evaluate(draw(digits_space, 4, 9))
            warm += 4
        for seed, best in enumerate([(), (-3.0, -5.0), (-1.0,)]):
            archs = draw(digits_space, 30, seed)
            assert evaluator.evaluate(archs, best) == alone.evaluate(archs, best)
        # Fewer than there are workers.
        assert evaluator.evaluate(archs[:1]) == alone.evaluate(archs[:1])
        assert evaluator.evaluate([]) == []
        assert evaluator.describe() == alone.describe()
    made = read(log, "made")
    assert len(made) == len({entry["node"] for entry in made}) == 2, "one evaluator a node, for all populations"
    assert {entry["threads"] for entry in read(log, "started")} == {1}
    assert len(read(log, "finished")) == warm + 3 * 4 + 1


def winner_of(evaluator, space):
    study = Study(space, InMemoryStorage())
    candidates = Candidates(space, Budget.parse("1MFLOPs", space=space))
    for _ in search(candidates, make_searcher("evolution"), evaluator, study, trials=96, seed=3):
        pass
    return [(trial.arch, trial.score) for trial in study.history.trials], study.history


@pytest.mark.slow
def test_a_search_survives_the_loss_of_a_node_and_finishes_nothing_twice(cluster, on_cluster, digits_space, log, alone):
    doomed = cluster.add_node(num_cpus=1)
    killed = []

    def kill():
        # In the second population, amid a part.
        while not killed:
            done = {tuple(entry["archs"]) for entry in read(log, "finished")}
            busy = [
                entry
                for entry in read(log, "started")
                if entry["node"] == doomed.node_id and tuple(entry["archs"]) not in done
            ]
            if len(done) >= 7 and busy:
                # A node takes its processes with it; here a worker could still bring its part to an end.
                os.kill(busy[0]["pid"], signal.SIGSTOP)
                cluster.remove_node(doomed, allow_graceful=False)
                os.kill(busy[0]["pid"], signal.SIGKILL)
                killed.extend(busy)
            time.sleep(0.02)

    killer = threading.Thread(target=kill, daemon=True)
    with on_cluster(lambda: Landscape(digits_space, log, seconds=0.1)) as evaluator:
        killer.start()
        trials, history = winner_of(evaluator, digits_space)
    killer.join(timeout=1)
    expected, expected_history = winner_of(alone, digits_space)
    assert trials == expected
    assert len(trials) == 96
    best, expected_best = (max(one.complete, key=lambda t: t.score.value).arch for one in (history, expected_history))
    assert best == expected_best
    finished = [index for entry in read(log, "finished") for index in entry["archs"]]
    assert sorted(finished) == sorted(digits_space.index(arch) for arch, _ in expected), "each exactly once"
    # What the lost node was at came to its end elsewhere.
    (lost,) = killed
    (again,) = [entry for entry in read(log, "finished") if entry["archs"] == lost["archs"]]
    assert again["node"] != lost["node"]


@pytest.mark.slow
def test_an_architecture_that_kills_its_worker_fails_alone(on_cluster, digits_space, log, alone):
    archs = draw(digits_space, 12)
    deadly = digits_space.index(archs[5])
    with on_cluster(lambda: Landscape(digits_space, log, on={deadly: die}), retries=2) as evaluator:
        scores = evaluator.evaluate(archs)
        # The workers are there for more.
        assert evaluator.evaluate(archs[:5]) == alone.evaluate(archs[:5])
    expected = alone.evaluate(archs)
    assert scores[:5] + scores[6:] == expected[:5] + expected[6:]
    assert (scores[5].state, scores[5].value) == ("failed", None)
    assert scores[5].reason.startswith("its worker died 2 times: ")
    held = [entry for entry in read(log, "started") if deadly in entry["archs"]]
    assert sorted(len(entry["archs"]) for entry in held) == [1, 1, 3, 3]


@pytest.mark.slow
def test_what_an_evaluation_raises_is_raised_and_workers_go_on(on_cluster, digits_space, log, alone):
    archs = draw(digits_space, 8)
    on = {digits_space.index(archs[2]): refuse, digits_space.index(archs[3]): stumble}
    with on_cluster(lambda: Landscape(digits_space, log, on=on)) as evaluator:
        with pytest.raises(InputError, match="this one is refused") as caught:
            evaluator.evaluate(archs[:3])
        assert str(caught.value) == "this one is refused"
        assert "in refuse" in caught.value.__notes__[0]
        with pytest.raises(RuntimeError, match="TwoArgumentError: this and that"):
            evaluator.evaluate(archs[3:])
        assert evaluator.evaluate(archs[4:]) == alone.evaluate(archs[4:])
    made = read(log, "made")
    assert len(made) == len({entry["pid"] for entry in made}) <= 2

    def broken():
        raise InputError("no such supernet")

    with on_cluster(broken) as evaluator, pytest.raises(InputError, match="no such supernet"):
        evaluator.describe()


@pytest.mark.slow
def test_too_large_a_worker_is_refused(on_cluster, digits_space, log):
    with pytest.raises(InputError, match="no node of the Ray cluster holds a worker with 1 CPU and 1 GPU"):
        on_cluster(lambda: Landscape(digits_space, log), gpus_per_worker=1).__enter__()
    assert not ray.is_initialized()


@pytest.mark.slow
def test_a_cluster_is_reached_from_outside(cluster, on_cluster, digits_space, log, alone):
    archs = draw(digits_space, 20)
    deadly = digits_space.index(archs[5])
    address = cluster.client_address
    with on_cluster(lambda: Landscape(digits_space, log, on={deadly: die}), retries=1, address=address) as evaluator:
        assert ray.util.client.ray.is_connected()
        scores = evaluator.evaluate(archs)
        assert evaluator.describe() == {"kind": "landscape"}
    expected = alone.evaluate(archs)
    assert scores[:5] + scores[6:] == expected[:5] + expected[6:]
    assert scores[5].state == "failed"


class Surroundings:
    """Says with which settings of OpenMP its process was started."""

    def evaluate(self, archs, best=(), parts=1):
        return [Score(value=0.0) for _ in archs]

    def describe(self):
        # What a process sets itself, after it has begun, is not in here.
        started_with = Path("/proc/self/environ").read_bytes().decode(errors="replace").split("\0")
        return {"settings": sorted(line for line in started_with if line.startswith(WAITING))}


@pytest.mark.slow
@pytest.mark.parametrize("outside", [False, True], ids=["joined", "from outside"])
@pytest.mark.parametrize("own", [{}, {"OMP_WAIT_POLICY": "passive"}], ids=str)
def test_workers_on_a_cluster_that_is_there_wait_as_the_search_is_told(
    cluster, on_cluster, tmp_path, monkeypatch, outside, own
):
    for name in WAITING:
        monkeypatch.delenv(name, raising=False)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    address = {"address": cluster.client_address} if outside else {}
    with on_cluster(Surroundings, workers=1, **address) as evaluator:
        described = evaluator.describe()
    expected = own or {"GOMP_SPINCOUNT": "10000"}
    assert described == {"settings": [f"{name}={value}" for name, value in expected.items()]}


# --- a cluster that the evaluator starts


@pytest.mark.slow
def test_a_local_cluster_ends_with_the_search_that_was_interrupted(tmp_path, marked):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import signal, sys, time
            from functools import partial
            from pathlib import Path
            from psvit.search.ray_backend import RayEvaluator
            from psvit.search.trial import Score
            from psvit.space.search_space import SearchSpace

            class Slow:
                def __init__(self, seconds):
                    self.seconds = seconds

                def evaluate(self, archs, best=(), parts=1):
                    time.sleep(self.seconds if len(archs) > 1 else 0)
                    return [Score(value=float(arch.stages[0].depth)) for arch in archs]

                def describe(self):
                    return {}

            def whole(archs, k):
                return [list(range(len(archs)))]

            if __name__ == "__main__":
                # A process that was started in the background ignores it, and so do those that it starts.
                signal.signal(signal.SIGINT, signal.default_int_handler)
                space = SearchSpace.load("psvit-2d-digits")
                slow = partial(Slow, float(sys.argv[1]))
                with RayEvaluator(slow, cut=whole, address="ray", workers=1) as evaluator:
                    print("begun", evaluator.evaluate([space[0]])[0].value == space[0].stages[0].depth, flush=True)
                    sys.stdin.readline()
                    try:
                        evaluator.evaluate([space[0], space[1]])
                    except KeyboardInterrupt:
                        evaluator.describe()
                        print("interrupted", flush=True)
            """
        )
    )
    mark = f"PSVIT_TEST_{uuid.uuid4().hex}"
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | {mark: "1"}
    process = subprocess.Popen(
        [sys.executable, str(script), "300"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout.readline() == "begun True\n"
        assert len(marked(mark)) > 2
        process.stdin.write("\n")
        process.stdin.flush()
        time.sleep(1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        asked = time.monotonic()
        out, err = process.communicate(timeout=180)
    finally:
        process.kill()
    assert (out, err, process.returncode) == ("interrupted\n", "", 0)
    assert time.monotonic() - asked < 60
    deadline = time.monotonic() + 20
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert marked(mark) == []


def test_where_every_architecture_kills_its_worker_all_fail_and_the_call_ends(nearby, alone, digits_space):
    archs = draw(digits_space, 3)
    scores = nearby(Nearby(alone, deaths=10**6), retries=2).evaluate(archs)
    assert [score.state for score in scores] == ["failed"] * 3
