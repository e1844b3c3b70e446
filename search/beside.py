"""What a winner is read beside: logistic regression on the same images, and how long the network takes here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from psvit.arch.architecture import Architecture
from psvit.data import Baseline, ImageData, logistic_regression
from psvit.report.formatting import count
from psvit.search.compression.speed import measure_by_turns
from psvit.search.compression.table import BATCH_SIZES
from psvit.search.plan import SearchPlan
from psvit.search.result_cache import ResultCache
from psvit.search.selection.finalist import Finalist


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What stands beside a winner.

    Attributes:
        baseline: logistic regression, fitted on the images that candidates train on, and scored on those that they are
            compared on; `None` if images are not small, or if there are none.
        milliseconds: the median for a batch, by its size; empty if it was not measured, or is told elsewhere.
        device: on what, in words.
    """

    baseline: Baseline | None = None
    milliseconds: Mapping[int, float] = field(default_factory=dict)
    device: str = ""


SECONDS = 0.01
"""That a measurement takes at least: nothing is decided by it, so a search need not wait for what `Speed` takes."""


def beside(plan: SearchPlan, cache: ResultCache, finalists: list[Finalist]) -> Beside:
    """Fit and measure what stands beside a winner. It is kept in the study, so that a continued run says the same.

    Args:
        plan: of the search.
        cache: of its study.
        finalists: what may be delivered, the winner first.
    """
    baseline = _baseline(plan.data, cache) if plan.data else None
    winner = finalists[0]
    # Of several points none is the winner; a limit on latency and a given network have a table of their own.
    if len(plan.objectives) > 1 or winner.latencies or plan.original:
        return Beside(baseline=baseline)
    known = cache.get_or_compute(f"milliseconds:{winner.arch.digest}", lambda: _timed(winner.arch, plan.device))
    try:
        milliseconds = {size: float(known[str(size)]) for size in BATCH_SIZES}
        return Beside(baseline=baseline, milliseconds=milliseconds, device=str(known["device"]))
    except (KeyError, TypeError, ValueError):
        raise cache.damaged("milliseconds", "must have numbers for all sizes of a batch") from None


def _baseline(data: ImageData, cache: ResultCache) -> Baseline | None:
    def fitted() -> dict[str, Any]:
        found = logistic_regression(data.train, data.search)
        return asdict(found) if found else {}

    known = cache.get_or_compute("baseline", fitted)
    try:
        return Baseline(**known) if known else None
    except TypeError:
        raise cache.damaged("baseline", "must have an accuracy and numbers of images") from None


def _timed(arch: Architecture, device: torch.device) -> dict[str, Any]:
    from psvit.nn.network import PSViT  # it loads timm, which a report need not

    network = PSViT(arch).to(device).eval()
    shape = (arch.in_chans, *arch.image_size)
    times = {str(size): measure_by_turns([network], shape, size, device, SECONDS)[0].median_ms for size in BATCH_SIZES}
    threads = f", {count(torch.get_num_threads(), 'thread')}" if device.type == "cpu" else ""
    return {**times, "device": f"{device}{threads}, PyTorch {torch.__version__}"}
