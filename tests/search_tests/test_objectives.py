"""Objectives: names, signs and directions."""

from __future__ import annotations

import pytest

from psvit.arch.costs import cost
from psvit.errors import InputError
from psvit.search.objectives import Objectives


class Constant:
    """Predicts one latency."""

    def predict(self, arch):
        return 2.5


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("accuracy", ("accuracy",)),
        ("accuracy,macs", ("accuracy", "macs")),
        ("accuracy, params ,memory,latency", ("accuracy", "params", "memory", "latency")),
    ],
)
def test_a_list_of_names_is_read(text, names):
    assert Objectives.parse(text) == names


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
        Objectives.parse(text)
    assert "--objectives" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_all_are_turned_so_that_more_is_better_and_read_with_their_own_sign(tiny_space):
    objectives = Objectives(names=("accuracy", "latency", "params", "memory", "macs"), latency=Constant())
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
