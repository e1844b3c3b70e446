"""Checkpoints are whole, few, and data only."""

from __future__ import annotations

import pickle

import pytest
import torch

from psvit.errors import InputError
from psvit.train.checkpoints import CheckpointConfig, Checkpoints


def test_what_is_saved_is_read(tmp_path):
    checkpoints = Checkpoints(tmp_path, CheckpointConfig())
    assert checkpoints.latest() is None
    shared = torch.arange(6.0)
    checkpoints.save(
        3, {"a": shared, "b": shared[2:], "c": torch.tensor(1, dtype=torch.int64)}, {"step": 3, "x": [0.1]}
    )
    tensors, about = Checkpoints(tmp_path, CheckpointConfig()).latest()
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        "a": [0, 1, 2, 3, 4, 5],
        "b": [2, 3, 4, 5],
        "c": 1,
    }
    assert about == {"step": 3, "x": [0.1]}


@pytest.mark.parametrize("number", [1, 2])
def test_the_last_ones_are_kept(tmp_path, number):
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(number=number))
    for step in (9, 10, 100):
        checkpoints.save(step, {"a": torch.tensor(step)}, {})
    assert [path.name for path in checkpoints.paths] == ["0000000010.safetensors", "0000000100.safetensors"][-number:]
    assert checkpoints.latest()[0]["a"] == 100


def test_a_damaged_one_is_passed_over_where_there_is_an_older_one(tmp_path):
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(number=2))
    for step in (1, 2):
        checkpoints.save(step, {"a": torch.tensor(step)}, {})
    last = checkpoints.paths[-1]
    last.write_bytes(last.read_bytes()[:-1])
    assert checkpoints.latest()[0]["a"] == 1
    checkpoints.paths[0].unlink()
    with pytest.raises(InputError, match="not a readable checkpoint") as error:
        checkpoints.latest()
    assert str(last) in str(error.value)


def test_a_pickle_in_its_place_is_refused_and_not_run(tmp_path):
    class Runs:
        def __reduce__(self):
            return (pytest.fail, ("code was run",))

    path = tmp_path / "checkpoints/0000000001.safetensors"
    path.parent.mkdir()
    path.write_bytes(pickle.dumps(Runs()))
    with pytest.raises(InputError, match="not a readable checkpoint"):
        Checkpoints(tmp_path, CheckpointConfig()).latest()


def test_an_interrupted_write_leaves_the_one_before(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, CheckpointConfig())
    checkpoints.save(1, {"a": torch.tensor(1)}, {})

    def writes_half(tensors, path, metadata):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("psvit.train.checkpoints.save_file", writes_half)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(2, {"a": torch.tensor(2)}, {})
    assert checkpoints.latest()[0]["a"] == 1
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def test_it_is_time_for_one_after_a_while(tmp_path):
    assert Checkpoints(tmp_path, CheckpointConfig(every_seconds=0)).due
    assert not Checkpoints(tmp_path, CheckpointConfig(every_seconds=60)).due


def test_clearing_leaves_nothing(tmp_path):
    checkpoints = Checkpoints(tmp_path, CheckpointConfig())
    checkpoints.clear()
    checkpoints.save(1, {"a": torch.tensor(1)}, {})
    checkpoints.clear()
    assert not list(tmp_path.iterdir())
