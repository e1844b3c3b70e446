"""Documents of strangers end in one line, in little time and memory."""

from __future__ import annotations

import os
import time
import tracemalloc

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from psvit.errors import InputError
from psvit.io.bounded import MOST_BYTES, MOST_NODES, parse_yaml, read_text

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefg", "bcdefgh", strict=True)
)
KEYS = "".join(f"key{number}: 1\n" for number in range(MOST_NODES))


def in_bounds(text):
    """What is said of a text, in little time; if it is short, also in little memory."""
    is_traced = len(text) < 10_000  # tracing takes several times as long as reading
    if is_traced:
        tracemalloc.start()
    began = time.process_time()
    try:
        with pytest.raises(ValueError, match=r".") as error:
            parse_yaml(text)
        assert not is_traced or tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 20
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "repetitions by aliases included"),
        (KEYS, "more than 50,000 keys and values"),
        ("a: &a [*a]\n", "holds the alias itself"),
        ("a: *b\n", "undefined alias"),
        ("[" * 10**5, "more than 40 levels"),
        ("{a: " * 10**4, "more than 40 levels"),
        ("a: " + "9" * 5000, "a number of 5,000 characters"),
        ("a: 1" + ":59" * 10**5, "a number of 300,001 characters"),
        ("a: 0." + "3" * 5000, "a number of 5,002 characters"),
        ("? {a: 1}\n: 2\n", "unhashable key"),
        ("? [a]\n: 2\n", "unhashable key"),
        ("a: 1\nb: {c: 1, c: 2}\n", "key given twice: c"),
        ("a: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        ("a: !!timestamp 2001-99-99\n", "month must be"),
        ("a: \x00", "special characters are not allowed"),
    ],
    ids=lambda text: text[:20].replace("\x00", ""),
)
def test_what_is_too_much_or_no_yaml_is_one_line(text, message):
    assert message in in_bounds(text)


def test_aliases_may_be_used():
    text = "common: &common {depth: [1, 2]}\nstages: [*common, *common]\n"
    assert parse_yaml(text)["stages"] == [{"depth": [1, 2]}] * 2


@pytest.mark.parametrize(("text", "value"), [("2001-99-99", "2001-99-99"), ("2026-11-29", "2026-11-29"), ("0x1F", 31)])
def test_dates_are_text_and_numbers_are_numbers(text, value):
    assert parse_yaml(f"a: {text}") == {"a": value}


# Not all of Unicode: PyYAML itself turns some line breaks into spaces.
words = st.text(st.characters(min_codepoint=32, max_codepoint=126) | st.sampled_from("äß漢"), max_size=8)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=60)
@given(plain)
def test_what_was_written_is_read(value):
    assert parse_yaml(yaml.safe_dump(value, allow_unicode=True)) == value


# --- files


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("there are no pipes in folders here")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="must be a regular file"):
        read_text(tmp_path / "pipe")


def test_a_device_is_refused(tmp_path):
    if not os.path.exists("/dev/zero"):
        pytest.skip("there is no such device here")
    (tmp_path / "endless.yaml").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="must be a regular file"):
        read_text(tmp_path / "endless.yaml")


def test_a_large_file_is_not_read_whole(tmp_path):
    path = tmp_path / "large.yaml"
    path.write_bytes(b"#" * MOST_BYTES)
    assert len(read_text(path)) == MOST_BYTES
    with path.open("ab") as stream:
        stream.truncate(10**10)  # a hole, which takes no space
    with pytest.raises(InputError, match=r"must have at most 1,048,576 bytes"):
        read_text(path)
