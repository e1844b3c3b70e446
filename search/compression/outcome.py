"""Compares what a search delivers with the network that it began with, and with what needs no search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from psvit.arch.costs import Cost, cost
from psvit.classifier import Classifier
from psvit.data import Batches, Inputs
from psvit.executors.executor import Portable
from psvit.nn.network import PSViT
from psvit.report.formatting import count
from psvit.search.compression.baselines import ShortenedNetworks, fewer_layers
from psvit.search.compression.speed import Speed, measure_by_turns
from psvit.search.compression.table import BATCH_SIZES, Compression, Row
from psvit.search.compression.token_merging import MergingNetwork, can_merge, merged_for, merging_macs
from psvit.search.prepared import Prepared
from psvit.search.result_cache import ResultCache, packed, unpacked
from psvit.search.scoring import batch_size
from psvit.search.selection.finalist import Finalist
from psvit.search.selection.selection import Selection
from psvit.train.bootstrap import CONFIDENCE, RESAMPLES, Difference, compared
from psvit.train.job_runner import right_and_loss, run_jobs
from psvit.train.original import ORIGINAL_FILE, Original
from psvit.train.training_job import ScoredOn, TrainingJob, TrainingResult


class Compressing:
    """Compares what a search delivers with the network that it began with, and with what needs no search.

    Whatever is computed is kept in the study, so that a continued run says the same.

    Args:
        prepared: the search, which begins with a network.
        cache: of its study.
    """

    def __init__(self, prepared: Prepared, cache: ResultCache) -> None:
        plan = prepared.plan
        assert plan.original is not None
        assert plan.data is not None
        self._original: Original = plan.original
        self._plan, self._data, self._cache = plan, plan.data, cache
        self._prepared = prepared
        self._part: ScoredOn = "verdict" if plan.selects and len(plan.data.verdict) else "search"

    def of_selection(self, selection: Selection, finalists: Sequence[Finalist]) -> Compression:
        """The table for finalists that were trained, the winner first."""
        original = self._of_original()
        right = [self._right_of_original()] if self._original.keeps_head else []
        last = selection.trainings.rungs[-1]
        jobs = {id(one): selection.trainings.jobs(one.arch, last) for one in finalists if not one.failure}
        known = {key: self._results(selection, some) for key, some in jobs.items()}
        trained = [one for one in finalists if len(known.get(id(one), ())) == last.seeds]
        rows = [original]
        networks: list[nn.Module] = [self._original.network]
        winner = finalists[0]
        by_hand = next((one for one in trained if one.is_reference and one is not winner), None)
        for finalist in (winner, by_hand):
            if finalist is not None:
                accuracies = self._accuracies(known.get(id(finalist), []))
                rows.append(_row(finalist.name, last.epoch, finalist.cost, accuracies))
                networks.append(PSViT(finalist.arch))
        difference = None
        of_winner = [one.right[self._part] for one in known.get(id(winner), []) if self._part in one.right]
        if right and of_winner:
            answers = [np.stack(right), np.stack(of_winner)]
            names = [original.name, winner.name]
            difference = compared(names, answers, RESAMPLES, CONFIDENCE, selection.trainings.seed)[1].difference
        for row, network in self._without_search(selection, winner.cost.macs):
            rows.append(row)
            networks.append(network)
        return self._table(rows, networks, difference)

    def of_front(self, points: Sequence[Finalist]) -> Compression:
        """The table for the points of a front, with the accuracies that they inherit."""
        rows = [self._of_original()]
        for point in points:
            accuracies = () if point.score is None else (point.score,)
            rows.append(_row(f"trial {point.trial.number}", 0, point.cost, accuracies))
        return self._table(rows, [self._original.network, *(PSViT(point.arch) for point in points)])

    def _table(self, rows: list[Row], networks: list[nn.Module], difference: Difference | None = None) -> Compression:
        speeds = self._speeds(rows, networks)
        return Compression(
            rows=tuple(replace(row, speeds=of_row) for row, of_row in zip(rows, speeds, strict=True)),
            part=self._part,
            images=len(getattr(self._data, self._part)),
            adapted=self._adapted(),
            device=f"{self._plan.device}, {count(torch.get_num_threads(), 'thread')}, PyTorch {torch.__version__}",
            difference=difference,
        )

    def _of_original(self) -> Row:
        accuracies = (_percent(self._right_of_original()),) if self._original.keeps_head else ()
        return _row(self._original.name, 0, cost(self._original.arch), accuracies)

    def _adapted(self) -> float | None:
        """The accuracy of the network as the adapted supernet has it."""
        supernet = self._prepared.supernet
        if supernet is None or self._plan.supernet_recipe is None:
            return None
        return _percent(self._right("adapted", lambda: supernet.get().extract(self._original.arch).eval()))

    def _right_of_original(self) -> NDArray[np.bool_]:
        return self._right("original", lambda: self._original.network)

    def _right(self, name: str, network: Callable[[], nn.Module]) -> NDArray[np.bool_]:
        """Which images a network recognises."""

        def answer() -> dict[str, Any]:
            inputs = Inputs.of(self._data, self._plan.space.image_size)
            size = batch_size(self._plan.device, inputs.image_size)
            batches = Batches(getattr(self._data, self._part), inputs, size, self._plan.device)
            right, _ = right_and_loss(network().to(self._plan.device), batches)
            return {"right": packed(right)}

        kept_as = f"compression:{self._part}:{name}"
        known = self._cache.get_or_compute(kept_as, answer)
        try:
            return unpacked(known["right"])
        except (KeyError, ValueError):
            raise self._cache.damaged(kept_as, "must have packed answers") from None

    @staticmethod
    def _results(selection: Selection, jobs: Sequence[TrainingJob]) -> list[TrainingResult]:
        """What is known of trainings."""
        return [result for job in jobs if (result := selection.store.get(job)) is not None]

    def _accuracies(self, results: Sequence[TrainingResult]) -> tuple[float, ...]:
        return tuple(result.accuracies[self._part] for result in results if self._part in result.accuracies)

    def _without_search(self, selection: Selection, macs: int) -> list[tuple[Row, nn.Module]]:
        """The baselines that cost at most so many multiply-accumulates."""
        arch = self._original.arch
        found: list[tuple[Row, nn.Module]] = []
        shorter = fewer_layers(arch, macs)
        if shorter:
            trainings = replace(selection.trainings, init=f"original:{self._original.digest}")
            jobs = trainings.jobs(shorter, trainings.rungs[-1], "fewer layers")
            runner = replace(
                selection.runner,
                initial=ShortenedNetworks(
                    Portable(partial(_read, self._prepared.folder / ORIGINAL_FILE), self._original.network)
                ),
            )
            for _ in run_jobs(jobs, runner, selection.executor, selection.store):
                pass
            accuracies = self._accuracies(self._results(selection, jobs))
            name = f"fewer layers, {shorter.depth} of {arch.depth}"
            found.append((_row(name, trainings.rungs[-1].epoch, cost(shorter), accuracies), PSViT(shorter)))
        merged = merged_for(arch, macs) if can_merge(arch) else None
        if merged and self._original.keeps_head:
            network = MergingNetwork(self._original.network, merged)
            right = self._right("-".join(map(str, merged)), lambda: network)
            row = _row("token merging (ToMe)", 0, cost(arch), (_percent(right),))
            found.append((replace(row, macs=merging_macs(arch, merged)), network))
        return found

    def _speeds(self, rows: Sequence[Row], networks: Sequence[nn.Module]) -> list[dict[int, Speed]]:
        """How fast networks are."""
        arch, device = self._original.arch, self._plan.device

        def measured() -> dict[str, Any]:
            here = [network.to(device).eval() for network in networks]
            shape = (arch.in_chans, *arch.image_size)
            return {
                str(size): [vars(one) for one in measure_by_turns(here, shape, size, device)] for size in BATCH_SIZES
            }

        name = f"compression:speed:{'; '.join(row.name for row in rows)}"
        known = self._cache.get_or_compute(name, measured)
        try:
            return [{size: Speed(**known[str(size)][place]) for size in BATCH_SIZES} for place in range(len(rows))]
        except (KeyError, IndexError, TypeError):
            raise self._cache.damaged(name, "must have speeds for all sizes of a batch") from None


def _row(name: str, epochs: int, costs: Cost, accuracies: tuple[float, ...]) -> Row:
    return Row(name=name, epochs=epochs, macs=costs.macs, num_params=costs.num_params, accuracies=accuracies)


def _percent(right: NDArray[np.bool_]) -> float:
    return 100 * float(right.mean())


def _read(file: Path) -> PSViT:
    """The network that a search begins with, from its file in the run."""
    network = Classifier.load(file).network
    assert isinstance(network, PSViT)
    return network
