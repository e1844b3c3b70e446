"""Two processes on one study in a real PostgreSQL server, which the test starts and stops."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
from ray import cloudpickle

from psvit.errors import InputError
from psvit.search.candidates import Candidates
from psvit.search.cli import main
from psvit.search.search import search
from psvit.search.searchers import make_searcher
from psvit.search.storage import open_storage
from psvit.search.study import Study
from psvit.search.trial import Score
from psvit.space.budget import Budget
from psvit.space.search_space import SearchSpace

# Processes cannot import the tests, so functions travel by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def programs():
    """The folder of PostgreSQL's programs; Debian keeps them off the path."""
    places = [path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    found = shutil.which("initdb")
    return places[-1] if places else Path(found).resolve().parent if found else None


@pytest.fixture(scope="module")
def server():
    """The URL of a database in a server of its own, on a free port of this machine only."""
    place = programs()
    if place is None:
        if os.environ.get("CI"):
            pytest.fail("PostgreSQL is not installed: apt-get install postgresql")
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    driver = pytest.importorskip("psycopg", reason="the driver is not installed: pip install -e '.[postgresql]'")
    # Not pytest's folder, which others than its owner may not enter; and PostgreSQL refuses to run as root.
    folder = Path(tempfile.mkdtemp(prefix="psvit-postgresql-"))
    drop = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if drop:
        shutil.chown(folder, "postgres")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = None
    try:
        initdb = [*drop, place / "initdb", "-D", folder / "data", "-U", "psvit", "-A", "trust", "-N", "-E", "UTF8"]
        subprocess.run(initdb, cwd="/", check=True, capture_output=True)
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": folder, "fsync": "off"}
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        process = subprocess.Popen(
            [*drop, place / "postgres", "-D", folder / "data", "-p", str(port), *settings],
            cwd="/",
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        url = f"postgresql://psvit@127.0.0.1:{port}/postgres"
        for _ in range(600):
            try:
                driver.connect(url).close()
                break
            except driver.OperationalError:  # not yet
                assert process.poll() is None
                time.sleep(0.05)
        yield url
    finally:
        if process is not None:
            os.killpg(process.pid, signal.SIGINT)  # disconnects everybody and stops
            process.wait(timeout=30)
        shutil.rmtree(folder)


COMMAND = (
    "--space", "psvit-2d-digits", "--budget", "1..1.2MFLOPs",
    "--trials", "96", "--searcher", "random", "--control", "8",
)  # fmt: skip


def run_search_command(arguments):
    """Run the command in a process of its own."""
    sys.argv = ["psvit-search", *map(str, arguments)]
    main()


@pytest.mark.slow
def test_two_searches_share_a_study_and_evaluate_everything_once(server, make_process, call, tmp_path):
    names = ("one", "other")
    running = [
        make_process(run_search_command, [*COMMAND, "--storage", server, "--out", tmp_path / name]) for name in names
    ]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0, 0]
    summaries = optuna.get_all_study_summaries(server)
    own, control_name = sorted((summary.study_name for summary in summaries), key=len)
    assert control_name == f"{own}-control"
    trials, control = (optuna.load_study(study_name=one, storage=server).trials for one in (own, control_name))
    searched = [tuple(trial.params.values()) for trial in trials]
    assert len(set(searched)) == len(searched)
    # As both begin their last batches at the same time there may be a few more than asked for.
    assert 96 <= len(searched) <= 96 + 32
    assert len({tuple(trial.params.values()) for trial in control}) == len(control) == 8
    processes = [{trial.user_attrs["process"] for trial in trials if (trial.number < 96)}]
    assert len(processes[0]) == 2
    # Whoever was last wrote the history of both; run again, both write the same.
    for name in names:
        assert call("psvit-search", *COMMAND, "--storage", server, "--out", tmp_path / name).status == 0
    for file in ("history.csv", "best.yaml"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()
    assert len((tmp_path / "one/history.csv").read_text().splitlines()) == 1 + len(searched)
    assert len(optuna.load_study(study_name=own, storage=server).trials) == len(trials)


def exhaust(url, process, log):
    """Search in small batches until nothing is left, and leave a line for every evaluation."""
    space = SearchSpace.load("psvit-2d-digits")

    class Number:
        def evaluate(self, archs, best=()):
            with log.open("a") as stream:
                stream.writelines(f"{space.index(arch)}\n" for arch in archs)
            return [Score(value=space.index(arch) / 3) for arch in archs]

    study = Study(space, open_storage(url), name="small", process=process)
    candidates, searcher = Candidates(space, Budget.parse("1..1.02MFLOPs")), make_searcher("random")
    searcher.batch_size = 3
    for _ in search(candidates, searcher, Number(), study, trials=10**6, seed=0):
        pass


@pytest.mark.slow
def test_three_processes_exhaust_a_budget_and_nothing_is_evaluated_twice(server, make_process, tmp_path):
    """They contend for all that is left in the end, batches being small and evaluations costing nothing."""
    processes = [make_process(exhaust, server, name, tmp_path / name) for name in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    evaluated = [int(index) for name in "abc" for index in (tmp_path / name).read_text().split()]
    space = SearchSpace.load("psvit-2d-digits")
    study = Study(space, open_storage(server), name="small", process="d")
    assert sorted(evaluated) == sorted(space.index(trial.arch) for trial in study.history)
    assert len(set(evaluated)) == len(evaluated)
    macs = space.price(np.array([space.encode(space[index]) for index in range(space.size)])).macs
    assert set(evaluated) == set(np.flatnonzero((macs >= 1_000_000) & (macs <= 1_020_000)).tolist())
    assert all(trial.score.value == space.index(trial.arch) / 3 for trial in study.history)


def test_a_database_that_is_not_there_is_refused_in_one_line(server):
    with pytest.raises(InputError, match="cannot be opened") as refused:
        open_storage(server.replace("/postgres", "/nothing"))
    assert "\n" not in str(refused.value)
