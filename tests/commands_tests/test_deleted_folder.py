"""A run's folder that is deleted while a command is at work in it: one line, status 2, and no half of a run."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from psvit.search.engine import Selection
from psvit.search.indicators import DSS
from psvit.space.search_space import SearchSpace
from psvit.train import checkpoints as checkpoints_module
from psvit.train import train_log as train_log_module
from psvit.train.checkpoints import Checkpoints

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")

SPACE = ("--space", "psvit-2d-digits")
OFTEN = ("--checkpoint-every", "0.001s")
BRIEFLY = ("--set", "epochs=2", "--set", "warmup_epochs=0", "--set", "batch_size=128", *OFTEN)
FEW = ("--finalists", "2", "--control", "2", "--recipe", Path(__file__).with_name("short.yaml"))
SEARCH = ("psvit-search", *SPACE, "--budget", "0..2MFLOPs", "--trials", "40", "--out", "run")
SAID = "--out run: was deleted, moved or replaced while the run was at work in it"


def assert_said(outcome, tmp_path, left):
    assert outcome.status == 2
    (line,) = outcome.err.splitlines()
    assert line.startswith(f"{outcome.command}: {SAID}")
    assert "put the folder back and give the same command to continue" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(left)


@pytest.fixture
def deleting(monkeypatch, tmp_path):
    """Replaces a method by one that deletes the run's folder before or after its n-th call, in another thread."""

    def replace(owner, name, call, after=False):
        method, calls = getattr(owner, name), []

        def deletes(*arguments, **options):
            calls.append(name)
            is_now = len(calls) == call
            if after and is_now:
                found = method(*arguments, **options)
            if is_now:
                thread = threading.Thread(target=shutil.rmtree, args=(tmp_path / "run",))
                thread.start()
                thread.join()
            return found if after and is_now else method(*arguments, **options)

        monkeypatch.setattr(owner, name, deletes)
        return calls

    return replace


@pytest.mark.parametrize("call_number", [1, 2])
@pytest.mark.parametrize("after", [False, True])
def test_a_search_whose_folder_is_deleted_says_so(
    call, quick_indicator, deleting, few_digits, tmp_path, call_number, after
):
    deleting(DSS, "evaluate", call_number, after)
    outcome = call(*SEARCH, "--data", few_digits, "--evaluator", "dss", *FEW)
    assert_said(outcome, tmp_path, [])


def test_a_search_on_a_shared_study_says_so_too_and_leaves_the_study(
    call, quick_indicator, deleting, few_digits, tmp_path
):
    deleting(Selection, "of", 1)
    outcome = call(*SEARCH, "--data", few_digits, "--evaluator", "dss", *FEW, "--storage", "shared")
    assert_said(outcome, tmp_path, ["shared"])
    again = call(*SEARCH, "--data", few_digits, "--evaluator", "dss", *FEW, "--storage", "shared")
    assert again.status == 0


def test_a_shared_study_that_is_deleted_is_named(call, quick_indicator, few_digits, tmp_path, monkeypatch):
    evaluate = DSS.evaluate

    def evaluate_and_delete(self, archs, best=()):
        (tmp_path / "shared").unlink(missing_ok=True)
        return evaluate(self, archs, best)

    monkeypatch.setattr(DSS, "evaluate", evaluate_and_delete)
    outcome = call(*SEARCH, "--data", few_digits, "--evaluator", "dss", *FEW, "--storage", "shared")
    assert (outcome.status, len(outcome.err.splitlines())) == (2, 1)
    assert "--storage shared: was deleted or moved while a search was at work with it" in outcome.err
    assert not (tmp_path / "shared").exists()


@pytest.mark.parametrize(("owner", "name", "after"), [(Checkpoints, "save", False), (Checkpoints, "save", True)])
def test_a_search_that_trains_says_so(call, deleting, few_digits, tmp_path, owner, name, after):
    deleting(owner, name, 2, after)
    outcome = call(*SEARCH, "--data", few_digits, *FEW)
    assert_said(outcome, tmp_path, [])


@pytest.fixture
def arch_file(tmp_path):
    SearchSpace.load("psvit-2d-digits").smallest.save(tmp_path / "arch.yaml")
    return "arch.yaml"


@pytest.mark.parametrize(
    ("owner", "name", "number", "after"),
    [
        (train_log_module.TrainLog, "__init__", 1, False),
        (train_log_module.TrainLog, "__init__", 1, True),
        (train_log_module.TrainLog, "row", 1, False),
        (train_log_module.TrainLog, "row", 2, True),
        (Checkpoints, "save", 1, False),
        (Checkpoints, "save", 2, True),
        (Checkpoints, "latest", 1, False),
        (checkpoints_module, "save_file", 1, False),
        (checkpoints_module, "save_file", 1, True),
    ],
)
def test_a_retraining_whose_folder_is_deleted_says_so(
    call, deleting, few_digits, arch_file, tmp_path, owner, name, number, after
):
    called = deleting(owner, name, number, after)
    outcome = call("psvit-retrain", arch_file, "--data", few_digits, *BRIEFLY, "--out", "run")
    assert len(called) >= number
    assert_said(outcome, tmp_path, [arch_file])


def test_a_retraining_of_several_says_so(call, deleting, few_digits, arch_file, tmp_path):
    SearchSpace.load("psvit-2d-digits").largest.save(tmp_path / "other.yaml")
    deleting(Checkpoints, "save", 1)
    outcome = call("psvit-retrain", arch_file, "other.yaml", "--data", few_digits, *BRIEFLY, "--out", "run")
    assert_said(outcome, tmp_path, [arch_file, "other.yaml"])


def test_a_supernet_training_says_so(call, deleting, few_digits, tmp_path):
    deleting(Checkpoints, "save", 1)
    outcome = call("psvit-supernet", "--data", few_digits, *SPACE, *BRIEFLY, "--out", "run")
    assert_said(outcome, tmp_path, [])
