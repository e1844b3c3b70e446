"""Work on a Ray cluster: the same outcomes as in this process, whatever happens to processes and nodes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import ray
import torch
from ray import cloudpickle

from psvit.errors import DivergedError, InputError
from psvit.executors.executor import Outcome, Portable
from psvit.executors.ray_trials import RayExecutor

# One cluster at a time, on however many processes the tests run.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]

# Workers cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class TwoArgumentError(Exception):
    """Cannot be unpickled."""

    def __init__(self, one, other):
        super().__init__(f"{one} and {other}")


@dataclass(frozen=True)
class Work:
    """Squares numbers, and leaves a file for each attempt; what else it does, the number says."""

    log: Path

    def __call__(self, number):
        attempts = len(list(self.log.glob(f"{number}-*")))
        (self.log / f"{number}-{uuid.uuid4().hex}").write_text(
            f"{os.getpid()} {torch.get_num_threads()} {Path.cwd()} {ray.get_runtime_context().get_node_id()}"
        )
        if number == 10:  # waits until the others are done
            while not (self.log / "go on").exists():
                time.sleep(0.02)
        if number == 20:
            raise DivergedError("training diverged")
        if number == 30:
            raise InputError("this one is refused")
        if number == 31:
            raise TwoArgumentError("this", "that")
        if number == 40 or (number == 41 and not attempts):
            os.kill(os.getpid(), signal.SIGKILL)
        return number**2

    def attempts(self, number):
        return [path.read_text().split() for path in self.log.glob(f"{number}-*")]


@pytest.fixture
def work(tmp_path):
    (tmp_path / "log").mkdir()
    return Work(tmp_path / "log")


@pytest.fixture
def joined(cluster, monkeypatch):
    """Makes executors of that cluster."""
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    return lambda address="ray", **options: RayExecutor(address, **options)


def test_outcomes_come_when_they_are_known(joined, work):
    numbers = [10, 1, 2, 20, 3, 4]
    found = []
    for number, outcome in joined().run(work, iter(numbers)):
        found.append((number, outcome))
        if len(found) == 5:
            (work.log / "go on").touch()
    assert found[-1] == (10, Outcome(value=100))
    assert sorted(found, key=lambda pair: numbers.index(pair[0])) == [
        (number, Outcome(failure="training diverged") if number == 20 else Outcome(value=number**2))
        for number in numbers
    ]
    told = [line for number in numbers for line in work.attempts(number)]
    assert len(told) == 6, "each was done once"
    assert {tuple(line[1:3]) for line in told} == {("1", str(Path.cwd()))}
    assert not ray.is_initialized()


@dataclass(frozen=True)
class Loads:
    """Work that loads something, and says by which process and how often it was loaded there."""

    loaded: Portable[list[int]] = field(default_factory=lambda: Portable(partial(list, [0])))

    def __call__(self, number):
        self.loaded.get()[0] += 1
        return os.getpid(), self.loaded.get()[0]


def test_a_process_does_several_items_and_keeps_what_it_has_loaded(joined):
    executor = joined()
    found = [outcome.value for _, outcome in executor.run(Loads(), range(12))]
    assert len({process for process, _ in found}) <= executor.at_once() < 12
    assert max(times for _, times in found) > 1


def test_nothing_to_do_starts_nothing(monkeypatch, work):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert list(RayExecutor("ray").run(work, [])) == []


def test_an_item_whose_process_is_lost_is_begun_anew_and_one_that_kills_fails_alone(joined, work):
    found = dict(joined(retries=2).run(work, [40, 41, 5]))
    assert (found[41], found[5]) == (Outcome(value=41**2), Outcome(value=25))
    assert found[40].value is None
    assert found[40].failure.startswith("its worker died 3 times: ")
    assert [len(work.attempts(number)) for number in (40, 41, 5)] == [3, 2, 1]


@pytest.mark.parametrize(
    ("number", "error", "told"),
    [(30, InputError, "this one is refused"), (31, RuntimeError, "TwoArgumentError: this and that")],
)
def test_whatever_else_is_raised_is_raised_here(joined, work, number, error, told):
    with pytest.raises(error, match=told) as caught:
        list(joined().run(work, [number]))
    assert "in __call__" in "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert not ray.is_initialized()


def test_what_cannot_be_made_on_a_worker_is_raised_here(joined):
    class Broken:
        def __reduce__(self):
            return refuse, ()

    def refuse():
        raise InputError("no such supernet")

    with pytest.raises(InputError, match="no such supernet"):
        list(joined().run(Broken(), [1]))


def test_too_large_a_worker_is_refused(joined, work):
    with pytest.raises(InputError, match="no node of the Ray cluster holds a worker with 1 CPU and 1 GPU"):
        list(joined(gpus=1).run(work, [1]))
    assert not ray.is_initialized()


def test_a_cluster_is_reached_from_outside(joined, cluster, work):
    found = dict(joined(cluster.client_address, retries=1).run(work, [1, 40, 2, 20]))
    assert (found[1], found[2]) == (Outcome(value=1), Outcome(value=4))
    assert found[20] == Outcome(failure="training diverged")
    assert found[40].failure.startswith("its worker died 2 times: ")


def test_what_a_lost_node_was_at_is_done_elsewhere(joined, cluster, work):
    doomed, killed, goes_on = cluster.add_node(num_cpus=1), [], work.log / "go on"
    for number, outcome in joined().run(work, [10, *range(1, 6)]):
        assert outcome == Outcome(value=number**2)
        # If the item began so late that it need not wait any more, it may be done.
        for line in [] if goes_on.exists() else work.attempts(10):
            if line[3] == doomed.node_id:
                killed.append(line)
                # A node takes its processes with it.
                os.kill(int(line[0]), signal.SIGKILL)
                cluster.remove_node(doomed, allow_graceful=False)
        goes_on.touch()
    if not killed:
        cluster.remove_node(doomed)
    assert len(work.attempts(10)) == 1 + len(killed)


@pytest.mark.parametrize("interrupt", [False, True])
def test_a_local_cluster_ends_with_the_work(interrupt, tmp_path, marked):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import signal, sys, time
            from pathlib import Path
            from psvit.executors.ray_trials import RayExecutor

            def work(seconds):
                Path("begun").touch()
                time.sleep(seconds)
                return seconds

            if __name__ == "__main__":
                # A process that was started in the background ignores it, and so do those that it starts.
                signal.signal(signal.SIGINT, signal.default_int_handler)
                try:
                    print(list(RayExecutor("ray").run(work, [float(sys.argv[1])])), flush=True)
                except KeyboardInterrupt:
                    print("interrupted", flush=True)
            """
        )
    )
    mark = f"PSVIT_TEST_{uuid.uuid4().hex}"
    process = subprocess.Popen(
        [sys.executable, str(script), "300" if interrupt else "0"],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | {mark: "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        if interrupt:
            deadline = time.monotonic() + 180
            while not (tmp_path / "begun").exists():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        out, err = process.communicate(timeout=180)
    finally:
        process.kill()
    expected = "interrupted\n" if interrupt else "[(0.0, Outcome(value=0.0, failure=''))]\n"
    assert (out, err, process.returncode) == (expected, "", 0)
    deadline = time.monotonic() + 20
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert marked(mark) == []
