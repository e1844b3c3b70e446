"""A latency model of a small space on the device, and how well it predicts networks that it was not fitted to."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from gpu_stages.stage import Cell, Measured, finishes
from psvit.search.latency.build import LatencyPlan, build_model
from psvit.search.latency.measure import measure
from psvit.search.latency.model import LatencyModel
from psvit.search.latency.setting import Setting
from psvit.space.search_space import SearchSpace

SPACE = "psvit-2d-digits"


def cells(options: argparse.Namespace) -> Iterator[Cell]:
    """A single image, and many."""
    for batch in (1, 256):

        def build(left: float, batch: int = batch) -> Measured:
            file = options.out / f"latency-{batch}.yaml"
            if not finishes(_build, (options, batch, file), left):
                raise RuntimeError("not finished; the same line goes on")
            model = LatencyModel.load(file)
            fit, ridge = model.validation, model.ridge
            return {"mape": fit.mape, "kendall_tau": fit.kendall_tau, "ridge_mape": ridge.mape}

        yield Cell(f"{options.space or SPACE}, batch {batch}", build)


def _build(options: argparse.Namespace, batch: int, file: Path) -> None:
    """Build the model; what was measured of an unfinished one is in its journal."""
    setting = Setting(device=options.device, batch_size=batch)
    plan = LatencyPlan.of(SearchSpace.load(options.space or SPACE), setting, seed=0)
    build_model(replace(plan, rounds=1, calibrated_on=options.networks, held_out=options.networks), file, measure)
