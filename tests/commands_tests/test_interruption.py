"""Commands that are stopped from outside: every finished evaluation survives, and the same command goes on."""

from __future__ import annotations

import contextlib
import csv
import importlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import torch
import yaml
from ray import cloudpickle
from safetensors.torch import load_file

from psvit.cli import run
from psvit.errors import DivergedError, LostWorkersError
from psvit.io.locks import LOCK_FILE
from psvit.search import cli as cli_module
from psvit.search import engine as engine_module
from psvit.search import estimate as estimating
from psvit.search import scoring as scoring_module
from psvit.search import search as search_module
from psvit.search.indicators import DSS
from psvit.search.storage import open_storage
from psvit.search.trial import Score
from psvit.space.search_space import SearchSpace
from psvit.train import job_runner

# Processes cannot import the tests, so functions travel by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

SHORT = ("--recipe", Path(__file__).with_name("short.yaml"))
FEW = ("--finalists", 2, "--control", 2, *SHORT)
ARGUMENTS = ("--space", "psvit-2d-digits", "--budget", "0..2MFLOPs", "--trials", "100", "--control", "20")
TOLD = "psvit-search: interrupted; the same command continues"
"""After a line break, because the terminal has just shown ^C."""


def records(journal, word=b'"origin"'):
    """How many trials a journal holds."""
    return journal.read_bytes().count(word) if journal.exists() else 0


def written(journal):
    """How many scores were written down, those included whose trials are not there yet."""
    return sum(
        len(value["scores"])
        for line in journal.read_bytes().splitlines()
        if line.endswith(b"}")
        for key, value in json.loads(line).get("user_attr", {}).items()
        if key.startswith("claim:") and value["scores"]
    )


def slowly(pause, log):
    """What replaces the indicator, which takes milliseconds here: evaluations last, as they do elsewhere.

    So signals arrive while candidates are evaluated; and a line for each that is scored tells what was evaluated twice.
    """

    def evaluate(self, archs, best=()):
        with open(log, "a") as stream:
            for arch in archs:
                time.sleep(pause)
                stream.write(f"{arch!r}\n")
        return [Score(value=float(sum(stage.depth * stage.embed_dim for stage in arch.stages))) for arch in archs]

    return evaluate


def call_command(module, arguments, err, evaluate):
    """Call a command in a process of its own, which writes what it says into a file."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has its children ignore it
    with err.open("wb", buffering=0) as said, open(os.devnull, "wb") as nothing:
        os.dup2(said.fileno(), 2)
        os.dup2(nothing.fileno(), 1)
    if evaluate is not None:
        DSS.evaluate = evaluate
        estimating._seconds_to_indicate = lambda plan: 1.0  # or what it looks at would be among what is evaluated
    sys.argv = [module, *map(str, arguments)]
    importlib.import_module(module).main()


def call_as_one_of(rank, size, port, module, arguments, err):
    """Call a command as torchrun would, in one of several processes."""
    os.environ.update(RANK=f"{rank}", LOCAL_RANK=f"{rank}", WORLD_SIZE=f"{size}")
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=f"{port}")
    call_command(module, arguments, err, None)


class Called:
    """A command in a process of its own: its status once it has ended, and what it said."""

    def __init__(self, process, err):
        self._process, self._err = process, err
        process.start()

    def poll(self):
        return self._process.exitcode

    def wait(self):
        self._process.join()
        return self._process.exitcode

    def send_signal(self, number):
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(self._process.pid, number)

    @property
    def err(self):
        self.wait()
        # A process that is killed at once has not opened its file.
        return self._err.read_text() if self._err.exists() else ""


@pytest.fixture
def call_apart(make_process, tmp_path):
    """Calls a command in a process of its own, and does not wait for it."""
    numbers = itertools.count()

    def process(module, *arguments, evaluate=None):
        err = tmp_path / f"{next(numbers)}.err"
        return Called(make_process(call_command, module, arguments, err, evaluate), err)

    return process


@pytest.fixture
def start(call_apart, tmp_path):
    """Starts a slow search in a process of its own."""

    def process(out, *options, pause=0.02):
        evaluate = slowly(pause, tmp_path / f"{out}.log")
        return call_apart("psvit.search.cli", *ARGUMENTS, "--out", tmp_path / out, *options, evaluate=evaluate)

    return process


@pytest.fixture
def stop(start, tmp_path):
    """Starts a search and sends it a signal once it has recorded some more trials."""

    def stopped(out, number, after, delay=0.01, **kwargs):
        journal = tmp_path / out / "study.journal"
        wanted = records(journal) + after
        process = start(out, **kwargs)
        deadline = time.monotonic() + 300
        while records(journal) < wanted and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(delay)
        process.send_signal(number)
        return process.wait(), process.err

    return stopped


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a search that nothing stops; here, because strings hash differently in every process."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DSS, "evaluate", slowly(0.0, folder / "log"))
        with pytest.raises(SystemExit) as ended:
            run(cli_module.command, [*ARGUMENTS, "--out", str(folder / "whole")])
    assert ended.value.code == 0
    return folder / "whole"


def assert_equal_runs(one, other):
    for name in ("best.yaml", "best.svg", "history.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}


@pytest.mark.slow
def test_a_search_that_is_interrupted_and_killed_ends_as_if_it_had_not_been(start, stop, whole, tmp_path):
    folder = tmp_path / "stopped"
    status, err = stop("stopped", signal.SIGINT, after=33)
    assert (status, err.strip()) == (130, TOLD)
    # What was found so far is there, and says what it is.
    best = yaml.safe_load((folder / "best.yaml").read_text())
    assert best["provenance"]["interrupted"] is True
    with (folder / "history.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert 33 <= len(rows) == best["provenance"]["trials"] < 100
    assert best["score"]["value"] == max(float(row["score"]) for row in rows)

    status, _ = stop("stopped", signal.SIGKILL, after=10)
    assert status == -signal.SIGKILL
    assert 43 <= records(folder / "study.journal") < 120
    assert start("stopped").wait() == 0
    assert records(folder / "study.journal") == 120
    assert_equal_runs(folder, whole)


def kill_often(start, stop, whole, tmp_path, kills, seed):
    """Kill a search at random moments, let it finish, and compare; what was written down is not evaluated again."""
    rng = random.Random(seed)
    folder = tmp_path / "stopped"
    lost = 0
    for _ in range(kills):
        # From the moment at which it starts to beyond a batch's end; among them the moments in which it writes.
        status, _ = stop("stopped", signal.SIGKILL, after=rng.choice([0, 1, 2, 5]), delay=rng.uniform(0, 0.3))
        if status == 0:
            break
        lost += 1
    assert start("stopped").wait() == 0
    assert_equal_runs(folder, whole)
    evaluated = (tmp_path / "stopped.log").read_text().splitlines()
    # Every score was written down once; what was evaluated beside that was killed in its batch.
    assert written(folder / "study.journal") >= 120
    # What is searched and in the control as well is evaluated once.
    once = len(set(evaluated))
    assert 100 <= once <= len(evaluated) <= once + 32 * lost


@pytest.mark.slow
def test_a_search_that_is_killed_again_and_again_ends_as_if_it_had_not_been(start, stop, whole, tmp_path):
    kill_often(start, stop, whole, tmp_path, kills=3, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_a_search_that_is_killed_at_many_moments_ends_as_if_it_had_not_been(start, stop, whole, tmp_path, seed):
    kill_often(start, stop, whole, tmp_path, kills=12, seed=seed)


@pytest.mark.slow
def test_two_searches_on_one_storage_of_which_one_is_killed(start, tmp_path):
    """Others go on while one is down, and it takes its own batch up again when it comes back."""
    rng = random.Random(0)
    options = ("--storage", str(tmp_path / "shared.journal"))
    steady, killed = start("steady", *options, pause=0.1), start("killed", *options, pause=0.1)
    for _ in range(3):
        time.sleep(rng.uniform(1, 2))
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        killed = start("killed", *options, pause=0.1)
    for process in (steady, killed):
        assert process.wait() == 0, process.err
    evaluated = [(tmp_path / f"{name}.log").read_text().splitlines() for name in ("steady", "killed")]
    assert all(evaluated)
    rows = check_shared(start, options, tmp_path, ("steady", "killed"))
    assert 100 <= len(rows) <= 132


def check_shared(start, options, tmp_path, names):
    """Run once more, all who shared a study tell the same; returns the history."""
    for name in names:
        assert start(name, *options).wait() == 0
    histories = [(tmp_path / name / "history.csv").read_bytes() for name in names]
    assert len(set(histories)) == 1
    assert len({(tmp_path / name / "best.yaml").read_bytes() for name in names}) == 1
    rows = list(csv.DictReader(histories[0].decode().splitlines()))
    assert len({row["index"] for row in rows}) == len(rows)
    return rows


@pytest.mark.slow
def test_two_searches_on_one_storage_share_the_work(start, tmp_path):
    options = ("--storage", str(tmp_path / "shared.journal"))
    names = ("one", "other")
    running = [start(name, *options, pause=0.03) for name in names]
    for process in running:
        assert process.wait() == 0, process.err
    evaluated = [(tmp_path / f"{name}.log").read_text().splitlines() for name in names]
    assert all(evaluated)
    rows = check_shared(start, options, tmp_path, names)
    # As both begin their last batches at the same time there may be a few more than asked for.
    assert 100 <= len(rows) <= 132
    # Once, except what one drew for the control while the other was still scoring it.
    assert len(rows) <= len({*evaluated[0], *evaluated[1]}) <= sum(map(len, evaluated)) <= len(rows) + 20
    assert not (tmp_path / "one/study.journal").exists()


def test_time_ends_a_search_and_the_same_command_goes_on(tmp_path, call, monkeypatch):
    seconds = iter(range(10**6))
    monkeypatch.setattr(search_module.time, "monotonic", lambda: float(next(seconds)))
    arguments = ("--space", "psvit-2d-digits", "--budget", "0..2MFLOPs", "--trials", 100, "--out", "timed")
    monkeypatch.setattr(
        DSS, "evaluate", lambda self, archs, best=(): [Score(value=float(arch.stages[0].depth)) for arch in archs]
    )
    done = call("psvit-search", *arguments, "--control", 0, "--time", "2s")
    assert done.status == 0
    evaluated = records(tmp_path / "timed/study.journal")
    assert 32 <= evaluated < 100
    assert f"evaluated {evaluated} of 100: time is up" in done.out
    done = call("psvit-search", *arguments, "--control", 0)
    assert done.status == 0
    assert records(tmp_path / "timed/study.journal") == 100
    assert "time is up" not in done.out


def test_time_holds_for_the_control_too_which_is_a_quarter_of_what_was_evaluated(call, tmp_path, monkeypatch):
    def evaluate(self, archs, best=()):
        now.append(now[-1] + 0.25 * len(archs))
        return [Score(value=float(arch.stages[0].depth)) for arch in archs]

    now = [0.0]
    monkeypatch.setattr(search_module.time, "monotonic", lambda: now[-1])
    monkeypatch.setattr(DSS, "evaluate", evaluate)
    command = ("psvit-search", "--space", "psvit-2d-digits", "--budget", "0..2MFLOPs", "--trials", 4000, "--out", "run")

    def evaluated():
        storage = open_storage(tmp_path / "run/study.journal")
        return [len(optuna.load_study(study_name=name, storage=storage).trials) for name in ("psvit", "psvit-control")]

    # 32 candidates take 8 seconds; four fifths of the time are the search's, and a batch that was begun is finished.
    assert call(*command, "--time", "98s").status == 0
    assert evaluated() == [320, 80]
    assert now[-1] == pytest.approx(98, abs=4)
    # The same command goes on with both.
    assert call(*command, "--time", "9s").status == 0
    assert evaluated() == [352, 88]


class Moody:
    """Fails with some architectures, for a reason, as an evaluator does that runs out of memory or gives no numbers."""

    def __init__(self, *args, **kwargs):
        self.fails = kwargs.get("fails", lambda arch: arch.stages[0].depth == 2)

    def evaluate(self, archs, best=()):
        return [
            Score(value=None, state="failed", reason="out of memory: 12 GB asked for")
            if self.fails(arch)
            else Score(value=float(arch.stages[-1].embed_dim))
            for arch in archs
        ]

    def describe(self):
        return {"kind": "mood", "images": 0}


def test_a_candidate_that_fails_is_recorded_with_its_reason_and_the_search_goes_on(call, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring_module, "DSS", Moody)
    done = call("psvit-search", *ARGUMENTS, "--out", "run")
    assert (done.status, done.err) == (0, "")
    with (tmp_path / "run/history.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 100
    failed = [row for row in rows if row["state"] == "failed"]
    assert 0 < len(failed) < 100
    assert {row["score"] for row in failed} == {""}
    assert (tmp_path / "run/study.journal").read_bytes().count(b"out of memory: 12 GB asked for") >= len(failed)
    best = yaml.safe_load((tmp_path / "run/best.yaml").read_text())
    assert best["score"]["value"] == max(float(row["score"]) for row in rows if row["score"])


def test_where_every_candidate_fails_the_last_reason_is_said(call, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring_module, "DSS", lambda *args: Moody(fails=lambda arch: True))
    done = call("psvit-search", *ARGUMENTS, "--out", "run")
    assert done.status == 1
    assert len(done.err.splitlines()) == 1
    assert "none of 100 architectures could be scored; the last failed: out of memory: 12 GB asked for" in done.err
    assert not (tmp_path / "run/best.yaml").exists()
    assert (tmp_path / "run/history.csv").read_text().count("failed") == 100
    # When there is memory again, the same command is enough.
    monkeypatch.setattr(scoring_module, "DSS", Moody)
    assert call("psvit-search", *ARGUMENTS, "--out", "run").status == 0
    assert 0 < (tmp_path / "run/history.csv").read_text().count("failed") < 100


@pytest.mark.parametrize("at", ["control", "references", "finalists"])
def test_an_interruption_after_the_search_writes_the_best_so_far(searched, call, tmp_path, monkeypatch, at):
    command = ("psvit-search", "--supernet", searched / "supernet", "--budget", "1MFLOPs", "--trials", 8, *FEW)

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    def at_the_second(train=job_runner.train):
        calls = []

        def second(*args, **kwargs):
            calls.append(args)
            return train(*args, **kwargs) if len(calls) == 1 else interrupted()

        return second

    with monkeypatch.context() as patch:
        if at == "control":
            patch.setattr(engine_module, "draw_control", interrupted)
        elif at == "references":
            patch.setattr(engine_module, "_scored", interrupted)
        else:
            patch.setattr(job_runner, "train", at_the_second())
        done = call(*command, "--out", "run")
    assert (done.status, done.err.strip()) == (130, TOLD)
    assert "interrupted; the best so far is" in done.out
    best = yaml.safe_load((tmp_path / "run/best.yaml").read_text())
    assert best["provenance"]["interrupted"] is True
    with (tmp_path / "run/history.csv").open(newline="") as stream:
        assert best["score"]["value"] == max(float(row["score"]) for row in csv.DictReader(stream))
    assert "The search was stopped before its end" in (tmp_path / "run/report.html").read_text()
    if at != "finalists":
        return
    # The same command goes on, and ends as one that was not interrupted.
    assert call(*command, "--out", "run").status == 0
    for name in ("best.yaml", "history.csv", "best.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (searched / name).read_bytes(), name


@pytest.mark.parametrize("at", [pytest.param("draw_control", marks=pytest.mark.slow), "_selected"])
def test_a_search_that_loses_its_workers_writes_the_best_so_far(searched, call, tmp_path, monkeypatch, at):
    command = ("psvit-search", "--supernet", searched / "supernet", "--budget", "1MFLOPs", "--trials", 8, *FEW)

    def lost(*args, **kwargs):
        raise LostWorkersError("--workers ray: the cluster was lost: its power failed")

    with monkeypatch.context() as patch:
        patch.setattr(engine_module, at, lost)
        done = call(*command, "--out", "run")
    assert (done.status, done.err.strip()) == (1, "psvit-search: --workers ray: the cluster was lost: its power failed")
    best = yaml.safe_load((tmp_path / "run/best.yaml").read_text())
    assert best["provenance"]["interrupted"] is True
    assert call(*command, "--out", "run").status == 0
    assert (tmp_path / "run/best.yaml").read_bytes() == (searched / "best.yaml").read_bytes()


@pytest.fixture
def failing(monkeypatch):
    """Lets trainings of finalists fail whose descriptions begin with some words."""
    words, train = [], job_runner.train

    def some(*args, description, **kwargs):
        if description.startswith(tuple(words)):
            raise DivergedError("training diverged: the loss is nan in epoch 1")
        return train(*args, description=description, **kwargs)

    monkeypatch.setattr(job_runner, "train", some)
    return words


def test_a_finalist_that_fails_does_not_end_the_run(searched, call, tmp_path, failing):
    command = (
        "psvit-search",
        "--supernet",
        searched / "supernet",
        "--budget",
        "1MFLOPs",
        "--trials",
        8,
        "--control",
        0,
    )
    known = yaml.safe_load((searched / "best.yaml").read_text())["provenance"]["finalists"]
    best = max(known, key=lambda one: one["score"])
    failing.append(f"selection, rung 1 of 2, {best['name']}")
    done = call(*command, "--finalists", 2, *SHORT, "--out", "run")
    assert done.status == 0
    first, last = yaml.safe_load((tmp_path / "run/best.yaml").read_text())["provenance"]["finalists"]
    assert (len(first["looks"][-1]["accuracies"]), last["looks"]) == (3, [])
    assert last["failed"] == "training diverged: the loss is nan in epoch 1"
    assert f"trial {last['trial']} failed: training diverged" in done.out
    # The best score is its own; where the others fail too, it is the winner all the same.
    failing.append("selection, ")
    done = call(*command, "--finalists", 2, *SHORT, "--out", "none")
    assert done.status == 0
    assert "no finalist could be trained, so the winner is the one with the best score" in done.out
    best = yaml.safe_load((tmp_path / "none/best.yaml").read_text())
    assert best["provenance"]["trial"] == last["trial"]
    assert "No finalist could be trained" in (tmp_path / "none/report.html").read_text()


def test_an_interruption_before_anything_was_scored_writes_no_winner(call, tmp_path, monkeypatch):
    def interrupted(self, archs, best=()):
        raise KeyboardInterrupt

    monkeypatch.setattr(DSS, "evaluate", interrupted)
    monkeypatch.setattr(estimating, "_seconds_to_indicate", lambda plan: 1.0)
    done = call("psvit-search", *ARGUMENTS, "--out", "run")
    assert (done.status, done.err.strip()) == (130, TOLD)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        ".psvit.lock",
        "config.yaml",
        "space.yaml",
        "study.journal",
    }


def test_a_supernet_that_changed_under_a_search_is_refused(searched, call, tmp_path):
    supernet = tmp_path / "supernet.safetensors"
    supernet.write_bytes((searched / "supernet/supernet.safetensors").read_bytes())
    arguments = ("--supernet", supernet, "--budget", "1MFLOPs", "--trials", 4, "--control", 0, "--finalists", 0)
    assert call("psvit-search", *arguments, "--out", "run").status == 0
    before = (tmp_path / "run/history.csv").read_bytes()
    content = bytearray(supernet.read_bytes())
    content[-1] ^= 1
    supernet.write_bytes(content)
    done = call("psvit-search", *arguments, "--out", "run")
    assert done.status == 2
    assert len(done.err.splitlines()) == 1
    assert "supernet: " in done.err
    assert "there, " in done.err
    assert (tmp_path / "run/history.csv").read_bytes() == before
    # And in a storage that several processes share, from another folder.
    shared = ("--storage", tmp_path / "shared.journal", "--study", "ours")
    supernet.write_bytes((searched / "supernet/supernet.safetensors").read_bytes())
    assert call("psvit-search", *arguments, *shared, "--out", "one").status == 0
    supernet.write_bytes(content)
    done = call("psvit-search", *arguments, *shared, "--out", "other")
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert "study 'ours': belongs to another search (supernet: " in done.err


def test_a_lock_that_another_program_left_does_not_stop_a_search(call, tmp_path):
    # Optuna's own lock is a link that a killed process leaves behind; ours is the kernel's.
    (tmp_path / "run").mkdir()
    arguments = ("--space", "psvit-2d-digits", "--budget", "1MFLOPs", "--trials", 3, "--control", 0, "--out", "run")
    assert call("psvit-search", *arguments).status == 0
    os.symlink("run/study.journal", tmp_path / "run/study.journal.lock")
    open_storage(tmp_path / "run/study.journal")
    assert call("psvit-search", *arguments).status == 0


BRIEF = ("--set", "epochs=4", "--set", "warmup_epochs=1")
FULL_OF_CHANCE = ("--set", "drop_path_rate=0.1", "--set", "mixup=0.5", "--set", "ema_decay=0.9", "--set", "hflip=0.5")


def newest(folder):
    """The step of a run's last checkpoint."""
    return max((int(path.stem) for path in (folder / "checkpoints").glob("[0-9]*.safetensors")), default=0)


@pytest.mark.slow(seconds=40)
def test_a_supernet_killed_at_random_moments_ends_bit_for_bit(call, call_apart, few_digits, tmp_path):
    settings = (*BRIEF, *FULL_OF_CHANCE, "--set", "batch_size=8", "--set", "sampling=sandwich")
    command = ("--data", few_digits, "--space", "psvit-2d-digits", *settings)
    rng = random.Random(1)
    kills = 0
    while kills < 4:
        before = newest(tmp_path / "killed")
        options = ("--checkpoint-every", "0.001s", "--out", tmp_path / "killed")
        process = call_apart("psvit.supernet.cli", *command, *options)
        while process.poll() is None and newest(tmp_path / "killed") < before + rng.randint(1, 20):
            time.sleep(rng.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.err
        kills += 1
    assert newest(tmp_path / "killed") > 4
    # Neither how often checkpoints are written nor how many are kept is part of what a run is.
    assert call("psvit-supernet", *command, "--keep", "2", "--out", tmp_path / "killed").status == 0
    assert call_apart("psvit.supernet.cli", *command, "--out", tmp_path / "whole").wait() == 0
    one, other = ((tmp_path / name / "supernet.safetensors").read_bytes() for name in ("killed", "whole"))
    assert one == other
    # Nothing half written is left, only the file that is locked.
    assert [path.name for path in tmp_path.glob("killed/**/.*")] == [LOCK_FILE]


@pytest.fixture
def call_in_two(make_process, tmp_path):
    """Calls a command in two processes that have the environment that torchrun gives; returns both when they ended.

    Torchrun itself, and both of its processes, would load all the libraries.
    """

    def call(module, *arguments):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        errs = [tmp_path / f"{rank}.err" for rank in range(2)]
        processes = [
            Called(make_process(call_as_one_of, rank, 2, port, module, arguments, err), err)
            for rank, err in enumerate(errs)
        ]
        for process in processes:
            process.wait()
        return processes

    return call


@pytest.fixture
def torchrun(python, script):
    """Runs a command in two processes that PyTorch starts."""

    def run(command, *arguments):
        launch = [python, "-m", "torch.distributed.run", "--no-python", "--nproc-per-node", "2", "--standalone"]
        line = [*launch, script(command), *map(str, arguments)]
        return subprocess.run(line, check=True, capture_output=True, text=True, timeout=300)

    return run


def assert_nearly_equal(one, other):
    one, other = load_file(one), load_file(other)
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-2, atol=1e-4)


@pytest.mark.slow(seconds=25)
def test_torchrun_trains_in_two_processes(torchrun, call, few_digits, tmp_path):
    settings = (*BRIEF, "--set", "batch_size=32", "--set", "opt=momentum", "--set", "lr=0.05")
    command = ("psvit-supernet", "--data", few_digits, "--space", "psvit-2d-digits", *settings)
    done = torchrun(*command, "--out", tmp_path / "two")
    run, images, _, trained, _ = done.stdout.splitlines()
    assert (run[:4], images[:7]) == ("run:", "images:")
    assert trained.startswith("trained a supernet of the 6,468 architectures of psvit-2d-digits: ")
    assert call(*command, "--out", tmp_path / "one").status == 0
    assert_nearly_equal(*(tmp_path / name / "supernet.safetensors" for name in ("one", "two")))


@pytest.mark.slow(seconds=20)
def test_several_networks_are_retrained_in_two_processes(call_in_two, call, few_digits, tmp_path):
    space = SearchSpace.load("psvit-2d-digits")
    files = [tmp_path / f"{name}.yaml" for name in (0, 1)]
    for name, file in enumerate(files):
        space[900 * name].save(file)
    # Without stochastic depth, which each process draws for its part.
    settings = ("epochs=2", "warmup_epochs=0", "batch_size=32", "drop_path_rate=0", "opt=momentum", "lr=0.05")
    arguments = [*files, "--data", few_digits, *(word for setting in settings for word in ("--set", setting))]
    processes = call_in_two("psvit.retrain.cli", *arguments, "--out", tmp_path / "two")
    assert [process.wait() for process in processes] == [0, 0], [process.err for process in processes]
    assert call("psvit-retrain", *arguments, "--out", tmp_path / "one").status == 0
    for network in ("0", "1"):
        assert_nearly_equal(*(tmp_path / name / network / "network.safetensors" for name in ("one", "two")))
        assert (tmp_path / "two" / network / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--set", "batch_size=63"), ("--out", "/proc/nowhere")], ids=str)
def test_bad_input_to_several_processes_is_one_line(call_in_two, tmp_path, options):
    arguments = ("--data", "digits", "--out", tmp_path / "run", *options)
    processes = call_in_two("psvit.supernet.cli", *arguments)
    assert all(process.wait() for process in processes)
    said = [line for process in processes for line in process.err.splitlines()]
    assert len([line for line in said if line.startswith("psvit")]) == 1
    assert not [line for line in said if line.startswith("Traceback")]
    assert not (tmp_path / "run").exists()


def test_a_diverging_training_ends_with_one_line_and_status_1(call):
    brief = ("--set", "epochs=1", "--set", "warmup_epochs=0", "--set", "batch_size=128")
    wild = ("--set", "lr=1e30", "--set", "clip_grad=null")
    done = call("psvit-supernet", "--data", "digits", *brief, *wild, "--out", "run")
    assert done.status == 1
    assert len(done.err.splitlines()) == 1
    assert "training diverged" in done.err


@pytest.mark.parametrize("command", ["psvit-supernet", "psvit-search"])
def test_an_interruption_is_told_in_one_line(call, monkeypatch, command):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("psvit.supernet.train.train", interrupted)
    monkeypatch.setattr("psvit.train.job_runner.train", interrupted)
    budget = ("--budget", "1MFLOPs") if command == "psvit-search" else ()
    done = call(command, "--data", "digits", *budget, "--out", "run")
    assert (done.status, done.err.strip()) == (130, TOLD.replace("psvit-search", command))
