"""What `robustness.py` counts as lost, and that it sees it; commands and processes at a small size."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import robustness
from robust.kept import Finished, look


def written(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return look(folder)


def test_a_journal_may_grow_and_lose_half_a_line_and_no_whole_one(tmp_path):
    before = written(tmp_path, study__journal='{"a": 1}\n{"b": 2}\n{"c"')
    assert before.num_records == 2
    assert before.lost(written(tmp_path, study__journal='{"a": 1}\n{"b": 2}\n{"d": 4}\n')) == []
    for content in ('{"a": 1}\n', '{"a": 1}\n{"b": 3}\n{"d": 4}\n'):
        (lost,) = before.lost(written(tmp_path, study__journal=content))
        assert lost == "study.journal: some of 2 records are gone"


def test_a_document_that_is_gone_or_half_written_is_seen(tmp_path):
    before = written(tmp_path, best__yaml="score: 1\n", report__html="<html></html>")
    assert before.unreadable == ()
    (tmp_path / "best.yaml").unlink()
    after = written(tmp_path, report__html="<html>", table__csv="a,b\n1\n", network__safetensors="x")
    assert before.lost(after) == ["best.yaml: is gone"]
    assert [line.split(":")[0] for line in after.unreadable] == ["network.safetensors", "report.html", "table.csv"]


def test_a_checkpoint_may_go_when_the_weights_are_there(tmp_path):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    checkpoint = tmp_path / "run/checkpoints/0000000012.safetensors"
    checkpoint.touch()
    before = look(tmp_path)
    assert before.checkpoints == {"run": 12}
    assert before.lost(before) == []
    checkpoint.unlink()
    assert before.lost(look(tmp_path)) == ["run: the checkpoint of step 12 is gone"]
    (tmp_path / "run/network.safetensors").touch()
    assert before.lost(look(tmp_path)) == []


def test_a_run_is_compared_with_what_two_others_have_in_common(tmp_path):
    one, other, killed = (tmp_path / name for name in ("one", "other", "killed"))
    for folder, took in ((one, "1"), (other, "2"), (killed, "3")):
        written(folder, best__yaml="score: 1\n", log__csv=took)
    whole = Finished.of([one, other], seconds=1.0, epochs=0, longest=0)
    assert whole.differences(killed) == []
    written(killed, best__yaml="score: 2\n")
    (killed / ".best.yaml.q6ukjxco.tmp").touch()
    (killed / "log.csv").unlink()
    assert whole.differences(killed) == [
        ".best.yaml.q6ukjxco.tmp: is stray",
        "log.csv: is missing",
        "best.yaml: is another than without kills",
    ]


@pytest.fixture
def command(monkeypatch):
    """Replaces commands by one that writes three records, of which it trains an epoch for each; may forget them."""

    numbers = itertools.count()

    def replace(forgets=False):
        def run(words, folder, limit=math.inf, late=0.0):
            journal = folder / "run/study.journal"
            journal.parent.mkdir(exist_ok=True)
            known = journal.read_text() if journal.exists() and not forgets else ""
            is_killed = limit < 0.6
            new = 1 if is_killed and known.count("\n") < 2 else 3 - known.count("\n")
            journal.write_text(known + "".join(f"{next(numbers)}\n" for _ in range(new)))
            with Path(f"{folder}.log").open("a") as log:
                log.write(f"{robustness.STARTED}\n" + f"{robustness.EPOCH}1, loss 0\n" * new)
            if not is_killed:
                (folder / "run/best.yaml").write_text("score: 1\n")
            return robustness.Attempt(robustness.KILLED if is_killed else 0, min(limit, 1.0))

        monkeypatch.setattr(robustness, "_run", run)

    return replace


@pytest.mark.runs_benchmark("robustness")
def test_kills_are_counted_and_continued_and_nothing_is_lost(call_script, command, tmp_path):
    command()
    kills = ("kills", "--commands", "search", "--out", "out", "--kills")
    assert call_script("robustness", *kills, 5).status == 0
    assert call_script("robustness", *kills, 12).status == 0
    done = call_script("robustness", "show", "--out", "out")
    _, (name, seconds, killed, _, runs, repeated, _, wrong) = done.rows
    assert (name, seconds, killed, wrong) == ("psvit-search", "1.0", "12", "0")
    assert int(runs) >= 2
    assert float(repeated) == 0
    records = [json.loads(line) for line in (tmp_path / "out/robustness.journal").read_text().splitlines()]
    assert [record["status"] for record in records if "killed" in record][-1] == 0


@pytest.mark.runs_benchmark("robustness")
def test_lost_records_and_repeated_work_are_told(call_script, command):
    command(forgets=True)
    call_script("robustness", "kills", "--commands", "search", "--out", "out", "--kills", 12)
    done = call_script("robustness", "show", "--out", "out")
    assert "search: run/study.journal: some of 1 records are gone" in done.out
    assert int(done.rows[1][-1]) > 0


@pytest.mark.slow(seconds=90)
@pytest.mark.runs_benchmark("robustness")
def test_a_real_command_is_killed_and_ends_as_if_it_had_not_been(call_script):
    done = call_script("robustness", "kills", "--commands", "retrain", "--out", "out", "--kills", 1)
    assert done.status == 0
    row = call_script("robustness", "show", "--out", "out").rows[1]
    assert (row[0], row[2], row[4], row[7]) == ("psvit-retrain", "1", "1", "0")


@pytest.mark.slow(seconds=90)
@pytest.mark.runs_benchmark("robustness")
def test_of_simultaneous_starts_one_gets_in(call_script):
    done = call_script("robustness", "starts", "--processes", 4, "--out", "out")
    found = json.loads(done.out.splitlines()[-1])
    assert (found["starts"], found["statuses"], found["wrong"]) == (4, {"0": 1, "2": 3}, [])


@pytest.mark.slow(seconds=30)
@pytest.mark.runs_benchmark("robustness")
def test_damaged_files_are_read_with_a_seed_of_ones_own(call_script):
    done = call_script("robustness", "fuzz", "--cases", 60, "--seed", 7, "--out", "out")
    found = json.loads(done.out.splitlines()[-1])
    assert (found["fuzz"], found["seed"], found["wrong"]) == (60, 7, [])
    assert 0 < float(found["seconds"]) < 5
    assert 0 < float(found["bytes"]) < 10**9
