"""Every script of benchmarks/ runs at a small size, and what it prints is a measurement of the right kind."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from psvit import cli
from psvit.arch.architecture import Architecture, ArchitectureFile
from psvit.arch.costs import cost
from psvit.data import Batches, Inputs, open_data
from psvit.errors import LostWorkersError
from psvit.nn.network import PSViT
from psvit.search import engine as engine_module
from psvit.search import prepared as prepared_module
from psvit.search.inherited import InheritedAccuracy
from psvit.search.latency import measure as measure_module
from psvit.search.latency.build import LatencyPlan
from psvit.search.latency.measure import Latency, fingerprint
from psvit.space.budget import Budget
from psvit.space.search_space import SearchSpace
from psvit.supernet.supernet import Supernet
from psvit.train import job_runner
from psvit.train.original import Original

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

SCRIPTS = [path.stem for path in sorted(BENCHMARKS.glob("*.py")) if "__main__" in path.read_text()]
"""Other files are shared by scripts."""


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_is_run_by_a_test(script):
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert f'@pytest.mark.runs_benchmark("{script}")' in tests


@pytest.fixture
def in_a_process(tmp_path):
    """Runs a script in a process of its own, as people do; returns what it printed."""

    def run(name, *options, statuses=(0,)):
        done = subprocess.run(
            [sys.executable, BENCHMARKS / f"{name}.py", *map(str, options)],
            cwd=tmp_path, capture_output=True, text=True, timeout=570,
        )  # fmt: skip
        assert done.returncode in statuses, done.stderr
        return done.stdout

    return run


# --- networks and their costs


@pytest.mark.runs_benchmark("attention_sharing")
@pytest.mark.parametrize(
    ("what", "first", "place"), [("deit", "DeiT-tiny", 3), ("groups", "inference", 6), ("forms", "inference", 6)]
)
def test_ratios_of_times_come_with_their_quartiles(call_script, numbers, what, first, place):
    done = call_script("attention_sharing", what, "--cells", 1, "--rounds", 2, "--seconds", 0.001)
    assert done.status == 0
    header, row = done.rows
    assert row[0] == first
    assert len(row) == len(header)
    middle, low, high = numbers(row[place])
    assert 0 < low <= middle <= high


@pytest.mark.runs_benchmark("attention_sharing")
def test_partners_of_equal_multiply_accumulates_are_compared(call_script, numbers):
    done = call_script("attention_sharing", "pit", "--cells", 1, "--rounds", 1, "--seconds", 0.001)
    _, (_, ours, partner, theirs, batch, mode, ratio) = done.rows
    assert (partner, batch, mode) == ("pit_xs_224", "1", "inference")
    assert numbers(ours)[0] == pytest.approx(numbers(theirs)[0], rel=0.01)
    assert all(number > 0 for number in numbers(ratio))


@pytest.mark.slow
@pytest.mark.runs_benchmark("attention_sharing")
def test_a_profile_names_operators(call_script):
    done = call_script("attention_sharing", "profile")
    assert [line.split(":")[0] for line in done.out.splitlines() if "20 steps" in line] == ["separate", "map", "qk"]
    assert done.out.count("aten::addmm") >= 3


@pytest.mark.slow
@pytest.mark.runs_benchmark("costs")
def test_rates_and_times_of_spaces_are_positive(call_script, monkeypatch, numbers):
    monkeypatch.setattr(importlib.import_module("costs"), "DRAWN", 20_000)
    done = call_script("costs", "--repeats", 1, "--spaces", "psvit-2d-digits")
    assert done.status == 0
    _, *rates, header, times = done.rows
    space = SearchSpace.load("psvit-2d-small")
    assert [numbers(row[1]) for row in rates][:2] == [[space.size], [space.count(Budget.parse("2GFLOPs"))]]
    assert all(number > 1000 for row in rates for number in numbers(row[2]))
    assert times[:2] == ["psvit-2d-digits", "6,468"]
    assert len(times) == len(header) == 7
    assert all(0 <= number < 60 for cell in times[2:] for number in numbers(cell))


@pytest.mark.runs_benchmark("supernet_step")
def test_a_step_of_a_supernet_is_compared_with_a_networks(call_script, numbers):
    done = call_script("supernet_step", "--space", "psvit-2d-digits", "--archs", 2, "--repeats", 1, "--batch-size", 4)
    assert done.status == 0
    summary = dict(re.findall(r"^([a-z ]+): median (.+)$", done.out, re.MULTILINE))
    assert list(summary) == ["forward", "backward", "optimiser", "step", "memory kept for the backward pass"]
    for line in summary.values():
        middle, *ends = numbers(line)
        assert 0 < middle <= ends[-1]
    # What a slice keeps are the activations of the network, and hardly more.
    assert 1 <= numbers(summary["memory kept for the backward pass"])[0] < 2


@pytest.mark.runs_benchmark("supernet_step")
def test_waiting_for_images_is_a_share_of_the_time(call_script):
    done = call_script("supernet_step", "--space", "psvit-2d-digits", "--data", "digits", "--steps", 3)
    rate, step, share = re.search(r"(\d+) images/s, median step (\d+) ms, waiting ([\d.]+)%", done.out).groups()
    assert int(rate) > 0
    assert int(step) > 0
    assert 0 <= float(share) <= 100


# --- the search


@pytest.mark.runs_benchmark("overhead")
def test_overhead_is_told_for_every_searcher(call_script, numbers):
    done = call_script("overhead", "random", "evolution", "--trials", 200)
    assert done.status == 0
    _, *lines = done.out.splitlines()
    assert [line.split()[0] for line in lines] == ["random", "evolution"]
    for line in lines:
        wall, processor, records, size, opened = numbers(line)
        assert 0 < wall < 1000
        assert 0 < processor < 1000
        assert 1 <= records < 2
        assert 100 < size < 100_000
        assert opened >= 0
    refused = call_script("overhead", "random", "--trials", 20)
    assert refused.status == 2
    assert "--trials 20: the last tenth is a single batch" in refused.err


@pytest.mark.runs_benchmark("scoring")
def test_three_ways_of_scoring_agree(call_script, untrained, numbers, tmp_path):
    options = ("--data", "digits", "--budget", "1MFLOPs", "--images", 64, "--batch-size", 32, "--candidates", 1)
    done = call_script("scoring", "--supernet", untrained(), *options, "--out", "out")
    assert done.status == 0
    assert "equal to the last digit: yes" in done.out
    assert "same winner: yes; same ten best: yes" in done.out
    _, alone, shared, raced = done.rows
    assert [row[0] for row in (alone, shared, raced)] == ["one at a time", "prefixes shared", "prefixes shared, raced"]
    assert (alone[2], alone[4], shared[4]) == ("1.000", "64", "64")
    assert all(numbers(row[1])[0] > 0 for row in (alone, shared, raced))
    # An interrupted run is continued: nothing is scored twice.
    before = (tmp_path / "out/scoring.journal").read_bytes()
    again = call_script("scoring", "--supernet", tmp_path / "supernet", *options, "--out", "out")
    assert again.rows == done.rows
    assert (tmp_path / "out/scoring.journal").read_bytes() == before


@pytest.fixture
def colours(tmp_path):
    """An image folder like CIFAR-10, of noise."""
    rng = np.random.default_rng(0)
    for part, label, number in (
        (part, label, n) for part in ("train", "val") for label in range(10) for n in range(10)
    ):
        folder = tmp_path / "images" / part / f"class-{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return str(tmp_path / "images")


@pytest.mark.runs_benchmark("searchers")
def test_searchers_are_compared_by_a_table_of_all_scores(
    call_script, untrained, colours, monkeypatch, numbers, tmp_path
):
    searchers = importlib.import_module("searchers")
    monkeypatch.setattr(searchers, "TABLE", tmp_path / "tables" / "scores.npz")
    monkeypatch.setattr(searchers, "BUDGET", budget := "9.97..10MFLOPs")
    monkeypatch.setattr(searchers, "CHECKPOINTS", (4, 16))
    space = searchers.part()
    supernet = untrained(space=space)
    done = call_script("searchers", "table", "--supernet", supernet, "--data", colours)
    assert done.status == 0
    with np.load(searchers.TABLE) as stored:
        scores = dict(zip(stored["index"].tolist(), stored["score"].tolist(), strict=True))
    assert len(scores) == space.count(Budget.parse(budget)) > 16
    data = open_data(colours)
    batches = Batches(data.search, Inputs.of(data, space.image_size), len(data.search), torch.device("cpu"))
    evaluator = InheritedAccuracy(Supernet.load(supernet), batches, share_prefixes=False)
    some = list(scores)[::16]
    expected = [score.value for score in evaluator.evaluate([space[index] for index in some])]
    assert [scores[index] for index in some] == pytest.approx(expected)

    options = ("--searchers", "random", "evolution", "--seeds", 2, "--evaluations", 16, "--out", "out")
    done = call_script("searchers", "compare", *options)
    assert done.status == 0
    assert f"{len(scores)} architectures of psvit-2d-nano-part within {budget}" in done.out
    _, *rows = done.rows
    assert [row[:2] for row in rows] == [["random", "2"], ["evolution", "2"]]
    most = max(scores.values()) - min(scores.values())
    for row in rows:
        (early, *_), (late, *_) = (numbers(cell) for cell in row[2:4])
        assert 0 <= late <= early <= most
        assert numbers(row[-1])[0] > 0
    assert call_script("searchers", "compare", *options).rows == done.rows


# --- families of networks


@pytest.fixture
def versus(call_script):
    """Compares families on digits, of which little is trained for a short time."""
    few = ("--data", "digits", "--budget", "0.8MFLOPs", "--depth", 0.25, "--images", 64, "--epochs", 1, "--seeds", 1)
    fewer = ("--lr", 0.001, "--device", "cpu", "--ablation", "--out", "out", "--work", "work")
    return lambda: call_script("versus_baselines", *few, *fewer)


def recorded_searches(tmp_path):
    lines = (tmp_path / "out/searches.journal").read_text().splitlines()
    return [record for line in lines if "search" in (record := json.loads(line))]


@pytest.mark.runs_benchmark("versus_baselines")
def test_families_are_compared_when_the_search_has_come_to_its_end_and_that_once(
    versus, monkeypatch, numbers, tmp_path
):
    module = importlib.import_module("versus_baselines")
    finished = partial(module.run_search, trials=2, finalists=0, control=0)
    for reason, status in ((KeyboardInterrupt(), 130), (LostWorkersError("the cluster was lost"), 1)):
        monkeypatch.setattr(module, "run_search", lambda by=reason, **of: replace(finished(**of), stopped=by))
        done = versus()
        assert (done.status, done.out) == (status, "")
        assert done.err.splitlines()[-1].startswith("versus_baselines.py: ")
    assert [record["finished"] for record in recorded_searches(tmp_path)] == [False, False]
    assert not (tmp_path / "out/trainings.journal").exists()

    monkeypatch.setattr(module, "run_search", finished)
    done = versus()
    assert done.status == 0
    families = done.rows[1:8]
    assert {row[0] for row in families} == {
        "DeiT-like", "PiT-like", "HVT-like", "sharing only", "pooling and sharing", "random PSViT", "found PSViT",
    }  # fmt: skip
    assert all(abs(numbers(row[1])[0] / 0.8 - 1) <= 0.02 for row in families)
    assert all(0 <= numbers(row[8])[0] <= 100 for row in families)
    assert (tmp_path / "out/versus.md").read_text() == done.out
    searches = recorded_searches(tmp_path)
    assert [record["finished"] for record in searches] == [False, False, True]

    # The same line trains nothing and searches nothing again, also where what is unfinished was lost.
    shutil.rmtree(tmp_path / "work")
    monkeypatch.setattr(module, "run_search", None)
    monkeypatch.setattr(job_runner, "train", None)
    assert versus().out == done.out
    assert recorded_searches(tmp_path) == searches


# --- with commands


@pytest.fixture
def commands(monkeypatch):
    """Has a script's commands run in this process, with latency models that are built in a second.

    Milliseconds are made up from numbers of weights, because a machine that runs tests is too noisy to be measured.
    """

    def of(cls, space, setting, seed):
        return cls(space=space, setting=setting, seed=seed, rounds=1, calibrated_on=12, held_out=8)

    def measured(network, input_shape, setting, seconds=0.0):
        weights = 10 + sum(parameter.numel() for parameter in network.parameters())
        return Latency(
            median_ms=1e-5 * weights,
            iqr_ms=0.01,
            repeats=9,
            attempts=1,
            setting=setting,
            fingerprint=fingerprint(setting),
        )

    script = importlib.import_module("latency")
    monkeypatch.setattr(LatencyPlan, "of", classmethod(of))
    for module in (measure_module, engine_module, prepared_module, script):
        monkeypatch.setattr(module, "measure", measured)
    called = []

    def call(name, *arguments):
        called.append(name)
        module = importlib.import_module({"psvit-search": "psvit.search.cli"}.get(name, "psvit.search.latency.cli"))
        with pytest.raises(SystemExit) as ended:
            cli.run(module.command, list(arguments))
        assert ended.value.code == 0

    monkeypatch.setattr(script, "call", call)
    return called


@pytest.mark.runs_benchmark("latency")
def test_a_limit_on_latency_finds_a_faster_network(call_script, commands, monkeypatch, numbers, tmp_path):
    script = importlib.import_module("latency")
    monkeypatch.setattr(script, "SEARCHED", "psvit-2d-digits")
    monkeypatch.setattr(script, "BUDGET", "0.5..1MFLOPs")
    options = ("--batches", 1, "--threads", 1, "--trials", "8", "--rounds", 2, "--out", "out")
    done = call_script("latency", *options)
    assert done.status == 0
    _, model, _, free, limited = done.rows
    assert model[:2] == ["psvit-2d-digits", "1"]
    assert numbers(model[3])[0] < 20
    assert (free[0], limited[0].split(",")[0]) == ("0.5..1MFLOPs", "0.5..1MFLOPs")
    limit = numbers(limited[0].split(",")[1])[0]
    assert limit == pytest.approx(0.85 * numbers(free[3])[0], rel=1e-3)
    assert numbers(limited[4])[0] <= limit < numbers(free[4])[0]
    assert "the second is faster in 2 of 2 pairs; the winners differ" in done.out
    # A row is as written in the file of the winner.
    winner = ArchitectureFile.load(tmp_path / "out/macs-and-latency/best.yaml")
    assert limited[1] == f"{cost(winner.arch).macs / 1e9:.3f} G"


def test_a_command_that_refuses_ends_the_script(capfd):
    script = importlib.import_module("latency")
    with pytest.raises(SystemExit) as ended:
        script.call("psvit-latency", "--space", "psvit-2d-digits")
    assert ended.value.code == 2
    assert "--out" in capfd.readouterr().out


@pytest.mark.slow
@pytest.mark.runs_benchmark("end_to_end")
def test_the_whole_way_ends_with_three_trained_networks(call_script, few_digits, monkeypatch, numbers):
    script = importlib.import_module("end_to_end")
    in_its_own = script.call

    def call(command, *arguments):
        # One process of its own is enough; every one loads all the libraries.
        if command == "psvit-supernet":
            return in_its_own(command, *arguments)
        module = importlib.import_module(
            {"psvit-search": "psvit.search.cli", "psvit-retrain": "psvit.retrain.cli"}[command]
        )
        with pytest.raises(SystemExit) as ended:
            cli.run(module.command, list(arguments))
        assert ended.value.code == 0
        return 1.0

    monkeypatch.setattr(script, "call", call)
    few = ("--space", "psvit-2d-digits", "--budget", "1MFLOPs", "--supernet-epochs", 4, "--epochs", 2, "--trials", 2)
    out = call_script("end_to_end", "--data", few_digits, *few, "--out", "out").out
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if line.startswith("| ")]
    rows = rows[[row[0] for row in rows].index("network") :]
    assert [row[0] for row in rows] == ["network", "found", "random", "DeiT-like"]
    found, drawn, by_hand = (numbers(row[1])[0] for row in rows[1:])
    # In steps of a head, networks made by hand come less close.
    assert by_hand <= 1
    assert all(0.9 <= macs <= 1 for macs in (found, drawn))
    assert all(0 <= numbers(row[4])[0] <= 100 for row in rows[1:])
    assert 0 <= numbers(rows[1][3])[0] <= 100
    assert [row[3] for row in rows[2:]] == ["-", "-"]


@pytest.mark.slow
@pytest.mark.xdist_group("ray in commands")
@pytest.mark.runs_benchmark("ray_workers")
def test_two_workers_have_the_scores_of_one(in_a_process, numbers):
    """The script ends where they differ, and with status 1 where the second worker helps less than was wanted."""
    out = in_a_process("ray_workers", "--rounds", 1, "--images", 16, "--batch-size", 16, statuses=(0, 1))
    (one, two, ratio), *_ = [numbers(line) for line in out.splitlines() if " s with one, " in line]
    assert ratio == pytest.approx(one / two, abs=0.02)
    assert f"two workers are {ratio:.3f} (quartiles" in out
    assert 1 <= numbers(out.splitlines()[-1])[0] <= 2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--settings", "fast"), "'fast' is neither default nor passive nor a number"),
        (("--threads", 999), "--threads 999"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_measured(call_script, options, expected):
    done = call_script("openmp_waiting", *options)
    assert (done.status, done.out) == (2, "")
    assert expected in done.err.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.runs_benchmark("openmp_waiting")
def test_waiting_is_measured_alone_and_beside_a_busy_process(in_a_process, numbers):
    few = ("--rounds", 1, "--seconds", 0.1, "--least-steps", 1, "--batch-size", 8, "--threads", 1)
    # Each setting is two processes that load all the libraries, and one that is busy meanwhile.
    out = in_a_process("openmp_waiting", "--settings", "10000", *few)
    assert 9.9 <= numbers(re.search(r"with ([\d.]+) M multiply", out)[1])[0] <= 10.1
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in out.splitlines() if "| `" in line]
    assert [row[0] for row in rows] == ["GOMP_SPINCOUNT=10000"]
    assert importlib.import_module("openmp_waiting").variables("passive") == {"OMP_WAIT_POLICY": "passive"}
    assert all(number > 0 for row in rows for cell in row[1:] for number in numbers(cell))


@pytest.mark.runs_benchmark("pooling_forms")
def test_every_form_of_pooling_is_fine_tuned_within_the_share(call_script, tmp_path, few_digits, numbers):
    arch = Architecture.from_dict(
        {
            **{"variant": "1d", "image_size": [8, 8], "in_chans": 1, "num_classes": 10},
            **{"patch_size": 2, "patch_stride": 2, "head_dim": 4, "pools": []},
            "stages": [{"embed_dim": 8, "groups": [1, 1, 1, 1], "mlp_ratio": 2.0}],
        }
    )
    data = open_data(few_digits)
    network = Original(name="it", network=PSViT(arch), mean=data.mean, std=data.std, classes=data.classes)
    network.save(tmp_path / "network.yaml", data)
    options = ("--data", few_digits, "--epochs", 1, "--seeds", 1, "--pools", "avg")
    done = call_script("pooling_forms", tmp_path / "network.yaml", *options)
    assert done.status == 0, done.err
    _, *lines = [line for line in done.out.splitlines() if line]
    assert {line.split(",")[0] for line in lines} == {"sequence", "rows", "grid"}
    for line in lines:
        share, accuracy = re.findall(r"([\d.]+) % of the MACs, top-1 ([\d.]+)", line)[0]
        assert 0 < float(share) <= 60
        assert 0 <= float(accuracy) <= 100


def test_forms_of_pooling_are_what_they_say():
    forms = importlib.import_module("pooling_forms")
    tokens = torch.arange(1 + 4 * 4, dtype=torch.float32).view(1, -1, 1)
    grid = tokens[0, 1:, 0].view(4, 4)
    (_, along), _ = forms.grids("sequence", (4, 4), 1)
    sequence = forms.FormPool("avg", (1, 16), along)(tokens)[0, 1:, 0]
    assert (
        sequence.tolist()
        == torch.nn.functional.avg_pool1d(tokens[:, 1:].transpose(1, 2), 3, 2, 1, count_include_pad=False)
        .flatten()
        .tolist()
    )
    (_, in_rows), (_, in_columns) = forms.grids("rows", (4, 4), 1)
    rows = forms.FormPool("max", (4, 4), in_rows)(tokens)[0, 1:, 0].view(4, 2)
    assert torch.equal(rows, torch.stack([grid[:, :2].amax(1), grid[:, 1:].amax(1)], dim=1))
    columns = forms.FormPool("max", (4, 4), in_columns)(tokens)[0, 1:, 0].view(2, 4)
    assert torch.equal(columns, torch.stack([grid[:2].amax(0), grid[1:].amax(0)]))
