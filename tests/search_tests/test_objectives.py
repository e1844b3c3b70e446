"""Objectives: names, signs and directions."""

from __future__ import annotations

import math

import pytest

from psvit.arch.costs import cost
from psvit.errors import InputError
from psvit.search.bounds import ObjectiveBound
from psvit.search.candidates import Candidates
from psvit.search.objectives import Objective, Objectives, read_objectives
from psvit.space.budget import Budget


def width(arch):
    return arch.stages[0].embed_dim


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("accuracy", ("accuracy",)),
        ("accuracy,macs", ("accuracy", "macs")),
        ("accuracy, params ,memory,latency", ("accuracy", "params", "memory", "latency")),
    ],
)
def test_a_list_of_names_is_read(text, names):
    assert read_objectives(text.split(","), "accuracy") == (names, ())


def test_the_score_has_two_names_and_the_one_that_fits_is_kept():
    assert read_objectives(("score", "macs"), "accuracy") == (("accuracy", "macs"), ())
    own = Objective("width", width)
    assert read_objectives(("accuracy", own), "score") == (("score", "width"), (own,))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("accuracy,speed", "unknown 'speed'; permitted are accuracy, macs, params, memory, latency"),
        ("accuracy,", "unknown ''"),
        ("", "unknown ''"),
        ("accuracy,macs,macs", "names an objective twice"),
        ("macs,accuracy", "must begin with accuracy"),
        ("macs", "must begin with accuracy"),
    ],
)
def test_what_is_no_such_list_is_refused_with_the_rule(text, expected):
    with pytest.raises(InputError, match=expected) as refused:
        read_objectives(text.split(","), "accuracy")
    assert "\n" not in str(refused.value)


def test_all_are_turned_so_that_more_is_better_and_read_with_their_own_sign(tiny_space):
    objectives = Objectives(
        names=("accuracy", "latency", "params", "memory", "macs"), others=(Objective("latency", lambda arch: 2.5),)
    )
    arch = tiny_space.largest
    costs = cost(arch)
    values = objectives.values(arch, costs, 71.5)
    assert values == (71.5, -2.5, -costs.num_params, -costs.activation_bytes, -costs.macs)
    assert objectives.raw(values) == [71.5, 2.5, costs.num_params, costs.activation_bytes, costs.macs]
    assert tuple(objectives.raw(objectives.raw(values))) == values
    assert objectives.directions == ["maximize", "minimize", "minimize", "minimize", "minimize"]


def test_one_objective_is_the_score(tiny_space):
    assert Objectives().values(tiny_space[0], cost(tiny_space[0]), -1.25) == (-1.25,)
    assert Objectives().directions == ["maximize"]


def test_what_is_maximised_keeps_its_sign(tiny_space):
    objectives = Objectives(names=("score", "width", "macs"), others=(Objective("width", width, direction="maximize"),))
    arch = tiny_space.smallest
    values = objectives.values(arch, cost(arch), 3.0)
    assert values == (3.0, width(arch), -cost(arch).macs)
    assert objectives.raw(values) == [3.0, width(arch), cost(arch).macs]
    assert objectives.directions == ["maximize", "maximize", "minimize"]


def test_a_function_is_asked_once_for_an_architecture(tiny_space):
    asked = []
    objective = Objective("width", lambda arch: asked.append(arch) or 1)
    assert [objective(arch) for arch in (tiny_space[0], tiny_space[1], tiny_space[0])] == [1, 1, 1]
    assert asked == [tiny_space[0], tiny_space[1]]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"name": "macs"}, "must be an identifier, and none of"),
        ({"name": "two words"}, "must be an identifier"),
        ({"direction": "less"}, "permitted are minimize and maximize"),
        ({"lower": 2.0, "upper": 1.0}, "must be numbers that ascend"),
        ({"upper": float("nan")}, "must be numbers that ascend"),
        ({"upper": "1"}, "must be numbers that ascend"),
        ({"name": 5}, "must be an identifier"),
        ({"name": "hypervolume"}, "must be an identifier, and none of"),
        ({"function": 5}, "must have a function from an architecture to a number, received 5"),
    ],
)
def test_an_objective_that_cannot_be_is_refused(options, expected):
    objective = Objective(**{"name": "width", "function": width, **options})
    with pytest.raises(InputError, match=expected):
        objective.check()


def test_a_value_that_is_no_number_is_beyond_every_limit(digits_space):
    arch = digits_space[0]

    def excess(value, **ends):
        bound = ObjectiveBound(Objective("own", lambda one: value if one == arch else 2.0, **ends))
        (proposal,) = Candidates(digits_space, Budget.parse("1MFLOPs"), [bound]).propose([arch], "uniform")
        return proposal.constraints["own"]

    for value in (math.inf, math.nan, 1e300):
        assert 1 < excess(value, upper=2.0) < math.inf
    assert 1 < excess(math.nan, lower=2.0) < math.inf
    assert excess(math.inf, lower=2.0) < 0
    assert excess(-math.inf, upper=2.0) < 0
    assert 1 < excess(-math.inf, lower=2.0) < math.inf


def test_an_objective_is_not_called_space(digits_space):
    with pytest.raises(InputError, match="space"):
        Objective("space", width).check()
