"""The benchmark of a GPU, scaled down and on a CPU; what needs no measurement on made-up rows."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from gpu_stages import latency_model, rows
from gpu_stages.stage import Cell, Stage, run_stages
from PIL import Image
from truth import rows as table
from truth.rows import Row

from psvit.io.journal import Journal
from psvit.search.latency.measure import Latency, fingerprint

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder like CIFAR-10's with few images."""
    folder = tmp_path_factory.mktemp("cifar")
    rng = np.random.default_rng(0)
    for part, number in (("train", 20), ("val", 2)):
        for name in range(10):
            place = folder / part / f"class{name}"
            place.mkdir(parents=True)
            for one in range(number):
                Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(place / f"{one}.png")
    return folder


def call(folder, *options):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "gpu.py", "--out", "results", "--device", "cpu", *map(str, options)],
        cwd=folder, capture_output=True, text=True, timeout=570,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def records(folder):
    return [json.loads(line) for line in (folder / "results/measured.jsonl").read_text().splitlines()[1:]]


@pytest.mark.slow
@pytest.mark.runs_benchmark("gpu")
def test_a_scaled_down_run_measures_every_stage_once(pictures, tmp_path):
    options = ("--data", pictures, "--cells", 1, "--images", 128, "--seconds", 0.001)
    stages = ("training", "deit", "forms", "groups")
    call(tmp_path, *options, "--stages", *stages)
    found = records(tmp_path)
    assert [one["stage"] for one in found] == list(stages)
    assert not any("error" in one for one in found)
    assert found[0]["images_per_second"] > 0
    for one in found[1:]:
        assert 0 < one["low"] <= one["ratio"] <= one["high"]
    # The same line measures what is missing, which is nothing.
    call(tmp_path, *options, "--stages", *stages)
    assert records(tmp_path) == found
    shown = call(tmp_path, "--show")
    assert all(f"## {stage}" in shown and one["key"] in shown for stage, one in zip(stages, found, strict=True))


@pytest.mark.slow
@pytest.mark.runs_benchmark("gpu")
def test_rows_are_those_of_the_truth_table(pictures, tmp_path):
    call(tmp_path, "--data", pictures, "--cells", 1, "--jobs", 1, "--stages", "rows")
    (row,) = table.read(tmp_path / "results/rows.csv")
    assert row.job_key == table.key_of(rows.wanted(table.read(rows.COMMITTED))[0])
    assert len(row.search_accuracy) == row.epochs == 12


def test_it_runs_in_a_source_tree_and_needs_no_more_than_it_says():
    code = """if True:
        import sys
        sys.meta_path[:] = [one for one in sys.meta_path if "editable" not in repr(one)]
        sys.path[:] = [one for one in sys.path if "editable" not in one]
        for name in ("ray", "optuna", "moocore", "plotly"):
            sys.modules[name] = None
        import gpu
        from gpu_stages import rows
        from truth import runner, training
        import psvit
        print(*psvit.__path__)
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert str(BENCHMARKS.parent) in done.stdout.split()


def test_a_stage_ends_with_its_time_and_a_failure_is_tried_again(tmp_path, capsys):
    calls = []

    def cells(options):
        for key in ("a", "b", "c"):

            def measure(left, key=key):
                calls.append(key)
                if key == "b" and calls.count("b") == 1:
                    raise ValueError("no\nmore")
                return {"value": 1.5}

            yield Cell(key, measure)

    def go_on():
        journal = Journal(tmp_path / "measured.jsonl", {})
        run_stages([Stage("one", 1.0, cells), Stage("late", 0.0, cells)], Namespace(minutes=5, cells=None), journal)
        return journal.records

    first = go_on()
    assert calls == ["a", "b", "c"]
    assert [one.get("error") for one in first] == [None, "ValueError: no", None]
    assert [one["key"] for one in go_on()] == ["a", "b", "c", "b"]
    assert calls == ["a", "b", "c", "b"]
    assert "late: no time left" in capsys.readouterr().out


def test_a_latency_model_is_that_of_the_space(tmp_path, monkeypatch):
    def measure(network, shape, setting, seconds):
        weights = 10 + sum(parameter.numel() for parameter in network.parameters())
        return Latency(
            median_ms=1e-5 * weights, iqr_ms=0, repeats=9, attempts=1, setting=setting, fingerprint=fingerprint(setting)
        )

    monkeypatch.setattr(latency_model, "measure", measure)
    monkeypatch.setattr(latency_model, "finishes", lambda target, arguments, seconds: target(*arguments) or True)
    options = Namespace(device="cpu", space=None, networks=8, out=tmp_path)
    one, _ = latency_model.cells(options)
    found = one.measure(10.0)
    assert 0 <= found["mape"] < 100
    assert (tmp_path / "latency-1.yaml").exists()


@pytest.fixture
def known():
    return table.read(rows.COMMITTED)


def moved(known: list[Row], points: list[float]) -> list[Row]:
    """The first rows, as if trained on a GPU, with other accuracies."""
    return [
        Row(**{**vars(row), "val_accuracy": row.val_accuracy + by, "device": "a GPU"})
        for row, by in zip(known, points, strict=False)
    ]


@pytest.mark.parametrize(
    ("points", "agree"),
    [
        ([0.3, -0.4, 0.5, -0.6], True),
        ([0.3, -0.4, 0.5, 1.8], False),  # one is further apart than seeds are
        ([1.2, 1.0, 0.9, 1.1], False),  # all on one side
        ([0.3, -0.4, 0.5], None),  # too few
    ],
)
def test_devices_agree_within_seeds(known, points, agree):
    assert rows.agreement(moved(known, points), known).get("agree") is agree


def test_rows_are_added_if_devices_agree(known, tmp_path):
    committed, found = tmp_path / "rows.csv", tmp_path / "found.csv"
    for row in known[:6]:
        table.append(committed, row)
    for row in [*moved(known, [0.1, -0.2, 0.3, -0.1]), known[7]]:
        table.append(found, row)
    assert rows.merge(found, committed) == 1
    assert [row.job_key for row in table.read(committed)] == [row.job_key for row in (*known[:6], known[7])]
    assert rows.merge(found, committed) == 0
    apart = tmp_path / "apart.csv"
    for row in [*moved(known, [3.0, 3.0, 3.0, 3.0]), known[8]]:
        table.append(apart, row)
    assert rows.merge(apart, committed) == 0
