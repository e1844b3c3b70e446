"""Estimates: how many epochs a search trains, and how a time limit changes that."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

import psvit.search.estimate as estimating
import psvit.search.run as running
from psvit import ScoringFunction, estimate_search, run_search
from psvit.arch.costs import cost
from psvit.executors.ray_trials import RayExecutor
from psvit.io.announcements import ANNOUNCEMENTS
from psvit.io.documents import read_yaml
from psvit.io.run_folder import CONFIG, SCHEMA
from psvit.search.estimate import Estimate, epochs_of, into_time
from psvit.search.time_limit import TimeLimit
from psvit.space.budget import format_cost
from psvit.space.references import references
from psvit.train import job_runner


@pytest.fixture
def speed(monkeypatch):
    """Sets how many seconds it takes to train on an image."""

    def use(seconds):
        monkeypatch.setattr(estimating, "_measured", lambda *args: seconds)

    return use


@pytest.fixture
def brief(tmp_path):
    path = tmp_path / "brief.yaml"
    path.write_text("schema: psvit/recipe/1\nepochs: 12\nbatch_size: 128\nlr: 0.002\n")
    return path


def test_the_epochs_are_those_that_a_search_trains(plan, brief, few_digits, tmp_path, monkeypatch):
    asked = {"trials": 5, "recipe": brief}
    planned = plan(**asked)
    others = len(references(planned.space, planned.limits))
    expected = list(epochs_of(planned, 5, planned.training.epochs, others, 1))
    seen, train = [], job_runner.train

    def remember(task, loader, recipe, *, folder, until, **kwargs):
        before = max((end for place, end in seen if place == folder), default=0)
        seen.append((folder, until or recipe.epochs))
        counted.append(seen[-1][1] - before)
        return train(task, loader, recipe, folder=folder, until=until, **kwargs)

    counted = []
    monkeypatch.setattr(job_runner, "train", remember)
    run_search(budget="0.5MFLOPs", data=few_digits, **asked, out=tmp_path / "run")
    scored = len([end for _, end in seen if end == 1])
    assert sum(counted[:scored]) == expected[0]
    # One more is expected, which goes on where the best reference or the best of the others is not among the best.
    assert sum(expected[1:]) * 2 / 3 <= sum(counted[scored:]) <= sum(expected[1:])


def test_an_estimate_is_epochs_times_images_times_what_an_image_takes(plan, speed):
    speed(0.001)
    planned = plan()
    found = estimating.estimate(planned)
    epochs = list(epochs_of(planned, 48, planned.training.epochs, len(references(planned.space, planned.limits)), 1))
    an_epoch = 0.001 * len(planned.data.train)
    assert (found.supernet, found.scoring) == (0, pytest.approx(epochs[0] * an_epoch))
    assert found.selection == pytest.approx(sum(epochs[1:]) * an_epoch)
    assert found.total == pytest.approx(found.scoring + found.selection)
    with_supernet = estimating.estimate(plan(evaluator="inherited"))
    assert with_supernet.supernet == pytest.approx(0.001 * len(planned.data.train) * 45)
    assert estimating.estimate(plan(evaluator="rule")) is None
    # What draws for comparison are trained too.
    compared = estimating.estimate(plan(control=40))
    assert compared.scoring == pytest.approx(found.scoring + 40 * an_epoch)
    assert compared.selection == found.selection
    # With several objectives nothing is selected.
    front = estimating.estimate(plan(objectives=["accuracy", "macs"]))
    assert (front.scoring, front.selection) == (found.scoring, 0)
    front = estimating.estimate(plan(objectives=["accuracy", "macs"], evaluator="inherited"))
    assert front.supernet > 0
    assert front.selection == 0


def test_measured_steps_say_about_what_a_training_takes(plan, measure_a_step, monkeypatch):
    monkeypatch.setattr(estimating, "_measured", measure_a_step)
    planned = plan()
    found = estimating.estimate(planned)
    assert 0 < found.scoring < found.selection
    # A day for a few digits would be wrong on any machine.
    assert found.total < 86400


def test_a_recipe_that_needs_its_warm_up_is_measured_without_one(plan, measure_a_step, brief):
    brief.write_text("schema: psvit/recipe/1\nepochs: 12\nbatch_size: 128\nlr: 1.0e+9\nwarmup_epochs: 2\n")
    planned = plan(recipe=brief)
    assert 0 < measure_a_step(planned, planned.space.smallest, planned.training) < 60


def test_without_trainings_it_is_what_scores_take(plan, monkeypatch):
    monkeypatch.setattr(estimating, "_measured", lambda *args: pytest.fail("measured"))
    asked = {"evaluator": "dss", "objectives": ["score", "macs"]}
    assert estimating.estimate(plan(**asked)).scoring > 0
    monkeypatch.setattr(estimating, "_seconds_to_indicate", lambda plan: 2.0)
    assert estimating.estimate(plan(**asked)) == Estimate(scoring=2.0 * (128 + 32))
    assert estimating.estimate(plan(**asked, trials=10, control=3)) == Estimate(scoring=2.0 * 13)
    # How long scores of one's own take, nobody knows.
    own = ScoringFunction(lambda archs: [0.0] * len(archs), name="own", version=1)
    assert estimating.estimate(plan(evaluator=own, finalists=0)) is None


@pytest.fixture
def with_latency(plan, speed, monkeypatch):
    """Plans a search with a limit on latency, whose model takes so many seconds."""

    def make(seconds, **changes):
        speed(0.001)
        monkeypatch.setattr(estimating, "seconds_to_build", lambda plan: seconds)
        return plan(**{"budget": ["0.5MFLOPs", "500ms@cpu"], **changes})

    return make


def test_a_latency_model_that_is_to_be_built_takes_its_time(with_latency):
    without, planned = estimating.estimate(with_latency(0.0)), with_latency(100.0)
    found = estimating.estimate(planned)
    assert found == replace(without, latency=100.0)
    assert found.total == pytest.approx(without.total + 100)
    assert "latency model 2 min" in str(found)
    assert estimating.estimate(replace(planned, latency_models={"cpu": object()})) == without
    improved = with_latency(100.0, objectives=["score", "latency"], evaluator="dss", budget="0.5MFLOPs")
    assert estimating.estimate(improved).latency == 100


def test_what_a_latency_model_takes_is_left_out_of_the_time_for_trainings(with_latency):
    planned = with_latency(0.0)
    seconds = estimating.estimate(planned).total / 2
    expected, _ = into_time(planned, still(seconds))
    found, told = into_time(with_latency(100.0), still(seconds + 100))
    assert (found.trials, found.training) == (expected.trials, expected.training)
    assert found.training.epochs < planned.training.epochs
    assert 100 < told.total <= seconds + 100


def test_no_more_candidates_are_planned_than_there_are(plan, speed):
    speed(0.001)
    narrow = plan(budget="199.9..199.91kFLOPs")
    left = narrow.space.count(narrow.limits) - len(references(narrow.space, narrow.limits))
    assert 0 < narrow.trials == left < 48
    for share in (0.5, 1000.0):
        planned, told = into_time(narrow, still(share * estimating.estimate(narrow).total))
        assert planned.trials <= left
        assert told.total > 0
    assert plan(budget="199.9..199.91kFLOPs", trials=2).trials == 2


def test_images_that_are_mixed_in_pairs_are_measured_with_large_networks_too(plan, measure_a_step, brief, monkeypatch):
    brief.write_text("schema: psvit/recipe/1\nepochs: 12\nbatch_size: 128\nlr: 0.002\nmixup: 0.8\n")
    planned = plan(recipe=brief)
    arch = planned.space.largest
    # 13 images would be a step, if they had not to be mixed.
    monkeypatch.setattr(estimating, "WORK", 13 * estimating.STEPS[0] * cost(arch).macs)
    assert 0 < measure_a_step(planned, arch, planned.training) < 60


def test_a_batch_of_a_single_image_is_measured_too(plan, measure_a_step, brief):
    brief.write_text("schema: psvit/recipe/1\nepochs: 12\nbatch_size: 1\nlr: 0.002\n")
    planned = plan(recipe=brief)
    assert 0 < measure_a_step(planned, planned.space.largest, planned.training) < 60


def still(seconds):
    """So much time, of which none passes."""
    return TimeLimit(seconds, clock=lambda: 0.0)


def test_more_time_gives_longer_schedules_and_then_more_candidates(plan, speed):
    speed(0.001)
    planned = plan()
    usual = estimating.estimate(planned).total
    planned_into = [into_time(planned, still(share * usual)) for share in (0.02, 0.2, 0.5, 1.0, 3.0, 1000.0)]
    found = [one for one, _ in planned_into]
    numbers = [(one.trials, one.training.epochs) for one in found]
    assert numbers[3] == (planned.trials, planned.training.epochs) == (48, 11)
    for (fewer, shorter), (more, longer) in pairwise(numbers):
        assert fewer <= more
        assert shorter <= longer
    trials, epochs = numbers[2]
    assert 3 < epochs < 11
    assert round(48 * epochs / 11) <= trials <= round(48 * (epochs + 1) / 11)  # both in proportion
    assert numbers[0][1] == 3
    assert 6 <= numbers[0][0] < 48
    assert numbers[-1][0] == 480
    for share, one in zip((0.2, 0.5, 1.0, 3.0), found[1:5], strict=True):
        assert estimating.estimate(one).total <= share * usual * 1.001
    assert [told for _, told in planned_into] == [estimating.estimate(one) for one in found]
    # What is asked for stays.
    assert into_time(plan(trials=20), still(1000 * usual))[0].trials == 20


@pytest.fixture
def workers(monkeypatch):
    """Sets how many workers there are of the cluster that is named."""

    def use(number):
        monkeypatch.setattr(RayExecutor, "at_once", lambda self: number)

    return use


def test_workers_shorten_a_search_and_make_room_for_more(plan, speed, workers):
    speed(0.001)
    alone = plan()
    usual = estimating.estimate(alone).total
    trials, totals = [], []
    for number in (1, 2, 7, 1000):
        workers(number)
        planned = plan(workers="ray")
        found = estimating.estimate(planned)
        assert found.at_once == number
        totals.append(found.total)
        trials.append(into_time(planned, still(usual))[0].trials)
    assert totals[0] == pytest.approx(usual)
    assert all(more / 7 < fewer for more, fewer in pairwise(totals))
    assert totals[1] == pytest.approx(usual / 2, rel=0.15)
    assert trials[0] == 48
    assert trials == sorted(trials)
    assert trials[1] > 90
    # No population begins before the last has ended, and the selection has three rungs.
    an_epoch = 0.001 * len(planned.data.train)
    others = len(references(planned.space, planned.limits))
    assert others < 12
    assert totals[-1] == pytest.approx((5 * 1 + (4 - 1) + 11) * an_epoch)


@pytest.mark.parametrize(
    ("cores", "an_image", "changes", "is_said"),
    [
        (8, 1.0, {}, True),
        (8, 1.0, {"evaluator": "inherited"}, True),
        (1, 1.0, {}, False),
        (8, 1e-6, {}, False),
        (8, 1.0, {"workers": "ray"}, False),
    ],
)
def test_long_searches_that_use_one_process_are_told_of_workers(
    speed, workers, monkeypatch, tmp_path, caplog, cores, an_image, changes, is_said
):
    caplog.set_level(logging.INFO, ANNOUNCEMENTS)
    speed(an_image)
    workers(8)
    monkeypatch.setattr(running, "usable_cores", lambda: cores)
    estimate_search(budget="0.5MFLOPs", data="digits", out=tmp_path / "run", **changes)
    assert ("with --workers ray, 8 networks are trained at once" in caplog.text) is is_said


def test_what_a_worker_takes_is_measured_with_one_thread(plan, monkeypatch, workers):
    threads = []
    monkeypatch.setattr(estimating, "_measured", lambda *args: threads.append(torch.get_num_threads()) or 0.001)
    workers(4)
    shared, alone, before = plan(workers="ray"), plan(), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        estimating.estimate(shared)
        estimating.estimate(alone)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert {*threads[: len(threads) // 2]} == {1}
    assert {*threads[len(threads) // 2 :]} == {3}


def test_what_was_planned_is_frozen(speed, brief, few_digits, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "TimeLimit", still)
    asked = {"budget": "0.5MFLOPs", "data": few_digits, "recipe": brief, "seconds": 40.0}
    speed(0.01)
    first = run_search(**asked, out=tmp_path / "run")
    known = read_yaml(tmp_path / "run" / CONFIG, SCHEMA)["planned"]
    others = sum(row["origin"] == "reference" for row in first.trials)
    assert known["trials"] == len(first.trials) - others
    # On a machine that is now slower, with or without the limit, it is the same run.
    speed(0.1)
    for changes in ({}, {"seconds": None}):
        again = run_search(**{**asked, **changes}, out=tmp_path / "run")
        assert again.file.read_bytes() == first.file.read_bytes()
    assert read_yaml(tmp_path / "run" / CONFIG, SCHEMA)["planned"] == known


def test_a_search_that_was_planned_into_a_time_is_extended_by_trials(speed, brief, few_digits, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "TimeLimit", still)
    asked = {"budget": "0.5MFLOPs", "data": few_digits, "recipe": brief, "out": tmp_path / "run"}
    speed(0.01)
    first = run_search(**asked, seconds=40.0)
    known = read_yaml(tmp_path / "run" / CONFIG, SCHEMA)["planned"]
    more = run_search(**asked, seconds=40.0, trials=known["trials"] + 2)
    assert len(more.trials) == len(first.trials) + 2
    assert [row["arch"] for row in more.trials[: len(first.trials)]] == [row["arch"] for row in first.trials]
    assert read_yaml(tmp_path / "run" / CONFIG, SCHEMA)["planned"] == known


def test_processes_that_share_a_study_plan_the_same_whatever_they_measure(plan, speed, tmp_path):
    asked = plan(seconds=40.0, storage=str(tmp_path / "shared.journal")).asked
    configs = []
    for an_image in (0.01, 0.02):
        speed(an_image)
        planned, _, told = running._planned(asked, tmp_path / str(an_image), still(40.0))
        configs.append(planned.config)
        assert told is None
    assert configs[0] == configs[1]


def test_a_dry_run_says_the_same_and_writes_nothing(speed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    speed(0.001)
    found = estimate_search(budget="0.5MFLOPs", data="digits", out=tmp_path / "run")
    assert isinstance(found, Estimate)
    assert found.total > 0
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_without_images_names_the_network_that_is_found(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, ANNOUNCEMENTS)
    monkeypatch.chdir(tmp_path)
    assert estimate_search("psvit-2d-digits", budget="1MFLOPs") is None
    assert list(tmp_path.iterdir()) == []
    said = caplog.text
    best = run_search("psvit-2d-digits", budget="1MFLOPs", out=tmp_path / "run").best
    assert f"{best.name}: {format_cost('macs', best.cost.macs)}" in said


def test_a_time_that_is_too_short_for_the_least_search_is_told(speed, tmp_path, caplog):
    caplog.set_level(logging.INFO, ANNOUNCEMENTS)
    speed(0.001)
    least = estimate_search(budget="0.5MFLOPs", data="digits", seconds=1.0, out=tmp_path / "run").total
    enough = math.ceil(least / 60)
    assert f"give --time {enough}min to have all of it" in caplog.text
    caplog.clear()
    estimate_search(budget="0.5MFLOPs", data="digits", seconds=60.0 * enough, out=tmp_path / "run")
    assert "give --time" not in caplog.text
