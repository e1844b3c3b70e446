"""Fidelity: trainings that are kept, what is written of them, and how a search finds it beside the supernet."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import time
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import yaml

import psvit
from psvit.arch.costs import cost
from psvit.data import Batches, Inputs, Labelled, logistic_regression, open_data
from psvit.errors import DivergedError, InputError, RunError
from psvit.executors.executor import Portable
from psvit.io.documents import read_yaml
from psvit.io.journal import Journal
from psvit.nn.seeding import seeded
from psvit.search.fidelity import record as record_module
from psvit.search.fidelity import run as run_module
from psvit.search.fidelity.record import (
    FILE_NAME,
    INHERITED,
    Fidelity,
    in_words,
    known_fidelity,
    leave_beside,
    read_fidelities,
    write_fidelities,
)
from psvit.search.fidelity.report import render
from psvit.search.fidelity.run import compare, score_networks, table, train_and_compare, train_networks
from psvit.search.fidelity.trainings import Trainings
from psvit.search.indicators import INDICATORS
from psvit.search.inherited import InheritedAccuracy
from psvit.search.scoring import Scoring, portable_supernet
from psvit.space.budget import Budget
from psvit.supernet.provenance import supernet_digest
from psvit.supernet.supernet import Supernet
from psvit.train import job_runner
from psvit.train.checkpoints import Checkpoints
from psvit.train.recipe import Recipe
from psvit.train.training import train

CPU = torch.device("cpu")
MFLOPS = Budget.parse("1MFLOPs")


class Untouched(Labelled):
    """Images that must not be looked at."""

    def __init__(self):
        pass

    def __getitem__(self, index):
        pytest.fail("validation images were looked at")


@pytest.fixture(scope="module")
def data():
    """Few of the digits, and no validation images."""
    digits = open_data("digits")
    return replace(digits, train=digits.train.take(np.arange(96)), search=digits.search, val=Untouched())


@pytest.fixture(scope="module")
def recipe():
    return Recipe.load("digits").override({"epochs": 1, "warmup_epochs": 0, "ema_decay": None})


@pytest.fixture
def supernet(digits_space, tmp_path):
    """The run folder of a supernet that was never trained."""
    return untrained(digits_space, tmp_path)


def untrained(space, folder):
    with seeded(0):
        Supernet(space).save(folder / "supernet/supernet.safetensors", {"data": "digits"})
    return folder / "supernet"


@pytest.fixture(scope="module")
def trainings(digits_space, data, recipe):
    """Three networks around the budget, two of them trained twice, and two over the range."""
    return Trainings(
        space=digits_space,
        data=data,
        budget=("1MFLOPs",),
        recipe=recipe,
        images=None,
        seed=5,
        device=CPU,
        within=3,
        spread=2,
        second_seeds=2,
    )


@pytest.fixture(scope="module")
def finished(trainings, digits_space, tmp_path_factory):
    """What was measured with such trainings, the folder of its run, and the supernet; not to be changed by tests."""
    place = tmp_path_factory.mktemp("finished")
    supernet = untrained(digits_space, place)
    measured = train_and_compare(trainings, str(supernet), place / "run", "psvit-fidelity --out 'run'")
    return measured, place / "run", supernet


# --- trainings that are kept


def test_every_network_is_trained_once_with_each_seed_that_is_wanted(trainings, trained, tmp_path):
    accuracies, failures = train_networks(trainings, tmp_path)
    drawn = trainings.networks
    assert (len(drawn.within), len(drawn.spread), failures) == (3, 2, [])
    assert trained == [(arch, 5) for arch in (*drawn.within, *drawn.spread)] + [(arch, 6) for arch in drawn.within[:2]]
    assert set(accuracies) == set(trained)
    # Seeds differ in initialisation, order and augmentation.
    assert any(accuracies[arch, 5] != accuracies[arch, 6] for arch in drawn.within[:2])
    lines = [json.loads(line) for line in (tmp_path / "trainings.journal").read_text().splitlines()]
    assert len(lines) == 1 + 7
    trained.clear()
    assert train_networks(trainings, tmp_path) == (accuracies, [])
    assert trained == []


def test_more_networks_and_seeds_add_to_those_that_are_there(trainings, trained, tmp_path):
    before, _ = train_networks(trainings, tmp_path)
    trained.clear()
    more = replace(trainings, within=4, spread=3, second_seeds=3)
    after, _ = train_networks(more, tmp_path)
    assert len(trained) == 3
    assert not set(trained) & set(before)
    assert {key: after[key] for key in before} == before
    # Fewer are fewer again, and nothing is lost.
    assert train_networks(trainings, tmp_path)[0] == before
    assert len(trained) == 3


def test_trainings_that_were_interrupted_continue_as_if_they_had_not_been(trainings, trained, tmp_path, monkeypatch):
    two = replace(trainings, recipe=trainings.recipe.override({"epochs": 2}))
    monkeypatch.setattr(Checkpoints, "due", True)
    whole, _ = train_networks(two, tmp_path / "whole")
    record = job_runner.train
    for stopped_at in (0, 6):
        trained.clear()
        folder = tmp_path / f"{stopped_at}"

        def stopping(task, loader, recipe, at=stopped_at, **kwargs):
            epochs = itertools.count(1)

            def after_epoch(model):
                if next(epochs) == 2:
                    raise KeyboardInterrupt
                return {}

            if len(trained) == at:
                kwargs["held_out"] = after_epoch
            return record(task, loader, recipe, **kwargs)

        monkeypatch.setattr(job_runner, "train", stopping)
        with pytest.raises(KeyboardInterrupt):
            train_networks(two, folder)
        assert len(list(folder.glob("trainings/*/checkpoints/*.safetensors"))) == 1
        monkeypatch.setattr(job_runner, "train", record)
        assert train_networks(two, folder) == (whole, [])
        # What was finished was not begun again.
        assert len(trained) == 7 + 1


def test_trainings_of_something_else_are_refused(trainings, tmp_path):
    Journal(tmp_path / "trainings.journal", trainings.config)
    for changes, expected in [
        ({"seed": 6}, "seed: 5 there, 6 here"),
        ({"images": 50}, "images: None there, 50 here"),
        ({"budget": ("2MFLOPs",)}, "budget: "),
        ({"recipe": trainings.recipe.override({"lr": 0.5})}, r"recipe\.lr: "),
    ]:
        with pytest.raises(InputError, match=expected):
            train_networks(replace(trainings, **changes), tmp_path)


def test_failures_are_told_left_out_and_tried_again(trainings, tmp_path, monkeypatch, supernet):
    victim = trainings.networks.within[1]

    def diverge(task, *args, **kwargs):
        if task.model.arch == victim and kwargs["seed"] == 5:
            raise DivergedError("training diverged")
        return train(task, *args, **kwargs)

    monkeypatch.setattr(job_runner, "train", diverge)
    measured = train_and_compare(trainings, str(supernet), tmp_path / "run", "psvit-fidelity")
    index = trainings.space.index(victim)
    assert measured.failures == [f"network {index}, seed 5: training diverged"]
    assert measured.fidelity.within.agreement(INHERITED).networks == 2
    assert f"network {index}, seed 5: training diverged" in (tmp_path / "run/fidelity.html").read_text()
    monkeypatch.setattr(job_runner, "train", train)
    again = train_and_compare(trainings, str(supernet), tmp_path / "run", "psvit-fidelity")
    assert again.failures == []
    assert again.fidelity.within.agreement(INHERITED).networks == 3


def test_where_hardly_anything_can_be_trained_the_reason_is_told(trainings, tmp_path, monkeypatch, supernet):
    def diverge(*args, **kwargs):
        raise DivergedError("training diverged: the loss is nan in epoch 1")

    monkeypatch.setattr(job_runner, "train", diverge)
    with pytest.raises(RunError, match=r"0 of 3 networks .* the loss is nan in epoch 1"):
        train_and_compare(trainings, str(supernet), tmp_path / "run", "psvit-fidelity")
    assert not (supernet / FILE_NAME).exists()


# --- scores


def test_scores_are_those_of_the_search_and_are_written_down(trainings, finished, digits_space, data):
    measured, run, supernet = finished
    archs = trainings.networks.all
    batches = Batches(data.search, Inputs.of(data, digits_space.image_size), 64, CPU)
    expected = InheritedAccuracy(Supernet.load(supernet), batches).evaluate(archs)
    assert [network.scores[INHERITED] for network in measured.networks] == [score.value for score in expected]
    for name, make in INDICATORS.items():
        values = [score.value for score in make(digits_space, 5, CPU).evaluate(archs)]
        assert [network.scores[name] for network in measured.networks] == values
    assert [network.all_scores["macs"] for network in measured.networks] == [cost(arch).macs for arch in archs]
    journal = Journal(run / "scores.journal", {**trainings.config, "supernet": supernet_digest(supernet)})
    scored = [record for record in journal.records if record["score"] != run_module.BASELINE]
    assert len(scored) == len(archs) * (1 + len(INDICATORS))

    def never():
        pytest.fail("scored again")

    again = score_networks(archs, digits_space, {INHERITED: never}, journal)
    assert list(again[INHERITED].values()) == [score.value for score in expected]


def test_the_table_has_all_that_is_known(trainings, finished):
    measured, run, _ = finished
    rows = list(csv.DictReader(io.StringIO((run / "fidelity.csv").read_text())))
    assert (run / "fidelity.csv").read_bytes().decode() == table(measured.networks)
    assert [(row["within"], row["spread"]) for row in rows] == [("1", "0")] * 3 + [("0", "1")] * 2
    for row, network in zip(rows, measured.networks, strict=True):
        arch = trainings.space[int(row["network"])]
        assert arch == network.arch
        assert int(row["macs"]) == cost(arch).macs
        assert float(row["standalone"]) == network.standalone
        assert float(row[INHERITED]) == network.scores[INHERITED]
    assert [row["standalone_second_seed"] == "" for row in rows] == [False, False, True, True, True]


# --- what is written


@pytest.fixture
def fidelity(trainings, supernet):
    """A fidelity of the supernet, of made-up accuracies."""
    archs = trainings.networks.all
    rng = np.random.default_rng(0)
    accuracies = {(arch, 5): float(50 + value) for arch, value in zip(archs, rng.normal(size=9), strict=False)}
    scores = {INHERITED: {arch: accuracies[arch, 5] - 7 for arch in archs}}
    return compare(trainings, str(supernet), accuracies, scores)[0]


def test_a_written_fidelity_is_strict_and_comes_back(fidelity, tmp_path):
    path = tmp_path / "some.yaml"
    write_fidelities(path, (fidelity,))
    assert read_fidelities(path) == (fidelity,)
    json.dumps(read_yaml(path, "psvit/fidelity/1"), allow_nan=False)
    content = yaml.safe_load(path.read_text())
    content["measurements"][0]["within"]["tau"] = 1
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=r"some\.yaml: measurements\.0\.within\.tau: unknown key"):
        read_fidelities(path)
    path.write_text("schema: psvit/space/1\n")
    with pytest.raises(InputError, match="psvit/fidelity/1"):
        read_fidelities(path)


def test_a_search_finds_what_was_left_beside_its_supernet(fidelity, supernet):
    assert known_fidelity(supernet, MFLOPS) is None
    assert leave_beside(supernet, fidelity) == supernet / FILE_NAME
    for name in (supernet, str(supernet), supernet / "supernet.safetensors"):
        known = known_fidelity(name, MFLOPS.spent(0.9))
        assert known["kendall_tau"] == 1
        assert known["networks"] == 3
        assert known["kendall_tau_interval"] == "too few"
        assert "with a tau of 1.00, and so few say little" in in_words(known, str(supernet))
        assert known["within"] == {"macs": [950_000, 1_050_000]}
        assert known["inherited_minus_standalone"] == -7
        assert "note" not in known
        json.dumps(known, allow_nan=False)


def test_other_weights_have_not_been_measured(fidelity, supernet, digits_space):
    leave_beside(supernet, fidelity)
    with seeded(1):
        Supernet(digits_space).save(supernet / "supernet.safetensors", {"data": "digits"})
    assert known_fidelity(supernet, MFLOPS) is None
    # What is measured then takes the place of what was of the old weights.
    new = fidelity.model_copy(update={"supernet_digest": supernet_digest(supernet)})
    leave_beside(supernet, new)
    assert read_fidelities(supernet / FILE_NAME) == (new,)


def test_what_a_killed_process_was_writing_beside_a_supernet_is_removed(fidelity, supernet):
    left = supernet / f".{FILE_NAME}.q6ukjxco.tmp"
    left.touch()
    leave_beside(supernet, fidelity)
    assert not left.exists()


def test_measurements_that_end_together_are_all_kept(fidelity, supernet, monkeypatch):
    def slow(path):
        found = read_fidelities(path)
        time.sleep(0.02)  # in which another would read the same
        return found

    monkeypatch.setattr(record_module, "read_fidelities", slow)
    measured = [fidelity.model_copy(update={"seed": seed}) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(partial(leave_beside, supernet), measured)) == {supernet / FILE_NAME}
    assert sorted(one.seed for one in read_fidelities(supernet / FILE_NAME)) == list(range(8))


def test_a_measurement_replaces_the_same_and_stays_beside_others(fidelity, supernet):
    def at(lower, upper, budget, tau=0.5):
        within = fidelity.within.to_dict()
        within["limits"] = {"macs": [lower, upper]}
        within["agreements"][0]["kendall_tau"]["value"] = tau
        return Fidelity.from_dict({**fidelity.to_dict(), "budget": [budget], "within": within})

    one, two = at(950_000, 1_050_000, "1MFLOPs"), at(1_900_000, 2_100_000, "2MFLOPs", tau=0.25)
    for measured in (one, two, at(950_000, 1_050_000, "1MFLOPs", tau=0.75)):
        leave_beside(supernet, measured)
    assert [each.budget for each in read_fidelities(supernet / FILE_NAME)] == [("2MFLOPs",), ("1MFLOPs",)]
    assert known_fidelity(supernet, MFLOPS.spent(0.9))["kendall_tau"] == 0.75
    assert known_fidelity(supernet, Budget.parse("1.8..2MFLOPs"))["kendall_tau"] == 0.25
    # From 0.95 to 1.05, ends included.
    for budget, share, note in [
        ("0.9..1MFLOPs", 0.5, None),
        ("0.95..1.05MFLOPs", 1, None),
        ("1..1MFLOPs", 1, None),
        ("0.9..0.96MFLOPs", 0.167, "measured within 17 % of what was searched"),
        ("0.9..0.949MFLOPs", 0, "measured within other limits than were searched"),
        ("0..3.2MFLOPs", 0.031, "measured within 3.1 % of what was searched"),
    ]:
        known = known_fidelity(supernet, Budget.parse(budget))
        assert known["share_of_searched_range"] == pytest.approx(share, abs=1e-3)
        assert known.get("note") == note
    # Where nothing is limited that the measurement was within, it is of something else.
    assert "other limits" in known_fidelity(supernet, Budget.parse("90kparams"))["note"]


def test_a_measurement_on_fewer_networks_takes_the_place_of_none_on_more(fidelity, supernet):
    def on(within, twice=2, spread=2, tau=0.5):
        changed = fidelity.to_dict()
        changed["within"]["agreements"][0] |= {"networks": within, "kendall_tau": {"value": tau}}
        changed["within"]["ceiling"] = {**changed["within"]["agreements"][0], "score": "second", "networks": twice}
        changed["spread"]["agreements"][0]["networks"] = spread
        return Fidelity.from_dict(changed)

    for measured, stays in [
        (on(9), True),
        (on(4, twice=4, spread=4), False),
        (on(9, twice=1, spread=9), False),
        (on(9, spread=1), False),
        (on(9, tau=0.25), True),  # on as many, the later counts
        (on(9, spread=3), True),
        (on(10, twice=0, spread=0), True),
    ]:
        before = read_fidelities(supernet / FILE_NAME)
        leave_beside(supernet, measured)
        assert read_fidelities(supernet / FILE_NAME) == ((measured,) if stays else before)


def test_what_scores_say_of_themselves_is_what_is_known(fidelity, supernet, digits_space, data):
    leave_beside(supernet, fidelity)
    scoring = Scoring(
        space=digits_space,
        seed=0,
        device="cpu",
        supernet=portable_supernet(supernet, torch.device("cpu")),
        data=Portable(partial(open_data, "digits")),
    )
    assert scoring().describe()["fidelity"] == "not measured"
    known = known_fidelity(supernet, MFLOPS)
    assert replace(scoring, fidelity=known)().describe()["fidelity"] == known


# --- the report


def test_the_report_has_a_point_for_every_network_and_is_one_file(trainings, finished):
    measured, run, _ = finished
    text = (run / "fidelity.html").read_text()
    figures = {
        part.split('"')[0]: json.loads(gzip.decompress(b64decode(part.split(">", 1)[1].split("</script>")[0])))
        for part in text.split('data-figure="')[1:]
    }
    names = [f"scatter-{name}" for name in (INHERITED, *INDICATORS, "macs", "num_params")]
    assert set(figures) == {"taus", "seeds", *names}
    traces = {trace["name"]: trace for trace in figures["scatter-inherited"]["data"]}
    assert set(traces) == {"within the budget (3)", "over the whole range (2)"}
    near = traces["within the budget (3)"]
    assert near["x"] == [network.scores[INHERITED] for network in measured.networks[:3]]
    assert near["y"] == [network.standalone for network in measured.networks[:3]]
    assert "The networks within the budget are the ones that count" in text
    assert "between two trainings of the same networks" in text
    assert measured.baseline == logistic_regression(trainings.data.train, trainings.data.search)
    assert f"logistic regression on the pixels has {measured.baseline.accuracy:.2f} %" in text
    assert "psvit-fidelity --out &#39;run&#39;" in text
    for address in ("http://", "https://", '<link rel="stylesheet"', " src="):
        assert address not in text
    arguments = (measured.fidelity, measured.networks, "psvit-fidelity", trainings.config)
    assert render(*arguments) == render(*arguments)


def test_without_a_spread_or_second_seeds_there_is_a_report_too(trainings, supernet, tmp_path):
    few = replace(trainings, spread=0, second_seeds=0)
    measured = train_and_compare(few, str(supernet), tmp_path / "run", "psvit-fidelity")
    assert (measured.fidelity.spread, measured.fidelity.within.ceiling) == (None, None)
    text = (tmp_path / "run/fidelity.html").read_text()
    assert "over the whole range" not in text
    assert 'data-figure="seeds"' not in text
    assert run_module.FILE_NAME in {path.name for path in (tmp_path / "run").iterdir()}


# --- from Python


def test_a_fidelity_is_measured_from_python_and_found_measured(supernet, tmp_path, trained):
    options = {
        "settings": {"epochs": 1, "warmup_epochs": 0},
        "within": 3,
        "spread": 2,
        "second_seeds": 1,
        "images": 64,
        "out": tmp_path / "run",
        "seed": 5,
        "device": "cpu",
    }
    measured = psvit.measure_fidelity(supernet, "1MFLOPs", **options)
    assert len(trained) == 3 + 2 + 1
    assert measured.fidelity == read_fidelities(measured.file)[0] == read_fidelities(measured.beside)[0]
    assert (measured.fidelity.budget, measured.fidelity.images) == (("1MFLOPs",), 64)
    shown = measured._repr_html_()
    assert shown.count("<table>") == 2
    assert "ranked by" in shown
    assert "logistic regression" in shown
    assert "psvit.measure_fidelity(" in measured.report.read_text()
    assert psvit.measure_fidelity(supernet, ["1MFLOPs"], **options) == measured
    assert len(trained) == 6
    for changes, expected in [
        ({"second_seeds": 4}, "--second-seeds 4: there are --within 3"),
        ({"within": 1, "second_seeds": 0}, "at least 2"),
        ({"spread": -1}, "at least 0"),
        ({"images": 1}, "images"),
        ({"images": -3}, "images"),
        ({"workers": "many"}, "--workers 'many'"),
        ({"seed": 6}, "seed: 5 there, 6 here"),
    ]:
        with pytest.raises(InputError, match=expected):
            psvit.measure_fidelity(supernet, "1MFLOPs", **{**options, **changes})
    with pytest.raises(InputError, match="latency"):
        psvit.measure_fidelity(supernet, "5ms@cpu", **options)
    alone = {**options, "out": tmp_path / "alone"}
    with pytest.raises(InputError, match="a single architecture is within"):
        psvit.measure_fidelity(supernet, "3.211456..3.211456MFLOPs", **alone)
    assert not (tmp_path / "alone").exists()
