"""`psvit-latency` and searches under limits on latency, with milliseconds that are made up from numbers of weights."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import yaml

from psvit.arch.architecture import ArchitectureFile
from psvit.arch.costs import cost
from psvit.model import PSViT
from psvit.search import engine as engine_module
from psvit.search import plan as plan_module
from psvit.search import prepared as prepared_module
from psvit.search.latency import measure as measure_module
from psvit.search.latency.build import LatencyPlan
from psvit.search.latency.measure import Latency, Setting, fingerprint
from psvit.search.latency.model import LatencyModel
from psvit.search.spaces import choose_space
from psvit.space.budget import Budget
from psvit.space.search_space import SearchSpace

pytestmark = pytest.mark.usefixtures("quick_indicator")

LATENCY = ("psvit-latency", "--space", "psvit-2d-digits", "--out", "table.yaml")
SEARCH = ("psvit-search", "--space", "psvit-2d-digits", "--trials", 24, "--control", 4)


@pytest.fixture(autouse=True)
def small_plans(monkeypatch):
    """Models that are built in a second."""

    def of(cls, space, setting, seed):
        return cls(space=space, setting=setting, seed=seed, rounds=1, calibrated_on=12, held_out=8)

    monkeypatch.setattr(LatencyPlan, "of", classmethod(of))


@pytest.fixture(autouse=True)
def measured(monkeypatch):
    """Replaces the measuring function; returns what is measured, and factors for whole networks by architecture."""
    networks, factors = [], {}

    def measure(network, input_shape, setting, seconds=0.0):
        networks.append(network)
        factor = factors.get(network.arch, factors.get("all", 1.0)) if isinstance(network, PSViT) else 1.0
        weights = 10 + sum(parameter.numel() for parameter in network.parameters())
        here = fingerprint(setting)
        return Latency(
            median_ms=1e-5 * weights * factor, iqr_ms=0.01, repeats=9, attempts=1, setting=setting, fingerprint=here
        )

    monkeypatch.setattr(measure_module, "measure", measure)
    monkeypatch.setattr(engine_module, "measure", measure)
    monkeypatch.setattr(prepared_module, "measure", measure)
    monkeypatch.setattr(plan_module, "measure", measure)
    return networks, factors


@pytest.fixture(scope="module")
def known():
    """The bytes of the latency model of the digits space, made once."""
    return {}


@pytest.fixture
def table(call, known, tmp_path):
    """The latency model of the digits space."""
    path = tmp_path / "table.yaml"
    if not known:
        assert call(*LATENCY).status == 0
        known["bytes"] = path.read_bytes()
    path.write_bytes(known["bytes"])
    return path


def names(folder):
    return {path.name for path in folder.iterdir()}


# --- psvit-latency


def test_a_model_is_written_with_its_validation_and_the_baselines(call, tmp_path):
    done = call(*LATENCY, "--batch", 2, "--threads", 1)
    assert done.status == 0
    assert names(tmp_path) == {"table.yaml"}
    model = LatencyModel.load(tmp_path / "table.yaml")
    assert model.setting == Setting(batch_size=2, threads=1)
    assert (model.space, model.calibrated_on, len(model.held_out)) == ("psvit-2d-digits", 12, 8)
    for figure in (model.validation.mape, model.ridge.mape):
        assert f"{figure:.2f} %" in done.out
    for figure in (model.validation.kendall_tau, model.ridge.kendall_tau):
        assert f"{figure:.3f}" in done.out
    assert done.err == ""


def test_a_finished_model_is_found_and_said(call, table, measured):
    networks, _ = measured
    before, measurements = table.read_bytes(), len(networks)
    done = call(*LATENCY)
    assert done.status == 0
    assert "already" in done.out
    assert table.read_bytes() == before
    assert len(networks) == measurements


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--seed", 1), "seed: 0 there, 1 here"),
        (("--batch", 8), "setting.batch_size: 1 there, 8 here"),
        (("--space", "psvit-2d-nano"), "space: psvit-2d-digits there, psvit-2d-nano here"),
        (("--threads", 1, "--precision", "bfloat16"), "setting.precision: float32 there, bfloat16 here"),
    ],
)
def test_a_file_of_another_model_is_refused_with_what_differs(call, table, options, expected):
    before = table.read_bytes()
    done = call(*LATENCY, *options)
    assert done.status == 2
    assert expected in done.err
    assert len(done.err.splitlines()) == 1
    assert table.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--space", "psvit-3d"), "psvit-3d"),
        (("--device", "warp"), "received 'warp'"),
        (("--batch", 0), "--batch"),
        (("--threads", "many"), "--threads"),
        (("--threads", 10**6), "threads: Input should be less than or equal to 1024"),
        (("--device", "cpu:0"), "device: must be cpu"),
        (("--space", "x" * 300), "unknown; permitted are"),
        (("--out", "x" * 300), "cannot be written"),
        (("--runtime", "tvm"), "'eager', 'compile', 'onnxruntime'"),
        (("--precision", "int8"), "'float32', 'bfloat16', 'float16'"),
        (("--runtime", "onnxruntime", "--precision", "float16"), "onnxruntime is measured on cpu in float32 only"),
        (("--out", "."), "--out"),
        (("--out", "notes.txt/table.yaml"), "notes.txt"),
        (("--out", "notes.txt"), "notes.txt"),
    ],
)
def test_input_that_cannot_be_right_is_named_and_leaves_nothing(call, tmp_path, options, expected):
    (tmp_path / "notes.txt").write_text("somebody's notes")
    done = call(*LATENCY, *options)
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert done.err.startswith("psvit-latency: ")
    assert expected in done.err
    assert names(tmp_path) == {"notes.txt"}
    assert (tmp_path / "notes.txt").read_text() == "somebody's notes"


@pytest.mark.parametrize("missing", ["--space", "--out"])
def test_a_missing_option_is_named(call, missing):
    at = LATENCY.index(missing)
    done = call(*LATENCY[:at], *LATENCY[at + 2 :])
    assert (done.status, missing in done.err) == (2, True)


def test_a_machine_that_is_too_noisy_ends_with_one_line_and_status_1(call, monkeypatch, tmp_path):
    def noisy(*args, **kwargs):
        raise measure_module.NoisyMachineError("the machine is too noisy")

    monkeypatch.setattr(measure_module, "measure", noisy)
    done = call(*LATENCY)
    assert (done.status, done.err) == (1, "psvit-latency: the machine is too noisy\n")
    assert not (tmp_path / "table.yaml").exists()


# --- psvit-search


def test_what_is_reported_was_measured_within_the_limit(call, table, tmp_path, measured):
    done = call(*SEARCH, "--budget", "2ms@cpu", "--latency", table, "--out", "run")
    assert done.status == 0
    found = ArchitectureFile.load(tmp_path / "run/best.yaml")
    latency = found.latency["cpu"]
    assert latency["measured_ms"] == pytest.approx(1e-5 * (10 + cost(found.arch).num_params))
    assert latency["measured_ms"] <= 2
    assert latency["predicted_ms"] == pytest.approx(LatencyModel.load(table).predict(found.arch))
    assert latency["setting"] == Setting().to_dict()
    assert latency["fingerprint"] == fingerprint(Setting()).to_dict()
    assert found.budget == ("2ms@cpu",)
    assert f"measured {latency['measured_ms']:.4g} ms@cpu" in done.out
    assert f"predicted {latency['predicted_ms']:.4g} ms" in done.out
    model = LatencyModel.load(table)
    with (tmp_path / "run/history.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    space = SearchSpace.load("psvit-2d-digits")
    assert len(rows) == 24
    assert all(model.predict(space[int(row["index"])]) <= 2 for row in rows)


def test_finalists_that_are_measured_over_the_limit_are_passed_over(call, table, tmp_path, measured):
    _, factors = measured
    usual = call(*SEARCH, "--budget", "2ms@cpu", "--latency", table, "--out", "usual")
    assert usual.status == 0
    best = ArchitectureFile.load(tmp_path / "usual/best.yaml")
    factors[best.arch] = 5.0
    done = call(*SEARCH, "--budget", "2ms@cpu", "--latency", table, "--out", "run")
    assert done.status == 0
    # The same proposals, but another winner.
    assert (tmp_path / "run/history.csv").read_bytes() == (tmp_path / "usual/history.csv").read_bytes()
    second = ArchitectureFile.load(tmp_path / "run/best.yaml")
    assert second.score["value"] < best.score["value"]
    assert "passed over 1" in done.out
    assert "passed over" not in usual.out


def test_an_interruption_while_finalists_are_measured_writes_the_best_so_far(
    call, table, tmp_path, measured, monkeypatch
):
    networks, factors = measured
    command = (*SEARCH, "--budget", "2ms@cpu", "--latency", table, "--out")
    assert call(*command, "usual").status == 0
    factors[ArchitectureFile.load(tmp_path / "usual/best.yaml").arch] = 5.0
    measure, before = engine_module.measure, len(networks)

    def interrupted(*args, **kwargs):
        if len(networks) > before:
            raise KeyboardInterrupt
        return measure(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(engine_module, "measure", interrupted)
        done = call(*command, "run")
    assert done.status == 130
    # The first was measured beyond the limit, and the second was not measured yet.
    found = ArchitectureFile.load(tmp_path / "run/best.yaml")
    assert found.arch not in factors
    assert found.provenance["interrupted"] is True
    assert set(found.latency["cpu"]) == {"predicted_ms"}
    assert (tmp_path / "run/report.html").exists()
    assert call(*command, "run").status == 0
    whole = ArchitectureFile.load(tmp_path / "run/best.yaml")
    assert (whole.arch, "measured_ms" in whole.latency["cpu"]) == (found.arch, True)
    assert "interrupted" not in whole.provenance
    assert len(networks) == before + 2


def test_where_all_finalists_are_over_the_limit_there_is_no_winner(call, table, tmp_path, measured):
    _, factors = measured
    factors["all"] = 50.0
    done = call(*SEARCH, "--budget", "2ms@cpu", "--latency", table, "--out", "run")
    assert done.status == 1
    assert len(done.err.splitlines()) == 1
    assert "were measured and none keeps at most 2 ms@cpu" in done.err
    assert names(tmp_path / "run") == {".psvit.lock", "config.yaml", "space.yaml", "study.journal", "history.csv"}


def test_the_same_command_on_a_finished_search_measures_nothing(call, table, tmp_path, measured):
    networks, _ = measured
    arguments = (*SEARCH, "--budget", "2ms@cpu", "--latency", table, "--out", "run")
    first = call(*arguments)
    best = (tmp_path / "run/best.yaml").read_bytes()
    measurements = len(networks)
    again = call(*arguments)
    assert again.status == 0
    found = again.out.splitlines(keepends=True)[2:]
    assert found
    assert first.out.endswith("".join(found))
    assert len(networks) == measurements
    assert (tmp_path / "run/best.yaml").read_bytes() == best


def test_without_a_model_one_is_built_inside_the_run_before_anything_is_scored(call, tmp_path, measured):
    done = call(*SEARCH, "--budget", "2ms@cpu:threads=1", "--out", "run")
    assert done.status == 0
    model = LatencyModel.load(tmp_path / "run/latency-1.yaml")
    assert model.setting == Setting(threads=1)
    assert ArchitectureFile.load(tmp_path / "run/best.yaml").latency["cpu:threads=1"]["measured_ms"] <= 2


def test_limits_on_costs_and_latency_hold_together(call, table, tmp_path):
    budgets = ("--budget", "0.5..1MFLOPs", "--budget", "1ms@cpu")
    assert call(*SEARCH, *budgets, "--latency", table, "--out", "run").status == 0
    found = ArchitectureFile.load(tmp_path / "run/best.yaml")
    assert 500_000 <= cost(found.arch).macs <= 1_000_000
    assert found.latency["cpu"]["measured_ms"] <= 1
    assert cost(found.arch).num_params <= 100_000


def test_a_cost_that_is_limited_beside_latency_is_not_spent(call, table, tmp_path):
    """What takes 2.7 to 3 MFLOPs takes longer than that, so nothing would be left."""
    budgets = ("--budget", "3MFLOPs", "--budget", "1ms@cpu")
    assert call(*SEARCH, *budgets, "--latency", table, "--out", "run").status == 0
    found = ArchitectureFile.load(tmp_path / "run/best.yaml")
    assert cost(found.arch).macs < 2_700_000
    assert found.latency["cpu"]["measured_ms"] <= 1


def test_limits_that_only_together_leave_nothing_are_refused_and_leave_nothing(call, table, tmp_path):
    (tmp_path / "run").mkdir()
    for budgets in (("3.1..3.2MFLOPs", "0.3..0.5ms@cpu"), ("1.0000000001..1.0000000002ms@cpu",), ("1ms@cuda:77",)):
        done = call(*SEARCH, *(word for b in budgets for word in ("--budget", b)), "--latency", table, "--out", "run")
        assert (done.status, len(done.err.splitlines())) == (2, 1), budgets
        assert names(tmp_path / "run") == set()


def test_two_models_for_one_limit_are_refused(call, table, tmp_path):
    done = call(*SEARCH, "--budget", "1ms@cpu", "--latency", table, "--latency", table, "--out", "run")
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert "a second model of cpu" in done.err
    assert names(tmp_path) == {"table.yaml"}


def test_a_model_that_was_cut_off_is_refused(call, table, tmp_path):
    fields = yaml.safe_load(table.read_text())
    table.write_text(yaml.safe_dump({**fields, "parts": fields["parts"][:-5]}))
    for command in ((*SEARCH, "--budget", "1ms@cpu", "--latency", table, "--out", "run"), LATENCY):
        done = call(*command)
        assert (done.status, len(done.err.splitlines())) == (2, 1)
        assert "table.yaml: not whole" in done.err
    assert names(tmp_path) == {"table.yaml"}


def test_a_model_is_for_the_classes_of_images(call, tmp_path, image_folder):
    options = ("--space", "psvit-2d-digits", "--data", image_folder(), "--out", "mine.yaml")
    assert call("psvit-latency", *options).status == 0
    model = LatencyModel.load(tmp_path / "mine.yaml")
    assert model.space_digest == SearchSpace.load("psvit-2d-digits").with_data(2, 3).digest


def test_an_impossible_limit_names_what_the_space_reaches_and_leaves_nothing(call, table, tmp_path):
    least, greatest = LatencyModel.load(table).reach(SearchSpace.load("psvit-2d-digits"))
    for budget in ("0.1ms@cpu", "40..50ms@cpu"):
        done = call(*SEARCH, "--budget", budget, "--latency", table, "--out", "run")
        assert (done.status, len(done.err.splitlines())) == (2, 1)
        assert f"the space reaches {least:.4g} to {greatest:.4g} ms@cpu" in done.err
    # Without a model it is the smallest architecture that is measured.
    done = call(*SEARCH, "--budget", "0.1ms@cpu", "--out", "run")
    assert (done.status, "the smallest takes" in done.err) == (2, True)
    assert names(tmp_path) == {"table.yaml"}


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ("2ms@cpu:batch=8", "setting.batch_size: 1 there, 8 here"),
        ("2ms@cpu:threads=1,precision=bfloat16", "setting.precision: float32 there, bfloat16 here"),
        ("2MFLOPs", "there is no limit on latency"),
    ],
)
def test_a_model_of_something_else_is_refused_with_what_differs(call, table, tmp_path, budget, expected):
    done = call(*SEARCH, "--budget", budget, "--latency", table, "--out", "run")
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert f"--latency {table}" in done.err
    assert expected in done.err
    assert names(tmp_path) == {"table.yaml"}


def test_a_model_from_another_machine_is_refused_with_what_differs(call, table, tmp_path):
    data = yaml.safe_load(table.read_text())
    data["fingerprint"] |= {"processor": "Abacus", "torch": "1.0"}
    table.write_text(yaml.safe_dump(data))
    done = call(*SEARCH, "--budget", "2ms@cpu", "--latency", table, "--out", "run")
    assert done.status == 2
    assert "processor: Abacus there, " in done.err
    assert "torch: 1.0 there, " in done.err
    assert names(tmp_path) == {"table.yaml"}


def test_a_device_or_model_that_is_not_there_is_refused(call, tmp_path):
    for options, expected in [
        (("--budget", "5ms@cuda:77"), "cuda:77: cannot compute"),
        (("--budget", "5ms@cpu", "--latency", "nothing.yaml"), "nothing.yaml: cannot be read"),
        (("--budget", "5ms@cuda:runtime=onnxruntime"), "onnxruntime is measured on cpu"),
    ]:
        done = call(*SEARCH, *options, "--out", "run")
        assert (done.status, len(done.err.splitlines())) == (2, 1)
        assert expected in done.err
    assert names(tmp_path) == set()


def test_latency_alone_is_searched_in_the_middle_space_of_its_image_size():
    assert choose_space(None, None, None, ("5ms@cpu",), prefers_shipped=True).name == "psvit-2d-small"
    # Costs decide where there are limits on them.
    assert choose_space(None, None, None, ("5ms@cpu", "0.3GFLOPs"), prefers_shipped=True).name == "psvit-2d-tiny"
    made = choose_space(None, None, None, ("5ms@cpu",), (96, 64))
    assert made == SearchSpace.for_images((96, 64), 3, 1000, "5ms@cpu")
    digits = SearchSpace.load("psvit-2d-digits")
    assert choose_space(digits, None, None, ("5ms@cpu",)) == digits
    assert Budget.parse("5ms@cpu").limits == ()
    assert np.isfinite(Budget.parse("5ms@cpu").latencies[0].upper_ms)
