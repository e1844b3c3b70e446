"""Text that comes from data (names of classes, files and folders), made harmless where it is shown."""

from __future__ import annotations

import re
import unicodedata

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~$&])")
_CONTROLS = ("Cc", "Cs", "Co", "Zl", "Zp")
"""Categories of characters that move the cursor, end a line, or are none."""

_DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that change the direction of writing, so that a text looks like another."""


MOST_SHOWN = 200
"""Characters of what came from elsewhere that an error repeats."""


def shortened(text: str) -> str:
    """The first line of a text, cut where it is long."""
    first, *_ = text.splitlines() or [""]
    return first if len(first) <= MOST_SHOWN else f"{first[:MOST_SHOWN]}..."


def in_terminal(text: str) -> str:
    """The text with every control character written as its number in hexadecimal; line breaks and tabs as well."""

    def shown(char: str) -> str:
        is_control = unicodedata.category(char) in _CONTROLS or char in _DIRECTIONS
        return char.encode("unicode_escape").decode() if is_control else char

    return "".join(map(shown, text))


def in_markdown(text: str) -> str:
    """The text as it is, and not as Markdown or HTML."""
    return _MARKDOWN.sub(r"\\\1", in_terminal(text))


def as_code(text: str, language: str = "") -> str:
    """A block of code in Markdown, whose fence is longer than any in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    end = "" if text.endswith("\n") else "\n"
    return f"{fence}{language}\n{text}{end}{fence}"
