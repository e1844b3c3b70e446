"""The rule: a network for a budget without images, at once and without a score."""

from __future__ import annotations

import pytest
import torch

import psvit
from psvit import Budget, SearchSpace, cost, run_search
from psvit.arch.architecture import ArchitectureFile
from psvit.errors import InputError
from psvit.space.references import references


def test_without_images_the_favoured_reference_is_taken_and_nothing_is_scored(tmp_path):
    result = run_search(budget="10MFLOPs", image_size=32, out=tmp_path / "run")
    space = SearchSpace.load(result.folder / "space.yaml")
    assert space.contains(result.best.arch)
    assert 9e6 <= cost(result.best.arch).macs <= 10e6
    found = [one for one in references(space, Budget.parse("9..10MFLOPs")) if one.arch == result.best.arch]
    assert [one.name.split(",")[:2] for one in found] == [["HVT-like", " conv stem"]]
    assert (result.best.score, list(result.trials), result.html, result.verdict) == (None, [], None, None)
    with pytest.raises(InputError, match="has no report"):
        _ = result.report
    assert psvit.create_model(result.file)(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)
    file = ArchitectureFile.load(result.file)
    assert (file.score, file.provenance["rule"]) == ({}, found[0].name)
    assert sorted(path.name for path in result.folder.iterdir() if not path.name.startswith(".")) == [
        "best.svg", "best.yaml", "config.yaml", "result.json", "space.yaml",
    ]  # fmt: skip
    # Notebooks show it although it has no score.
    assert "score" not in result.best._repr_html_()
    assert "HVT-like" in repr(result)
    # Repeated, it is the same.
    before = result.file.read_bytes()
    assert run_search(budget="10MFLOPs", image_size=32, out=tmp_path / "run").file.read_bytes() == before


def test_of_a_space_without_references_an_expensive_member_is_taken(tmp_path):
    result = run_search("psvit-2d-digits", budget="1MFLOPs", out=tmp_path / "run")
    space = SearchSpace.load("psvit-2d-digits")
    assert not references(space, Budget.parse("0.9..1MFLOPs"))
    assert space.contains(result.best.arch)
    assert 0.98e6 <= result.best.cost.macs <= 1e6


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ({}, "none"),
        ({"trials": 2}, "training-free indicator DSS"),
        ({"searcher": "random", "trials": 2}, "training-free indicator DSS"),
        ({"evaluator": "dss", "trials": 2}, "training-free indicator DSS"),
        ({"evaluator": "rule"}, "none"),
    ],
)
def test_a_search_without_images_is_by_the_indicator_if_a_search_is_asked_for(tmp_path, asked, kind):
    result = run_search("psvit-2d-digits", budget="1MFLOPs", control=0 if asked.get("trials") else None, **asked,
                        out=tmp_path / "run")  # fmt: skip
    assert result.kind == kind


@pytest.mark.parametrize("evaluator", ["trained", "inherited"])
def test_what_needs_images_is_refused_without_any(tmp_path, evaluator):
    with pytest.raises(InputError, match=f"--evaluator {evaluator}: needs images; give --data"):
        run_search("psvit-2d-digits", budget="1MFLOPs", evaluator=evaluator, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
