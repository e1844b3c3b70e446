"""Scoring: evaluators are made where they are needed, of the weights that the search began with."""

from __future__ import annotations

import pickle
from functools import partial

import pytest
import torch

from psvit.data import open_data
from psvit.errors import InputError
from psvit.executors.executor import Portable
from psvit.nn.seeding import seeded
from psvit.search.scoring import Scoring, batch_size, portable_supernet
from psvit.supernet.provenance import supernet_digest
from psvit.supernet.supernet import Supernet

CPU = torch.device("cpu")


@pytest.fixture
def file(digits_space, tmp_path):
    """The file of a supernet."""
    path = tmp_path / "supernet.safetensors"
    with seeded(0):
        Supernet(digits_space).save(path)
    return path


def test_a_supernet_that_changed_is_refused_wherever_an_evaluator_is_made(digits_space, file):
    digest = supernet_digest(file)
    images, held = open_data("digits"), Supernet.load(file)

    def scoring(loaded=None):
        return Scoring(
            space=digits_space,
            seed=0,
            device="cpu",
            supernet=portable_supernet(file, CPU, digest, loaded),
            data=Portable(images.reopen, images),
            share_prefixes=False,
        )

    travelled = pickle.loads(pickle.dumps(scoring(held)))
    archs = [digits_space[0], digits_space[1]]
    before = travelled().evaluate(archs)
    assert before == scoring()().evaluate(archs)
    with seeded(1):
        Supernet(digits_space).save(file)
    for make in (pickle.loads(pickle.dumps(scoring(held))), scoring()):
        with pytest.raises(InputError) as refused:
            make()
        line = str(refused.value)
        assert line.startswith(f"supernet {file}: has changed on ")
        assert digest in line
        assert supernet_digest(file) in line
        assert "\n" not in line
    # One that is loaded already is the one that the search began with.
    assert scoring(held)().evaluate(archs) == before


def test_without_a_digest_any_supernet_will_do(digits_space, file):
    scoring = Scoring(
        space=digits_space,
        seed=0,
        device="cpu",
        supernet=portable_supernet(file, CPU),
        data=Portable(partial(open_data, "digits")),
    )
    with seeded(1):
        Supernet(digits_space).save(file)
    assert len(scoring().evaluate([digits_space[0]])) == 1


@pytest.mark.parametrize(
    ("device", "image_size", "images"),
    [
        ("cpu", (32, 32), 128),
        ("cpu", (512, 512), 128),
        ("cuda", (32, 32), 1024),
        ("cuda", (96, 64), 1024),
        ("cuda", (224, 224), 334),
        ("cuda", (512, 512), 128),
    ],
)
def test_batches_fill_a_gpu(device, image_size, images):
    assert batch_size(torch.device(device), image_size) == images
