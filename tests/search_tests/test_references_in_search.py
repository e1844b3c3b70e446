"""References in a search: evaluated first, learnt from, selected like all others, and judged against."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from psvit import Budget, ImageData, Objective, SearchSpace, cost, run_search
from psvit.arch.architecture import ArchitectureFile
from psvit.space.references import references
from psvit.train.recipe import Recipe

SPACE, BUDGET = "psvit-nano", "5MFLOPs"
HAND_MADE = [one.arch for one in references(SearchSpace.load(SPACE), Budget.parse(BUDGET).spent(0.9))]


def is_like_hvt(arch):
    """A class token, two max poolings, one width."""
    widths = {stage.embed_dim for stage in arch.stages}
    return (arch.variant, arch.pools, len(widths)) == ("1d", ("max", "max"), 1)


def hvt_likes(archs):
    """A score that prefers them, and among them those with more sharing and thinner MLPs than a reference has."""
    return [
        10.0 * is_like_hvt(arch) - sum(len(stage.groups) + stage.mlp_ratio for stage in arch.stages) for arch in archs
    ]


@pytest.mark.parametrize("searcher", ["evolution", "random", "optuna-tpe"])
def test_references_come_first_beside_the_trials(tmp_path, searcher):
    result = run_search(SPACE, budget=BUDGET, evaluator=hvt_likes, searcher=searcher, trials=4, control=0, out=tmp_path)
    assert len(result.trials) == result.wanted == len(HAND_MADE) + 4
    origins = [row["origin"] for row in result.trials]
    assert origins[: len(HAND_MADE)] == ["reference"] * len(HAND_MADE)
    assert "reference" not in origins[len(HAND_MADE) :]
    space = SearchSpace.load(SPACE)
    assert [space[row["index"]] for row in result.trials][: len(HAND_MADE)] == HAND_MADE
    # The same call finds all of it done.
    options = {"searcher": searcher, "trials": 4, "control": 0, "out": tmp_path}
    again = run_search(SPACE, budget=BUDGET, evaluator=never, **options)
    assert list(again.trials) == list(result.trials)


def never(archs):
    raise AssertionError("scored again")


never.__name__ = hvt_likes.__name__  # a score of another name would be refused


def test_a_score_that_prefers_hvt_likes_finds_better_ones_than_the_reference(tmp_path):
    result = run_search(SPACE, budget=BUDGET, evaluator=hvt_likes, trials=96, control=0, out=tmp_path)
    assert is_like_hvt(result.best.arch)
    assert result.best.arch not in HAND_MADE
    assert result.best.score > max(hvt_likes(HAND_MADE))


def parameters(arch):
    return float(cost(arch).num_params)


def test_references_keep_limits_on_numbers_of_ones_own(tmp_path):
    # Some of the references have more; smaller ones of their kind take their places.
    upper = float(np.median([parameters(arch) for arch in HAND_MADE]))
    limits = [BUDGET, Objective("weights", parameters, upper=upper)]
    result = run_search(SPACE, budget=limits, evaluator=hvt_likes, trials=4, control=0, out=tmp_path)
    space = SearchSpace.load(SPACE)
    first = [space[row["index"]] for row in result.trials if row["origin"] == "reference"]
    assert len(first) >= 3
    assert all(parameters(arch) <= upper for arch in first)
    assert set(first) - set(HAND_MADE)


@pytest.fixture(scope="module")
def patterns():
    """Noisy grey images of three classes, 8 x 8 pixels."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, size=(3, 8, 8))
    made = [((base[i % 3] * 0.5 + rng.integers(0, 128, size=(8, 8))).astype(np.uint8), i % 3) for i in range(240)]
    return ImageData.from_datasets(made[:180], made[180:], name="patterns")


@pytest.fixture(scope="module")
def found(patterns, tmp_path_factory):
    """A search in a space that is made for its images."""
    recipe = Recipe.load("digits").override({"epochs": 12, "warmup_epochs": 0, "ema_decay": None})
    space = SearchSpace.for_images((8, 8), 1, 3, "1MFLOPs")
    options = {"evaluator": hvt_likes, "trials": 12, "control": 0, "finalists": 1, "recipe": recipe}
    return run_search(space, budget="1MFLOPs", data=patterns, out=tmp_path_factory.mktemp("run"), **options)


@pytest.mark.xdist_group("patterns")
def test_every_variant_and_stem_and_all_references_enter_the_selection(found):
    entered = {(one.arch.variant, one.arch.stem) for one in found.finalists if not one.is_reference}
    tried = {(one.variant, one.stem) for one in archs_of(found)}
    assert entered == tried
    hand_made = [one for one in found.finalists if one.is_reference]
    assert {one.name.split("-like")[0] for one in hand_made} == {"DeiT", "PiT", "HVT"}
    assert len({one.name for one in hand_made}) == len(hand_made)
    assert len(hand_made) == sum(row["origin"] == "reference" for row in found.trials)


def archs_of(result):
    space = SearchSpace.load(result.folder / "space.yaml")
    return [space[row["index"]] for row in result.trials if row["origin"] != "reference"]


@pytest.mark.xdist_group("patterns")
def test_the_verdict_stands_in_the_result_the_file_and_the_report(found, patterns):
    verdict = found.verdict
    assert verdict is not None
    assert (verdict.images, verdict.seeds) == (len(patterns.verdict), 3)
    assert verdict.winner == found.best.name
    assert verdict.is_found != found.best.is_reference
    rival = next(one for one in found.finalists if one.name == verdict.rival)
    assert rival.is_reference == verdict.is_found
    assert verdict.interval[0] <= verdict.points <= verdict.interval[1]
    content = yaml.safe_load(found.file.read_text())
    assert content["verdict"]["text"] == str(verdict)
    assert content["verdict"]["points"] == verdict.points
    assert list(content).index("verdict") < list(content).index("score")
    assert str(verdict) in found.report.path.read_text()
    assert ArchitectureFile.load(found.file).verdict["winner"] == found.best.name
