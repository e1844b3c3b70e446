"""Study: the history of a search, kept in an Optuna study.

The study holds everything that is known about a search. Searchers propose from its history alone, and the winner and
the reports are made from it. A process that dies leaves no other state behind.

A *batch* is a group of architectures that one process evaluates together. It passes through the study in three steps,
and each step survives the death of the process:

1. `ask` writes down the architectures that the process is about to evaluate. Other processes do not evaluate them. If
   the process is restarted, it finds them again.
2. `tell` writes down all scores of the batch in one record.
3. `tell` then adds one trial for each architecture. If the process is killed in between, it adds the rest after its
   restart.

An architecture that a process has asked for and not yet told is *held* by that process, as long as the process gives a
sign of life from time to time (`psvit.search.leases`).

Results besides scores, such as the accuracies of finalists, are kept as the study's `cache`.

Trials that were not added by psvit, such as enqueued ones or those of other software, are ignored.
"""

from __future__ import annotations

import itertools
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from psvit.arch.architecture import Architecture
from psvit.arch.costs import METRICS, Cost
from psvit.errors import InputError
from psvit.io.run_folder import differences
from psvit.search.history import History, Rejected
from psvit.search.leases import Leases
from psvit.search.objectives import Objectives
from psvit.search.optuna_constraints import LIST, constraints_of, create_trial
from psvit.search.proposal import Proposal
from psvit.search.result_cache import ResultCache
from psvit.search.study_journal import REPAIR, StudyJournal
from psvit.search.study_records import (
    ALIVE,
    CLAIM,
    OURS,
    Claim,
    DamagedError,
    attrs_of_sampler,
    check_row,
    check_trial,
    piece,
    read_claim,
    side_of,
)
from psvit.search.trial import Score, Trial
from psvit.space.search_space import SearchSpace

STUDY_NAME, CONTROL = "psvit", "-control"
"""The name of a run's own study, and the ending of the name of its control's study.

The architectures that are drawn for comparison have a study of their own. So the best trial of the first study is the
best that the search found.
"""

PIECE = 24_000
"""The most characters of JSON in one record. MySQL stores 65,535 bytes, and JSON inside JSON may need two bytes for a
character."""

_STATES = {"complete": TrialState.COMPLETE, "raced": TrialState.PRUNED, "failed": TrialState.FAIL}
_CONFIG = "config"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Architectures that one process evaluates together.

    Attributes:
        number: how many batches the process had before.
        proposals: the proposals, in the order of their trials; only the feasible ones are evaluated.
        scores: the scores of the feasible proposals; `None` until they are known.
    """

    number: int
    proposals: tuple[Proposal, ...]
    scores: tuple[Score, ...] | None = None

    @property
    def feasible(self) -> list[Proposal]:
        """The proposals that are evaluated."""
        return [proposal for proposal in self.proposals if proposal.is_feasible]

    def only(self, kept: Sequence[bool]) -> Batch:
        """The batch with some of its proposals, and with their scores if they are known."""
        scores = self.scores
        if scores is not None:
            of_feasible = (keep for proposal, keep in zip(self.proposals, kept, strict=True) if proposal.is_feasible)
            scores = tuple(itertools.compress(scores, of_feasible))
        return replace(self, proposals=tuple(itertools.compress(self.proposals, kept)), scores=scores)


class Study:
    """The trials of one search.

    Args:
        space: the space that is searched. Its genes are the parameters that Optuna sees.
        storage: where the trials are kept. If the storage has a study of this name, that study is continued.
        name: the name of the study in the storage.
        objectives: what the search improves.
        config: everything that scores depend on. A study that was begun with another configuration is refused.
        process: the identity of this process among those that work on the study. A restarted process has the same one.
        clock: gives the time in seconds, by which this process judges for how long others gave no sign of life.
        calendar: gives the time that is written down. It has to change, and need not agree with that of others.

    Attributes:
        space: the space, as given.
        objectives: the objectives, as given.
        process: the identity of this process, as given.
        history: the trials.
        cache: results besides scores.

    Raises:
        InputError: the study in the storage belongs to another search; the message names what differs. Or what is in
            the storage is damaged, which any method may find.
    """

    def __init__(
        self,
        space: SearchSpace,
        storage: BaseStorage,
        *,
        name: str = STUDY_NAME,
        objectives: Objectives | None = None,
        config: dict[str, Any] | None = None,
        process: str = "0",
        clock: Callable[[], float] = time.monotonic,
        calendar: Callable[[], float] = time.time,
    ) -> None:
        self.history = History()
        self._genes: dict[str, BaseDistribution] = {
            gene: IntDistribution(0, choices - 1) for gene, choices in space.genes.items()
        }
        self.space = space
        self.objectives = objectives or Objectives()
        self.process = process
        self._calendar = calendar
        self._leases = Leases(clock)
        self._archs: dict[tuple[int, ...], Architecture] = {}
        self._read = 0
        self._unfinished: list[int] = []
        self._told: dict[int, int] = {}
        self._scored: frozenset[Architecture] = frozenset()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage = storage
        self._study = optuna.create_study(
            study_name=name,
            storage=storage,
            directions=self.objectives.directions,
            # Our searchers propose, so Optuna's sampler is never asked. One is named here, because the default sampler
            # depends on Optuna's version.
            sampler=optuna.samplers.RandomSampler(seed=0),
            load_if_exists=True,
        )
        self.cache = ResultCache(self._study, self._damaged)
        self._check(name, {"objectives": list(self.objectives.names), **(config or {})})
        self.sync()

    def _check(self, name: str, config: dict[str, Any]) -> None:
        config = json.loads(json.dumps(config))
        found = self._study.user_attrs.get(_CONFIG)
        is_new = found is None and not self._study.get_trials(deepcopy=False)
        # If the study exists, Optuna keeps its directions and does not complain that others are wanted.
        directions = [direction.name.lower() for direction in self._study.directions]
        changed = [] if is_new else differences(found or {}, config)
        changed += differences(directions, self.objectives.directions, "directions")
        if changed:
            raise InputError(
                f"study {name!r}: belongs to another search ({'; '.join(changed)}); "
                "name another --study or --storage, or give the same options to continue it"
            )
        if is_new:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self._study.set_metric_names(["score", *self.objectives.names[1:]])
            # The configuration is written last. A study that has one is complete.
            self._study.set_user_attr(_CONFIG, config)

    # --- reading the storage

    def sync(self) -> None:
        """Read the trials that this process or others have added since the last call."""
        # Claims are read before trials. Another process adds its trials and then claims the next ones. Read the other
        # way round, what it does in between would be neither among its claims nor among the trials.
        attrs = self._study.user_attrs
        trials = self._study.get_trials(deepcopy=False)
        seen = [*(trials[number] for number in self._unfinished), *trials[self._read :]]
        self._read = len(trials)
        self._unfinished = [trial.number for trial in seen if not trial.state.is_finished()]
        new = [trial for trial in seen if self._is_ours(trial)]
        for trial in new:
            with self._damage_at(trial.number):
                check_trial(trial, self.space.genes, len(self.objectives.names))
        for trial in new:
            if trial.user_attrs["process"] == self.process:
                batch = trial.user_attrs["batch"]
                self._told[batch] = self._told.get(batch, 0) + 1
        evaluated = [trial for trial in new if "score" in trial.user_attrs]
        rows = [self._row(trial) for trial in evaluated]
        archs = [self._arch(trial, row) for trial, row in zip(evaluated, rows, strict=True)]
        for trial, arch, row, cost in zip(evaluated, archs, rows, self._costs(rows), strict=True):
            self.history.add(self._trial(trial, arch, row, cost))
        self.history.rejected += [self._rejected(trial) for trial in new if "score" not in trial.user_attrs]
        self.history.held, self._scored = self._held(attrs)

    def _is_ours(self, trial: FrozenTrial) -> bool:
        """Whether psvit has added a trial, and the trial is finished and complete with its attributes."""
        return (
            trial.state.is_finished() and trial.user_attrs.keys() >= OURS and self._genes.keys() <= trial.params.keys()
        )

    def _row(self, trial: FrozenTrial) -> tuple[int, ...]:
        return tuple(trial.params[gene] for gene in self._genes)

    def _arch(self, trial: FrozenTrial, row: tuple[int, ...]) -> Architecture:
        with self._damage_at(trial.number):
            return self._archs.get(row) or self.space.decode(row)

    def _trial(self, trial: FrozenTrial, arch: Architecture, row: tuple[int, ...], cost: Cost) -> Trial:
        score = Score(**trial.user_attrs["score"])
        return Trial(
            number=trial.number,
            arch=arch,
            cost=cost,
            score=score,
            objectives=tuple(self.objectives.raw(trial.values)) if score.state == "complete" else (),
            origin=trial.user_attrs["origin"],
            row=row,
            constraints=constraints_of(trial),
            attrs=attrs_of_sampler(trial),
        )

    def _rejected(self, trial: FrozenTrial) -> Rejected:
        return Rejected(
            number=trial.number,
            proposal=Proposal(
                row=self._row(trial),
                origin=trial.user_attrs["origin"],
                constraints=constraints_of(trial),
                attrs=attrs_of_sampler(trial),
            ),
        )

    def _held(self, attrs: dict[str, Any]) -> tuple[frozenset[Architecture], frozenset[Architecture]]:
        """The architectures that other living processes hold, and those of them that have a score already."""
        held: set[Architecture] = set()
        scored: set[Architecture] = set()
        for process in self._processes(attrs):
            claim = self._claim(attrs, process)
            if claim is None or not self._leases.is_alive(
                process, (claim.number, claim.sign, attrs.get(ALIVE + process))
            ):
                continue
            for proposal in claim.proposals:
                if proposal.is_feasible:
                    arch = self.space.decode(proposal.row)
                    if arch not in self.history:
                        held.add(arch)
                        if claim.scores is not None:
                            scored.add(arch)
        return frozenset(held), frozenset(scored)

    @property
    def is_shared(self) -> bool:
        """Whether other processes work on the study or have worked on it."""
        return bool(self._processes(self._study.user_attrs))

    def _processes(self, attrs: dict[str, Any]) -> list[str]:
        """The other processes that work on the study or have worked on it."""
        return [key.removeprefix(CLAIM) for key in attrs if key.startswith(CLAIM) and key != CLAIM + self.process]

    def _claim(self, attrs: dict[str, Any], process: str) -> Claim | None:
        """The last claim of a process, whose feasible proposals encode architectures; `None` if there is none."""
        with self._damage_at(CLAIM + process):
            claim = read_claim(attrs, process)
            for proposal in claim.proposals if claim else ():
                if proposal.is_feasible:
                    check_row(proposal.row, self.space.genes)
                    self.space.decode(proposal.row)
            return claim

    @contextmanager
    def _damage_at(self, place: str | int) -> Iterator[None]:
        """Turn what is said of a value that was read from the storage into an error that names its place."""
        try:
            yield
        except (DamagedError, IndexError, ValueError) as error:
            raise self._damaged(place, error) from None

    def _damaged(self, place: str | int, error: Exception | str) -> InputError:
        """The error of an attribute of the study, or of a trial, that cannot be what it says."""
        what = f"trial {place}" if isinstance(place, int) else place
        where = f"study {self._study.study_name!r}"
        if isinstance(self._storage, StudyJournal):
            line = self._storage.line_of(self._study._study_id, place)
            where = f"--storage {self._storage.path}: line {line}"
        return InputError(f"{where} is damaged: {what}: {str(error)[:300]}{REPAIR}")

    # --- asking and telling

    @property
    def last(self) -> Batch | None:
        """The batch that this process asked for last, whether or not its trials were added; `None` before the first."""
        claim = self._claim(self._study.user_attrs, self.process)
        if claim is None:
            return None
        return Batch(number=claim.number, proposals=claim.proposals, scores=claim.scores)

    def pending(self) -> Batch | None:
        """The last batch of this process, if some of its trials are still missing; `None` otherwise."""
        last = self.last
        return last if last and self._told.get(last.number, 0) < len(last.proposals) else None

    @property
    def next_number(self) -> int:
        """The number of this process's next batch."""
        last = self.last
        return 0 if last is None else last.number + 1

    def ask(self, batch: Batch) -> Batch:
        """Write down a batch that is about to be evaluated, or one that was evaluated, with its scores.

        Returns:
            The batch without the architectures that other processes hold or have told meanwhile. If two processes ask
            for one architecture at the same time, it may be left out of both batches. Both then propose again. A batch
            that has scores keeps what others only ask for or evaluate: the first score counts.
        """
        self._write(batch)
        if not self.is_shared:
            return batch
        # Write our claim first, then read the others', so that two processes cannot both miss each other.
        self.sync()
        told = self._told.get(batch.number, 0)
        held = self.history.held if batch.scores is None else self._scored
        archs = [self.space.decode(proposal.row) if proposal.is_feasible else None for proposal in batch.proposals]
        free = [
            position < told or arch is None or (arch not in self.history and arch not in held)
            for position, arch in enumerate(archs)
        ]
        if not all(free):
            batch = batch.only(free)
            self._write(batch)
        return batch

    def _write(self, batch: Batch) -> None:
        """Write a batch down, so that a reader finds all of it or nothing. A short batch takes one record."""
        key = CLAIM + self.process
        scores = None if batch.scores is None else [asdict(score) for score in batch.scores]
        content: dict[str, Any] = {"proposals": [one.to_json() for one in batch.proposals], "scores": scores}
        text = json.dumps(content)
        if len(text) > PIECE:
            # The pieces of the batch before stay in place until the new record is written, which names the new pieces.
            former = side_of(self._study.user_attrs.get(key))
            pieces = [text[start : start + PIECE] for start in range(0, len(text), PIECE)]
            for place, part in enumerate(pieces):
                self._study.set_user_attr(piece(self.process, 1 - former, place), part)
            content = {"pieces": [len(pieces), 1 - former]}
        self._study.set_user_attr(key, {"number": batch.number, "time": self._calendar(), **content})

    def beat(self) -> None:
        """Write a sign of life of this process, so that it keeps what it holds."""
        self._study.set_user_attr(ALIVE + self.process, self._calendar())

    def tell(self, batch: Batch, archs: Sequence[Architecture], scores: Sequence[Score]) -> list[Trial]:
        """Record the scores of a batch and add its trials.

        If this process gave no sign of life for longer than `LEASE`, another process may have taken over some of its
        architectures. Those that it has told are left out.

        Args:
            batch: the batch, as `ask` returned it.
            archs: the architectures of its feasible proposals.
            scores: the scores of its feasible proposals. If the batch has scores already, those are kept.

        Returns:
            The trials that are new in the history, including those of other processes.
        """
        self._archs.update(zip((proposal.row for proposal in batch.feasible), archs, strict=True))
        before = len(self.history)
        with self._damage_at(CLAIM + self.process):  # of a batch that was read from the storage
            for proposal in batch.proposals:
                check_row(proposal.row, self.space.genes)
        batch = self.ask(batch if batch.scores is not None else replace(batch, scores=tuple(scores)))
        assert batch.scores is not None
        rows = [proposal.row for proposal in batch.feasible]
        costs = iter(self._costs(rows))
        left = iter(zip((self._archs[row] for row in rows), batch.scores, strict=True))
        for position, proposal in enumerate(batch.proposals):
            evaluated = (*next(left), next(costs)) if proposal.is_feasible else None
            if position >= self._told.get(batch.number, 0):
                self._add(batch, proposal, evaluated)
        self.sync()
        self._archs.clear()
        return self.history.trials[before:]

    def _costs(self, rows: Sequence[tuple[int, ...]]) -> list[Cost]:
        priced = self.space.price(np.array(rows, dtype=np.int64).reshape(-1, len(self._genes)))
        columns = [getattr(priced, metric).tolist() for metric in METRICS]
        return [Cost(**dict(zip(METRICS, costs, strict=True))) for costs in zip(*columns, strict=True)]

    def _add(self, batch: Batch, proposal: Proposal, evaluated: tuple[Architecture, Score, Cost] | None) -> None:
        """Add one trial, with its score, costs and constraints in one record."""
        attrs: dict[str, Any] = {"process": self.process, "batch": batch.number, "origin": proposal.origin}
        state, values, intermediate = TrialState.PRUNED, None, {}
        if evaluated is not None:
            arch, score, cost = evaluated
            if score.state == "complete":
                assert score.value is not None
                values = self.objectives.raw(self.objectives.values(arch, cost, score.value))
                if strange := [
                    name for name, value in zip(self.objectives.names, values, strict=True) if not isfinite(value)
                ]:
                    score, values = Score(value=None, state="failed", reason=f"{strange[0]} is no finite number"), None
            attrs |= {"score": asdict(score), **cost.to_dict()}
            state = _STATES[score.state]
            if score.state == "raced":
                assert score.value is not None
                intermediate = {score.images: score.value}
        self._study.add_trial(
            create_trial(
                state=state,
                params=dict(zip(self._genes, proposal.row, strict=True)),
                distributions=self._genes,
                values=values,
                user_attrs=attrs,
                # Optuna's dashboard reads constraints as a list, which is the form that older versions of Optuna used.
                system_attrs={**proposal.attrs, LIST: list(proposal.constraints.values())},
                intermediate_values=intermediate,
                constraints=proposal.constraints,
            )
        )
