"""Trial: one evaluated architecture, and the score that an evaluator gives it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from psvit.arch.architecture import Architecture
from psvit.arch.costs import Cost

State = Literal["complete", "raced", "failed"]
"""Scored on all images; given up early, because it cannot be among the best; not scored, for a reason."""

STATES: tuple[State, ...] = get_args(State)


@dataclass(frozen=True, kw_only=True)
class Score:
    """What an evaluator says of one architecture.

    Attributes:
        value: more is better; of fewer than all images if the state is `raced`, `None` if it is `failed`.
        images: how many images it rests on; 0 for an indicator that looks at none.
        state: whether it is whole.
        reason: why there is none.
    """

    value: float | None
    images: int = 0
    state: State = "complete"
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """An architecture with its score; a history is a list of them in the order of their numbers.

    Attributes:
        number: its number in the study; others may lie between those of a history.
        arch: the architecture.
        cost: its costs.
        score: what the evaluator gave it.
        objectives: what the search improves, (objectives,), each turned so that more is better; empty where the trial
            is not complete. With a single objective, the score.
        origin: how it was proposed: `uniform`, `mutation`, `crossover`, or the name of a sampler.
        row: the architecture in encoded form.
        constraints: by limit, by which share it is exceeded; never positive.
        attrs: what a sampler of Optuna's finds again beside it.
    """

    number: int
    arch: Architecture
    cost: Cost
    score: Score
    objectives: tuple[float, ...] = ()
    origin: str = ""
    row: tuple[int, ...] = ()
    constraints: dict[str, float] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether it was scored on all images, so that it can be compared with others that were."""
        return self.score.state == "complete"
