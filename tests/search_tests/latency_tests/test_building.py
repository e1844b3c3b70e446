"""Building a latency model, with a clock that counts instead of measuring."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from psvit.errors import InputError, NoisyMachineError
from psvit.model import PSViT
from psvit.search.latency import build
from psvit.search.latency.build import MOST_PARTS, LatencyPlan, build_model, calibrate, figures
from psvit.search.latency.measure import Setting
from psvit.search.latency.parts import parts_in
from psvit.space.search_space import SearchSpace


@pytest.fixture(scope="module")
def plan(tiny_space):
    """One that tests can afford: 38 parts and 20 architectures, twice."""
    return LatencyPlan(space=tiny_space, setting=Setting(), rounds=2, calibrated_on=12, held_out=8)


@pytest.fixture(scope="module")
def whole(plan, clock, tmp_path_factory):
    """A build that nothing disturbed: its model, the file of it, and the clock; not to be changed by tests."""
    out, counting = tmp_path_factory.mktemp("whole") / "table.yaml", clock()
    model, there = build_model(plan, out, counting)
    assert not there
    return SimpleNamespace(model=model, file=out, measured=counting.measured)


class Killed(BaseException):
    """Stands for whatever ends a process."""


def killed_after(count):
    """A factor for a clock that stops the process at a measurement."""
    left = iter(range(count))

    def factor(network):
        if next(left, None) is None:
            raise Killed
        return 1.0

    return factor


def test_an_estimate_counts_every_measurement_of_every_round(plan, whole, monkeypatch):
    asked = []

    def take(network, input_shape, setting, *, seconds):
        asked.append((setting, seconds))
        return 1000.0 if isinstance(network, PSViT) else 1.0

    monkeypatch.setattr(build, "seconds_to_measure", take)
    parts, networks = len(parts_in(plan.space)), plan.calibrated_on + plan.held_out
    assert len(whole.measured) == plan.rounds * (parts + networks)
    estimated = build.seconds_to_build(plan)
    # Making what is measured takes a little as well.
    assert 0 <= estimated - plan.rounds * (parts + 1000.0 * networks) < 0.5 * plan.rounds * parts
    assert asked == [(plan.setting, build.SECONDS / plan.rounds)] * 6


def test_latencies_that_add_up_are_predicted_exactly(whole):
    model = whole.model
    assert model.validation.mape < 0.01
    assert model.validation.kendall_tau == pytest.approx(1)
    assert model.validation.r2 == pytest.approx(1)
    assert model.calibration.constant_ms == pytest.approx(0, abs=1e-6)
    assert [model.calibration.ends, model.calibration.poolings, *model.calibration.groups] == pytest.approx([1] * 4)
    # And worse by what knows totals alone.
    assert model.ridge.mape > model.validation.mape


def test_what_networks_take_longer_than_their_parts_is_calibrated_away(plan, clock, tmp_path):
    slower = clock(lambda network: 1.3 if isinstance(network, PSViT) else 1.0)
    model, _ = build_model(plan, tmp_path / "table.yaml", slower)
    assert model.validation.mape < 1
    assert model.calibration.groups == pytest.approx([1.3, 1.3], abs=0.05)


def test_everything_is_measured_once_a_round_in_another_order(plan, whole):
    subjects = len(parts_in(plan.space)) + 12 + 8
    assert len(whole.measured) == 2 * subjects
    kinds = [[type(network) for network in whole.measured[i * subjects : (i + 1) * subjects]] for i in range(2)]
    assert kinds[0] != kinds[1]
    assert sorted(map(str, kinds[0])) == sorted(map(str, kinds[1]))


def test_a_slow_round_of_three_changes_nothing(plan, whole, clock, tmp_path):
    plan = replace(plan, rounds=3)
    subjects = len(parts_in(plan.space)) + 12 + 8
    slow = iter(range(3 * subjects))
    model, _ = build_model(
        plan, tmp_path / "slow.yaml", clock(lambda _: 9.0 if subjects <= next(slow) < 2 * subjects else 1.0)
    )
    assert model == whole.model.model_copy(update={"rounds": 3})


def test_held_out_architectures_are_uniform_draws_that_were_not_fitted_to(plan, digits_space):
    plan = replace(plan, space=digits_space, held_out=400, calibrated_on=100)
    calibration, held_out = plan.architectures
    assert len(set(calibration)) == 100
    assert len(set(held_out)) == 400
    assert not set(calibration) & set(held_out)
    index = np.array([digits_space.index(arch) for arch in held_out])
    assert abs(index.mean() / digits_space.size - 0.5) < 0.07
    # Those fitted to are shallower than the many with many groupings.
    assert np.mean([arch.depth for arch in calibration]) < np.mean([arch.depth for arch in held_out])
    assert plan.architectures == LatencyPlan(**{**_fields(plan)}).architectures
    assert plan.architectures != LatencyPlan(**{**_fields(plan), "seed": 1}).architectures


def _fields(plan):
    return {name: getattr(plan, name) for name in plan.__dataclass_fields__}


# --- resumption


def test_a_build_that_was_killed_continues_where_it_was(plan, whole, clock, tmp_path):
    # At once, and when the second round has just begun.
    for after in (1, 59):
        out = tmp_path / f"{after}.yaml"
        with pytest.raises(Killed):
            build_model(plan, out, clock(killed_after(after)))
        assert not out.exists()
        rest = clock()
        model, _ = build_model(plan, out, rest)
        assert model == whole.model
        assert len(rest.measured) == 2 * (len(parts_in(plan.space)) + 20) - after
        assert [path.name for path in tmp_path.glob(f"{after}*")] == [f"{after}.yaml"]


def test_a_record_that_was_cut_off_is_measured_again(plan, clock, tmp_path):
    out, journal = tmp_path / "table.yaml", tmp_path / "table.yaml.journal"
    with pytest.raises(Killed):
        build_model(plan, out, clock(killed_after(30)))
    journal.write_bytes(journal.read_bytes()[:-7])
    rest = clock()
    build_model(plan, out, rest)
    assert len(rest.measured) == 2 * (len(parts_in(plan.space)) + 20) - 29


def test_a_journal_of_another_build_is_refused_with_what_differs(plan, clock, tmp_path):
    out = tmp_path / "table.yaml"
    with pytest.raises(Killed):
        build_model(plan, out, clock(killed_after(3)))
    other = LatencyPlan(**{**_fields(plan), "setting": Setting(batch_size=8), "seed": 4})
    with pytest.raises(InputError, match=r"table.yaml.journal: .*setting.batch_size: 1 there, 8 here; seed: 0 there"):
        build_model(other, out, clock())


def test_a_finished_model_is_found_and_another_is_refused(plan, whole, clock, tmp_path):
    out = tmp_path / "table.yaml"
    shutil.copy(whole.file, out)
    before = out.read_bytes()
    again = clock()
    assert build_model(plan, out, again) == (whole.model, True)
    assert again.measured == []
    with pytest.raises(InputError, match=r"table.yaml: holds .*\(seed: 0 there, 1 here\)"):
        build_model(LatencyPlan(**{**_fields(plan), "seed": 1}), out, again)
    assert out.read_bytes() == before


def test_nothing_is_left_of_a_build_that_was_killed_at_its_end(plan, whole, clock, tmp_path, monkeypatch):
    out = tmp_path / "table.yaml"
    with pytest.raises(Killed):
        build_model(plan, out, clock(killed_after(3)))
    (tmp_path / ".table.yaml.q6ukjxco.tmp").touch()  # it was about to be written

    def killed(journal):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(build.Journal, "remove", killed)
        with pytest.raises(Killed):
            build_model(plan, out, clock())
    assert {path.name for path in tmp_path.iterdir()} == {"table.yaml", "table.yaml.journal"}
    unused = clock()
    assert build_model(plan, out, unused) == (whole.model, True)
    assert unused.measured == []
    assert [path.name for path in tmp_path.iterdir()] == ["table.yaml"]


def test_what_is_no_journal_is_refused_and_stays(plan, clock, tmp_path):
    journal = tmp_path / "table.yaml.journal"
    journal.write_text("somebody's notes\n")
    with pytest.raises(InputError, match="is no journal"):
        build_model(plan, tmp_path / "table.yaml", clock())
    assert journal.read_text() == "somebody's notes\n"


@pytest.mark.parametrize("line", ["123", "null", '"text"'])
def test_a_journal_with_what_is_no_record_is_refused(plan, clock, tmp_path, line):
    out, journal = tmp_path / "table.yaml", tmp_path / "table.yaml.journal"
    with pytest.raises(Killed):
        build_model(plan, out, clock(killed_after(3)))
    journal.write_text(f"{journal.read_text()}{line}\n")
    with pytest.raises(InputError, match="is no journal"):
        build_model(plan, out, clock())


def test_a_journal_whose_first_line_was_cut_off_begins_anew(plan, clock, tmp_path):
    out, journal = tmp_path / "table.yaml", tmp_path / "table.yaml.journal"
    journal.write_text('{"space": "ti')
    with pytest.raises(Killed):
        build_model(plan, out, clock(killed_after(3)))
    rest = clock()
    build_model(plan, out, rest)
    assert len(rest.measured) == 2 * (len(parts_in(plan.space)) + 20) - 3


def test_two_builds_of_one_file_do_not_run_at_once(plan, clock, tmp_path):
    out = tmp_path / "table.yaml"
    with pytest.raises(Killed):
        build_model(plan, out, clock(killed_after(3)))
    line = f"from pathlib import Path; from psvit.io.locks import hold; lock = hold(Path({str(out) + '.journal'!r}))"
    with subprocess.Popen(
        [sys.executable, "-c", f"{line}; print('in', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "in\n"
        with pytest.raises(InputError, match=r"table.yaml.journal: another process is measuring"):
            build_model(plan, out, clock())
        other.communicate("\n")
    rest = clock()
    build_model(plan, out, rest)
    assert len(rest.measured) == 2 * (len(parts_in(plan.space)) + 20) - 3


@pytest.mark.parametrize("same", [True, False])
def test_a_build_that_ended_before_the_journal_was_locked_is_not_done_again(
    plan, whole, clock, tmp_path, monkeypatch, same
):
    out, journal = tmp_path / "table.yaml", build.Journal
    wanted = plan if same else replace(plan, seed=plan.seed + 1)

    def late(path, config):
        shutil.copy(whole.file, out)
        return journal(path, config)

    monkeypatch.setattr(build, "Journal", late)
    unused = clock()
    if same:
        assert build_model(wanted, out, unused) == (whole.model, True)
    else:
        with pytest.raises(InputError, match=r"holds a latency model of something else \(seed: 0 there, 1 here\)"):
            build_model(wanted, out, unused)
    assert unused.measured == []
    assert [path.name for path in tmp_path.iterdir()] == ["table.yaml"]


def test_what_cannot_be_measured_leaves_no_journal(plan, tmp_path):
    def refused(*args, **options):
        raise InputError("out of memory")

    with pytest.raises(InputError, match="out of memory"):
        build_model(plan, tmp_path / "table.yaml", refused)
    assert list(tmp_path.iterdir()) == []


def test_a_space_that_is_too_small_for_a_model_is_refused():
    space = SearchSpace.load("psvit-2d-digits")
    fields = space.to_dict()
    stage = {**fields["layouts"][0]["stages"][0], "embed_dim": [16], "depth": [1], "max_group": 1}
    few = SearchSpace.from_dict({**fields, "layouts": [{"stages": [{**stage, "mlp_ratio": [1.0, 2.0, 3.0]}]}]})
    assert few.size == 3
    with pytest.raises(InputError, match=r"has 3 architectures, and a latency model needs 4"):
        LatencyPlan.of(few, Setting(), 0)
    enough = SearchSpace.from_dict({**fields, "layouts": [{"stages": [{**stage, "mlp_ratio": [1.0, 2.0, 3.0, 4.0]}]}]})
    calibration, held_out = LatencyPlan.of(enough, Setting(), 0).architectures
    assert (len(calibration), len(held_out)) == (2, 2)


# --- noise


def test_what_is_too_noisy_at_first_is_measured_later(plan, whole, clock, tmp_path):
    calls = iter(range(10**6))

    def factor(network):
        if next(calls) in (0, 5, 6):
            raise NoisyMachineError("too noisy")
        return 1.0

    model, _ = build_model(plan, tmp_path / "table.yaml", clock(factor))
    assert model == whole.model


def test_a_machine_that_stays_noisy_ends_the_build_and_loses_nothing(plan, clock, tmp_path):
    calls = iter(range(10**6))

    def factor(network):
        if next(calls) >= 10:
            raise NoisyMachineError("too noisy")
        return 1.0

    stopped = clock(factor)
    with pytest.raises(NoisyMachineError):
        build_model(plan, tmp_path / "table.yaml", stopped)
    assert next(calls) == 10 + build.PATIENCE
    records = (tmp_path / "table.yaml.journal").read_text().splitlines()
    assert len(records) == 1 + 10
    assert all(json.loads(record)["ms"] > 0 for record in records[1:])


# --- arithmetic


def test_figures_are_what_they_are_called():
    measured, predicted = np.array([1.0, 2.0, 4.0, 8.0]), np.array([1.1, 1.8, 4.0, 3.9])
    result = figures(predicted, measured)
    assert result.mape == pytest.approx(100 * (0.1 + 0.1 + 0 + 4.1 / 8) / 4)
    # Of six pairs, one is in the wrong order.
    assert result.kendall_tau == pytest.approx((5 - 1) / 6)
    assert result.r2 == pytest.approx(1 - (0.01 + 0.04 + 4.1**2) / ((measured - 3.75) ** 2).sum())


def test_where_nothing_differs_there_is_no_rank_and_no_variance():
    assert figures(np.array([2.0, 2.0]), np.array([1.0, 3.0])).kendall_tau is None
    same = figures(np.array([1.0, 3.0]), np.array([2.0, 2.0]))
    assert (same.kendall_tau, same.r2) == (None, None)


def test_calibration_finds_the_factors_and_none_is_negative():
    rng = np.random.default_rng(0)
    sums = np.column_stack([np.ones(60), rng.uniform(1, 9, size=(60, 4))])
    factors = np.array([0.5, 1.2, 0.9, 1.5, 1.1])
    np.testing.assert_allclose(calibrate(sums, sums @ factors), factors, atol=0.02)
    assert (calibrate(sums, sums @ [-2, 1, 1, 1, 1]) >= 0).all()


def test_calibration_leaves_a_part_that_no_architecture_has_at_its_own_time():
    sums = np.column_stack([np.ones(9), np.arange(1.0, 10), np.zeros(9)])
    _, factor, unknown = calibrate(sums, 2 * np.arange(1.0, 10))
    assert factor == pytest.approx(2, abs=0.1)
    assert unknown == pytest.approx(1)


def test_a_space_with_more_parts_than_a_file_can_hold_is_refused():
    space = SearchSpace.load("psvit-nano")
    assert len(parts_in(space)) < MOST_PARTS
    LatencyPlan.of(space, Setting(), 0)
    many = list(range(32, 32 + 8 * 24, 8))
    wide = {
        **space.to_dict(),
        "name": "many",
        "layouts": [
            {
                "variant": variant,
                "head_dim": 8,
                "stem": ["patch", "conv"],
                "stages": [
                    {
                        "begin": 3 * i,
                        "embed_dim": many,
                        "depth": [1, 2, 3],
                        "max_group": 3,
                        "mlp_ratio": [1, 2, 3, 4, 5],
                    }
                    for i in range(3)
                ],
                "pools": [["max", "avg", "conv"]] * 2,
            }
            for variant in ("1d", "2d")
        ],
    }
    wide = SearchSpace.from_dict(wide, source="here")
    assert len(parts_in(wide)) > MOST_PARTS
    with pytest.raises(InputError, match="different parts"):
        LatencyPlan.of(wide, Setting(), 0)
