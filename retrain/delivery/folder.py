"""The folder of an export: which of its files an export wrote, and how those of a new one take their places.

A manifest in the folder names the files that exports wrote. Only those are replaced and deleted; whatever else lies in
the folder stays as it is, and so does a link that leads to it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from pydantic import field_validator

from psvit.classifier import exported_as
from psvit.data.preprocessing import Preprocessing
from psvit.errors import InputError
from psvit.io.documents import Value, dump_yaml, read_yaml, with_usual_permissions, write_atomic
from psvit.io.locks import LOCK_FILE, hold, remove
from psvit.retrain.delivery.formats import PREPROCESSING_FILE

MANIFEST_FILE = "export.yaml"
SCHEMA = "psvit/export/1"

_UNFINISHED = ".psvit-export.tmp"
"""Where an export is written and compared with the network. It lies within the folder, because only there it is certain
to be in the same file system, without which files cannot be renamed into their places."""


class Manifest(Value):
    """The list of the files that exports wrote into a folder.

    Attributes:
        format: as `--to` takes it.
        files: the names of the files, the manifest's own left out.
    """

    format: str
    files: tuple[str, ...]

    @field_validator("files")
    @classmethod
    def _plain(cls, files: tuple[str, ...]) -> tuple[str, ...]:
        # Files are deleted by these names, and a folder may come from somebody else.
        for name in files:
            parts = {PurePosixPath(name).name, PureWindowsPath(name).name}
            if parts != {name} or name in ("", "..", MANIFEST_FILE) or "\0" in name:
                raise ValueError(f"{name!r} is not the name of a file in this folder; export to a new folder")
        return files

    def save(self, folder: Path) -> None:
        """Write it into a folder."""
        write_atomic(folder / MANIFEST_FILE, dump_yaml({"schema": SCHEMA, **self.to_dict()}))


@contextlib.contextmanager
def replacing_export(folder: Path, form: str, names: Collection[str]) -> Iterator[Path]:
    """Lend an empty folder for the files of an export; on success they take their places, otherwise they are removed.

    Args:
        folder: where they shall lie: new, empty, or with an earlier export in the same form.
        form: as `--to` takes it.
        names: of the files that will be written, so that what cannot be is said before anything is.

    Raises:
        InputError: the folder holds something else, or a file that no export wrote where one would be written; or it
            cannot be written, or another process is exporting to it.
    """
    try:
        _own_files(folder, form, names)
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        lock = hold(folder / LOCK_FILE)
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be written: {error.strerror}") from None
    if lock is None:
        raise InputError(f"--out {folder}: another process is at work in it; let it end, or name another folder")
    unfinished = folder / _UNFINISHED
    try:
        shutil.rmtree(unfinished, ignore_errors=True)  # of an export that was killed
        (unfinished / "new").mkdir(parents=True)
        yield unfinished / "new"
        _replace(folder, form, unfinished)
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        remove(lock)
        if is_new:  # and nothing was written into it
            with contextlib.suppress(OSError):
                folder.rmdir()


def _own_files(folder: Path, form: str, names: Collection[str]) -> set[str]:
    """The files in a folder that exports wrote, after making sure that others may be written there.

    Raises:
        InputError: they may not.
    """
    if not folder.is_dir():
        if os.path.lexists(folder):
            raise InputError(f"--out {folder}: is a file, or a link that leads nowhere; name a new folder")
        return set()
    there, own = None, set[str]()
    if os.path.lexists(folder / MANIFEST_FILE):
        found = read_yaml(folder / MANIFEST_FILE, SCHEMA)
        manifest = Manifest.from_dict(found, source=str(folder / MANIFEST_FILE))
        there, own = manifest.format, set(manifest.files)
    elif (folder / PREPROCESSING_FILE).is_file():
        there, own = exported_as(folder), _files_of_version_0_1(folder, names)
    if there not in (None, form):
        raise InputError(f"--out {folder}: holds a network exported --to {there}; name another folder for --to {form}")
    if not own and any(entry.name not in (LOCK_FILE, _UNFINISHED) for entry in folder.iterdir()):
        raise InputError(f"--out {folder}: exists and holds no exported network; name a new folder")
    for name in sorted(names):
        place = folder / name
        if os.path.lexists(place) and (name not in own or (place.is_dir() and not place.is_symlink())):
            raise InputError(
                f"--out {folder}: {name} would be written there, and what has that name is of no export; "
                "move it away, or name another folder"
            )
    return own


def _files_of_version_0_1(folder: Path, names: Collection[str]) -> set[str]:
    """The files that version 0.1 wrote, which left no manifest.

    It wrote the same files as today, always all of them, and nothing else could be in the folder afterwards. So a
    folder where one is missing, or whose preprocessing is not of psvit's kind, is taken for somebody's own, and left
    alone; where all are there, only they are replaced, and what was added to the folder since stays.
    """
    try:
        Preprocessing.from_json((folder / PREPROCESSING_FILE).read_text(encoding="utf-8"), PREPROCESSING_FILE)
    except (OSError, ValueError):  # InputErrors and text in other encodings are ValueErrors
        return set()
    return set(names) if all((folder / name).is_file() for name in names) else set()


def _replace(folder: Path, form: str, unfinished: Path) -> None:
    """Put the new files into the places of the former ones; if that fails, all former ones are there again.

    A process that is killed meanwhile leaves new files beside former ones. The manifest names both kinds then, so the
    same command replaces them all.
    """
    new, former = unfinished / "new", unfinished / "former"
    names = {path.name for path in new.iterdir()}
    own = _own_files(folder, form, names)  # again, because files may have been put there meanwhile
    with_usual_permissions(new)
    Manifest(format=form, files=tuple(sorted(own | names))).save(unfinished)
    Manifest(format=form, files=tuple(sorted(names))).save(new)
    former.mkdir()
    for name in (*own, MANIFEST_FILE):
        _keep(folder / name, former / name)
    try:
        # Nothing is written in the folder itself, because a killed process would leave it there half written.
        (unfinished / MANIFEST_FILE).replace(folder / MANIFEST_FILE)
        for name in sorted(names):
            (new / name).replace(folder / name)
        for name in own - names:
            if not (folder / name).is_dir():
                (folder / name).unlink(missing_ok=True)
        (new / MANIFEST_FILE).replace(folder / MANIFEST_FILE)
    except BaseException:
        placed = {name for name in names if not os.path.lexists(new / name)}
        for name in own | placed | {MANIFEST_FILE}:
            if os.path.lexists(former / name):
                (former / name).replace(folder / name)
            elif name in placed or name == MANIFEST_FILE:
                (folder / name).unlink(missing_ok=True)
        raise


def _keep(file: Path, copy: Path) -> None:
    """Keep a file, if there is one, under a second name."""
    if not os.path.lexists(file) or (file.is_dir() and not file.is_symlink()):
        return
    try:
        os.link(file, copy, follow_symlinks=False)
    except (OSError, NotImplementedError):  # not every file system has hard links
        shutil.copy2(file, copy, follow_symlinks=False)
