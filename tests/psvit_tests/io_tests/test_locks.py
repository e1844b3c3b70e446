"""Locks: one holder at a time, however often it locks again, until it lets go or ends."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
import threading

import pytest

from psvit.io.locks import hold, remove

TRY = """
import sys
from pathlib import Path
from psvit.io.locks import hold

print("in" if hold(Path(sys.argv[1])) else "out")
"""


def another_process(path):
    """Whether another process gets in."""
    done = subprocess.run([sys.executable, "-c", TRY, str(path)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_held_file_keeps_others_out_until_nothing_refers_to_the_lock(tmp_path):
    path = tmp_path / "lock"
    lock = hold(path)
    assert another_process(path) == "out"
    again = hold(path)  # a notebook's second run of a cell, while the first is still referred to
    assert again is not None
    del lock
    assert another_process(path) == "out"
    del again
    assert another_process(path) == "in"
    assert path.read_bytes() == b""


def test_another_thread_is_kept_out(tmp_path):
    lock = hold(tmp_path / "lock")
    found = []
    thread = threading.Thread(target=lambda: found.append(hold(tmp_path / "lock")))
    thread.start()
    thread.join()
    assert found == [None]
    lock.release()


def test_what_is_in_a_locked_file_stays(tmp_path):
    path = tmp_path / "journal"
    path.write_text("a record")
    lock = hold(path)
    with path.open("a") as stream:  # and closing another stream of it frees nothing
        stream.write(", another")
    assert another_process(path) == "out"
    lock.release()
    assert path.read_text() == "a record, another"


def test_a_removed_file_is_not_held_by_who_opened_it_before(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    lock = hold(path)
    flock, opened, removed = fcntl.flock, threading.Event(), threading.Event()

    def late(descriptor, operation):
        monkeypatch.setattr(fcntl, "flock", flock)
        opened.set()
        assert removed.wait(60)
        flock(descriptor, operation)

    found = []
    thread = threading.Thread(target=lambda: found.append(hold(path)))
    monkeypatch.setattr(fcntl, "flock", late)
    thread.start()
    assert opened.wait(60)
    remove(lock)
    removed.set()
    thread.join()
    # What the thread has locked is the deleted file, which keeps nobody out.
    assert found == [None]
    assert not path.exists()
    again = hold(path)
    assert path.exists()
    assert another_process(path) == "out"
    remove(again)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_where_there_are_no_locks_nobody_is_kept_out_and_nothing_stays_behind(tmp_path, monkeypatch, number):
    def none_here(*args):
        raise OSError(number, "no locks")

    monkeypatch.setattr(fcntl, "flock", none_here)
    lock = hold(tmp_path / "lock")
    assert lock is not None
    assert (tmp_path / "lock").read_bytes() == b""
    remove(lock)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        hold(tmp_path / "folder")
