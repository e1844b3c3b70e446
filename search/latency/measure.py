"""The one function that measures latency, on `torch.utils.benchmark`, and what a measurement is valid for."""

from __future__ import annotations

import logging
import platform
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import psvit
from psvit.errors import InputError, NoisyMachineError
from psvit.executors.failures import out_of_memory
from psvit.io.cores import usable_cores
from psvit.io.documents import Value
from psvit.nn.precision import float32_products
from psvit.search.latency.runtimes import Run, prepare, runtime_version
from psvit.search.latency.setting import Setting as Setting
from psvit.search.latency.waiting import answered, warm_up_seconds

log = logging.getLogger(__name__)

MAX_SPREAD = 0.1
"""Interquartile range over median above which the machine counts as too noisy."""

MAX_PREEMPTIONS = 1.0
"""Times that the operating system takes a core away, per run, above which the machine counts as too noisy.

Threads of an operator wait for one another, so that a single busy process beside them can slow them down a hundredfold,
and so evenly that the spread shows nothing of it.
"""

QUIET = 50.0
"""Preemptions per second that are no sign of noise: the operating system's own.

On two virtual cores with nothing else running there were 28 to 44 a second, with an interquartile range of 1 to 3 %;
beside one busy process 56 to 70, while a run took ten times as long.
"""

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds to wait before each further attempt when the machine was too noisy."""

SECONDS = 0.3
"""Time over which one attempt repeats the run, where `REPEATS` do not take longer."""

REPEATS = 7
"""The fewest repeats that a median and quartiles are taken of."""

TIMED_RUNS = 3
"""A `torch.utils.benchmark.Timer` runs twice before it takes the time of a run."""


class Fingerprint(Value):
    """The device and the versions that a latency depends on.

    Attributes:
        processor: the model of the CPU, after that of the GPU if one is measured: small batches wait for the CPU.
        instructions: what PyTorch's CPU kernels are chosen for, such as `AVX512`.
        cores: that this process may use.
        threads: that operators may use.
        platform: operating system and architecture.
        fused_attention: whether attention without a visible map uses fused kernels.
        torch: version.
        psvit: version.
        runtime: name and version of what runs the network.
        gpu: versions of CUDA, its driver and cuDNN, and how float32 numbers are multiplied; empty without a GPU.
    """

    processor: str
    instructions: str
    cores: int
    threads: int
    platform: str
    fused_attention: bool
    torch: str
    psvit: str
    runtime: str
    gpu: str = ""


class Latency(Value):
    """How long one forward pass takes, from the request to the answer.

    Attributes:
        median_ms: median over the repeats, in milliseconds for the whole batch.
        iqr_ms: their interquartile range.
        repeats: timed blocks of runs; each counts with its mean.
        attempts: measurements until one was quiet enough; the others were noisy and count for nothing.
        setting: where and how the network ran.
        fingerprint: on what.
        queued_ms: milliseconds for a batch if batches are handed to a GPU without waiting for answers between them;
            `None` on a CPU, where it is the same.
    """

    median_ms: float
    iqr_ms: float
    repeats: int
    attempts: int
    setting: Setting
    fingerprint: Fingerprint
    queued_ms: float | None = None

    @property
    def images_per_second(self) -> float:
        """The throughput."""
        return 1e3 * self.setting.batch_size / (self.queued_ms or self.median_ms)


def torch_timer(**arguments: Any) -> Any:
    """A `torch.utils.benchmark.Timer`."""
    from torch.utils.benchmark import Timer

    return Timer(**arguments)


def preemptions_so_far() -> int:
    """How often the operating system has taken a core away from this process; 0 where it does not say."""
    try:
        import resource
    except ImportError:  # on Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def measure(
    network: nn.Module,
    input_shape: tuple[int, ...],
    setting: Setting,
    *,
    seconds: float = SECONDS,
    make_timer: Callable[..., Any] = torch_timer,
    preemptions: Callable[[], int] = preemptions_so_far,
    pause: Callable[[float], object] = time.sleep,
) -> Latency:
    """Measure a network's latency.

    The network is first run in the wanted runtime and its outputs are compared with PyTorch's own; then warmed up;
    then repeated in blocks. A GPU is waited for after every pass, as whoever sends a single request does. Where the
    blocks differ too much, or other processes took the cores away too often, the whole attempt is discarded, and after
    a pause there is another. Products of float32 numbers are not rounded to TF32.

    Args:
        network: ends in evaluation mode, on the setting's device and in its precision.
        input_shape: of the input without the batch: (channels, height, width) of an image.
        setting: where and how.
        seconds: over which an attempt repeats the run.
        make_timer: makes what takes the time, with the arguments of `torch.utils.benchmark.Timer`.
        preemptions: how often the operating system has taken a core away from this process so far.
        pause: waits for some seconds.

    Raises:
        InputError: the runtime is not installed, or a batch does not fit into memory.
        MismatchError: the runtime gives other outputs than PyTorch does.
        NoisyMachineError: every attempt was too noisy.
    """
    noises: list[str] = []
    device = torch.device(setting.device)
    with _as_set(setting), torch.inference_mode():
        run = prepare(network, input_shape, setting)
        timer = make_timer(stmt="run()", globals={"run": answered(run, device)}, num_threads=setting.num_threads)
        for wait in (0.0, *PAUSES):
            pause(wait)
            once = _warm_up(timer, warm_up_seconds(device))
            before = preemptions()
            times: list[float] = []
            runs = 0
            while len(times) < REPEATS:
                measured = timer.blocked_autorange(min_run_time=max(seconds, REPEATS * once))
                times += measured.times
                runs += len(measured.times) * measured.number_per_run
            preempted = preemptions() - before
            low, median, high = np.quantile(times, [0.25, 0.5, 0.75])
            noise = _noise((high - low) / median, preempted, runs, float(np.mean(times)))
            if not noise:
                return Latency(
                    median_ms=1e3 * float(median),
                    iqr_ms=1e3 * float(high - low),
                    repeats=len(times),
                    attempts=len(noises) + 1,
                    setting=setting,
                    fingerprint=fingerprint(setting),
                    queued_ms=None if device.type == "cpu" else _queued_ms(run, setting, seconds, make_timer),
                )
            log.info("too noisy: %s", noise)
            noises.append(noise)
    raise NoisyMachineError(
        f"the machine is too noisy to measure latency: {noises[-1]} in the last of {len(noises)} attempts; "
        "end what runs beside this, then give the same command"
    )


@contextmanager
def _as_set(setting: Setting) -> Iterator[None]:
    """Threads and the current device as a setting has them.

    Compiled code is for one number of threads, and a timer waits for the current device only.

    Raises:
        InputError: memory runs out.
    """
    # Importing the timer or a compiler looks for CUDA's, and warns where there is one but no GPU.
    logger = logging.getLogger("torch.utils.cpp_extension")
    level, threads = logger.level, torch.get_num_threads()
    logger.setLevel(logging.ERROR)
    torch.set_num_threads(setting.num_threads)
    try:
        device = torch.device(setting.device)
        with torch.accelerator.device_index(device.index), float32_products("highest", device.type):
            yield
    except (MemoryError, RuntimeError) as error:
        if reason := out_of_memory(error):
            raise InputError(f"latency in {setting}: {reason}; name a smaller batch") from None
        raise
    finally:
        torch.set_num_threads(threads)
        logger.setLevel(level)


def _noise(spread: float, preempted: int, runs: int, seconds: float) -> str:
    """Why an attempt was too noisy; empty if it was not.

    Args:
        spread: interquartile range over median.
        preempted: how often a core was taken away.
        runs: how often the network ran.
        seconds: that a run took.
    """
    if spread > MAX_SPREAD:
        return f"an interquartile range of {100 * spread:.0f} % of the median, permitted are {100 * MAX_SPREAD:.0f} %,"
    if preempted > max(MAX_PREEMPTIONS, QUIET * seconds) * runs:
        return f"{preempted} interruptions by other processes during {runs} runs"
    return ""


def _queued_ms(run: Run, setting: Setting, seconds: float, make_timer: Callable[..., Any]) -> float:
    """Milliseconds for a batch without waiting between batches; the timer waits after a block of them."""
    timer = make_timer(stmt="run()", globals={"run": run}, num_threads=setting.num_threads)
    return 1e3 * float(np.median(timer.blocked_autorange(min_run_time=seconds).times))


def _warm_up(timer: Any, at_least: float) -> float:
    """Run for some seconds until caches, clocks and branch predictors are warm; returns the seconds of the last run."""
    spent, once = 0.0, 0.0
    while spent < at_least:
        once = timer.timeit(1).median
        spent += TIMED_RUNS * once
    return once


def seconds_to_measure(
    network: nn.Module, input_shape: tuple[int, ...], setting: Setting, *, seconds: float = SECONDS
) -> float:
    """How long `measure` takes with the same arguments if the machine is quiet, from two runs.

    Raises:
        InputError, MismatchError: as `measure`.
    """
    device, began = torch.device(setting.device), time.perf_counter()
    with _as_set(setting), torch.inference_mode():
        run = answered(prepare(network, input_shape, setting), device)
        run()
        clock = time.perf_counter()
        run()
        once = time.perf_counter() - clock
    repeats = max(seconds, REPEATS * once) + (0.0 if device.type == "cpu" else seconds)  # a GPU's are queued too
    return clock - began + max(warm_up_seconds(device), TIMED_RUNS * once) + repeats


def fingerprint(setting: Setting) -> Fingerprint:
    """The fingerprint of this machine for a setting.

    Raises:
        InputError: there is no such device, or the runtime is not installed.
    """
    from timm.layers import use_fused_attn

    device = torch.device(setting.device)
    try:
        torch.zeros(1, device=device).item()  # some are only found missing when they compute
    except (RuntimeError, AssertionError, ImportError) as error:
        raise InputError(f"device {device}: cannot compute: {str(error).splitlines()[0]}") from None
    return Fingerprint(
        processor=_processor() if device.type != "cuda" else f"{torch.cuda.get_device_name(device)}, {_processor()}",
        instructions=torch.backends.cpu.get_cpu_capability(),
        cores=usable_cores(),
        threads=setting.num_threads,
        platform=f"{platform.system()} {platform.machine()}",
        fused_attention=bool(use_fused_attn()),
        torch=torch.__version__,
        psvit=psvit.__version__,
        runtime=runtime_version(setting.runtime),
        gpu=gpu_software() if device.type == "cuda" else "",
    )


def gpu_software() -> str:
    """Versions of what a GPU runs on, and how it is told to compute, in words."""
    about = Path("/proc/driver/nvidia/version")  # PyTorch does not say it
    found = re.search(r"Module\s+([\d.]+)", about.read_text()) if about.exists() else None
    driver = found[1] if found else "unknown"
    return f"CUDA {torch.version.cuda}, driver {driver}, cuDNN {torch.backends.cudnn.version()}, float32 without TF32"


def _processor() -> str:
    """The name of the processor's model."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
