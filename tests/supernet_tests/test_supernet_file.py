"""The supernet's file: what comes back, and what is said about files that are something else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from psvit.errors import InputError
from psvit.supernet.provenance import (
    FILE_NAME,
    SCHEMA,
    check_held_out,
    read_provenance,
    read_space,
    supernet_digest,
    supernet_file,
)
from psvit.supernet.supernet import Supernet


def refused(path):
    """The one line that loading a file fails with."""
    with pytest.raises(InputError) as error:
        Supernet.load(path)
    message = str(error.value)
    assert "\n" not in message.strip()
    assert str(path) in message
    return message


def test_a_saved_supernet_comes_back_bit_for_bit(space, trained_like, images, tmp_path):
    supernet = trained_like(space)
    supernet.save(tmp_path / FILE_NAME)
    for path in (tmp_path, tmp_path / FILE_NAME):
        loaded = Supernet.load(path).eval()
        assert loaded.space == space
        state, other = supernet.state_dict(), loaded.state_dict()
        assert state.keys() == other.keys()
        assert all(torch.equal(state[name], other[name]) for name in state)
        with torch.no_grad():
            assert torch.equal(loaded(images(space), space.largest), supernet(images(space), space.largest))


def test_the_file_tells_its_space_and_where_it_comes_from(space, trained_like, tmp_path):
    provenance = {"data": "digits", "seed": 3, "recipe": {"epochs": 2, "ema_decay": None}}
    trained_like(space).save(tmp_path / FILE_NAME, provenance)
    assert read_space(tmp_path) == space
    assert read_space(tmp_path).digest == space.digest
    assert read_provenance(tmp_path) == provenance


def test_a_supernet_without_provenance_tells_nothing(space_2d, trained_like, tmp_path):
    trained_like(space_2d).save(tmp_path / FILE_NAME)
    assert read_provenance(tmp_path) == {}


def test_equal_supernets_have_equal_files(space_2d, trained_like, tmp_path):
    # The digest of the file stands in best.yaml, where equal searches have to write equal bytes. Several files,
    # because two could agree by chance.
    for number in range(6):
        trained_like(space_2d, seed=1).save(tmp_path / str(number), {"seed": 1})
    assert len({supernet_digest(tmp_path / str(number)) for number in range(6)}) == 1


def test_different_weights_have_different_digests(space_2d, trained_like, tmp_path):
    for seed in (0, 1):
        trained_like(space_2d, seed=seed).save(tmp_path / str(seed))
    assert supernet_digest(tmp_path / "0") != supernet_digest(tmp_path / "1")


def test_saving_leaves_nothing_but_the_file(space_2d, trained_like, tmp_path):
    trained_like(space_2d).save(tmp_path / FILE_NAME)
    trained_like(space_2d).save(tmp_path / FILE_NAME)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize("name", ["missing", "folder"])
def test_a_path_without_a_supernet_is_refused(tmp_path, name):
    (tmp_path / "folder").mkdir()
    assert f"expected a run folder with {FILE_NAME}" in refused(tmp_path / name)
    with pytest.raises(InputError):
        supernet_file(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"not a supernet", b"\xff" * 64, b"schema: psvit/architecture/1\n" * 9])
def test_a_file_that_is_not_safetensors_is_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert "not a readable safetensors file" in refused(tmp_path / "file")


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_a_file_that_was_cut_off_is_refused(space_2d, trained_like, tmp_path, kept):
    trained_like(space_2d).save(tmp_path / "file")
    whole = (tmp_path / "file").read_bytes()
    (tmp_path / "file").write_bytes(whole[: int(len(whole) * kept)])
    assert "not a readable safetensors file" in refused(tmp_path / "file")


@pytest.mark.parametrize(
    "metadata", [None, {"format": "pt"}, {"psvit": "{"}, {"psvit": '{"schema": "psvit/supernet/0"}'}, {"psvit": "[1]"}]
)
def test_a_file_of_another_schema_is_refused(tmp_path, metadata):
    save_file({"weight": torch.zeros(2)}, tmp_path / "file", metadata)
    assert f"schema must be {SCHEMA}" in refused(tmp_path / "file")


@pytest.mark.parametrize("about", [{}, {"space": [], "provenance": {}}, {"space": {}, "provenance": "here"}])
def test_metadata_that_is_no_mapping_is_refused(tmp_path, about):
    save_file({"weight": torch.zeros(2)}, tmp_path / "file", {"psvit": json.dumps({"schema": SCHEMA, **about})})
    assert "not a whole supernet" in refused(tmp_path / "file")


@pytest.mark.parametrize("damage", ["missing", "extra", "shape"])
def test_weights_that_do_not_fit_the_named_space_are_refused(space_2d, trained_like, tmp_path, damage):
    trained_like(space_2d).save(tmp_path / "good")
    tensors = load_file(tmp_path / "good")
    if damage == "missing":
        del tensors["head.bias"]
    elif damage == "extra":
        tensors["tail.bias"] = torch.zeros(1)
    else:
        tensors["head.bias"] = torch.zeros(7)
    metadata = {"psvit": json.dumps({"schema": SCHEMA, "space": space_2d.to_dict(), "provenance": {}})}
    save_file(tensors, tmp_path / "file", metadata)
    assert "do not fit the space" in refused(tmp_path / "file")


def test_images_of_a_changed_folder_are_refused_those_of_another_name_are_warned_of(
    space_2d, trained_like, tiny_data, tmp_path, caplog
):
    data = replace(tiny_data(), name="pictures", digest="a1")
    trained_like(space_2d).save(tmp_path / FILE_NAME, {"data": "pictures", "data_digest": "a1"})
    check_held_out(tmp_path, data)
    check_held_out(tmp_path, replace(data, name="moved"))
    assert not caplog.records
    for name in ("pictures", "./pictures", str(Path("pictures").absolute())):
        with pytest.raises(InputError, match=r"a1 then, b2 now.*; restore them, or train another supernet"):
            check_held_out(tmp_path, replace(data, name=name, digest="b2"))
    check_held_out(tmp_path, replace(data, name="others", digest="b2"))
    assert "trained on 'pictures', not on 'others'" in caplog.text


def test_of_supernets_from_before_there_were_digests_of_images_any_are_taken(
    space_2d, trained_like, tiny_data, tmp_path
):
    trained_like(space_2d).save(tmp_path / FILE_NAME, {"data": "tiny"})
    check_held_out(tmp_path, tiny_data())
