"""Where studies are kept: what is no storage is refused in one line and unchanged; a cut-off record costs itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib.util import find_spec

import pytest
from filelock import lock_descriptor

from psvit.errors import InputError
from psvit.search.storage import check_storage, open_storage, without_password
from psvit.search.study import Batch, Study


@pytest.fixture
def recorded(tiny_space, tmp_path):
    """A journal with a study in which something is asked for."""
    path = tmp_path / "journal"
    study = Study(tiny_space, open_storage(path))
    study.ask(Batch(number=0, proposals=()))
    return path


@pytest.mark.parametrize("kept", [1, 9, 10, 30, -1])
def test_a_record_that_was_cut_off_costs_only_itself(tiny_space, recorded, kept):
    """A process that dies, or a disk that is full, while a record is written leaves a part of it."""
    whole = recorded.read_bytes()
    lines = whole.splitlines(keepends=True)
    recorded.write_bytes(b"".join(lines[:-1]) + lines[-1][:kept])
    storage = open_storage(recorded)
    assert recorded.read_bytes() == b"".join(lines[:-1])
    study = Study(tiny_space, storage)
    assert study.next_number == 0
    study.ask(Batch(number=0, proposals=()))
    assert Study(tiny_space, open_storage(recorded)).next_number == 1


@pytest.mark.parametrize("kept", [1, 5, 10, 40, -1])
def test_a_first_record_that_was_cut_off_leaves_an_empty_journal(tiny_space, recorded, kept):
    recorded.write_bytes(recorded.read_bytes().splitlines(keepends=True)[0][:kept])
    assert len(Study(tiny_space, open_storage(recorded)).history) == 0


def test_a_long_record_that_was_cut_off_is_found_from_its_end(tiny_space, recorded):
    whole = recorded.read_bytes()
    recorded.write_bytes(whole + b'{"op_code":2,' + b" " * 300_000)
    open_storage(recorded)
    assert recorded.read_bytes() == whole


@pytest.mark.parametrize(
    "content",
    [
        b"somebody's notes",
        b"somebody's notes\nwithout a last line break",
        b"\x00\x01\x02" * 100,
        b"{}",
        b'{"a": 1}\n{"b": 2}\n',
        b'[1, 2]\n"three"\n',
    ],
)
def test_a_file_that_is_no_journal_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        open_storage(path)
    assert str(refused.value) == f"--storage {path}: is not a journal of Optuna's"
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("content", "line", "fault"),
    [
        (b'{"op_code":"many"}\n', 1, "op_code: must be a whole number"),
        (b'{"op_code":true}\n', 1, "op_code: must be a whole number"),
        (b'{"op_code":0}\n', 1, "worker_id: Field required"),
        (b'{"op_code":99,"worker_id":"a"}\n', 1, "Input tag '99'"),
        (b'{"op_code":2,"worker_id":"a","study_id":5,"user_attr":{}}\n{"op_code":\n{"op_code":1}\n', 1, "user_attr: "),
        (b'{"op_code":1,"worker_id":"a","study_id":5}\n{"op_code":\n{"op_code":1}\n', 2, "is not JSON"),
        (b'{"op_code":1,"worker_id":"a","study_id":5}\n[1, 2]\n', 2, "Input should be a valid dictionary"),
        (b'{"op_code":' + b"[" * 100_000 + b"\n{}\n", 1, "is not JSON"),
    ],
)
def test_a_journal_with_a_damaged_record_is_refused_with_its_line_and_left_alone(tmp_path, content, line, fault):
    path = tmp_path / "study.journal"
    path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        open_storage(path)
    said = str(refused.value)
    assert said.startswith(f"--storage {path}: line {line} is damaged: {fault}")
    assert said.endswith("; restore the file, or remove it to begin anew")
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("storage", "expected"),
    [
        (".", "is a folder; expected a journal file or a URL such as postgresql://"),
        ("notes.txt/journal", "cannot be written"),
        ("/proc/journal", "cannot be written"),
        ("oracle+nothing://host/name", "cannot be opened"),
        ("nonsense://host/name", "cannot be opened"),
        ("mysql+nodriver://host/name", "cannot be opened"),
        ("postgresql+pg8000://host/name", "its driver is not installed"),
        ("redis://127.0.0.1:1", "cannot be opened" if find_spec("redis") else "its driver is not installed"),
        ("sqlite:////nowhere/at/all.db", "cannot be opened"),
        ("postgresql://nobody@127.0.0.1:1/nothing?connect_timeout=1", "cannot be opened"),
        ("://", "cannot be opened"),
    ],
)
def test_what_cannot_be_opened_is_refused_in_one_line(tmp_path, monkeypatch, storage, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("somebody's notes")
    with pytest.raises(InputError) as refused:
        open_storage(storage)
    assert f"--storage {storage}: {expected}" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400
    assert (tmp_path / "notes.txt").read_text() == "somebody's notes"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://user:hunter2@host/name", "postgresql://user:***@host/name"),
        ("postgresql+psycopg://user:hunter2@host:5432/name?a=b", "postgresql+psycopg://user:***@host:5432/name?a=b"),
        ("mysql+pymysql://user:p%40:hunter2@[::1]:3306/name", "mysql+pymysql://user:***@[::1]:3306/name"),
        ("postgresql://user:hunter2/is@my pass@host/name", "postgresql://user:***@host/name"),
        ("redis://:hunter2@host:6379", "redis://:***@host:6379"),
        ("--storage=postgresql://user:hunter2@host/name", "--storage=postgresql://user:***@host/name"),
        ("postgresql:///name?host=a&password=hunter2&user=b", "postgresql:///name?host=a&password=***&user=b"),
        ("postgresql://host/name?sslPassword=hunter2", "postgresql://host/name?sslPassword=***"),
        *((same, same) for same in ("postgresql://user@host/name", "postgresql://[::1]:5432/name", "a:b@c/journal")),
        *((same, same) for same in ("sqlite:///a/b:c@d.db", "sqlite:///C:/a@b.db", "redis://host:6379/0", "60%ofa:b")),
    ],
)
def test_passwords_are_not_shown_and_everything_else_is(text, expected):
    assert without_password(text) == expected


@pytest.mark.parametrize(
    "storage",
    [
        "postgresql://nobody:hunter2@127.0.0.1:1/nothing?connect_timeout=1",
        "postgresql://nobody:hunter2@127.0.0.1:many/nothing",
        "postgresql+pg8000://nobody:hunter2@host/name",
        "nonsense://nobody:hunter2@host/name",
        "sqlite://nobody:hunter2@host/name",
        "redis://:hunter2@127.0.0.1:1",
        "postgresql://127.0.0.1:1/nothing?user=nobody&password=hunter2&connect_timeout=1",
    ],
)
def test_what_cannot_be_opened_is_named_without_its_password(storage):
    for refuse in (open_storage, check_storage):
        with pytest.raises(InputError) as refused:
            refuse(storage)
        assert f"--storage {without_password(storage)}: " in str(refused.value)
        assert "hunter2" not in str(refused.value)


def test_a_journal_in_a_new_folder_is_made(tmp_path, tiny_space):
    Study(tiny_space, open_storage(tmp_path / "new/folder/journal"))
    assert (tmp_path / "new/folder/journal").stat().st_size > 0


def test_a_database_keeps_a_study_too(tmp_path, tiny_space):
    for number in range(2):
        study = Study(tiny_space, open_storage(f"sqlite:///{tmp_path}/study.db"))
        assert study.next_number == number
        study.ask(Batch(number=number, proposals=()))


HOLD = """
import sys
from pathlib import Path
from psvit.search.study_journal import _Lock
lock = _Lock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_killed_process_leaves_no_lock(recorded, tiny_space):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, recorded], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    process.kill()
    process.wait()
    Study(tiny_space, open_storage(recorded)).ask(Batch(number=1, proposals=()))  # does not wait


def test_a_child_that_is_forked_while_the_journal_is_locked_keeps_nobody_out(recorded, tiny_space):
    """As one for loading images is, while another thread gives a sign of life."""
    code = HOLD.replace("print(", "import os, time\nif not os.fork():\n    time.sleep(600)\nlock.release()\nprint(")
    process = subprocess.Popen(
        [sys.executable, "-c", code, recorded],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout.readline() == "held\n"  # and released
        with recorded.open("rb+") as stream:
            assert lock_descriptor(stream.fileno(), blocking=False)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
