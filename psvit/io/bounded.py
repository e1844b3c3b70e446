"""Text and YAML that may come from strangers, read in bounded time and memory.

A few hundred bytes of YAML can stand for gigabytes, because an alias repeats what it names. So every use of an alias
counts as many nodes as it stands for. Nodes are counted while the document is read, so reading ends early. A node is a
key, a value, a list or a mapping.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import yaml

from psvit.errors import InputError

MOST_BYTES = 2**20
"""The largest document, in bytes. The largest that psvit writes, latency models, have a tenth of this."""

MOST_NODES = 50_000
"""The most nodes of a document."""

MOST_DEPTH = 40
"""The most levels of a document."""

MOST_DIGITS = 40
"""The most characters of a number."""


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        InputError: the file is missing, no regular file, unreadable, too large or no text.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):  # reading a pipe or a device may never end
            raise InputError(f"{path}: must be a regular file")
        with path.open("rb") as stream:
            found = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if len(found) > MOST_BYTES:
        raise InputError(f"{path}: must have at most {MOST_BYTES:,} bytes, and has more")
    try:
        return found.decode()
    except UnicodeDecodeError:
        raise InputError(f"{path}: must be text in UTF-8, and is not") from None


def parse_yaml(text: str) -> Any:
    """What a YAML document says, in dicts, lists and scalars; dates are text.

    Raises:
        ValueError: it is no YAML, or it is too large; the message has one line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None


class _Loader(yaml.SafeLoader):
    """Safe YAML with limits, in which a key given twice is an error instead of a silent overwrite."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._nodes = self._depth = 0
        self._sizes: dict[str | None, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node, and count it with all that is in it, repetitions included."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in self.anchors and event.anchor not in self._sizes:
                raise _refused("an alias stands for something that holds the alias itself", event)
            self._add(self._sizes.get(event.anchor, 0), event)
            return super().compose_node(parent, index)
        before = self._nodes
        self._add(1, event)
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise _refused(f"more than {MOST_DEPTH} levels", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if event.anchor is not None:
            self._sizes[event.anchor] = self._nodes - before
        return node

    def _add(self, nodes: int, event: yaml.Event) -> None:
        self._nodes += nodes
        if self._nodes > MOST_NODES:
            raise _refused(f"more than {MOST_NODES:,} keys and values, repetitions by aliases included", event)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping whose keys are all different."""
        seen: set[Any] = set()
        twice: set[Any] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):  # the base class refuses all others
                key = self.construct_object(key_node)
                (twice if key in seen else seen).add(key)
        if twice:
            names = ", ".join(sorted(map(str, twice)))
            raise yaml.constructor.ConstructorError(None, None, f"key given twice: {names}", node.start_mark)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> Any:
        """Construct a number that has few characters."""
        if len(node.value) > MOST_DIGITS:
            message = f"a number of {len(node.value):,} characters; at most {MOST_DIGITS} are permitted"
            raise yaml.constructor.ConstructorError(None, None, message, node.start_mark)
        if ":" in node.value:  # to YAML 1.1, 1:30 is the number 90
            message = f"{node.value} is no number here; write it without a colon"
            raise yaml.constructor.ConstructorError(None, None, message, node.start_mark)
        is_whole = node.tag == "tag:yaml.org,2002:int"
        return self.construct_yaml_int(node) if is_whole else self.construct_yaml_float(node)


def _refused(message: str, event: yaml.Event) -> yaml.composer.ComposerError:
    mark: Any = event.start_mark
    return yaml.composer.ComposerError(None, None, message, mark)


# Documents of psvit hold no dates. So text such as 2024-01-01 stays text.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.construct_number)
