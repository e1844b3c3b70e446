"""Every example runs, as its first lines say."""

from __future__ import annotations

import csv
import json
import logging
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from ray import cloudpickle

import psvit
from psvit import RetrainedNetwork
from psvit.io.announcements import ANNOUNCEMENTS
from psvit.train.recipe import Recipe

# Processes cannot import the tests, so functions travel by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

SHORT = Recipe(epochs=8, batch_size=128, lr=0.002)
"""A selection by this recipe trains for two epochs; by the one that examples find for their images, for a minute."""

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """Runs an example in this process, which has loaded the libraries; what it prints is returned.

    Not for one that registers operators, which this process would keep.
    """
    state = torch.get_rng_state()
    # A command that was run in this process has them printed, which the libraries alone do not.
    monkeypatch.setattr(logging.getLogger(ANNOUNCEMENTS), "disabled", True)

    def run(name: str, *arguments: object) -> str:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [str(EXAMPLES / name), *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    yield run
    torch.set_rng_state(state)


def run_briefly(name: str, arguments: list[str], printed: Path) -> None:
    """Run an example whose selection trains briefly, in a process that may keep what is registered."""
    psvit.run_search = partial(psvit.run_search, recipe=SHORT)
    sys.argv = [str(EXAMPLES / name), *arguments]
    with printed.open("w") as file, redirect_stdout(file):
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def run(name: str, *arguments: object) -> str:
    """What an example prints in a process of its own, as users run it."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_own_operators_are_searched_exported_and_rebuilt(make_process, tmp_path):
    process = make_process(run_briefly, "own_operators.py", [str(tmp_path / "own")], tmp_path / "printed.txt")
    process.start()
    process.join()
    assert process.exitcode == 0
    printed = (tmp_path / "printed.txt").read_text()
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
def test_the_whole_way_gives_a_comparison_a_latency_and_an_export(run_here, tmp_path):
    printed = run_here("from_images_to_deployment.py", tmp_path / "way")
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


@pytest.mark.slow
def test_a_score_of_ones_own_has_a_shortlist_a_front_and_a_report(run_here, monkeypatch, tmp_path):
    monkeypatch.setattr(psvit, "run_search", partial(psvit.run_search, recipe=SHORT))
    printed = run_here("own_score.py", tmp_path / "run")
    found = yaml.safe_load((tmp_path / "run" / "best.yaml").read_text())
    assert (found["score"]["kind"], found["score"]["version"]) == ("spread of outputs", "1")
    assert printed.count("of training") == len(found["provenance"]["finalists"]) >= 3
    assert (tmp_path / "run" / "report.html").exists()
    # All of it is found done.
    assert run_here("own_score.py", tmp_path / "run") == printed


@pytest.mark.slow
@pytest.mark.xdist_group("ray in commands")
def test_images_of_ones_own_are_searched_here_and_by_workers(run_here, tmp_path):
    here = run_here("own_images.py", tmp_path / "here")
    assert "it tells circle, square, triangle apart" in here
    assert run("own_images.py", tmp_path / "there", "ray") == here
    for name in ("history.csv", "best.safetensors"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()


@pytest.mark.slow
def test_a_sampler_and_a_searcher_of_ones_own_propose(run_here, tmp_path):
    printed = run_here("own_searcher.py", tmp_path)
    assert [line.partition(":")[0] for line in printed.splitlines()] == ["hill-climbing", "tpe", "evolution"]
    for name, origin in (("hill-climbing", "hill climbing"), ("tpe", "TPESampler")):
        with (tmp_path / name / "history.csv").open(newline="") as file:
            origins = [row["origin"] for row in csv.DictReader(file)]
        assert len(origins) == 48
        assert origin in origins


@pytest.mark.slow
def test_an_objective_of_ones_own_is_improved_and_kept_to(run_here, tmp_path):
    printed = run_here("own_objective.py", tmp_path / "run")
    with (tmp_path / "run" / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 64
    assert max(float(row["energy_uj"]) for row in rows) <= 9
    files = sorted((tmp_path / "run" / "pareto").glob("*.yaml"))
    assert f"a front of {len(files)} networks" in printed
    assert set(yaml.safe_load(files[0].read_text())["score"]["objectives"]) == {"accuracy", "energy_uj", "maps"}
