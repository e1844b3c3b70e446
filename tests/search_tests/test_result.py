"""What a finished search found, read from its folder."""

from __future__ import annotations

import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest

from psvit import InputError, SearchResult, run_search
from psvit.search import engine
from psvit.search.compression.speed import Speed
from psvit.search.compression.table import Compression, Row
from psvit.search.result import found_before, keep
from psvit.search.selection.finalist import Look
from psvit.search.selection.verdict import Verdict
from psvit.train.bootstrap import Difference


def deep(archs):
    return [arch.depth + arch.stages[-1].embed_dim / 100 for arch in archs]


@pytest.fixture
def search(tmp_path):
    """A short search in a folder."""

    def searched(out="run", **options):
        given = {"budget": "0.9..1.1MFLOPs", "evaluator": deep, "trials": 12, "control": 3, **options}
        return run_search("psvit-2d-digits", out=tmp_path / out, **given)

    return searched


def assert_equal(one, other):
    for field in fields(SearchResult):
        assert getattr(one, field.name) == getattr(other, field.name), field.name


@pytest.mark.parametrize("objectives", [("score",), ("score", "macs")])
def test_the_same_call_reads_what_was_found(search, monkeypatch, objectives):
    found = search(objectives=objectives)
    monkeypatch.setattr(engine, "execute", lambda *args: pytest.fail("it was gone through again"))
    again = search(objectives=objectives)
    assert_equal(again, found)
    assert_equal(SearchResult.load(found.folder), found)
    assert again.trials.to_csv() == (found.folder / "history.csv").read_bytes().decode()
    written = [point.written for point in again.front if point.written]
    assert all(file.exists() for file in written)
    assert len(written) == (len(found.front) if len(objectives) > 1 else 1)


def test_everything_that_a_search_may_find_is_kept(search):
    found = search()
    looks = (Look(epoch=1, accuracies=(50.25,)), Look(epoch=3, accuracies=(1 / 3, 71.5, 70.0)))
    finalists = [replace(found.best, looks=looks, latencies={"cpu": {"measured_ms": 0.1, "iqr_ms": 1e-9}}), found.best]
    verdict = Verdict(
        winner="trial 3", rival="PiT-like", is_found=True, confidence=0.95, images=100, seeds=3,
        accuracies=(70.1, 69.0), points=1.1, interval=(-0.2, 2.4), p=0.07,
    )  # fmt: skip
    speeds = {1: Speed(median_ms=1.5, ratio=1.0, spread=0.0), 32: Speed(median_ms=20.25, ratio=1.75, spread=0.01)}
    row = Row(name="deit", epochs=0, macs=10**9, num_params=5, accuracies=(71.25,), speeds=speeds)
    compression = Compression(
        rows=(row, replace(row, speeds={}, accuracies=())), part="verdict", images=100, device="cpu",
        difference=Difference(points=-0.5, interval=(-1.0, 0.0), p=0.05), adapted=70.0,
    )  # fmt: skip
    whole = replace(found, finalists=finalists, verdict=verdict, compression=compression, next_seconds=12.5, data="x")
    keep(whole, {"seed": 0})
    assert_equal(SearchResult.load(found.folder), whole)
    assert (str(found_before(found.folder, {"seed": 0}).verdict), found_before(found.folder, {"seed": 1})) == (
        str(verdict), None,
    )  # fmt: skip


def test_more_trials_go_on_and_fewer_are_counted_anew(search, monkeypatch):
    few = search()
    more = search(trials=20)
    assert len(more.trials) > len(few.trials)
    # The folder tells of the last call, so the first one is not found in it.
    again = search()
    assert again.trials[: len(few.trials)] == few.trials
    monkeypatch.setattr(engine, "execute", lambda *args: pytest.fail("it was gone through again"))
    assert_equal(search(), again)


@pytest.mark.parametrize("name", ["report.html", "best.svg", "best.yaml", "history.csv", "result.json"])
def test_what_is_missing_is_made_again(search, name):
    found = search()
    (found.folder / name).unlink()
    again = search()
    assert (found.folder / name).exists()
    assert again.best.arch == found.best.arch


@pytest.mark.parametrize("damage", [b"", b"{}", b"[" * 10_000, b"\xff", b'{"schema": "psvit/result/9"}'])
def test_a_damaged_file_is_refused_in_one_line_and_made_again(search, damage):
    found = search()
    whole = (found.folder / "result.json").read_bytes()
    (found.folder / "result.json").write_bytes(damage)
    with pytest.raises(InputError, match=r"result\.json: ") as refused:
        SearchResult.load(found.folder)
    assert "\n" not in str(refused.value)
    assert_equal(search(), found)
    assert (found.folder / "result.json").read_bytes() == whole


def test_trials_that_are_no_text_are_refused_in_one_line_and_written_again(search):
    found = search()
    (found.folder / "history.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"history\.csv: cannot be read"):
        SearchResult.load(found.folder)
    assert_equal(search(), found)


def test_a_run_that_was_stopped_keeps_no_result(search, monkeypatch, tmp_path):
    search()
    calls = []

    def stop(archs):
        calls.append(archs)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return deep(archs)

    stop.__name__ = stop.__qualname__ = deep.__name__
    stopped = search("stopped", evaluator=stop, trials=400)
    assert str(stopped.stopped) == "Ctrl-C"
    with pytest.raises(InputError, match="holds no finished search"):
        SearchResult.load(tmp_path / "stopped")
    with pytest.raises(InputError, match="not the folder of a run"):
        SearchResult.load(tmp_path / "nowhere")


def test_a_result_is_read_wherever_its_folder_lies(search, tmp_path):
    found = search(objectives=("score", "macs"))
    shutil.move(found.folder, tmp_path / "moved")
    there = SearchResult.load(tmp_path / "moved")
    assert there.file == tmp_path / "moved" / "best.yaml"
    assert [point.file for point in there.front] == [
        tmp_path / "moved" / point.file.relative_to(found.folder) for point in found.front
    ]
    assert isinstance(there.folder, Path)


def test_a_shared_study_is_looked_at_again(search, tmp_path):
    storage = str(tmp_path / "study.journal")
    search(storage=storage)
    assert not (tmp_path / "run" / "result.json").exists()
    assert len(search("other", storage=storage).trials) >= 12
