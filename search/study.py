"""Study: the history of a search, kept in an Optuna study, one record a trial.

The study is the one truth about a search: searchers propose from its history alone, and winner and reports are made
from it.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
from pathlib import Path
from typing import Any, BinaryIO, cast

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from psvit.architecture import Architecture
from psvit.costs import METRICS, cost
from psvit.search.trial import Trial
from psvit.search_space import SearchSpace

STUDY_NAME = "psvit"


class Study:
    """The trials of one search.

    Args:
        space: the space that is searched; its genes are the parameters that Optuna sees.
        journal: the file that keeps the trials; one that exists is continued.
    """

    def __init__(self, space: SearchSpace, journal: Path) -> None:
        self._genes: dict[str, BaseDistribution] = {
            name: IntDistribution(0, choices - 1) for name, choices in space.genes.items()
        }
        self._space = space
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        _drop_partial_record(journal)
        self._study = optuna.create_study(
            study_name=STUDY_NAME,
            storage=JournalStorage(JournalFileBackend(str(journal), lock_obj=cast(Any, _Lock(journal)))),
            direction="maximize",
            # Our searchers propose; Optuna's is named so that it does not depend on Optuna's version.
            sampler=optuna.samplers.RandomSampler(seed=0),
            load_if_exists=True,
        )
        self.history: list[Trial] = [
            self._read(trial) for trial in self._study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
        ]

    def tell(self, arch: Architecture, score: float) -> Trial:
        """Record an evaluated architecture, for good, before returning."""
        trial = Trial(number=len(self.history), arch=arch, cost=cost(arch), score=score)
        self._study.add_trial(
            optuna.trial.create_trial(
                params=dict(zip(self._genes, map(int, self._space.encode(arch)), strict=True)),
                distributions=self._genes,
                value=score,
                user_attrs=trial.cost.to_dict(),
            )
        )
        self.history.append(trial)
        return trial

    def _read(self, trial: optuna.trial.FrozenTrial) -> Trial:
        assert trial.value is not None
        arch = self._space.decode([trial.params[name] for name in self._genes])
        return Trial(number=trial.number, arch=arch, cost=cost(arch), score=trial.value)

    def to_csv(self) -> str:
        """The history as comma-separated values: number, score, costs, number in the space, architecture as JSON."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["number", "score", *METRICS, "index", "arch"])
        for trial in self.history:
            costs = [getattr(trial.cost, metric) for metric in METRICS]
            arch = json.dumps({key: trial.arch.to_dict()[key] for key in ("stages", "pools")})
            writer.writerow([trial.number, trial.score, *costs, self._space.index(trial.arch), arch])
        return text.getvalue()


class _Lock:
    """A lock on the journal itself, which the kernel frees when a process dies.

    Optuna's own is a link that a killed process leaves behind, and with a relative path nobody takes it over.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._stream: BinaryIO | None = None

    def acquire(self) -> bool:
        """Wait until no other process holds the journal."""
        self._stream = self._journal.open("ab")
        fcntl.flock(self._stream, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Let others have it."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _drop_partial_record(journal: Path) -> None:
    """Cut off what a process that died while it wrote left of a record; a whole one ends with a line break."""
    if not journal.exists():
        return
    with journal.open("rb+") as stream:
        content = stream.read()
        stream.truncate(content.rfind(b"\n") + 1)
