"""Every example runs, as its first lines say."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from psvit import RetrainedNetwork

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(name: str, *arguments: object) -> str:
    """What an example prints."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_own_operators_are_searched_exported_and_rebuilt(tmp_path):
    printed = run("own_operators.py", tmp_path / "own")
    found = yaml.safe_load((tmp_path / "own" / "search" / "best.yaml").read_text())["arch"]
    assert f"found: stem {found.get('stem', 'patch')}, pooling {found['pools'][0]}" in printed
    with (tmp_path / "own" / "search" / "history.csv").open(newline="") as file:
        searched = [json.loads(row["arch"]) for row in csv.DictReader(file)]
    assert len(searched) == 24
    assert {arch["stem"] for arch in searched} == {"patch", "overlapping"}
    assert {pool for arch in searched for pool in arch["pools"]} == {"max", "max_and_avg"}
    # A program that needs PyTorch alone.
    code = "import sys, torch; print(torch.export.load(sys.argv[1]).module()(torch.zeros(3, 1, 8, 8)).shape)"
    (program,) = (tmp_path / "own" / "exported").glob("*.pt2")
    done = subprocess.run([sys.executable, "-c", code, str(program)], capture_output=True, text=True, cwd=tmp_path)
    assert "torch.Size([3, 10])" in done.stdout, done.stderr[-2000:]


@pytest.mark.slow
def test_the_whole_way_gives_a_comparison_a_latency_and_an_export(tmp_path):
    printed = run("from_images_to_deployment.py", tmp_path / "way")
    rows = [line.split() for line in printed.splitlines()]
    small, large = (next(row for row in rows if row[:2] == [name, "2"]) for name in ("smallest", "largest"))
    networks = [RetrainedNetwork.load(tmp_path / "way" / name) for name in ("smallest-0", "smallest-1")]
    assert float(small[2]) == pytest.approx(sum(one.accuracy for one in networks) / 2, abs=0.006)
    assert float(large[large.index("%") + 4]) == pytest.approx(float(large[2]) - float(small[2]), abs=0.011)
    assert "largest: " in printed
    assert list((tmp_path / "way" / "exported").glob("*.pt2"))


def test_every_example_is_run_by_a_test():
    here = Path(__file__).read_text()
    assert all(f'"{path.name}"' in here for path in EXAMPLES.glob("*.py"))
