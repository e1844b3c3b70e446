"""Trial: one evaluated architecture, and the score that an evaluator gives it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from psvit.arch.architecture import Architecture
from psvit.arch.costs import Cost

State = Literal["complete", "raced", "failed"]
"""`complete`: scored on all images. `raced`: given up early, as it cannot be among the best. `failed`: no score."""

STATES: tuple[State, ...] = get_args(State)


@dataclass(frozen=True, kw_only=True)
class Score:
    """The score of one architecture.

    Attributes:
        value: more is better. If the state is `raced`, it rests on a part of the images; if `failed`, it is `None`.
        images: how many images it rests on; 0 if it rests on none.
        state: `complete`, `raced` or `failed`.
        reason: why the architecture could not be scored; empty unless the state is `failed`.
    """

    value: float | None
    images: int = 0
    state: State = "complete"
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """An architecture with its score; a history is a list of them in the order of their numbers.

    Attributes:
        number: its number in the study. The numbers of a history may have gaps.
        arch: the architecture.
        cost: its costs.
        score: its score.
        objectives: the values of the objectives, (objectives,), each turned so that more is better; empty if the trial
            is not complete. With a single objective, this is the score.
        origin: how it was proposed: `uniform`, `mutation`, `crossover`, or the name of a sampler.
        row: the architecture in encoded form.
        constraints: by limit, the share by which it is exceeded; never positive.
        attrs: attributes that a sampler of Optuna's has stored with the trial.
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
