"""Run folders: the same command continues, another one is refused."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys

import pytest
import yaml

from psvit.errors import InputError
from psvit.io import run_folder
from psvit.io.run_folder import RunFolder

CONFIG = {
    "data": "digits",
    "seed": 0,
    "budget": ["2GFLOPs"],
    "recipe": {"epochs": 10, "lr": 0.001, "ema_decay": None, "crop_scale": [0.5, 1.0]},
}


@pytest.mark.parametrize("exists", [False, True])
def test_a_new_or_empty_folder_is_taken_and_says_what_it_is_for(tmp_path, exists):
    path = tmp_path / "run"
    if exists:
        path.mkdir()
    folder = RunFolder(path, "psvit-search", CONFIG)
    assert not folder.resumed
    found = yaml.safe_load((path / "config.yaml").read_text())
    assert found == {"schema": "psvit/run/1", "command": "psvit-search", **CONFIG}
    assert folder / "best.yaml" == path / "best.yaml"


def test_folders_above_are_made(tmp_path):
    RunFolder(tmp_path / "runs" / "a" / "b", "psvit-search", CONFIG)
    assert (tmp_path / "runs" / "a" / "b" / "config.yaml").is_file()


def test_the_same_configuration_continues(tmp_path):
    RunFolder(tmp_path / "run", "psvit-search", CONFIG)
    (tmp_path / "run" / "checkpoint").write_text("something")
    written = (tmp_path / "run" / "config.yaml").read_bytes()
    assert RunFolder(tmp_path / "run", "psvit-search", copy.deepcopy(CONFIG)).resumed
    assert (tmp_path / "run" / "checkpoint").read_text() == "something"
    assert (tmp_path / "run" / "config.yaml").read_bytes() == written


def changed(**changes):
    config = copy.deepcopy(CONFIG)
    recipe = changes.pop("recipe", {})
    return {**config, **changes, "recipe": {**config["recipe"], **recipe}}


@pytest.mark.parametrize(
    ("config", "differences"),
    [
        (changed(seed=1), ["seed: 0 there, 1 here"]),
        (changed(budget=["2GFLOPs", "22Mparams"]), ["budget: ['2GFLOPs'] there, ['2GFLOPs', '22Mparams'] here"]),
        (changed(recipe={"lr": 0.01}), ["recipe.lr: 0.001 there, 0.01 here"]),
        (changed(recipe={"ema_decay": 0.9}), ["recipe.ema_decay: None there, 0.9 here"]),
        (changed(trials=3), ["trials: None there, 3 here"]),
        ({key: value for key, value in CONFIG.items() if key != "data"}, ["data: digits there, None here"]),
        (
            changed(seed=1, recipe={"epochs": 20, "crop_scale": [1.0, 1.0]}),
            ["seed: 0 there, 1 here", "recipe.epochs: 10 there, 20 here", "recipe.crop_scale: [0.5, 1.0] there"],
        ),
    ],
)
def test_another_configuration_is_refused_with_the_differences_named(tmp_path, config, differences):
    path = tmp_path / "run"
    RunFolder(path, "psvit-search", CONFIG)
    before = (path / "config.yaml").read_bytes()
    with pytest.raises(InputError) as error:
        RunFolder(path, "psvit-search", config)
    text = str(error.value)
    assert text.startswith(f"--out {path}: holds a run with another configuration")
    assert all(difference in text for difference in differences)
    assert text.count(" there, ") == len(differences)
    assert "\n" not in text
    assert (path / "config.yaml").read_bytes() == before


def test_another_commands_run_is_refused(tmp_path):
    RunFolder(tmp_path / "run", "psvit-search", CONFIG)
    with pytest.raises(InputError, match="command: psvit-search there, psvit-retrain here"):
        RunFolder(tmp_path / "run", "psvit-retrain", CONFIG)


def test_a_folder_with_something_else_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        RunFolder(tmp_path, "psvit-search", CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(InputError, match="is a file; name a folder"):
        RunFolder(path, "psvit-search", CONFIG)
    assert path.read_text() == "precious"


def test_a_place_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(InputError, match="cannot be written"):
        RunFolder(tmp_path / "file" / "run", "psvit-search", CONFIG)


@pytest.mark.parametrize("content", ["", "schema: psvit/run/1\nseed: [", "schema: psvit/space/1\nseed: 0\n"])
def test_a_damaged_configuration_is_refused(tmp_path, content):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(InputError, match=r"config\.yaml: "):
        RunFolder(tmp_path, "psvit-search", CONFIG)


HOLD = """
import sys, time
from pathlib import Path
from psvit.io.run_folder import RunFolder

folder = RunFolder(Path(sys.argv[1]), "psvit-search", {"seed": 0})
print("held", flush=True)
time.sleep(60)
"""


def test_a_run_that_another_process_is_at_work_in_is_refused_until_that_is_killed(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another process is at work in it"):
            RunFolder(tmp_path / "run", "psvit-search", {"seed": 0})
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert RunFolder(tmp_path / "run", "psvit-search", {"seed": 0}).resumed


def test_a_run_is_not_kept_held_by_what_its_killed_process_had_forked(tmp_path):
    # Processes that load images are forked, and outlive a parent that is killed. A child lets go of the lock as soon
    # as it runs, which the parent waits for here: killed before that, it would leave a lock that ends a moment later.
    fork = """import os
runs, says = os.pipe()
pid = os.fork()
if not pid:
    os.write(says, b".")
    time.sleep(60)
os.read(runs, 1)
print(pid)
"""
    code = HOLD.replace("print(", f"{fork}print(")
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another process is at work in it"):
            RunFolder(tmp_path / "run", "psvit-search", {"seed": 0})
        process.kill()
        process.wait()
        assert RunFolder(tmp_path / "run", "psvit-search", {"seed": 0}).resumed
        os.kill(child, 0)  # it is still there
    finally:
        process.kill()
        process.wait()
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


SLOW_TO_BEGIN = """
import sys
from pathlib import Path
from psvit.io import run_folder

write_atomic = run_folder.write_atomic

def paused(path, content):
    print("about to write", flush=True)
    sys.stdin.readline()
    write_atomic(path, content)

run_folder.write_atomic = paused
folder = run_folder.RunFolder(Path(sys.argv[1]), "psvit-search", {"seed": 0})
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("exists", [False, True])
def test_who_comes_while_another_process_begins_a_run_is_kept_out(tmp_path, exists):
    path = tmp_path / "run"
    if exists:
        path.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_TO_BEGIN, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "about to write\n"
        for config in ({"seed": 0}, {"seed": 1}):
            with pytest.raises(InputError, match="another process is at work in it"):
                RunFolder(path, "psvit-search", config)
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another process is at work in it"):
            RunFolder(path, "psvit-search", {"seed": 0})
        other.communicate("\n")
    assert RunFolder(path, "psvit-search", {"seed": 0}).resumed


def test_a_run_that_was_begun_between_the_check_and_the_lock_is_no_new_one(tmp_path, monkeypatch):
    hold = run_folder.hold

    def late(path):
        with monkeypatch.context() as context:
            context.setattr(run_folder, "hold", hold)
            RunFolder(tmp_path / "run", "psvit-search", {"seed": 0})
        return hold(path)

    monkeypatch.setattr(run_folder, "hold", late)
    assert RunFolder(tmp_path / "run", "psvit-search", {"seed": 0}).resumed
    with pytest.raises(InputError, match="seed: 0 there, 1 here"):
        RunFolder(tmp_path / "run", "psvit-search", {"seed": 1})


PAIRS = """
import multiprocessing, sys
from pathlib import Path
from psvit.errors import InputError
from psvit.io.run_folder import RunFolder

def start(path, barrier, told):
    barrier.wait()
    try:
        folder = RunFolder(path, "psvit-search", {"seed": 0})
        told.put("in")
    except InputError as error:
        told.put(str(error))
    barrier.wait()

forking = multiprocessing.get_context("fork")
for number in range(int(sys.argv[2])):
    barrier, told = forking.Barrier(2), forking.Queue()
    both = [
        forking.Process(target=start, args=(Path(sys.argv[1], str(number)), barrier, told)) for _ in range(2)
    ]
    for process in both:
        process.start()
    print(*sorted(told.get() for _ in both), sep="; ")
    for process in both:
        process.join()
"""


LOOKING = """
import multiprocessing, sys
from pathlib import Path
from psvit.io.run_folder import RunFolder, check_folder

def begin(path, barrier):
    barrier.wait()
    RunFolder(path, "psvit-supernet", {"seed": 0})

def look(path, barrier):
    barrier.wait()
    while not check_folder(path, "psvit-supernet", {"seed": 0}):
        pass

forking = multiprocessing.get_context("fork")
for number in range(int(sys.argv[2])):
    barrier = forking.Barrier(2)
    both = [forking.Process(target=do, args=(Path(sys.argv[1], str(number)), barrier)) for do in (begin, look)]
    for process in both:
        process.start()
    for process in both:
        process.join()
        if process.exitcode:
            sys.exit(process.exitcode)
"""


def test_a_folder_in_which_another_process_begins_the_same_run_is_never_one_with_something_else(tmp_path):
    # So it is where torchrun starts several processes, of which one begins the run.
    subprocess.run([sys.executable, "-c", LOOKING, str(tmp_path), "40"], check=True, timeout=300)


@pytest.mark.slow
def test_of_two_processes_that_start_at_once_in_one_new_folder_exactly_one_gets_in(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PAIRS, str(tmp_path), "60"], capture_output=True, text=True, check=True, timeout=300
    )
    refused = "--out {}: another process is at work in it; name another folder; in"
    assert done.stdout.splitlines() == [refused.format(tmp_path / str(number)) for number in range(60)]


def test_a_refusal_leaves_an_empty_folder_empty(tmp_path, monkeypatch):
    def full(path, content):
        raise InputError(f"{path}: cannot be written: No space left on device")

    (tmp_path / "run").mkdir()
    with monkeypatch.context() as context:
        context.setattr(run_folder, "write_atomic", full)
        with pytest.raises(InputError, match="No space left"):
            RunFolder(tmp_path / "run", "psvit-search", CONFIG)
    assert list((tmp_path / "run").iterdir()) == []
    assert not RunFolder(tmp_path / "run", "psvit-search", CONFIG).resumed


@pytest.mark.parametrize("left", [".psvit.lock", ".config.yaml.x1y2z3w4.tmp"])
def test_what_a_process_leaves_that_was_killed_at_the_beginning_does_not_fill_a_folder(tmp_path, left):
    (tmp_path / left).touch()
    assert not RunFolder(tmp_path, "psvit-search", CONFIG).resumed
    assert {path.name for path in tmp_path.iterdir()} == {".psvit.lock", "config.yaml"}


def test_what_a_killed_process_was_writing_is_removed_when_the_run_goes_on(tmp_path):
    begun = RunFolder(tmp_path / "run", "psvit-search", CONFIG)
    del begun  # and with it, the lock
    for place in (tmp_path / "run", tmp_path / "run/inside"):
        place.mkdir(exist_ok=True)
    # As `replacing` and `replacing_folder` call what they lend.
    kept, gone = [".hidden.tmp", "best.yaml", ".best.yaml.abc.old"], [".best.yaml.q6ukjxco.tmp", ".pareto.a1_b2c3d.tmp"]
    for name in (*kept, gone[0]):
        (tmp_path / "run" / name).write_text("x")
    (tmp_path / "run" / gone[1]).mkdir()
    (tmp_path / "run" / gone[1] / "0.yaml").write_text("x")
    folder = RunFolder(tmp_path / "run", "psvit-search", CONFIG)
    assert folder.resumed
    names = {path.name for path in folder.path.iterdir()}
    assert names >= set(kept)
    assert not names & set(gone)


def test_what_a_killed_process_was_writing_within_a_folder_of_the_run_is_removed_too(tmp_path):
    begun = RunFolder(tmp_path, "psvit-search", CONFIG)
    del begun
    (tmp_path / "supernet").mkdir()
    for name in ("log.csv", ".log.csv.q6ukjxco.tmp"):
        (tmp_path / "supernet" / name).write_text("x")
    RunFolder(tmp_path, "psvit-search", CONFIG)
    assert [path.name for path in (tmp_path / "supernet").iterdir()] == ["log.csv"]


@pytest.mark.parametrize("is_replaced", [True, False])
def test_a_folder_is_whole_after_a_process_was_killed_that_was_replacing_it(tmp_path, is_replaced):
    begun = RunFolder(tmp_path, "psvit-search", CONFIG)
    del begun
    # The former folder has been moved away, and the new one is in its place or not yet.
    for name, content in (
        (".pareto.q6ukjxco.old", "former"),
        ("pareto" if is_replaced else ".pareto.q6ukjxco.tmp", "new"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.yaml").write_text(content)
    RunFolder(tmp_path, "psvit-search", CONFIG)
    assert (tmp_path / "pareto" / "0.yaml").read_text() == ("new" if is_replaced else "former")
    assert {path.name for path in tmp_path.iterdir()} == {".psvit.lock", "config.yaml", "pareto"}


def test_a_run_from_before_there_were_files_to_lock_continues(tmp_path):
    RunFolder(tmp_path, "psvit-search", CONFIG)
    (tmp_path / ".psvit.lock").unlink()
    assert RunFolder(tmp_path, "psvit-search", CONFIG).resumed


def test_images_that_changed_behind_their_name_are_told_with_what_to_do(tmp_path):
    RunFolder(tmp_path / "run", "psvit-supernet", {**CONFIG, "data_digest": "a1"})
    RunFolder(tmp_path / "run", "psvit-supernet", {**CONFIG, "data_digest": "a1"})
    with pytest.raises(InputError, match=r"data_digest: a1 there, b2 here, .*images were .*; restore them") as error:
        RunFolder(tmp_path / "run", "psvit-supernet", {**CONFIG, "data_digest": "b2"})
    assert len(str(error.value).splitlines()) == 1
    with pytest.raises(InputError) as error:
        RunFolder(tmp_path / "run", "psvit-supernet", {**CONFIG, "data": "others", "data_digest": "b2"})
    assert "data: digits there, others here" in str(error.value)
    assert "restore" not in str(error.value)


def test_a_run_from_before_there_were_digests_of_images_continues(tmp_path):
    RunFolder(tmp_path / "run", "psvit-retrain", {"networks": {"a": CONFIG}})
    assert RunFolder(tmp_path / "run", "psvit-retrain", {"networks": {"a": {**CONFIG, "data_digest": "b2"}}}).resumed
