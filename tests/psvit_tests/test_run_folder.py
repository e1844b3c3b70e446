"""Run folders: the same command continues, another one is refused."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import yaml

from psvit.errors import InputError
from psvit.run_folder import RunFolder

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
from psvit.run_folder import RunFolder

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
