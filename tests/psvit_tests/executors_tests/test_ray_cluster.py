"""Reaching a cluster from outside, where Ray does not begin well."""

from __future__ import annotations

import pytest
import ray

from psvit.errors import InputError
from psvit.executors import ray_cluster

ADDRESS = "ray://head:10001"


@pytest.fixture
def attempts(monkeypatch):
    """Has Ray fail so many times, and counts how often it is asked."""

    def use(failures, error):
        asked = []

        def init(target, **options):
            asked.append(target)
            if len(asked) <= failures:
                raise error

        monkeypatch.setattr(ray_cluster, "check_cluster", lambda address: None)
        monkeypatch.setattr(ray, "init", init)
        return asked

    return use


def test_a_cluster_that_does_not_begin_well_is_tried_again(attempts):
    asked = attempts(2, ConnectionAbortedError("Initialization failure from server:\nmore"))
    ray_cluster.connect(ADDRESS)
    assert asked == [ADDRESS] * 3


def test_a_cluster_that_never_begins_is_named_in_one_line(attempts):
    asked = attempts(9, ConnectionAbortedError("Initialization failure from server:\nmore"))
    with pytest.raises(InputError, match=f"no Ray cluster at {ADDRESS}: Initialization failure") as error:
        ray_cluster.connect(ADDRESS)
    assert "\n" not in str(error.value)
    assert len(asked) == 3


def test_a_cluster_that_is_not_there_is_not_tried_again(attempts):
    asked = attempts(9, ConnectionError("nobody answers"))
    with pytest.raises(InputError, match="nobody answers"):
        ray_cluster.connect(ADDRESS)
    assert len(asked) == 1
