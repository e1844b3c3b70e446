"""Values that live in YAML files: strict typed reading, canonical digests, atomic writing.

Everything a user can edit by hand passes through `Value`: a frozen pydantic model that rejects unknown keys, wrong
types and impossible values. Files appear whole or not at all: they are written under a temporary name and renamed.
"""

from __future__ import annotations

import contextlib
import difflib
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Protocol, Self, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from psvit.errors import InputError
from psvit.io.bounded import parse_yaml, read_text
from psvit.io.escaping import shortened
from psvit.io.folders_in_use import check_in_use

_UNFINISHED, _FORMER = ".tmp", ".old"
"""Endings of what is written meanwhile, and of a folder that is being replaced; eight characters stand before them."""


class HasFile(Protocol):
    """A result of a run, which names the run's main file."""

    @property
    def file(self) -> Path:
        """The file."""
        ...


Place = str | Path | HasFile
"""A file, a folder, or the result of a run."""


def path_of(place: Place) -> Path:
    """The path that is named.

    Raises:
        InputError: it is none of these.
    """
    found = place if isinstance(place, str | Path) else getattr(place, "file", None)
    if not isinstance(found, str | Path):
        raise InputError(f"expected a file, a folder or the result of a run, received {place!r:.80}")
    return Path(found)


def is_there(path: str | Path) -> bool:
    """Whether there is such a file or folder.

    Raises:
        InputError: that cannot be known, because a folder that it would lie in cannot be read.
    """
    try:
        os.stat(path)
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (OSError, ValueError):  # no such file, or no name that a file can have
        return False
    return True


class Value(BaseModel):
    """A frozen domain value, validated at construction and compared by content."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def from_dict(cls, data: Any, source: str = "") -> Self:
        """Build from plain dicts, lists and scalars, as YAML and JSON give them.

        Args:
            data: what `to_dict` returns.
            source: what to call the input in an error, usually the file's name.

        Raises:
            InputError: an unknown key, a wrong type or an impossible value; names the key and what is permitted.
        """
        try:
            # Strict validation tells lists from tuples in Python but not in JSON, where every array is a list.
            return cls.model_validate_json(json.dumps(data))
        except ValidationError as error:
            raise InputError(_one_line(cls, error, source)) from None
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"{source or cls.__name__}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """The value as JSON-serialisable dicts, lists and scalars."""
        return self.model_dump(mode="json")

    @classmethod
    def file_keys(cls) -> list[str]:
        """The keys that `from_dict` accepts, for messages."""
        return list(cls.model_fields)

    @property
    def digest(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the canonical JSON."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _one_line(cls: type[BaseModel], error: ValidationError, source: str) -> str:
    """The first problem of a validation error as `file: key: rule, received value`."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    prefix = ": ".join(part for part in (source or cls.__name__, where) if part)
    if problem["type"] == "extra_forbidden":
        permitted = _keys_at(cls, problem["loc"][:-1])
        meant = difflib.get_close_matches(str(problem["loc"][-1]), permitted, n=1)
        hint = f"; did you mean {meant[0]}?" if meant else ""
        return f"{prefix}: unknown key; permitted keys: {', '.join(permitted)}{hint}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] in ("missing", "value_error"):
        return f"{prefix}: {message}"
    return f"{prefix}: {message}, received {shortened(json.dumps(problem['input']))}"


def _keys_at(cls: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys permitted at a place inside a model, following its annotations."""
    current: Any = cls
    for part in location:
        if isinstance(part, str) and isinstance(current, type) and issubclass(current, BaseModel):
            current = current.model_fields[part].annotation
        elif isinstance(part, int):
            current = get_args(current)[0]
        while get_origin(current) in (Union, UnionType):
            current = next(arg for arg in get_args(current) if arg is not type(None))
    return current.file_keys() if isinstance(current, type) and issubclass(current, Value) else []


def read_yaml(path: Path, schema: str) -> dict[str, Any]:
    """Read a YAML mapping whose key `schema` holds the expected name, and return the rest of it.

    Raises:
        InputError: the file is missing, unreadable, too large, no mapping, or of another schema.
    """
    text = read_text(path)
    try:
        data = parse_yaml(text)
    except ValueError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected a mapping with 'schema: {schema}', found {type(data).__name__}")
    found = data.pop("schema", None)
    if found != schema:
        raise InputError(f"{path}: schema: expected {schema!r}, found {found!r}")
    return data


def dump_yaml(data: dict[str, Any]) -> str:
    """YAML in the order given, nested collections of scalars on one line."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Never writes YAML anchors: an equal list that occurs twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a whole file or nothing.

    Raises:
        InputError: the place cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Lend a temporary path beside `path` for any writer; on success it replaces `path`, otherwise it is removed."""
    check_in_use(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_UNFINISHED, dir=path.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("r+b") as stream:  # Windows writes back only what may be written
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        check_in_use(path)
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Lend an empty temporary folder beside `path`; on success it replaces the one there, otherwise it is removed.

    Raises:
        InputError: the place cannot be written.
    """
    check_in_use(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=_UNFINISHED, dir=path.parent))
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    # A folder that is not empty cannot be renamed over.
    former = temporary.with_suffix(_FORMER)
    try:
        yield temporary
        with_usual_permissions(temporary)
        if path.exists():
            path.rename(former)
        temporary.rename(path)
    except OSError as error:
        check_in_use(path)
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        if former.exists() and not path.exists():
            former.rename(path)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what processes that were killed have left of `replacing` and `replacing_folder`, in folders within it too.

    A folder that was moved away and not replaced yet is put back. No other process may be at work in the folder.
    """
    for former in list(folder.rglob(f".*.????????{_FORMER}")):
        place = former.with_name(former.name[1 : -len(f".????????{_FORMER}")])
        if not former.is_dir():
            continue
        if place.exists():
            shutil.rmtree(former, ignore_errors=True)
        else:
            former.rename(place)
    _remove(folder.rglob(f".*.????????{_UNFINISHED}"))


def remove_unfinished_file(path: Path) -> None:
    """Remove what processes that were killed have left of `replacing` one file, which no other may be writing."""
    _remove(path.parent.glob(f".{glob.escape(path.name)}.????????{_UNFINISHED}"))


def _remove(places: Iterable[Path]) -> None:
    for place in list(places):
        if place.is_dir():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink(missing_ok=True)


def with_usual_permissions(folder: Path) -> None:
    """Give a folder and all in it the permissions of new ones; some writers, safetensors' among them, are private."""
    permitted = ~_umask()
    for place in (folder, *folder.rglob("*")):
        place.chmod((0o777 if place.is_dir() else 0o666) & permitted)


def _umask() -> int:
    """The process's umask, which can only be read by setting it; `mkstemp` ignores it and would leave files private."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def digest_of_file(path: Path) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
