"""Strict values, digests, YAML and files that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from psvit.errors import InputError
from psvit.io.documents import (
    Value,
    digest_of_file,
    dump_yaml,
    is_there,
    read_yaml,
    replacing,
    replacing_folder,
    write_atomic,
)


class Inner(Value):
    size: int = 1
    names: tuple[str, ...] = ()


class Outer(Value):
    inner: Inner = Inner()
    inners: tuple[Inner, ...] = ()
    maybe: Inner | None = None
    ratio: float = 0.5


# --- values


def test_lists_of_yaml_become_tuples():
    value = Outer.from_dict({"inner": {"names": ["a", "b"]}, "inners": [{"size": 2}]})
    assert value == Outer(inner=Inner(names=("a", "b")), inners=(Inner(size=2),))


@pytest.mark.parametrize(
    ("data", "where", "permitted"),
    [
        ({"outr": 1}, "file.yaml: outr: unknown key", "inner, inners, maybe, ratio"),
        ({"inner": {"sise": 1}}, "file.yaml: inner.sise: unknown key", "size, names"),
        ({"inners": [{}, {"sise": 1}]}, "file.yaml: inners.1.sise: unknown key", "size, names"),
        ({"maybe": {"sise": 1}}, "file.yaml: maybe.sise: unknown key", "size, names"),
    ],
)
def test_an_unknown_key_is_named_with_the_permitted_ones(data, where, permitted):
    with pytest.raises(InputError) as error:
        Outer.from_dict(data, source="file.yaml")
    assert str(error.value).startswith(f"{where}; permitted keys: {permitted}")


def test_a_key_that_is_nearly_right_is_suggested():
    with pytest.raises(InputError, match=r"permitted keys: size, names; did you mean size\?$"):
        Inner.from_dict({"sise": 1})
    with pytest.raises(InputError, match=r"permitted keys: size, names$"):
        Inner.from_dict({"colour": 1})


@pytest.mark.parametrize("size", ["2", 2.0, True, None, [2], {"a": 2}])
def test_types_are_not_converted(size):
    with pytest.raises(InputError, match=r"^file.yaml: inner.size: .*valid integer.*received") as error:
        Outer.from_dict({"inner": {"size": size}}, source="file.yaml")
    assert json.dumps(size) in str(error.value)


@pytest.mark.parametrize("data", [None, 3, "text", [], [["inner", {}]]])
def test_what_is_no_mapping_is_refused(data):
    with pytest.raises(InputError, match=r"^file\.yaml: "):
        Outer.from_dict(data, source="file.yaml")


def test_what_json_cannot_say_is_refused():
    with pytest.raises(InputError, match=r"^file\.yaml: "):
        Outer.from_dict({"ratio": object()}, source="file.yaml")


def test_a_value_cannot_be_changed():
    value = Inner()
    with pytest.raises(ValidationError, match="frozen"):
        value.size = 2


def test_values_are_compared_and_hashed_by_content():
    assert Outer(inner=Inner(size=3)) == Outer(inner=Inner(size=3))
    assert len({Outer(inner=Inner(size=size)) for size in (1, 2, 1)}) == 2


def test_a_digest_is_that_of_the_canonical_json():
    canonical = b'{"inner":{"names":["a"],"size":2},"inners":[],"maybe":null,"ratio":0.5}'
    assert Outer(inner=Inner(size=2, names=("a",))).digest == hashlib.sha256(canonical).hexdigest()[:16]


def test_a_digest_changes_with_every_content():
    values = [
        Outer(),
        Outer(inner=Inner(size=2)),
        Outer(inners=(Inner(),)),
        Outer(inners=(Inner(), Inner())),
        Outer(maybe=Inner()),
        Outer(ratio=0.25),
        Outer(inner=Inner(names=("ab",))),
        Outer(inner=Inner(names=("a", "b"))),
    ]
    assert len({value.digest for value in values}) == len(values)
    assert Outer.from_dict(values[-1].to_dict()).digest == values[-1].digest


def test_a_file_digest_follows_its_bytes(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"\0\1\2")
    assert digest_of_file(path) == hashlib.sha256(b"\0\1\2").hexdigest()[:16]
    path.write_bytes(b"\0\1\3")
    assert digest_of_file(path) == hashlib.sha256(b"\0\1\3").hexdigest()[:16]


# --- YAML

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
scalars |= st.text(st.characters(exclude_categories=["Cs", "Cc", "Cn"]))
documents = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text("abcde1~ :"), inner))


@settings(max_examples=25)
@given(st.dictionaries(st.text("abcde1~ :", min_size=1), documents, max_size=4))
def test_what_is_dumped_is_read_back(data):
    assert yaml.safe_load(dump_yaml(data)) == data


def test_equal_lists_are_written_twice_without_anchors():
    pair = [1, 2]
    assert dump_yaml({"one": pair, "two": pair}) == "one: [1, 2]\ntwo: [1, 2]\n"


def test_read_yaml_returns_what_stands_beside_the_schema(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text("schema: this/1\none: [1, 2]\n")
    assert read_yaml(path, "this/1") == {"one": [1, 2]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"schema: other/1\n", r"schema: expected 'this/1', found 'other/1'"),
        (b"one: 1\n", r"schema: expected 'this/1', found None"),
        (b"schema: [this/1]\n", r"schema: expected 'this/1', found \['this/1'\]"),
        (b"- schema: this/1\n", r"expected a mapping with 'schema: this/1', found list"),
        (b"", r"expected a mapping with 'schema: this/1', found NoneType"),
        (b"schema: [this/1\n", r"not valid YAML"),
        (b"schema: this/1\n\tone: 1\n", r"not valid YAML"),
        (b"\xff\xfe\x00\x80", r"must be text in UTF-8"),
        (b"schema: this/1\none: 1\none: 1\n", r"not valid YAML: key given twice: one"),
        (b"schema: this/1\none: {two: {three: 1, three: 2}}\n", r"not valid YAML: key given twice: three"),
        (b"schema: this/1\none: !!python/object/apply:os.getcwd []\n", r"not valid YAML"),
        # More digits and more levels than Python takes.
        (b"schema: this/1\none: " + b"9" * 5000 + b"\n", r"not valid YAML"),
        (b"schema: this/1\none: " + b"[" * 3000 + b"]" * 3000 + b"\n", r"not valid YAML"),
    ],
)
def test_an_unusable_document_is_one_line_that_names_the_file(tmp_path, content, message):
    path = tmp_path / "file.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_yaml(path, "this/1")
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_document_that_cannot_be_read_is_named(tmp_path, name):
    with pytest.raises(InputError, match="cannot be read") as error:
        read_yaml(tmp_path / name, "this/1")
    assert str(error.value).startswith(f"{tmp_path / name}: ")


# --- atomic writing


@pytest.mark.parametrize(("content", "found"), [("größer\n", "größer\n".encode()), (b"\0\xff", b"\0\xff")])
def test_write_atomic_makes_folders_and_replaces(tmp_path, content, found):
    path = tmp_path / "a" / "b" / "file"
    write_atomic(path, "before")
    write_atomic(path, content)
    assert path.read_bytes() == found
    assert list(path.parent.iterdir()) == [path]


def test_a_written_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "plain").write_text("")
    write_atomic(tmp_path / "atomic", "")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("existing", [None, "before"])
@pytest.mark.parametrize("failure", [RuntimeError("writer failed"), KeyboardInterrupt()])
def test_a_failing_writer_leaves_the_target_and_no_temporary_file(tmp_path, existing, failure):
    path = tmp_path / "file"
    if existing:
        path.write_text(existing)

    def write():
        with replacing(path) as temporary:
            temporary.write_text("half of")
            raise failure

    with pytest.raises(type(failure)):
        write()
    assert [found.name for found in tmp_path.iterdir()] == (["file"] if existing else [])
    if existing:
        assert path.read_text() == existing


def test_the_target_stays_whole_while_its_successor_is_written(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    with replacing(path) as temporary:
        temporary.write_text("after")
        assert temporary.parent == path.parent  # on the same file system, where renaming is atomic
        assert path.read_text() == "before"
    assert path.read_text() == "after"


def test_a_full_disk_is_an_input_error_that_leaves_nothing(tmp_path):
    path = tmp_path / "file"

    def write():
        with replacing(path) as temporary:
            temporary.write_text("half of")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match=r"file: cannot be written: No space left on device$"):
        write()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["file/below", "folder"])
def test_an_unwritable_place_is_an_input_error_that_leaves_nothing(tmp_path, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot be written") as error:
        write_atomic(tmp_path / place, "content")
    assert str(error.value).startswith(f"{tmp_path / place}: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert not list((tmp_path / "folder").iterdir())


# --- folders


def test_a_folder_is_replaced_whole(tmp_path):
    for content in ("one", "other"):
        with replacing_folder(tmp_path / "out") as temporary:
            assert list(temporary.iterdir()) == []
            assert temporary.parent == tmp_path
            (temporary / content).mkdir()
            (temporary / content / "file").write_text(content)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        assert [path.name for path in (tmp_path / "out").iterdir()] == [content]
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_was_written_private_can_be_read_like_everything_else(tmp_path):
    with replacing_folder(tmp_path / "out") as temporary:
        (temporary / "inner").mkdir(0o700)
        (temporary / "inner/private").touch(0o600)
    (tmp_path / "plain").touch()
    (tmp_path / "folder").mkdir()
    assert (tmp_path / "out/inner/private").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "out/inner").stat().st_mode == (tmp_path / "folder").stat().st_mode


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("existing", [True, False])
def test_a_folder_that_is_not_finished_leaves_what_was_there(tmp_path, failure, existing):
    if existing:
        (tmp_path / "out").mkdir()
        (tmp_path / "out/file").write_text("before")

    def write():
        with replacing_folder(tmp_path / "out") as temporary:
            (temporary / "half").write_text("half")
            raise failure

    with pytest.raises(failure):
        write()
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if existing else [])
    if existing:
        assert (tmp_path / "out/file").read_text() == "before"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="below: cannot be written"), replacing_folder(tmp_path / "file/below"):
        pytest.fail("lent")


def test_whether_a_file_is_there_is_told_or_why_not(tmp_path, monkeypatch):
    (tmp_path / "one").touch()
    assert is_there(tmp_path / "one")
    assert not any(is_there(tmp_path / name) for name in ("other", "one/below", "x" * 300, "null\0"))
    (tmp_path / "loop").symlink_to("loop")
    assert not is_there(tmp_path / "loop")

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(InputError, match="one: cannot be read: Permission denied"):
        is_there("one")
