"""Names from data can neither command a terminal nor become a part of a page."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psvit.io.escaping import as_code, in_markdown, in_terminal


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cat", "cat"),
        ("größer 漢字 👩‍🚀", "größer 漢字 👩‍🚀"),
        ("\x1b[2Jcat", r"\x1b[2Jcat"),
        ("one\r\ntwo\t", r"one\r\ntwo\t"),
        ("\x9b31m", r"\x9b31m"),
        ("exe.\u202egnp", r"exe.\u202egnp"),
        ("a\u2028b", r"a\u2028b"),
    ],
)
def test_control_characters_are_written_out(text, shown):
    assert in_terminal(text) == shown


@given(st.text())
def test_a_terminal_sees_one_printable_line(text):
    found = in_terminal(text)
    assert len(found.splitlines()) <= 1
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", found)
    found.encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cat", "cat"),
        ("[click](http://there)", r"\[click\](http://there)"),
        ("<script>", r"\<script\>"),
        ("a|b", r"a\|b"),
        ("*x* `y` _z_", r"\*x\* \`y\` \_z\_"),
        ("one\n# two", r"one\\n\# two"),
        ("&lt;", r"\&lt;"),
    ],
)
def test_markdown_is_text(text, shown):
    assert in_markdown(text) == shown


@given(st.text(alphabet="`~ab\n", max_size=30))
def test_code_cannot_leave_its_block(text):
    first, *inner, last = as_code(text, "yaml").split("\n")
    assert first == f"{last}yaml"
    assert set(last) == {"`"}
    assert all(last not in line for line in inner)
