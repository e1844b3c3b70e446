"""`run_search` as a notebook calls it: scores, searchers, samplers, objectives, limits and images of a user's own."""

from __future__ import annotations

import csv
import logging
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from optuna.samplers import CmaEsSampler, NSGAIISampler, RandomSampler, TPESampler

import psvit
from psvit import Architecture, ImageData, InputError, Objective, ScoringFunction, Searcher, cost, run_search
from psvit.data import Batches, Inputs, accuracy
from psvit.executors import ray_cluster
from psvit.io.announcements import ANNOUNCEMENTS
from psvit.search.spaces import choose_space
from psvit.search.trial import Score
from psvit.train.recipe import Recipe

SPACE, BUDGET = "psvit-2d-digits", "0.9..1.1MFLOPs"


def many_heads(archs):
    """More heads in late layers are better, and there are few ties."""
    return [
        sum(place * stage.embed_dim * stage.depth for place, stage in enumerate(arch.stages, start=1))
        + len(arch.pools) / 7
        for arch in archs
    ]


def fewest_maps(arch):
    return sum(len(stage.groups) for stage in arch.stages)


@pytest.fixture
def search(tmp_path):
    """A short search in a folder of this name."""

    def searched(name, **options):
        return run_search(
            SPACE,
            out=tmp_path / name,
            **{"budget": BUDGET, "evaluator": many_heads, "trials": 24, "control": 4, **options},
        )

    return searched


@pytest.fixture(scope="module")
def members():
    """All members of the space with their costs."""
    space = psvit.SearchSpace.load(SPACE)
    return [(arch, cost(arch)) for arch in (space[index] for index in range(space.size))]


class Interrupting:
    """A scoring function that is interrupted at a call."""

    def __init__(self, at):
        self.calls, self.at = 0, at

    def __call__(self, archs):
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return many_heads(archs)


# --- results


def test_a_result_is_what_is_written(search):
    result = search("run")
    assert result.best.arch == Architecture.load(result.file) == Architecture.load(result.folder / "best.yaml")
    assert (result.kind, result.data, result.stopped, result.wanted) == ("many_heads", None, None, 24)
    with (result.folder / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["number"]) for row in rows] == [row["number"] for row in result.trials]
    best = max(result.trials, key=lambda row: row["score"])
    assert result.best.score == best["score"] == many_heads([result.best.arch])[0]
    assert len(result.trials) == 24
    # Nothing that is on the front costs more and is worse than something else.
    points = [(point.cost.macs, point.score) for point in result.front]
    assert points == sorted(points)
    assert [score for _, score in points] == sorted(score for _, score in points)
    assert all(any(m <= row["macs"] and s >= row["score"] for m, s in points) for row in result.trials)
    assert (result.folder / "report.html").read_text() == Path(result.report).read_text()


def test_results_show_themselves_in_a_notebook(search):
    result = search("run", trials=6)
    assert "<svg" in result._repr_html_()
    assert f"<th>{result.kind}</th>" in result._repr_html_()
    assert result.trials._repr_html_().count("<tr>") == 1 + 6
    assert "<svg" in result.best._repr_html_()
    assert result.report._repr_html_().startswith("<iframe srcdoc=")


def test_the_same_call_finds_a_finished_run_finished(search):
    first, asked = search("run"), []
    second = search("run", evaluator=ScoringFunction(lambda archs: asked.append(archs), name="many_heads"))
    assert (first.trials, first.best.arch) == (second.trials, second.best.arch)
    assert not asked


# --- scores


@pytest.mark.parametrize("at", [2, 3])
def test_a_search_that_was_interrupted_continues_to_the_same_end(search, at):
    options = {"searcher": "random", "trials": 96, "control": 0}
    whole = search("whole", **options)
    scores = ScoringFunction(Interrupting(at), name="many_heads")
    stopped = search("parts", evaluator=scores, **options)
    assert isinstance(stopped.stopped, KeyboardInterrupt)
    assert 0 < len(stopped.trials) < 96
    best = max(stopped.trials, key=lambda row: row["score"])
    assert stopped.best.score == best["score"]
    continued = search("parts", **options)
    assert continued.stopped is None
    assert continued.trials == whole.trials
    assert (continued.folder / "best.yaml").read_bytes() == (whole.folder / "best.yaml").read_bytes()


def test_a_study_is_not_continued_with_another_score(search, tmp_path):
    first = search("run", evaluator=ScoringFunction(many_heads, name="heads", version="1"))
    history = (first.folder / "history.csv").read_bytes()
    for changed, said in (
        ({"version": "2"}, "evaluator.version: 1 there, 2 here"),
        ({"name": "feet"}, "evaluator.kind"),
    ):
        other = ScoringFunction(many_heads, **{"name": "heads", **changed})
        with pytest.raises(InputError, match=said):
            search("run", evaluator=other)
        # In another folder, the study itself is asked.
        storage = tmp_path / "shared.journal"
        search("a", evaluator=ScoringFunction(many_heads, name="heads"), storage=storage, study="ours")
        with pytest.raises(InputError, match=said):
            search(f"b-{said[-3:]}", evaluator=other, storage=storage, study="ours")
    assert (first.folder / "history.csv").read_bytes() == history


def test_what_cannot_be_scored_has_failed_and_does_not_win(search):
    def some(archs):
        scores = many_heads(archs)
        return [[value, None, math.nan, math.inf][place % 4] for place, value in enumerate(scores)]

    result = search("run", evaluator=some, searcher="random")
    states = [row["state"] for row in result.trials]
    assert states.count("failed") >= 12
    assert states.count("complete") + states.count("failed") == 24
    assert math.isfinite(result.best.score)


class Own:
    """An evaluator with all that the interface has."""

    def evaluate(self, archs, best=(), parts=1):
        return [Score(value=value, images=7) for value in many_heads(archs)]

    def describe(self):
        return {"kind": "own", "of": [1, 2]}


def test_an_evaluator_says_what_its_scores_are(search):
    result = search("run", evaluator=Own())
    assert result.kind == "own"
    assert {row["images"] for row in result.trials} == {7}
    assert [row["score"] for row in result.trials] == [row["score"] for row in search("other").trials]


@pytest.mark.parametrize(
    ("evaluator", "expected"),
    [
        (lambda archs: [1.0] * len(archs), "a function with a name"),
        ("accuracy", "'accuracy': unknown; permitted are trained, inherited, dss"),
        (7, "must be an evaluator"),
        (ScoringFunction(lambda archs: [1.0], name="one"), "must return one score for each architecture"),
        (ScoringFunction(lambda archs: 1.0, name="one"), "must return a list of scores"),
        (ScoringFunction(lambda archs: ["high"] * len(archs), name="words"), "must return numbers, received 'high'"),
    ],
)
def test_what_is_no_score_is_refused_in_one_line(search, evaluator, expected):
    with pytest.raises(InputError, match=expected) as refused:
        search("run", evaluator=evaluator)
    assert "\n" not in str(refused.value)


# --- searchers


class Widest(Searcher):
    """Proposes the widest of a few that it draws."""

    name, batch_size = "widest", 6

    def propose(self, n, history, candidates, rng):
        drawn = candidates.draw_unseen(3 * n, history, rng)
        widest = sorted(drawn, key=lambda arch: -arch.stages[-1].embed_dim)[:n]
        return candidates.propose(widest, self.name)


def test_a_searcher_of_ones_own_searches(search, members):
    result = search("run", searcher=Widest())
    assert {row["origin"] for row in result.trials} == {"widest"}
    within = {arch for arch, costs in members if 900_000 <= costs.macs <= 1_100_000}
    space = psvit.SearchSpace.load(SPACE)
    assert {space[row["index"]] for row in result.trials} <= within
    assert result.trials == search("again", searcher=Widest()).trials


@pytest.mark.parametrize(
    "sampler",
    [
        TPESampler(n_startup_trials=4),
        CmaEsSampler(n_startup_trials=4, warn_independent_sampling=False),
        pytest.param(RandomSampler(), marks=pytest.mark.slow),
        pytest.param(NSGAIISampler(population_size=8, seed=3), marks=pytest.mark.slow),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_any_sampler_of_optunas_searches_and_continues(search, sampler):
    options = {"searcher": sampler, "trials": 12, "control": 0}
    whole = search("whole", **options)
    search("parts", **{**options, "trials": 8})
    assert search("parts", **options).trials == whole.trials
    origins = [row["origin"] for row in whole.trials]
    assert origins.count(type(sampler).__name__) > 0
    assert search("seeded", **options, seed=1).trials != whole.trials


def test_a_sampler_with_other_options_is_another_searcher(search):
    search("run", searcher=TPESampler(n_startup_trials=4))
    with pytest.raises(InputError, match=r"searcher_parameters\.n_startup_trials: 4 there, 5 here"):
        search("run", searcher=TPESampler(n_startup_trials=5))


def test_what_is_no_searcher_is_refused(search):
    with pytest.raises(InputError, match="a searcher of your own"):
        search("run", searcher=object())


# --- objectives and limits


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_front_holds_what_nothing_beats_in_an_objective_of_ones_own(search, members, direction):
    maps = Objective("maps", fewest_maps, direction=direction)
    options = {"budget": "1..1.02MFLOPs", "searcher": "enumerate", "trials": None, "control": 0}
    result = search("run", objectives=["score", maps], **options)
    sign = 1 if direction == "maximize" else -1
    within = [arch for arch, costs in members if 1_000_000 <= costs.macs <= 1_020_000]
    assert len(result.trials) == len(within) > 50
    values = np.array([(*many_heads([arch]), sign * fewest_maps(arch)) for arch in within])
    beaten = [np.any(np.all(values >= mine, axis=1) & np.any(values > mine, axis=1)) for mine in values]
    expected = {tuple(mine) for mine, is_beaten in zip(values, beaten, strict=True) if not is_beaten}
    # Of those that are equal in all objectives, one is enough.
    found = [(*many_heads([point.arch]), sign * fewest_maps(point.arch)) for point in result.front]
    assert sorted(found) == sorted(expected)
    assert [Architecture.load(point.file) for point in result.front] == [point.arch for point in result.front]
    space = psvit.SearchSpace.load(SPACE)
    assert [row["maps"] for row in result.trials] == [fewest_maps(space[row["index"]]) for row in result.trials]
    assert "maps" in (result.folder / "report.html").read_text()


@pytest.mark.parametrize("searcher", ["evolution", "random", "optuna-nsga2"])
def test_a_limit_of_ones_own_is_kept(search, members, searcher):
    limit = Objective("maps", fewest_maps, lower=3, upper=4)
    result = search("run", budget=[BUDGET, limit], searcher=searcher)
    space = psvit.SearchSpace.load(SPACE)
    assert len(result.trials) == 24
    assert {fewest_maps(space[row["index"]]) for row in result.trials} <= {3, 4}
    assert [row["maps"] for row in result.trials] == [fewest_maps(space[row["index"]]) for row in result.trials]


def test_a_limit_of_ones_own_that_nothing_keeps_is_refused(search):
    with pytest.raises(InputError, match=r"maps is .* for the smallest architecture and"):
        search("run", budget=[BUDGET, Objective("maps", fewest_maps, upper=0)])


def test_an_objective_without_an_end_is_no_limit(search):
    with pytest.raises(InputError, match="'maps' has no end"):
        search("run", budget=[BUDGET, Objective("maps", fewest_maps)])


@pytest.mark.parametrize("options", [{"trials": 0}, {"finalists": -1}, {"control": -1}, {"seconds": 0.0}, {"seed": -1}])
def test_numbers_that_cannot_be_are_refused(search, options):
    (name,) = options
    with pytest.raises(InputError, match=f"^{name} must be"):
        search("run", **options)


@pytest.mark.parametrize(
    "options",
    [
        {"budget": 1_000_000},
        {"budget": (1e6, 2e6)},
        {"budget": ["1MFLOPs", 5]},
        {"budget": None},
        {"budget": []},
        {"trials": 4.0},
        {"seed": None},
        {"seconds": "2h"},
        {"objectives": None},
        {"latency": 5},
        {"workers": 4},
        {"settings": ["epochs=3"], "data": "digits"},
    ],
    ids=str,
)
def test_arguments_of_another_type_are_refused_before_anything_is_written(search, tmp_path, options):
    with pytest.raises(InputError, match=next(iter(options))):
        search("run", **options)
    assert not (tmp_path / "run").exists()


def test_a_budget_and_numbers_of_numpys_are_what_text_and_pythons_are(search, tmp_path):
    parsed = psvit.Budget.parse("0.9..1.1MFLOPs", "200kparams")
    one = search("one", budget=parsed, trials=np.int64(6), seed=np.int32(1))
    other = search("other", budget=["900..1100kFLOPs", "200kparams"], trials=6, seed=1)
    assert (one.best.arch, list(one.trials)) == (other.best.arch, list(other.trials))
    configs = [(tmp_path / name / "config.yaml").read_text() for name in ("one", "other")]
    assert configs[0] == configs[1]
    assert parsed.satisfied_by(one.best.cost)


def test_objectives_may_be_one_text(search):
    assert search("run", objectives="score,macs", trials=4).objectives == ("score", "macs")


def test_no_objective_is_called_as_a_column_of_trials(search):
    columns = search("run", objectives=["score", "macs"], trials=4).trials[0]
    for name in {*columns} - {"score", "macs"}:
        with pytest.raises(InputError, match="its name must be"):
            Objective(name, fewest_maps).check()


def test_an_objective_that_gives_nothing_is_named(search):
    with pytest.raises(InputError, match="'empty': must return a number, received None"):
        search("run", objectives=["score", Objective("empty", lambda arch: None)])


def test_an_objective_that_is_no_number_fails_its_trial(search):
    result = search(
        "run", objectives=["score", Objective("odd", lambda arch: math.nan if fewest_maps(arch) % 2 else 1.0)]
    )
    space = psvit.SearchSpace.load(SPACE)
    odd = [fewest_maps(space[row["index"]]) % 2 == 1 for row in result.trials]
    assert [row["state"] == "failed" for row in result.trials] == odd
    assert any(odd)


def test_a_study_is_not_continued_with_another_objective(search):
    search("run", objectives=["score", Objective("maps", fewest_maps)])
    for other in (Objective("maps", fewest_maps, version="2"), Objective("maps", fewest_maps, direction="maximize")):
        with pytest.raises(InputError, match=r"own_objectives\.maps"):
            search("run", objectives=["score", other])


# --- images


class Stripes(torch.utils.data.Dataset):
    """Grey images whose class is the direction of their stripes."""

    classes = ("across", "down")

    def __init__(self, number, seed):
        rng = np.random.default_rng(seed)
        self.targets = (np.arange(number) % 2).tolist()
        stripes = np.tile(np.array([0, 200], dtype=np.uint8).repeat(2), (8, 2))
        noise = rng.integers(0, 50, size=(number, 8, 8), dtype=np.uint8)
        self.images = np.stack([stripes.T if target else stripes for target in self.targets]) + noise

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return self.images[index], self.targets[index]


@pytest.fixture(scope="module")
def stripes():
    return ImageData.from_datasets(Stripes(80, 0), Stripes(40, 1), name="stripes")


BRIEF = {"epochs": 2, "warmup_epochs": 0, "batch_size": 20}

SHORT = Recipe(epochs=8, batch_size=20, lr=0.002)
"""A selection by this recipe trains for two epochs."""


def test_data_sets_are_searched_for(search, stripes):
    settings = {"supernet_settings": BRIEF, "recipe": SHORT}
    result = search("run", data=stripes, evaluator="inherited", trials=8, finalists=2, control=0, **settings)
    assert result.data == "stripes"
    # No command can open them, so what goes on is a call.
    called = eval(
        result.next_command, {"psvit": SimpleNamespace(retrain_network=lambda *a, **k: (a, k)), "data": stripes}
    )
    changed = {"epochs": 8, "batch_size": 20}
    assert called[0] == (str(result.file), stripes)
    assert {key: called[1]["settings"][key] for key in changed} == changed
    assert result.best.arch.num_classes == 2
    assert result.best.accuracy is not None
    assert (result.folder / "best.safetensors").exists()
    assert psvit.Classifier.load(result.folder).preprocessing.classes == Stripes.classes


def test_the_shortlist_of_a_score_of_ones_own_is_trained(search, stripes):
    alone = search("alone", data=stripes, trials=8, finalists=2, recipe=SHORT)
    assert len(alone.finalists) == 2
    best = sorted(alone.trials, key=lambda row: -row["score"])[:2]
    assert {one.trial.number for one in alone.finalists} == {row["number"] for row in best}
    assert all(len(one.accuracies) == 3 for one in alone.finalists)
    means = [one.accuracy for one in alone.finalists]
    assert means == sorted(means, reverse=True)
    # Nothing was inherited, so the weights are those of the selection's training.
    network = psvit.Classifier.load(alone.folder).network
    batches = Batches(stripes.search, Inputs.of(stripes, alone.best.arch.image_size), 10, torch.device("cpu"))
    assert accuracy(network, batches) == alone.best.accuracies[0]


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_workers_score_and_train_with_data_sets_scores_and_operators_of_ones_own(search, stripes, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    connect, begun = ray_cluster.connect, []
    monkeypatch.setattr(ray_cluster, "connect", lambda address: begun.append(address) or connect(address))
    options = {"data": stripes, "trials": 8, "finalists": 1, "recipe": SHORT}
    here = search("here", **options)
    there = search("there", **options, workers="ray")
    assert there.trials == here.trials
    assert [one.accuracies for one in there.finalists] == [one.accuracies for one in here.finalists]
    inherited = {"data": stripes, "evaluator": "inherited", "supernet_settings": BRIEF, "trials": 8, "finalists": 0}
    trained = search("trained", **inherited, workers="ray")
    alone = search("trained-here", **inherited)
    assert trained.trials == alone.trials
    assert begun == ["ray", "ray"], "each search starts one cluster"


# --- spaces that are made for images


def photographs(height, width):
    """Coloured images of three classes, 24 of each."""
    rng = np.random.default_rng(0)
    made = [(rng.integers(0, 256, size=(height, width, 3), dtype=np.uint8), index % 3) for index in range(72)]
    return ImageData.from_datasets(made, made[:9], name=f"photographs-{height}x{width}")


def test_images_are_searched_at_their_own_size(tmp_path, caplog):
    caplog.set_level(logging.INFO, ANNOUNCEMENTS)
    options = {"evaluator": many_heads, "trials": 4, "control": 0, "finalists": 0, "out": tmp_path}
    result = run_search(budget="6MFLOPs", data=photographs(48, 32), **options)
    assert (result.best.arch.image_size, result.best.arch.in_chans, result.best.arch.num_classes) == ((48, 32), 3, 3)
    space = psvit.SearchSpace.load(tmp_path / "space.yaml")
    assert space == psvit.SearchSpace.for_images((48, 32), 3, 3, "6MFLOPs")
    assert space.contains(result.best.arch)
    run, images, *_ = caplog.messages
    assert run == f"run: {tmp_path}"
    assert "48 x 32 pixels" in images


@pytest.mark.parametrize(
    ("wanted", "size", "image_size", "made"),
    [
        (None, (48, 32), None, (48, 32)),
        (None, (48, 32), (24, 24), (24, 24)),
        (None, (640, 480), None, (288, 224)),
        (None, None, None, (224, 224)),
        (None, None, (96, 64), (96, 64)),
        ("psvit-2d-nano", (48, 32), None, (32, 32)),
        ("psvit-2d-nano", (48, 32), (48, 32), (48, 32)),
        ("psvit-2d-nano", None, (40, 40), (40, 40)),
    ],
)
def test_the_size_is_the_one_asked_for_or_the_spaces_or_the_images(wanted, size, image_size, made):
    space = psvit.SearchSpace.load(wanted) if wanted else None
    data = photographs(*size) if size else None
    found = choose_space(space, None, data, ("20MFLOPs",), image_size)
    assert found.image_size == made
    assert found.num_classes == (3 if data else 10 if wanted else 1000)
    assert wanted is None or found.differs_in_data_only(space)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"image_size": "96x"}, "image_size '96x': must be a side in pixels"),
        ({"image_size": 600}, "sides of 8 to 512 pixels, received 600 x 600"),
        ({"image_size": 30, "space": "psvit-2d-nano"}, "psvit-2d-nano: patches of 4 pixels, 4 apart, must cover"),
        ({"budget": "1kFLOPs"}, "does not suit images of 48 x 32 pixels"),
        ({"budget": "60%"}, "--init"),
        ({"budget": "2GFLOPs", "space": "psvit-2d-nano"}, "no architecture of psvit-2d-nano can spend"),
    ],
)
def test_sizes_and_budgets_that_do_not_suit_are_refused_before_anything_is_written(tmp_path, options, expected):
    given = {"budget": "10MFLOPs", "data": photographs(48, 32), "evaluator": many_heads, **options}
    with pytest.raises(InputError, match=expected) as refused:
        run_search(out=tmp_path / "run", **given)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()
