"""Study: the history of a search, kept in an Optuna study.

The study is the one truth about a search. Searchers propose from its history alone, winner and reports are made from
it, and a process that dies leaves nothing anywhere else.

A *batch* passes through it in three steps, each of which survives the process. `ask` writes down what a process is
about to evaluate, which keeps other processes from evaluating the same, and is found again by the same process when it
comes back. `tell` first writes down all scores of the batch in one record, then adds one trial an architecture. A
process that is killed in between adds the rest when it comes back.

What is learnt beside the scores, of finalists for instance, is kept as the study's `facts`.

What a process has asked for and not told counts as held while it gives a sign of life every now and then.

Trials that no search of ours has added, such as enqueued ones or those of other software, are passed over.
"""

from __future__ import annotations

import itertools
import json
import time
import warnings
from collections.abc import Callable, Sequence
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
from psvit.search.facts import Facts
from psvit.search.history import History, Rejected
from psvit.search.objectives import Objectives
from psvit.search.optuna_constraints import LIST, constraints_of, create_trial
from psvit.search.proposal import Proposal
from psvit.search.trial import Score, Trial
from psvit.space.search_space import SearchSpace

STUDY_NAME, CONTROL = "psvit", "-control"
"""The name of a run's own study; and what is added to a study's name for that of its control.

What is drawn for comparison is in a study of its own, so that the best of a study is the best that was searched.
"""

LEASE = 120.0
"""Seconds without a sign of life after which another process may evaluate what a process holds."""

PIECE = 24_000
"""Characters of JSON in one record. MySQL keeps 65,535 bytes, and text within JSON may take two for each of these."""

_STATES = {"complete": TrialState.COMPLETE, "raced": TrialState.PRUNED, "failed": TrialState.FAIL}
_CLAIM, _PIECE, _ALIVE, _CONFIG = "claim:", "piece:", "alive:", "config"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a process evaluates together.

    Attributes:
        number: how many batches the process had before.
        proposals: in the order of their trials; only the feasible ones are evaluated.
        scores: of the feasible ones, once they are known.
    """

    number: int
    proposals: tuple[Proposal, ...]
    scores: tuple[Score, ...] | None = None

    @property
    def feasible(self) -> list[Proposal]:
        """The proposals that are evaluated."""
        return [proposal for proposal in self.proposals if proposal.is_feasible]

    def only(self, kept: Sequence[bool]) -> Batch:
        """The batch with some of its proposals, and their scores where there are any."""
        scores = self.scores
        if scores is not None:
            of_feasible = (keep for proposal, keep in zip(self.proposals, kept, strict=True) if proposal.is_feasible)
            scores = tuple(itertools.compress(scores, of_feasible))
        return replace(self, proposals=tuple(itertools.compress(self.proposals, kept)), scores=scores)


class Study:
    """The trials of one search.

    Args:
        space: the space that is searched; its genes are the parameters that Optuna sees.
        storage: where the trials are kept; a study that is there is continued.
        name: of the study in the storage.
        objectives: what is improved.
        config: what scores depend on; a study with another one is refused.
        process: names this process among those that work on the study, the same when it comes back.
        clock: the time in seconds, the same for all processes.

    Attributes:
        space: as given.
        objectives: as given.
        process: as given.
        history: its trials.
        facts: what was learnt beside.

    Raises:
        InputError: the study there is of another search; what differs is named.
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
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.history = History()
        self._genes: dict[str, BaseDistribution] = {
            gene: IntDistribution(0, choices - 1) for gene, choices in space.genes.items()
        }
        self.space = space
        self.objectives = objectives or Objectives()
        self.process = process
        self._clock = clock
        self._archs: dict[tuple[int, ...], Architecture] = {}
        self._read = 0
        self._unfinished: list[int] = []
        self._told: dict[int, int] = {}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(
            study_name=name,
            storage=storage,
            directions=self.objectives.directions,
            # Our searchers propose; Optuna's is named so that it does not depend on Optuna's version.
            sampler=optuna.samplers.RandomSampler(seed=0),
            load_if_exists=True,
        )
        self.facts = Facts(self._study)
        self._check(name, {"objectives": list(self.objectives.names), **(config or {})})
        self.sync()

    def _check(self, name: str, config: dict[str, Any]) -> None:
        config = json.loads(json.dumps(config))
        found = self._study.user_attrs.get(_CONFIG)
        is_new = found is None and not self._study.get_trials(deepcopy=False)
        # Optuna keeps those of a study that is there already, and says nothing.
        directions = [direction.name.lower() for direction in self._study.directions]
        changed = [] if is_new else differences(found or {}, config)
        changed += differences(directions, self.objectives.directions, "directions")
        if changed:
            raise InputError(
                f"study {name!r}: is of another search ({'; '.join(changed)}); "
                "name another --study or --storage, or give the same options to continue it"
            )
        if is_new:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self._study.set_metric_names(["score", *self.objectives.names[1:]])
            self._study.set_user_attr(_CONFIG, config)  # last, because it says that all is there

    # --- what is there

    def sync(self) -> None:
        """Read what was added since the last time, by this process or others."""
        trials = self._study.get_trials(deepcopy=False)
        seen = [*(trials[number] for number in self._unfinished), *trials[self._read :]]
        self._read = len(trials)
        self._unfinished = [trial.number for trial in seen if not trial.state.is_finished()]
        new = [trial for trial in seen if self._is_ours(trial)]
        for trial in new:
            if trial.user_attrs["process"] == self.process:
                batch = trial.user_attrs["batch"]
                self._told[batch] = self._told.get(batch, 0) + 1
        evaluated = [trial for trial in new if "score" in trial.user_attrs]
        rows = [self._row(trial) for trial in evaluated]
        for trial, row, cost in zip(evaluated, rows, self._costs(rows), strict=True):
            self.history.add(self._trial(trial, row, cost))
        self.history.rejected += [self._rejected(trial) for trial in new if "score" not in trial.user_attrs]
        self.history.held = self._held()

    def _is_ours(self, trial: FrozenTrial) -> bool:
        """Whether a search of ours has added a trial, finished and with all that belongs to it."""
        return (
            trial.state.is_finished()
            and {"process", "batch", "origin"} <= trial.user_attrs.keys()
            and self._genes.keys() <= trial.params.keys()
        )

    def _row(self, trial: FrozenTrial) -> tuple[int, ...]:
        return tuple(trial.params[gene] for gene in self._genes)

    def _trial(self, trial: FrozenTrial, row: tuple[int, ...], cost: Cost) -> Trial:
        score = Score(**trial.user_attrs["score"])
        return Trial(
            number=trial.number,
            arch=self._archs.get(row) or self.space.decode(row),
            cost=cost,
            score=score,
            objectives=tuple(self.objectives.raw(trial.values)) if score.state == "complete" else (),
            origin=trial.user_attrs["origin"],
            row=row,
            constraints=constraints_of(trial),
            attrs=_attrs(trial),
        )

    def _rejected(self, trial: FrozenTrial) -> Rejected:
        return Rejected(
            number=trial.number,
            proposal=Proposal(
                row=self._row(trial),
                origin=trial.user_attrs["origin"],
                constraints=constraints_of(trial),
                attrs=_attrs(trial),
            ),
        )

    def _held(self) -> frozenset[Architecture]:
        """The architectures that other processes hold."""
        attrs = self._study.user_attrs
        held: set[Architecture] = set()
        for key, head in attrs.items():
            process = key.removeprefix(_CLAIM)
            if not key.startswith(_CLAIM) or process == self.process:
                continue
            if self._clock() - max(head["time"], attrs.get(_ALIVE + process, 0.0)) > LEASE:
                continue
            value = _claim(attrs, process)
            assert value is not None
            for proposal in map(Proposal.from_json, value["proposals"]):
                if proposal.is_feasible:
                    arch = self.space.decode(proposal.row)
                    if arch not in self.history:
                        held.add(arch)
        return frozenset(held)

    @property
    def is_shared(self) -> bool:
        """Whether other processes work on the study or did so."""
        claims = [key for key in self._study.user_attrs if key.startswith(_CLAIM)]
        return any(key != _CLAIM + self.process for key in claims)

    # --- a batch's way

    @property
    def last(self) -> Batch | None:
        """The batch that this process asked for last, told or not."""
        value = _claim(self._study.user_attrs, self.process)
        if value is None:
            return None
        scores = value["scores"]
        return Batch(
            number=value["number"],
            proposals=tuple(map(Proposal.from_json, value["proposals"])),
            scores=None if scores is None else tuple(Score(**score) for score in scores),
        )

    def pending(self) -> Batch | None:
        """The batch that this process has asked for and not wholly told, if there is one."""
        last = self.last
        return last if last and self._told.get(last.number, 0) < len(last.proposals) else None

    @property
    def next_number(self) -> int:
        """The number of this process's next batch."""
        value = self._study.user_attrs.get(_CLAIM + self.process)
        return 0 if value is None else value["number"] + 1

    def ask(self, batch: Batch) -> Batch:
        """Write down what is to be evaluated, or what was evaluated.

        Returns:
            The batch without what other processes hold or have told meanwhile. Two that ask for the same at the same
            time may both go without, and propose again.
        """
        self._write(batch)
        if not self.is_shared:
            return batch
        # Write our claim first, then read the others', so that two processes cannot both miss each other.
        self.sync()
        told = self._told.get(batch.number, 0)
        free = [
            position < told or not proposal.is_feasible or self._is_free(proposal)
            for position, proposal in enumerate(batch.proposals)
        ]
        if not all(free):
            batch = batch.only(free)
            self._write(batch)
        return batch

    def _is_free(self, proposal: Proposal) -> bool:
        """Whether no other process holds a feasible proposal or has told it."""
        arch = self.space.decode(proposal.row)
        return arch not in self.history and arch not in self.history.held

    def _write(self, batch: Batch) -> None:
        """Write a batch down, in one record where it is short, and always so that it is there whole or not at all."""
        key = _CLAIM + self.process
        content = {
            "proposals": [proposal.to_json() for proposal in batch.proposals],
            "scores": None if batch.scores is None else [asdict(score) for score in batch.scores],
        }
        text = json.dumps(content)
        if len(text) > PIECE:
            # The pieces of what is written down now stay until the record that names the new ones is there.
            _, former = self._study.user_attrs.get(key, {}).get("pieces", (0, 1))
            pieces = [text[start : start + PIECE] for start in range(0, len(text), PIECE)]
            for place, piece in enumerate(pieces):
                self._study.set_user_attr(_piece(self.process, 1 - former, place), piece)
            content = {"pieces": [len(pieces), 1 - former]}
        self._study.set_user_attr(key, {"number": batch.number, "time": self._clock(), **content})

    def beat(self) -> None:
        """Give a sign of life."""
        self._study.set_user_attr(_ALIVE + self.process, self._clock())

    def tell(self, batch: Batch, archs: Sequence[Architecture], scores: Sequence[Score]) -> list[Trial]:
        """Record a batch's scores for good.

        A process that gave no sign of life for longer than `LEASE` may find that another one has taken over what it
        held; its own scores of that are left out.

        Args:
            batch: as it was asked for.
            archs: of its feasible proposals.
            scores: of its feasible proposals; if the batch has scores already, those are kept.

        Returns:
            The trials that are new in the history, those of other processes included.
        """
        self._archs.update(zip((proposal.row for proposal in batch.feasible), archs, strict=True))
        before = len(self.history)
        batch = self.ask(replace(batch, scores=tuple(scores)) if batch.scores is None else batch)
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
        """Add one trial, with all that belongs to it in one record."""
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
                # Optuna's dashboard reads constraints as the list that they were before they had names.
                system_attrs={**proposal.attrs, LIST: list(proposal.constraints.values())},
                intermediate_values=intermediate,
                constraints=proposal.constraints,
            )
        )


def _claim(attrs: dict[str, Any], process: str) -> dict[str, Any] | None:
    """What a process has written down, put together, from the attributes of the study as they were at one moment."""
    head = attrs.get(_CLAIM + process)
    if head is None or "pieces" not in head:
        return head
    count, side = head["pieces"]
    return {**head, **json.loads("".join(attrs[_piece(process, side, place)] for place in range(count)))}


def _piece(process: str, side: int, place: int) -> str:
    """The name of a part of what a process has written down; the sides take turns."""
    return f"{_PIECE}{process}:{side}:{place}"


def _attrs(trial: FrozenTrial) -> dict[str, Any]:
    """What a sampler keeps beside a trial; constraints have a place of their own."""
    return {key: value for key, value in trial.system_attrs.items() if not key.startswith(LIST)}
