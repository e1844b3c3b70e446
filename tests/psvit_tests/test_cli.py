"""What the commands share: tables, and how they end."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import click
import pytest

from psvit.cli import is_disk_full, run, show_table
from psvit.errors import InputError
from psvit.io.run_folder import RunFolder


def test_a_row_is_a_line_where_output_goes_into_a_pipe(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    header = ("network", "MACs", "parameters", "inherited", "from scratch", "logistic regression")
    row = ("0", "470.3 kFLOPs", "57.83 kparams", "89.17 %", "96.94 %", "96.67 %")
    show_table("top-1 on the validation images", [row, row], header)
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    words = " ".join(row).split()
    assert lines[1] == " ".join(header).split()
    assert lines[-2:] == [words, words]


# --- how a command ends


@pytest.fixture
def ended(capsys, monkeypatch, tmp_path):
    """Runs a command that raises an error, in a folder of its own; returns its status and what it said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(RunFolder, "last", None)

    def command_with(error, folder=None):
        @click.command(name="psvit-something")
        def command():
            if folder:
                RunFolder(tmp_path / folder, "something", {})
            raise error

        with pytest.raises(SystemExit) as end:
            run(command, [])
        return end.value.code, capsys.readouterr().err

    return command_with


def test_an_error_that_nobody_foresaw_takes_one_line_and_keeps_its_traceback_in_the_run(ended, tmp_path):
    status, said = ended(KeyError("what\nnobody\x1b[2J thought of"), folder="run")
    assert status == 1
    assert said.count("\n") == 1
    assert said.startswith("psvit-something: unexpected KeyError: ")
    assert f"its traceback is in {tmp_path}/run/error.txt; please report it" in said
    assert "\x1b" not in said
    traced = (tmp_path / "run/error.txt").read_text()
    assert traced.startswith("Traceback")
    assert "raise error" in traced
    # When the run goes on, it is of no use any more.
    RunFolder(tmp_path / "run", "something", {})
    assert not (tmp_path / "run/error.txt").exists()


def test_without_a_run_the_traceback_is_kept_where_the_command_was_given(ended, tmp_path):
    _, said = ended(RuntimeError("odd"))
    assert f"its traceback is in {tmp_path}/error.txt" in said
    assert (tmp_path / "error.txt").exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_said_as_that(ended, tmp_path, error):
    wrapped = RuntimeError("cannot write")
    wrapped.__cause__ = error
    assert is_disk_full(wrapped)
    assert not is_disk_full(OSError(errno.EACCES, "Permission denied"))
    assert ended(wrapped) == (1, "psvit-something: the disk is full; make room, and the same command continues\n")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_no_bad_input_where_the_place_is_named(ended):
    status, said = ended(InputError("run/best.yaml: cannot be written: No space left on device"))
    assert (status, said.count("\n")) == (1, 1)
    assert said.startswith("psvit-something: run/best.yaml: cannot be written")
    assert "make room" in said


@pytest.mark.parametrize(
    "error",
    [RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), MemoryError()],
)
def test_memory_that_runs_out_is_said_as_that(ended, error):
    status, said = ended(error)
    assert (status, said.count("\n")) == (1, 1)
    assert said.startswith("psvit-something: out of memory")


def test_what_a_terminal_has_no_character_for_is_written_as_its_number():
    program = "import click, psvit.cli; psvit.cli.run(click.command()(lambda: print('96 \u00b1 1 %')), [])"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "96 \\xb1 1 %\n"


def test_tables_show_names_as_they_are(capsys):
    show_table("[bold]title", [("[red]one\x1b[31m", "[/x]")], ("[link]", "two"))
    said = capsys.readouterr().out
    for text in ("[bold]title", "[red]one\\x1b[31m", "[/x]", "[link]"):
        assert text in said
