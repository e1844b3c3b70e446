"""Commands that are stopped from outside: every finished evaluation survives, and the same command goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time

import pytest
import torch
from safetensors.torch import load_file

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


BRIEF = ("--data", "digits", "--set", "epochs=4", "--set", "warmup_epochs=1", "--set", "batch_size=64")
FULL_OF_CHANCE = ("--set", "drop_path_rate=0.1", "--set", "mixup=0.5", "--set", "ema_decay=0.9", "--set", "hflip=0.5")


def newest(folder):
    """The step of a run's last checkpoint."""
    return max((int(path.stem) for path in (folder / "checkpoints").glob("[0-9]*.safetensors")), default=0)


@pytest.mark.slow
def test_a_supernet_killed_at_random_moments_ends_bit_for_bit(script, tmp_path):
    command = [script("psvit-supernet"), *BRIEF, *FULL_OF_CHANCE, "--set", "sampling=sandwich"]
    rng = random.Random(1)
    kills = 0
    while kills < 4:
        before = newest(tmp_path / "killed")
        process = subprocess.Popen([*command, "--checkpoint-every", "0.001s", "--out", tmp_path / "killed"])
        while process.poll() is None and newest(tmp_path / "killed") < before + rng.randint(1, 20):
            time.sleep(rng.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        kills += 1
    assert newest(tmp_path / "killed") > 4
    # Neither how often checkpoints are written nor how many are kept is part of what a run is.
    subprocess.run([*command, "--keep", "2", "--out", tmp_path / "killed"], check=True)
    subprocess.run([*command, "--out", tmp_path / "whole"], check=True)
    one, other = ((tmp_path / name / "supernet.safetensors").read_bytes() for name in ("killed", "whole"))
    assert one == other
    assert not list(tmp_path.glob("killed/**/.*"))


@pytest.mark.slow
def test_torchrun_trains_in_two_processes(python, script, tmp_path):
    torchrun = [python, "-m", "torch.distributed.run", "--no-python", "--nproc-per-node", "2", "--standalone"]
    command = [script("psvit-supernet"), *BRIEF, "--set", "opt=momentum", "--set", "lr=0.05"]
    done = subprocess.run(
        [*torchrun, *command, "--out", tmp_path / "two"], check=True, capture_output=True, text=True, timeout=300
    )
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        "run",
        "trained a supernet of the 6,468 architectures of psvit-2d-digits",
    ]
    subprocess.run([*command, "--out", tmp_path / "one"], check=True)
    one, two = (load_file(tmp_path / name / "supernet.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-2, atol=1e-4)


@pytest.mark.slow
def test_bad_input_to_several_processes_is_one_line(python, script, tmp_path):
    torchrun = [python, "-m", "torch.distributed.run", "--no-python", "--nproc-per-node", "2", "--standalone"]
    for options in (["--set", "batch_size=63"], ["--space", "nowhere"], ["--out", "/proc/nowhere"]):
        command = [*torchrun, script("psvit-supernet"), "--data", "digits", "--out", tmp_path / "run", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode
        # What torchrun adds of its own is not ours.
        assert len([line for line in done.stderr.splitlines() if line.startswith("psvit-supernet: ")]) == 1
        assert not [line for line in done.stderr.splitlines() if line.startswith("Traceback") and "psvit" in line]
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
    budget = ("--budget", "1MFLOPs") if command == "psvit-search" else ()
    done = call(command, "--data", "digits", *budget, "--out", "run")
    assert (done.status, done.err.strip()) == (130, TOLD.replace("psvit-search", command))
