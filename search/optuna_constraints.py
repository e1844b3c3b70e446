"""Constraints of Optuna's trials by name, which Optuna knows since version 5.

Optuna 4 has a list of them, which a sampler is told by a function. With it, names and values are written where Optuna 5
would write them, so that either version reads what the other has written; and the list beside them for its samplers.
"""

from __future__ import annotations

from typing import Any

import optuna
from optuna.trial import FrozenTrial

LIST = "constraints"
"""The system attribute that is the list."""

NAMED = f"{LIST}:"
"""How the names of the system attributes begin that are one constraint each."""

_HAS_NAMES = hasattr(FrozenTrial, "set_constraint")

SAMPLER_OPTIONS: dict[str, Any] = {} if _HAS_NAMES else {"constraints_func": lambda trial: trial.system_attrs[LIST]}
"""What a sampler has to be made with so that it heeds constraints."""


def create_trial(*, constraints: dict[str, float], system_attrs: dict[str, Any], **fields: Any) -> FrozenTrial:
    """A trial with constraints; all else is as of `optuna.trial.create_trial`."""
    if _HAS_NAMES:
        return optuna.trial.create_trial(constraints=constraints, system_attrs=system_attrs, **fields)
    return optuna.trial.create_trial(system_attrs={**system_attrs, **_attrs(constraints)}, **fields)


def set_constraints(trial: optuna.Trial, constraints: dict[str, float]) -> None:
    """Add constraints to a trial that was asked for."""
    if _HAS_NAMES:
        for name, value in constraints.items():
            trial.set_constraint(name, value)
    else:
        for key, attr in _attrs(constraints).items():
            trial.storage.set_trial_system_attr(trial._trial_id, key, attr)


def constraints_of(trial: FrozenTrial) -> dict[str, float]:
    """The constraints of a trial by name; those that have none, because they stand in the list alone, are left out."""
    attrs = trial.system_attrs
    return {key.removeprefix(NAMED): value for key, value in attrs.items() if key.startswith(NAMED)}


def _attrs(constraints: dict[str, float]) -> dict[str, Any]:
    return {LIST: list(constraints.values()), **{NAMED + name: value for name, value in constraints.items()}}
