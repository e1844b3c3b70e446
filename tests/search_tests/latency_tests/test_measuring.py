"""The measuring function: statistics, noise, runtimes that compute something else, and what a measurement holds for.

Nothing here depends on how fast the machine is: times come from a timer that makes them up.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from psvit.errors import InputError, MismatchError, NoisyMachineError, RunError
from psvit.search.latency import measure as measure_module
from psvit.search.latency import runtimes
from psvit.search.latency.measure import (
    MAX_SPREAD,
    PAUSES,
    REPEATS,
    SECONDS,
    Setting,
    fingerprint,
    measure,
    seconds_to_measure,
)
from psvit.search.latency.parts import fresh
from psvit.search.latency.waiting import answered, warm_up_seconds
from psvit.space.budget import LatencyLimit
from psvit.space.search_space import SearchSpace

RUN_SECONDS = 0.004
"""What the made-up timer says that one run takes."""


class MadeUpTimer:
    """Stands in for `torch.utils.benchmark.Timer`: really runs, but takes the times of attempts from a list."""

    def __init__(self, attempts, preempted=(0,) * 99):
        self.attempts, self.preempted = list(attempts), list(preempted)
        self.events, self.preemptions = [], 0

    def __call__(self, stmt, globals, num_threads):
        self.num_threads = num_threads
        self.run = globals["run"]
        return self

    def timeit(self, number):
        self.events.append("warm up")
        self.run()
        return SimpleNamespace(median=RUN_SECONDS)

    def blocked_autorange(self, min_run_time):
        self.events.append("measure")
        self.min_run_time = min_run_time
        self.preemptions += self.preempted.pop(0)
        return SimpleNamespace(times=self.attempts.pop(0), number_per_run=2)

    def read_preemptions(self):
        return self.preemptions


@pytest.fixture
def network():
    return nn.Linear(4, 3)


@pytest.fixture
def time_it(network):
    """Measures with a made-up timer; returns the latency and the pauses that were made."""

    def call(timer, setting=None, **options):
        pauses = []
        latency = measure(
            network,
            (5, 4),
            setting or Setting(),
            make_timer=timer,
            preemptions=timer.read_preemptions,
            pause=pauses.append,
            **options,
        )
        return latency, pauses

    return call


def spread(relative, n=21, median=0.004):
    """Times in seconds with this interquartile range over the median."""
    return list(np.linspace(1 - relative, 1 + relative, n) * median)


QUIET, NOISY = spread(0.01), spread(2 * MAX_SPREAD)


def test_median_and_interquartile_range_are_numpys(time_it):
    times = list(0.004 + 1e-5 * np.random.default_rng(0).random(20))
    latency, _ = time_it(MadeUpTimer([times]))
    assert latency.median_ms == pytest.approx(1e3 * np.median(times))
    assert latency.iqr_ms == pytest.approx(1e3 * np.subtract(*np.percentile(times, [75, 25])))
    assert latency.repeats == 20
    assert latency.attempts == 1


def test_a_gpu_is_waited_for_after_every_pass(monkeypatch):
    events = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: events.append(f"wait for {device}"))

    def run():
        events.append("run")
        return len(events)

    one = answered(run, torch.device("cuda:1"))
    assert (one(), one()) == (1, 3)
    assert events == ["run", "wait for cuda:1"] * 2
    assert answered(run, torch.device("cpu")) is run
    assert warm_up_seconds(torch.device("cuda")) >= 0.3 > warm_up_seconds(torch.device("cpu"))


def test_throughput_is_that_of_queued_batches(time_it):
    latency, _ = time_it(MadeUpTimer([QUIET]), Setting(batch_size=8))
    assert latency.queued_ms is None
    assert latency.images_per_second == pytest.approx(8 * 1e3 / latency.median_ms)
    queued = latency.model_copy(update={"queued_ms": 0.5})
    assert queued.images_per_second == pytest.approx(16_000)


def test_outliers_that_quartiles_do_not_see_neither_move_the_median_nor_are_dropped(time_it):
    latency, _ = time_it(MadeUpTimer([[0.004] * 20 + [0.4]]))
    assert latency.median_ms == pytest.approx(4)
    assert latency.repeats == 21


def test_it_warms_up_before_each_attempt_long_enough(time_it):
    timer = MadeUpTimer([NOISY, QUIET])
    time_it(timer)
    first, second = (part.split() for part in " ".join(e.replace(" ", "-") for e in timer.events).split("measure")[:2])
    # The real timer runs twice before every run that it times.
    assert len(first) == len(second) == np.ceil(warm_up_seconds(torch.device("cpu")) / (3 * RUN_SECONDS))


@pytest.mark.parametrize("seconds", [SECONDS, 0.5 * REPEATS * RUN_SECONDS])
def test_it_repeats_for_a_while_and_often_enough_for_quartiles(time_it, seconds):
    timer = MadeUpTimer([QUIET])
    time_it(timer, seconds=seconds)
    assert timer.min_run_time == max(seconds, REPEATS * RUN_SECONDS)


def test_where_blocks_are_long_there_are_more_of_them(time_it):
    timer = MadeUpTimer([spread(0.01, n=4), spread(0.01, n=5)])
    latency, _ = time_it(timer)
    assert (latency.repeats, latency.attempts) == (9, 1)


def test_a_noisy_attempt_is_repeated_after_a_pause_and_counted(time_it):
    latency, pauses = time_it(MadeUpTimer([NOISY, NOISY, QUIET]))
    assert latency.attempts == 3
    assert latency.repeats == len(QUIET)
    assert latency.iqr_ms == pytest.approx(1e3 * 0.01 * 0.004)
    assert pauses == [0, *PAUSES[:2]]


@pytest.mark.parametrize(("relative", "refused"), [(0.99 * MAX_SPREAD, False), (1.01 * MAX_SPREAD, True)])
def test_the_bound_on_the_spread_is_the_bound(time_it, relative, refused):
    attempts = [spread(relative)] + [NOISY] * len(PAUSES)
    if refused:
        with pytest.raises(NoisyMachineError, match="too noisy"):
            time_it(MadeUpTimer(attempts))
    else:
        assert time_it(MadeUpTimer(attempts))[0].attempts == 1


def test_a_machine_that_stays_noisy_is_refused_with_the_spread_and_the_bound(time_it):
    with pytest.raises(NoisyMachineError, match=r"range of 20 % of the median, permitted are 10 %.*of 7 attempts"):
        time_it(MadeUpTimer([NOISY] * (1 + len(PAUSES))))
    assert issubclass(NoisyMachineError, RunError)


def test_times_that_agree_are_refused_too_where_the_cores_were_taken_away(time_it):
    # 42 runs: a busy process beside can slow them all down evenly.
    timer = MadeUpTimer([QUIET, QUIET], preempted=[50, 3])
    assert time_it(timer)[0].attempts == 2
    with pytest.raises(NoisyMachineError, match="50 interruptions by other processes during 42 runs"):
        time_it(MadeUpTimer([QUIET] * 7, preempted=[50] * 7))


def test_a_few_preemptions_a_second_are_the_operating_systems_own(time_it):
    # Runs of a second meet some of them whatever else runs.
    assert time_it(MadeUpTimer([[1.0] * 7], preempted=[7 * 2 * 9]))[0].attempts == 1


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_the_network_runs_with_the_threads_of_the_setting_without_gradients(network, threads):
    seen = []
    network.register_forward_hook(lambda module, inputs, output: seen.append((output.requires_grad, inputs[0].shape)))
    timer = MadeUpTimer([QUIET])
    measure(network.train(), (5, 4), Setting(batch_size=2, threads=threads), make_timer=timer, pause=lambda _: None)
    assert timer.num_threads == (threads or torch.get_num_threads())
    assert set(seen) == {(False, (2, 5, 4))}
    assert not network.training


def test_a_measurement_says_where_and_how_it_was_taken(time_it):
    setting = Setting(batch_size=2, threads=1, precision="bfloat16")
    latency, _ = time_it(MadeUpTimer([QUIET]), setting)
    assert latency.setting == setting
    assert latency.fingerprint == fingerprint(setting)
    assert latency.fingerprint.threads == 1
    assert latency.fingerprint.torch == torch.__version__


def test_measuring_leaves_global_generators_alone(time_it):
    before = torch.get_rng_state()
    time_it(MadeUpTimer([QUIET]))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_real_timer_measures(network, monkeypatch):
    # Whatever the machine does beside this, so without its judgement of noise: only that all of it fits together.
    monkeypatch.setattr(measure_module, "_noise", lambda *figures: "")
    runs = []
    network.register_forward_hook(lambda *_: runs.append(torch.get_num_threads()))
    latency = measure(network, (5, 4), Setting(threads=1), seconds=0.01)
    assert 0 < latency.median_ms < 1e3
    assert len(runs) > latency.repeats >= REPEATS
    assert set(runs) == {1}


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
def test_a_whole_network_is_measured(monkeypatch, runtime):
    monkeypatch.setattr(measure_module, "_noise", lambda *figures: "")
    arch = SearchSpace.load("psvit-2d-digits").smallest
    setting = Setting(batch_size=2, threads=1, runtime=runtime)
    latency = measure(fresh(arch), (1, 8, 8), setting, seconds=0.01)
    assert 0 < latency.median_ms < 1e3
    assert latency.fingerprint.runtime.startswith(runtime)


def test_a_network_is_prepared_with_the_threads_it_is_timed_with(network, monkeypatch):
    """Compiled code is for one number of threads, and is compiled again for another."""
    prepared = []
    monkeypatch.setattr(
        measure_module, "prepare", lambda *args: prepared.append(torch.get_num_threads()) or (lambda: None)
    )
    before = torch.get_num_threads()
    measure(network, (5, 4), Setting(threads=before + 1), make_timer=MadeUpTimer([QUIET]))
    assert prepared == [before + 1]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("device", "index"), [("cpu", None), ("cuda:1", 1)])
def test_the_device_of_the_setting_is_the_one_that_is_waited_for(network, monkeypatch, device, index):
    """A timer waits for the current device, which is the first of several unless it is said otherwise."""
    current = []

    @contextmanager
    def device_index(index):
        current.append(index)
        yield
        current.append("left")

    monkeypatch.setattr(torch.accelerator, "device_index", device_index)
    monkeypatch.setattr(measure_module, "prepare", lambda *args: current.append("prepared") or (lambda: None))
    monkeypatch.setattr(measure_module, "fingerprint", lambda setting: fingerprint(Setting()))
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: None)
    found = measure(
        network, (5, 4), Setting(device=device), make_timer=MadeUpTimer([QUIET, spread(0.01, median=0.003)])
    )
    assert current == [index, "prepared", "left"]
    assert found.median_ms == pytest.approx(4)
    assert found.queued_ms == (None if index is None else pytest.approx(3))


def test_a_batch_that_does_not_fit_into_memory_is_refused():
    with pytest.raises(InputError, match=r"latency in cpu, batch 100000000000000, .*: out of memory.*; name a smaller"):
        measure(nn.Identity(), (64, 64), Setting(batch_size=10**14))


# --- settings


def test_the_setting_of_a_limit_is_its_own():
    limit = LatencyLimit.parse("5ms@cpu:batch=8,threads=2,runtime=onnxruntime")
    assert Setting.of(limit) == Setting(device="cpu", batch_size=8, threads=2, runtime="onnxruntime")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"device": "cpu:0"}, "device: must be cpu, cuda, mps or xpu, or one of several such as cuda:1"),
        ({"threads": 1025}, "threads: .*less than or equal to 1024, received 1025"),
        ({"batch_size": 0}, "batch_size: .*greater than 0, received 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(fields, expected):
    with pytest.raises(InputError, match=expected):
        Setting.from_dict(fields)


@pytest.mark.parametrize("text", ["5ms@cuda:runtime=onnxruntime", "5ms@cpu:runtime=onnxruntime,precision=bfloat16"])
def test_what_cannot_be_measured_is_refused(text):
    with pytest.raises(InputError, match="onnxruntime is measured on cpu in float32 only, received "):
        Setting.of(LatencyLimit.parse(text))


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="device cuda:77: cannot compute"):
        fingerprint(Setting(device="cuda:77"))


# --- runtimes


@pytest.fixture
def group():
    """A network whose operators every runtime has to get right."""
    from psvit.nn.layers import AttentionGroup

    torch.manual_seed(0)
    return AttentionGroup(2, 16, 2, 32, [0.0, 0.0])


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_eager_runs_the_network_itself_in_its_precision(group, precision):
    output = runtimes.prepare(group, (6, 16), Setting(precision=precision))()
    assert output.shape == (1, 6, 16)
    assert output.dtype == getattr(torch, precision)


def test_onnx_runtime_computes_what_pytorch_does(group):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run = runtimes.prepare(group, (6, 16), Setting(batch_size=2, runtime="onnxruntime"))
    with torch.inference_mode():
        expected = runtimes.prepare(group, (6, 16), Setting(batch_size=2))()
    np.testing.assert_allclose(run()[0], expected.numpy(), atol=1e-5)


@pytest.mark.slow
def test_compiled_networks_compute_what_pytorch_does(group):
    run = runtimes.prepare(group, (6, 16), Setting(runtime="compile"))
    with torch.inference_mode():
        torch.testing.assert_close(run(), runtimes.prepare(group, (6, 16), Setting())(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("runtime", ["compile", "onnxruntime"])
@pytest.mark.parametrize("wrong", [lambda x: 1.01 * x, lambda x: x + float("nan"), lambda x: x[:, :1]])
def test_a_runtime_that_computes_something_else_is_refused_before_it_is_timed(
    group, monkeypatch, time_it, runtime, wrong
):
    monkeypatch.setattr(runtimes, "_compiled", lambda network, inputs: lambda: wrong(network(inputs)))
    monkeypatch.setattr(runtimes, "_onnx", lambda network, inputs, setting: lambda: [wrong(network(inputs))])
    timer = MadeUpTimer([QUIET])
    with pytest.raises(MismatchError, match=f"runtime {runtime}: its outputs differ.*nothing was measured"):
        time_it(timer, Setting(runtime=runtime))
    assert timer.events == []


@pytest.mark.parametrize("several", [False, True])
def test_outputs_within_the_tolerance_pass(several):
    one = torch.linspace(-1, 1, 10)
    other = one + 0.5 * runtimes.TOLERANCES["float32"]
    runtimes.check_outputs((one, one) if several else one, [other, one] if several else other.numpy(), Setting())


def test_onnx_runtime_that_is_not_installed_is_answered_with_what_to_install(group, monkeypatch):
    monkeypatch.delitem(sys.modules, "psvit.nn.onnx_runtime", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"onnxruntime.*pip install 'psvit\[onnx\]'"):
        runtimes.prepare(group, (6, 16), Setting(runtime="onnxruntime"))


@pytest.mark.parametrize(("once", "expected"), [(0.001, 0.001 + 0.05 + 0.3), (0.05, 0.05 + 3 * 0.05 + 7 * 0.05)])
def test_how_long_a_measurement_takes_follows_from_two_runs(network, monkeypatch, once, expected):
    now = [0.0]

    def pass_time(*_):
        now[0] += once

    network.register_forward_hook(pass_time)
    monkeypatch.setattr(measure_module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    assert seconds_to_measure(network, (5, 4), Setting()) == pytest.approx(expected)
    assert now[0] == pytest.approx(2 * once)
