"""A folder that is deleted while a run is at work in it is not made again, half empty."""

from __future__ import annotations

import os
import shutil

import pytest

from psvit.errors import InputError
from psvit.io.documents import replacing, replacing_folder, write_atomic
from psvit.io.journal import Journal
from psvit.io.run_folder import RunFolder

SAID = "was deleted, moved or replaced while the run was at work in it"


def write_text(path):
    write_atomic(path, "text")


def write_with(writer):
    def write(path):
        with writer(path) as place:
            (place / "file" if place.is_dir() else place).write_text("text")

    return write


WRITERS = [write_text, write_with(replacing), write_with(replacing_folder), lambda path: Journal(path, {"seed": 0})]


def delete(path, place):
    shutil.rmtree(path)


def move(path, place):
    path.rename(place / "elsewhere")


def replace_by_another(path, place):
    shutil.rmtree(path)
    path.mkdir()
    (path / "config.yaml").write_text("of another run")
    os.utime(path / "config.yaml", (0, 0))


def replace_by_a_file(path, place):
    shutil.rmtree(path)
    path.write_text("a file")


@pytest.mark.parametrize("ending", [delete, move, replace_by_another, replace_by_a_file])
@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("name", ["best.yaml", "networks/one/network.yaml"])
def test_nothing_is_written_into_a_run_folder_that_is_gone(tmp_path, ending, write, name):
    path = tmp_path / "run"
    folder = RunFolder(path, "psvit-search", {"seed": 0})
    write(folder / "before")
    ending(path, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as refused:
        write(folder / name)
    said = str(refused.value)
    assert said.startswith(f"--out {path}: {SAID}")
    assert "put the folder back and give the same command to continue" in said
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_put_back_is_written_into(tmp_path):
    folder = RunFolder(tmp_path / "run", "psvit-search", {"seed": 0})
    move(tmp_path / "run", tmp_path)
    with pytest.raises(InputError):
        write_atomic(folder / "file", "text")
    (tmp_path / "elsewhere").rename(tmp_path / "run")
    write_atomic(folder / "file", "text")


def test_what_lies_elsewhere_is_written(tmp_path):
    folder = RunFolder(tmp_path / "run", "psvit-search", {"seed": 0})
    shutil.rmtree(folder.path)
    write_atomic(tmp_path / "runs/file", "text")
    write_atomic(tmp_path / "run-2/file", "text")


def test_a_deleted_folder_may_be_begun_anew(tmp_path):
    former = RunFolder(tmp_path / "run", "psvit-search", {"seed": 0})
    shutil.rmtree(former.path)
    anew = RunFolder(tmp_path / "run", "psvit-search", {"seed": 0})
    assert not anew.resumed
    write_atomic(anew / "file", "text")


def test_a_run_that_has_ended_does_not_mind(tmp_path):
    folder = RunFolder(tmp_path / "run", "psvit-search", {"seed": 0})
    path = folder.path
    del folder
    shutil.rmtree(path)
    write_atomic(path / "file", "text")


def test_a_run_within_a_run_is_not_begun_where_that_is_gone(tmp_path):
    folder = RunFolder(tmp_path / "run", "psvit-retrain", {"seed": 0})
    shutil.rmtree(folder.path)
    with pytest.raises(InputError, match=SAID):
        RunFolder(folder.path / "network", "psvit-retrain", {"seed": 0})
    assert not folder.path.exists()
