"""What psvit keeps in a study besides what Optuna knows of, read strictly: claims of processes, and trials' attributes.

A study's storage comes from outside as any other file does. Values of a wrong shape are told from those that are right
here, and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, isnan
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from psvit.search.optuna_constraints import LIST, constraints_of
from psvit.search.proposal import Proposal
from psvit.search.trial import STATES, Score

CLAIM, PIECE_OF_CLAIM, ALIVE = "claim:", "piece:", "alive:"
"""How the names of the attributes begin that each process writes."""

OURS = frozenset({"process", "batch", "origin"})
"""The attributes that every trial has that psvit adds."""

GENERATION = ":generation"
"""How the name ends under which a genetic sampler of Optuna's writes a trial's generation."""

_MOST = 2**62
_SCORE = {"value", "images", "state", "reason"}


class DamagedError(ValueError):
    """A value has a wrong shape; the message says which it should have."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a process has written of its last batch.

    Attributes:
        number: of the batch.
        sign: changes whenever the process writes it anew.
        proposals: of the batch.
        scores: of the feasible proposals; `None` until they are known.
    """

    number: int
    sign: float
    proposals: tuple[Proposal, ...]
    scores: tuple[Score, ...] | None


def read_claim(attrs: dict[str, Any], process: str) -> Claim | None:
    """The last claim of a process, with its pieces put together; `None` if there is none.

    Args:
        attrs: all attributes of the study, read at one moment.
        process: the process.

    Raises:
        DamagedError: it has a wrong shape.
    """
    head = attrs.get(CLAIM + process)
    if head is None:
        return None
    _demand(isinstance(head, dict), "must be a mapping")
    _demand(is_count(head.get("number")), "number must be a whole number from 0 on")
    _demand(_is_number(head.get("time")), "time must be a number")
    content = {**head, **_joined(attrs, process, head["pieces"])} if "pieces" in head else head
    _demand(isinstance(content.get("proposals"), list) and "scores" in content, "must have proposals and scores")
    proposals = tuple(map(_proposal, content["proposals"]))
    scores = content["scores"]
    if scores is not None:
        feasible = sum(proposal.is_feasible for proposal in proposals)
        _demand(isinstance(scores, list) and len(scores) == feasible, "must have a score for each feasible proposal")
    return Claim(
        number=head["number"],
        sign=head["time"],
        proposals=proposals,
        scores=None if scores is None else tuple(map(read_score, scores)),
    )


def piece(process: str, side: int, place: int) -> str:
    """The name of a piece of a claim. Claims are written to side 0 and side 1 in turn."""
    return f"{PIECE_OF_CLAIM}{process}:{side}:{place}"


def side_of(head: Any) -> int:
    """On which side the pieces of a claim are; 1 if it has none."""
    return head["pieces"][1] if isinstance(head, dict) and "pieces" in head else 1


def _joined(attrs: dict[str, Any], process: str, pieces: Any) -> dict[str, Any]:
    match pieces:
        case [int() as count, (0 | 1) as side] if is_count(count):
            names = [piece(process, side, place) for place in range(min(count, len(attrs) + 1))]
            _demand(all(isinstance(attrs.get(name), str) for name in names), "lacks some of its pieces")
            try:
                content = json.loads("".join(attrs[name] for name in names))
            except (ValueError, RecursionError):
                raise DamagedError("its pieces are not JSON") from None
            _demand(isinstance(content, dict), "its pieces must be a mapping")
            return content
    raise DamagedError("pieces must be their number, and 0 or 1")


def _proposal(value: Any) -> Proposal:
    match value:
        case [list() as row, str(), dict() as constraints, dict()]:
            if all(map(is_count, row)) and all(map(_is_share, constraints.values())):
                return Proposal.from_json(value)
    raise DamagedError("each proposal must be a list of genes, an origin, constraints and attributes")


def read_score(value: Any) -> Score:
    """A score from a mapping.

    Raises:
        DamagedError: it has a wrong shape.
    """
    _demand(isinstance(value, dict) and "value" in value and value.keys() <= _SCORE, "a score must have a value")
    state = value.get("state", "complete")
    _demand(state in STATES, f"a score's state must be one of {', '.join(STATES)}")
    is_known = value["value"] is None if state == "failed" else _is_number(value["value"])
    _demand(is_known, "a score's value must be a number, or null if it failed")
    _demand(is_count(value.get("images", 0)), "a score's images must be a whole number from 0 on")
    _demand(isinstance(value.get("reason", ""), str), "a score's reason must be text")
    return Score(**value)


def check_trial(trial: FrozenTrial, genes: dict[str, int], objectives: int) -> Score | None:
    """Make sure that a trial of ours can be what it says.

    Args:
        trial: the trial.
        genes: the number of values of each.
        objectives: how many there are.

    Returns:
        Its score; `None` if it was not evaluated.

    Raises:
        DamagedError: it cannot.
    """
    attrs = trial.user_attrs
    for name in ("process", "origin"):
        _demand(isinstance(attrs[name], str), f"{name} must be text")
    _demand(is_count(attrs["batch"]), "batch must be a whole number from 0 on")
    check_row([trial.params[gene] for gene in genes], genes)
    _demand(all(map(_is_share, constraints_of(trial).values())), "constraints must be numbers")
    for name, value in trial.system_attrs.items():
        if name == LIST:
            _demand(isinstance(value, list) and all(map(_is_share, value)), "constraints must be numbers")
        if name.endswith(GENERATION):  # searchers go through all generations
            _demand(is_count(value) and value <= trial.number + 1, "generation must be at most the trial's number")
    if "score" not in attrs:
        return None
    score = read_score(attrs["score"])
    if score.state == "complete":
        values = trial.values or []
        is_whole = len(values) == objectives and all(_is_number(value) and isfinite(value) for value in values)
        _demand(is_whole and trial.state == TrialState.COMPLETE, f"values must be {objectives} finite numbers")
    return score


def attrs_of_sampler(trial: FrozenTrial) -> dict[str, Any]:
    """The attributes that a sampler keeps beside a trial, without the constraints, which are kept elsewhere."""
    return {key: value for key, value in trial.system_attrs.items() if not key.startswith(LIST)}


def check_row(row: Sequence[Any], genes: dict[str, int]) -> None:
    """Make sure that every gene of an encoded architecture has one of its values.

    Raises:
        DamagedError: one has not.
    """
    _demand(len(row) == len(genes), f"there must be {len(genes)} genes, found {len(row)}")
    for value, (gene, choices) in zip(row, genes.items(), strict=True):
        _demand(is_count(value) and value < choices, f"{gene} must be 0 to {choices - 1}")


def is_count(value: Any) -> bool:
    """Whether a value is a whole number that is not negative."""
    return type(value) is int and 0 <= value < _MOST


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < _MOST)


def _is_share(value: Any) -> bool:
    return _is_number(value) and not isnan(value)


def _demand(holds: bool, rule: str) -> None:
    if not holds:
        raise DamagedError(rule)
