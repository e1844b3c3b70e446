"""Commands that are stopped from outside: every finished evaluation survives, and the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from psvit.architecture import ArchitectureFile

ARGUMENTS = ("--space", "psvit-2d-digits", "--budget", "0..2MFLOPs", "--trials", "100", "--control", "0")
TOLD = "psvit-search: interrupted; the same command continues"
"""After a line break, because the terminal has just shown ^C."""


def trials_in(journal):
    return journal.read_bytes().count(b'"user_attrs"') if journal.exists() else 0


# The indicator takes milliseconds here. Slowed down, signals arrive while candidates are evaluated, as they do where
# an evaluation lasts, and hardly ever in the moment in which the journal is locked.
SLOWLY = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has its children ignore it
from psvit.search.cli import main
from psvit.search.indicators import DSS
evaluate = DSS.evaluate
def slowly(self, archs, best=()):
    time.sleep(0.05 * len(archs))
    return evaluate(self, archs, best)
DSS.evaluate = slowly
sys.argv = ["psvit-search", *sys.argv[1:]]
main()
"""


def stop(python, folder, number, after):
    """Start the search in a process of its own and send it a signal once it has recorded some more trials."""
    wanted = trials_in(folder / "study.journal") + after
    process = subprocess.Popen(
        [python, "-c", SLOWLY, *ARGUMENTS, "--out", folder],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 300
    while trials_in(folder / "study.journal") < wanted and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate()
    return process.returncode, err


def test_a_search_that_is_interrupted_and_killed_ends_as_if_it_had_not_been(python, call, tmp_path):
    folder = tmp_path / "stopped"
    status, err = stop(python, folder, signal.SIGINT, after=10)
    assert (status, err.strip()) == (130, TOLD)
    best_so_far = ArchitectureFile.load(folder / "best.yaml")
    assert best_so_far.provenance["interrupted"] is True
    assert best_so_far.provenance["trials"] == trials_in(folder / "study.journal")
    status, _ = stop(python, folder, signal.SIGKILL, after=10)
    assert status == -signal.SIGKILL
    survived = trials_in(folder / "study.journal")
    assert 20 <= survived < 100

    assert call("psvit-search", *ARGUMENTS, "--out", folder).status == 0
    assert trials_in(folder / "study.journal") == 100
    assert call("psvit-search", *ARGUMENTS, "--out", tmp_path / "whole").status == 0
    for name in ("best.yaml", "history.csv"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert {path.name for path in folder.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}


@pytest.mark.slow
def test_a_lock_that_a_killed_search_left_does_not_stop_the_next_one(script, tmp_path):
    # Half a minute is what Optuna waits before it takes over a lock; a run that still stands after that would for good.
    (tmp_path / "run").mkdir()
    command = [script("psvit-search"), "--space", "psvit-2d-digits", "--budget", "1MFLOPs", "--out", "run"]
    subprocess.run([*command, "--trials", "3"], cwd=tmp_path, check=True)
    # As the process would have made it: the journal's path, which was given relative to the working folder.
    os.symlink("run/study.journal", tmp_path / "run/study.journal.lock")
    subprocess.run([*command, "--trials", "3"], cwd=tmp_path, check=True, timeout=90)


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
    budget = ("--budget", "1MFLOPs") if command == "psvit-search" else ()
    done = call(command, "--data", "digits", *budget, "--out", "run")
    assert (done.status, done.err.strip()) == (130, TOLD.replace("psvit-search", command))
