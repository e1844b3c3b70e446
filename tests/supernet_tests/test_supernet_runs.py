"""Supernet runs as a function of Python: what is given in different forms, found finished, refused and shown."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

import psvit
from psvit.errors import InputError
from psvit.io.announcements import ANNOUNCEMENTS
from psvit.supernet import train as train_module
from psvit.supernet.provenance import read_space
from psvit.supernet.supernet import Supernet

BRIEF = {"epochs": 1, "warmup_epochs": 0, "batch_size": 12}


def test_a_run_gives_the_supernet_and_is_found_finished(tiny_space, tiny_data, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, ANNOUNCEMENTS)
    options = {"recipe": "supernet-digits", "settings": BRIEF, "out": tmp_path / "run", "device": "cpu"}
    trained = psvit.train_supernet(tiny_space, tiny_data(), **options)
    assert f"run: {tmp_path / 'run'}" in caplog.text
    assert trained.space == tiny_space == read_space(trained)
    assert (trained.provenance["seed"], trained.provenance["recipe"]["epochs"]) == (0, 1)
    loaded = trained.load()
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, other = (net.eval()(images, tiny_space.largest) for net in (loaded, Supernet.load(trained.folder)))
    assert torch.equal(one, other)
    monkeypatch.setattr(train_module, "train", lambda *args, **kwargs: pytest.fail("trained again"))
    assert psvit.train_supernet(tiny_space, tiny_data(), **options) == trained
    with pytest.raises(InputError, match="seed: 0 there, 1 here"):
        psvit.train_supernet(tiny_space, tiny_data(), **options, seed=1)


def test_a_space_may_be_a_file_or_left_open(tiny_space, tmp_path, monkeypatch):
    monkeypatch.setattr("psvit.supernet.train.fit_supernet", lambda space, *args, **kwargs: _saved(space, kwargs))
    tiny_space.save(tmp_path / "space.yaml")
    from_file = psvit.train_supernet(tmp_path / "space.yaml", "digits", out=tmp_path / "one", settings=BRIEF)
    assert from_file.space == tiny_space.with_data(10, 1)
    shipped = psvit.train_supernet(None, "digits", out=tmp_path / "two").space
    assert shipped == psvit.SearchSpace.load("psvit-2d-digits").with_data(10, 1)
    made = psvit.train_supernet(None, "digits", image_size=12, out=tmp_path / "made").space
    assert made == psvit.SearchSpace.for_images((12, 12), 1, 10, [])
    larger = psvit.train_supernet("psvit-2d-digits", "digits", image_size="16x12", out=tmp_path / "three").space
    assert larger == psvit.SearchSpace.load("psvit-2d-digits").with_data(10, 1, (16, 12))


def _saved(space, options):
    file = options["folder"] / "supernet.safetensors"
    Supernet(space).save(file, {"data": "<digits>", "seed": 0, "recipe": {"epochs": 1}})
    return file


def test_names_from_data_are_escaped_where_a_notebook_shows_them(tiny_space, tmp_path, monkeypatch):
    monkeypatch.setattr("psvit.supernet.train.fit_supernet", lambda space, *args, **kwargs: _saved(space, kwargs))
    shown = psvit.train_supernet(tiny_space, "digits", out=tmp_path / "run", settings=BRIEF)._repr_html_()
    assert "&lt;digits&gt;" in shown
    assert "<digits>" not in shown


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"recipe": "nothing"}, "nothing"),
        ({"settings": {"epoch": 1}}, "epoch"),
        ({"init": "no-such-model"}, "no-such-model"),
        ({"teacher_weights": "x.pth"}, "of which network"),
        ({"device": "warp"}, "warp"),
        ({"keep": 0}, "keep must be at least 1"),
        ({"checkpoint_seconds": -1.0}, "checkpoint_seconds must be at least 0"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(tiny_space, tiny_data, tmp_path, options, expected):
    with pytest.raises(InputError, match=expected):
        psvit.train_supernet(tiny_space, tiny_data(), out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_images_of_data_sets_are_taken_as_they_are(tiny_space, tmp_path):
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(0, 255, size=(8, 8), dtype=np.uint8), index % 3) for index in range(60)]
    data = psvit.ImageData.from_datasets(pairs, pairs[:12], name="mine")
    trained = psvit.train_supernet(tiny_space, data, settings=BRIEF, out=tmp_path / "run", device="cpu")
    assert trained.provenance["data"] == "mine"
