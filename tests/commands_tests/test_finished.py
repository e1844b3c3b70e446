"""Finished runs: they are found finished without an image being read or a network being built."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL.PngImagePlugin import PngImageFile

import psvit

BRIEF = {"epochs": 1, "warmup_epochs": 0, "batch_size": 64}


def search(data, out):
    return psvit.run_search(budget="0.2MFLOPs", data=data, trials=2, recipe=recipe_in(out), out=out).file


def train_supernet(data, out):
    return psvit.train_supernet("psvit-2d-digits", data, settings=BRIEF, out=out).file


def retrain(data, out):
    return psvit.retrain_network(psvit.SearchSpace.load("psvit-2d-digits").largest, data, settings=BRIEF, out=out).file


def recipe_in(out):
    path = out.parent / "brief.yaml"
    path.write_text("schema: psvit/recipe/1\nepochs: 12\nbatch_size: 64\nlr: 0.002\n")
    return path


@pytest.fixture
def decoded(monkeypatch):
    """The files whose pixels were read."""
    files, load = [], PngImageFile.load

    def remember(picture):
        files.append(picture.filename)
        return load(picture)

    monkeypatch.setattr(PngImageFile, "load", remember)
    return files


@pytest.mark.parametrize("run", [search, train_supernet, retrain])
def test_a_finished_run_reads_no_image_and_waits_for_no_library_of_networks(run, decoded, few_digits, tmp_path):
    file = run(few_digits, tmp_path / "run")
    assert decoded
    before = file.read_bytes()
    decoded.clear()
    assert run(few_digits, tmp_path / "run").read_bytes() == before
    assert not decoded
    again = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_finished import {run.__name__}
{run.__name__}({str(few_digits)!r}, Path({str(tmp_path / "run")!r}))
print([name for name in ("timm", "torchvision", "sklearn", "plotly", "ray") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", again], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n", done.stderr
