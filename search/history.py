"""History: the trials of a search so far, kept so that looking at them stays cheap as they become many."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psvit.arch.architecture import Architecture
from psvit.search.pareto import ordered
from psvit.search.proposal import Proposal
from psvit.search.trial import Trial


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A proposal that was not evaluated, because it encodes no architecture or one beyond a limit.

    Attributes:
        number: its number in the study.
        proposal: the proposal.
    """

    number: int
    proposal: Proposal


class History:
    """Trials in the order of their numbers, an architecture at most once.

    Args:
        trials: those to begin with.

    Attributes:
        trials: all of them.
        complete: those that were scored on all images.
        raced: those that were given up early.
        rejected: proposals that were not feasible and therefore not evaluated.
        held: architectures that other processes are evaluating.
    """

    def __init__(self, trials: Collection[Trial] = ()) -> None:
        self.trials: list[Trial] = []
        self.complete: list[Trial] = []
        self.raced: list[Trial] = []
        self.rejected: list[Rejected] = []
        self.held: frozenset[Architecture] = frozenset()
        self._archs: set[Architecture] = set()
        self._objectives = np.empty((0, 0))
        for trial in trials:
            self.add(trial)

    def add(self, trial: Trial) -> bool:
        """Append a trial, unless its architecture is there already; returns whether it was not."""
        if trial.arch in self._archs:
            return False
        self._archs.add(trial.arch)
        self.trials.append(trial)
        if trial.is_complete:
            if len(self.complete) == len(self._objectives):
                grown = np.empty((max(64, 2 * len(self.complete)), len(trial.objectives)))
                if self.complete:
                    grown[: len(self.complete)] = self._objectives
                self._objectives = grown
            self._objectives[len(self.complete)] = trial.objectives
            self.complete.append(trial)
        elif trial.score.state == "raced":
            self.raced.append(trial)
        return True

    @property
    def objectives(self) -> NDArray[np.float64]:
        """The objectives of the complete trials, (n, objectives)."""
        return self._objectives[: len(self.complete)]

    def best(self, n: int = 1) -> list[Trial]:
        """The `n` best complete trials by all objectives, best first; of equal ones the earlier is better.

        With several objectives: of the first front, the least crowded first.
        """
        return [self.complete[position] for position in ordered(self.objectives)[:n]]

    def scores(self, n: int) -> list[float]:
        """The `n` best scores of complete trials, best first."""
        scores = (trial.score.value for trial in self.complete)
        return sorted((score for score in scores if score is not None), reverse=True)[:n]

    def __len__(self) -> int:
        return len(self.trials)

    def __iter__(self) -> Iterator[Trial]:
        return iter(self.trials)

    def __contains__(self, arch: object) -> bool:
        return arch in self._archs


class Seen:
    """The architectures that must not be proposed again.

    These are the architectures of a history, those that other processes hold, and those that are added here. The
    history is not copied.

    Args:
        history: the history.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._others = set(history.held)

    def add(self, arch: Architecture) -> None:
        """Count an architecture as seen."""
        self._others.add(arch)

    def __contains__(self, arch: object) -> bool:
        return arch in self._others or arch in self._history

    def __len__(self) -> int:
        return len(self._others) + len(self._history)
