"""The shapes of records in a journal of Optuna's, so that one of a wrong shape is told from one that is right.

Optuna trusts what it reads. A record of a wrong shape gives it errors of many kinds, or gives them to whoever looks at
the trial that is made of the record.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, Literal, Self

from optuna.distributions import BaseDistribution, json_to_distribution
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

_parsed = lru_cache(maxsize=4096)(json_to_distribution)


def _distribution(text: str) -> str:
    try:
        if isinstance(_parsed(text), BaseDistribution):
            return text
    except Exception as error:  # whatever Optuna's parser raises
        raise ValueError(f"is no distribution: {type(error).__name__}") from None
    raise ValueError("is no distribution")


def _time(text: str) -> str:
    try:
        datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError, OSError):
        raise ValueError("is no time in ISO format") from None
    return text


_Number = Annotated[int, Field(ge=0)]
_Time = Annotated[str, AfterValidator(_time)]
_Distribution = Annotated[str, AfterValidator(_distribution)]
_Attr = Annotated[dict[str, Any], Field(min_length=1, max_length=1)]
_State = Annotated[int, Field(ge=0, le=4)]


class _Record(BaseModel):
    """What all records have. Keys that another version of Optuna adds are permitted."""

    model_config = ConfigDict(strict=True, extra="ignore")

    op_code: int
    worker_id: str


class _CreateStudy(_Record):
    op_code: Literal[0]
    study_name: str
    directions: Annotated[list[Annotated[int, Field(ge=0, le=2)]], Field(min_length=1)]


class _OfStudy(_Record):
    study_id: _Number


class _DeleteStudy(_OfStudy):
    op_code: Literal[1]


class _DiscardTrials(_Record):
    op_code: Literal[10]


class _StudyUserAttr(_OfStudy):
    op_code: Literal[2]
    user_attr: _Attr


class _StudySystemAttr(_OfStudy):
    op_code: Literal[3]
    system_attr: _Attr


class _CreateTrial(_OfStudy):
    op_code: Literal[4]
    datetime_start: _Time | None
    datetime_complete: _Time = ""
    state: _State = 0
    value: float | None = None
    values: list[float] | None = None
    distributions: dict[str, _Distribution] = {}
    params: dict[str, float] = {}
    user_attrs: dict[str, Any] = {}
    system_attrs: dict[str, Any] = {}
    intermediate_values: dict[Annotated[str, Field(pattern=r"^-?\d{1,18}$")], float] = {}

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.value is not None and self.values is not None:
            raise ValueError("has both a value and values")
        for name, value in self.params.items():
            if name not in self.distributions:
                raise ValueError(f"params: {name} has no distribution")
            _check_value(name, self.distributions[name], value)
        return self


class _OfTrial(_Record):
    trial_id: _Number


class _TrialParam(_OfTrial):
    op_code: Literal[5]
    param_name: str
    param_value_internal: float
    distribution: _Distribution

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        _check_value(self.param_name, self.distribution, self.param_value_internal)
        return self


class _TrialState(_OfTrial):
    op_code: Literal[6]
    state: _State
    values: list[float] | None
    datetime_start: _Time | None = None
    datetime_complete: _Time | None = None

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        # 0 is running; 1, 2 and 3 are finished.
        if self.state == 0 and self.datetime_start is None:
            raise ValueError("datetime_start: is missing")
        if self.state in (1, 2, 3) and self.datetime_complete is None:
            raise ValueError("datetime_complete: is missing")
        return self


class _TrialIntermediateValue(_OfTrial):
    op_code: Literal[7]
    step: int
    intermediate_value: float


class _TrialUserAttr(_OfTrial):
    op_code: Literal[8]
    user_attr: _Attr


class _TrialSystemAttr(_OfTrial):
    op_code: Literal[9]
    system_attr: _Attr


def _check_value(name: str, distribution: str, value: float) -> None:
    """Make sure that a parameter has a value in terms of its distribution."""
    try:
        _parsed(distribution).to_external_repr(value)
    except Exception as error:  # whatever a distribution says of a number that is none of its own
        raise ValueError(f"params: {name} cannot be {value}: {type(error).__name__}") from None


_SHAPES: Callable[[Any], Any] = TypeAdapter(
    Annotated[
        _CreateStudy
        | _DeleteStudy
        | _DiscardTrials
        | _StudyUserAttr
        | _StudySystemAttr
        | _CreateTrial
        | _TrialParam
        | _TrialState
        | _TrialIntermediateValue
        | _TrialUserAttr
        | _TrialSystemAttr,
        Field(discriminator="op_code"),
    ]
).validate_python


def fault_of(record: Any) -> str:
    """What is wrong with the shape of a record, in a few words; empty if nothing is."""
    if isinstance(record, dict) and type(record.get("op_code")) is not int:
        return "op_code: must be a whole number"
    try:
        _SHAPES(record)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"][1:])
        message = problem["msg"].removeprefix("Value error, ")
        return ": ".join(part for part in (where[:100], message[:200]) if part)
    return ""
