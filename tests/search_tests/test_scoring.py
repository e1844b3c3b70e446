"""Scoring: evaluators are made where they are needed, of the weights that the search began with."""

from __future__ import annotations

import pickle

import pytest

from psvit.data import open_data
from psvit.errors import InputError
from psvit.nn.seeding import seeded
from psvit.search.scoring import Scoring
from psvit.supernet.supernet import Supernet, supernet_digest


@pytest.fixture
def file(digits_space, tmp_path):
    """The file of a supernet."""
    path = tmp_path / "supernet.safetensors"
    with seeded(0):
        Supernet(digits_space).save(path)
    return path


def test_a_supernet_that_changed_is_refused_wherever_an_evaluator_is_made(digits_space, file):
    digest = supernet_digest(file)
    scoring = Scoring(
        space=digits_space, seed=0, device="cpu", supernet=str(file), digest=digest, data="digits", share_prefixes=False
    )
    travelled = pickle.loads(pickle.dumps(scoring))
    archs, images = [digits_space[0], digits_space[1]], open_data("digits")
    before = travelled().evaluate(archs)
    assert before == scoring(images).evaluate(archs)
    held = Supernet.load(file)
    with seeded(1):
        Supernet(digits_space).save(file)
    for make in (travelled, lambda: scoring(images)):
        with pytest.raises(InputError) as refused:
            make()
        line = str(refused.value)
        assert line.startswith(f"supernet {file}: has changed on ")
        assert digest in line
        assert supernet_digest(file) in line
        assert "\n" not in line
    # One that is loaded already is the one that the search began with.
    assert scoring(images, held).evaluate(archs) == before


def test_without_a_digest_any_supernet_will_do(digits_space, file):
    scoring = Scoring(space=digits_space, seed=0, device="cpu", supernet=str(file), data="digits")
    with seeded(1):
        Supernet(digits_space).save(file)
    assert len(scoring().evaluate([digits_space[0]])) == 1
