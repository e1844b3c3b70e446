"""Trained accuracy: candidates are trained up to the first rung, and go on from there if they enter the selection."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import optuna
import pytest
import torch

from psvit import run_search
from psvit.data import Batches, Inputs, accuracy
from psvit.errors import DivergedError
from psvit.executors.executor import LocalExecutor, Portable
from psvit.search.result_cache import ResultCache, StudyStore
from psvit.search.selection.halving import Trainings
from psvit.search.time_limit import TimeIsUpError, TimeLimit
from psvit.search.trained import TrainedAccuracy
from psvit.search.trial import Score
from psvit.space.budget import Budget
from psvit.train import job_runner
from psvit.train.job_runner import JobRunner, train_job
from psvit.train.recipe import Recipe
from psvit.train.training_job import RANDOM
from psvit.train.training_loader import TrainingLoader

CPU = torch.device("cpu")
RECIPE = Recipe.load("digits").override({"epochs": 4, "warmup_epochs": 0, "ema_decay": None, "batch_size": 32})


@pytest.fixture
def data(few_digits):
    return few_digits


@pytest.fixture
def archs(digits_space):
    return list(digits_space.sample(np.random.default_rng(0), 5, Budget.parse("0..0.5MFLOPs")))


@pytest.fixture
def runner(data, tmp_path):
    return JobRunner(data=Portable(lambda: data), device="cpu", folder=tmp_path / "selection")


def make_evaluator(runner, **options):
    """One with a study of its own."""
    store = StudyStore(ResultCache(optuna.create_study()))
    trainings = Trainings(recipe=RECIPE, init=RANDOM, seed=3)
    return TrainedAccuracy(trainings, runner, LocalExecutor(), store, **{"images": 64, "keep": 2, **options})


@pytest.fixture
def evaluator(runner):
    return make_evaluator(runner)


@pytest.fixture
def trained(monkeypatch):
    """Counts trainings."""
    calls, train = [], job_runner.train

    def remember(task, *args, **kwargs):
        calls.append(task.model.arch)
        return train(task, *args, **kwargs)

    monkeypatch.setattr(job_runner, "train", remember)
    return calls


def test_a_score_is_the_accuracy_of_a_training_that_pauses_at_the_first_rung(evaluator, archs, data, tmp_path):
    scores = evaluator.evaluate(archs[:2])
    for arch, score in zip(archs[:2], scores, strict=True):
        job = evaluator.job(arch)
        assert job.until == 1
        inputs = Inputs.of(data, arch.image_size)
        alone = train_job(
            job, data, job_runner.initial_network(job), inputs=inputs, device=CPU, folder=tmp_path / job.digest
        )
        expected = accuracy(alone.network, Batches(data.search, inputs, 32, CPU))
        assert score == Score(value=expected, images=64)


def test_a_score_is_the_same_in_every_population_and_paid_for_once(evaluator, archs, trained):
    first = evaluator.evaluate(archs[:3])
    assert trained == archs[:3]
    assert evaluator.evaluate([archs[4], *reversed(archs[:3])])[1:] == first[::-1]
    assert trained == [*archs[:3], archs[4]]


def test_two_candidates_may_take_more_than_the_time_for_scores_and_comparisons_may_not(runner, archs, monkeypatch):
    now, train = [0.0], job_runner.train

    def take_time(*args, **kwargs):
        now[0] += 20.0
        return train(*args, **kwargs)

    monkeypatch.setattr(job_runner, "train", take_time)
    evaluator = make_evaluator(runner, limit=TimeLimit(100.0, clock=lambda: now[0]), share=0.1)
    for scores, of, number in ((evaluator, archs, 2), (evaluator.apart(), archs[2:], 0)):
        with pytest.raises(TimeIsUpError) as time_is_up:
            scores.evaluate(of)
        assert len(time_is_up.value.scores) == number


def test_only_what_may_go_on_is_kept(evaluator, archs, runner):
    found = []
    for some in (archs[:2], archs[2:4], archs[4:]):
        best = sorted((score.value for _, score in found), reverse=True)
        found += zip(some, evaluator.evaluate(some, best=best), strict=True)
        ranked = sorted((score.value for _, score in found), reverse=True)
        kept = {path.name for path in runner.folder.iterdir()}
        assert kept == {runner.place(evaluator.job(arch)).name for arch, score in found if score.value >= ranked[1]}


def test_the_best_reference_and_the_best_of_the_others_are_kept_in_any_case(evaluator, runner, archs, data):
    scores = dict(zip(archs, (score.value for score in evaluator.evaluate(archs)), strict=True))
    ranked = sorted(archs, key=scores.get, reverse=True)
    assert scores[ranked[0]] > scores[ranked[1]] > scores[ranked[-2]], "or nothing is shown"
    for references in (ranked[-2:], ranked[:-1]):
        runner = replace(runner, folder=runner.folder / "again")
        again = make_evaluator(runner, keep=1, references=references)
        for some in (archs[:2], archs[2:]):
            again.evaluate(some, best=sorted(scores.values(), reverse=True))
        others = [arch for arch in ranked if arch not in references]
        leading = {max(references, key=scores.get), max(others, key=scores.get), ranked[0]}
        kept = {path.name for path in runner.folder.iterdir()}
        assert {runner.place(again.job(arch)).name for arch in leading} <= kept
        assert len(kept) <= len(leading) + sum(scores[arch] in map(scores.get, leading) for arch in archs)


def test_networks_for_comparison_keep_nothing_and_take_no_place(evaluator, archs, runner):
    first = evaluator.evaluate(archs[:2])
    kept = sorted(path.name for path in runner.folder.iterdir())
    assert len(kept) == 2
    drawn = evaluator.apart().evaluate(archs)
    assert drawn[:2] == first
    assert sorted(path.name for path in runner.folder.iterdir()) == kept


def test_a_training_that_fails_gives_no_score_and_the_others_theirs(evaluator, archs, monkeypatch):
    train = job_runner.train

    def failing(task, *args, **kwargs):
        if task.model.arch == archs[1]:
            raise DivergedError("training diverged: the loss is nan in epoch 1")
        return train(task, *args, **kwargs)

    monkeypatch.setattr(job_runner, "train", failing)
    one, failed, other = evaluator.evaluate(archs[:3])
    assert (one.state, other.state) == ("complete", "complete")
    assert failed == Score(value=None, state="failed", reason="training diverged: the loss is nan in epoch 1")


@pytest.fixture
def brief(tmp_path):
    """A recipe file whose quarter has two rungs."""
    path = tmp_path / "brief.yaml"
    path.write_text("schema: psvit/recipe/1\nepochs: 12\nbatch_size: 64\nlr: 0.002\n")
    return path


def test_a_schedule_of_a_single_epoch_has_a_verdict_too(data, brief, tmp_path):
    brief.write_text("schema: psvit/recipe/1\nepochs: 4\nbatch_size: 64\nlr: 0.002\n")
    result = run_search(budget="0.2MFLOPs", data=data, trials=2, recipe=brief, out=tmp_path / "run")
    assert result.finalists[0].looks[-1].epoch == 1
    assert result.verdict is not None
    assert result.verdict.seeds == 3


@pytest.fixture
def search(data, brief):
    def run(out, **changes):
        given = {"data": data, "budget": "0.2MFLOPs", "trials": 6, "recipe": brief}
        return run_search(**{**given, **changes}, out=out)

    return run


def test_a_search_trains_every_candidate_once_and_the_best_third_goes_on(search, tmp_path, monkeypatch):
    begun, train = [], job_runner.train

    def remember(task, loader, recipe, *, seed, until, **kwargs):
        begun.append((task.model.arch, seed, until))
        return train(task, loader, recipe, seed=seed, until=until, **kwargs)

    monkeypatch.setattr(job_runner, "train", remember)
    result = search(tmp_path / "run")
    trials = result.trials
    references = [row for row in trials if row["origin"] == "reference"]
    assert len(trials) == 6 + len(references)
    origins = [row["origin"] for row in trials]
    assert {*origins} <= {"reference", "promising", "mutation", "crossover"}
    assert origins.count("promising") == 3  # and the others are bred from the references
    scored = begun[: len(trials)]
    assert {(seed, until) for _, seed, until in scored} == {(0, 1)}
    assert len({arch for arch, _, _ in scored}) == len(trials)
    # At most three go on to the last rung, and the best reference and the best of the others are among them.
    going = {arch for arch, _, until in begun[len(trials) :] if until is None}
    assert going == {one.arch for one in result.finalists}
    assert 2 <= len(going) <= 5
    ranked = sorted(trials, key=lambda row: -row["score"])
    leader = next(row["number"] for row in ranked if row["origin"] == "reference")
    assert leader in {one.trial.number for one in result.finalists}
    for one in result.finalists:
        assert one.looks[0].accuracies == (one.score,)
        assert [(look.epoch, len(look.accuracies)) for look in one.looks] == [(1, 1), (3, 3)]
    assert result.verdict is not None
    assert not (tmp_path / "run/selection").exists()
    # The same search elsewhere writes the same.
    again = search(tmp_path / "again")
    for name in ("best.yaml", "best.safetensors", "history.csv"):
        assert (again.folder / name).read_bytes() == (result.folder / name).read_bytes()


def test_the_time_of_the_retraining_follows_from_what_trainings_of_the_winner_took(search, data, tmp_path, monkeypatch):
    monkeypatch.setattr(TrainingLoader, "seconds", lambda self, rates: 2.0 * len(list(rates)))
    result = search(tmp_path / "run", trials=3)
    # An epoch of the training images took two seconds; the recipe has 12 epochs, on all training images.
    expected = pytest.approx(12 * 2.0 * len(data.all_train) / len(data.train))
    assert result.next_seconds == expected
    assert "This takes about" in result.report.path.read_text()
    # The study knows it when nothing is trained any more.
    monkeypatch.setattr(job_runner, "train", lambda *args, **kwargs: pytest.fail("trained again"))
    assert search(tmp_path / "run", trials=3).next_seconds == expected


def test_where_another_machine_may_have_trained_no_time_is_said(search, tmp_path):
    result = search(tmp_path / "run", trials=2, storage=tmp_path / "shared.journal")
    assert result.next_seconds is None
    assert "This takes about" not in result.report.path.read_text()


@pytest.mark.slow
def test_a_search_that_was_stopped_anywhere_continues_as_if_it_had_not(search, tmp_path, monkeypatch):
    whole = search(tmp_path / "whole", trials=3)
    train = job_runner.train
    calls = []

    def counted(*args, **kwargs):
        calls.append(1)
        return train(*args, **kwargs)

    for stopped_at in (2, 12):
        calls.clear()

        def stopping(*args, at=stopped_at, **kwargs):
            if len(calls) == at - 1:
                calls.append(1)
                raise SystemExit
            return counted(*args, **kwargs)

        out = tmp_path / f"stopped-{stopped_at}"
        monkeypatch.setattr(job_runner, "train", stopping)
        with pytest.raises(SystemExit):
            search(out, trials=3)
        monkeypatch.setattr(job_runner, "train", train)
        search(out, trials=3)
        for name in ("best.yaml", "best.safetensors", "history.csv"):
            assert (out / name).read_bytes() == (whole.folder / name).read_bytes()
