"""Locks that keep other processes out of a place for as long as this one is at work there, however it ends.

The kernel keeps the lock, on a file, so a process that is killed leaves nothing that would have to be cleaned up.
Processes exclude each other if they keep three rules: nobody replaces the locked file by another; what is found in the
place counts only if it is found after the file was locked; and only the process that holds the lock deletes the file.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from psvit.errors import InputError

LOCK_FILE = ".psvit.lock"
"""What the locked file of a folder is called; it is empty, and nothing reads it."""

PATIENCE_S = 60
"""Seconds to wait for what takes others a moment."""

_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


def hold(path: Path) -> BaseFileLock | None:
    """Lock a file, which is made if it does not exist, until the lock is released or not referred to any more.

    Forked children have no part in it: those that load images may outlive a killed parent. Within one thread the same
    file can be locked again, so that in a notebook a run continues that was interrupted and is still referred to.

    Returns:
        The lock, or `None` if another process (or another thread) holds it.

    Raises:
        OSError: the file cannot be opened for writing.
    """
    # Nothing but the kernel's lock will do: the files that take its place where a file system has no locks outlive a
    # killed process, and then nobody would get in.
    lock = FileLock(path.resolve(), blocking=False, is_singleton=True, fallback_to_soft=False, preserve_lock_file=True)
    try:
        lock.acquire()
    except Timeout:
        return None
    except OSError as error:
        # Some file systems have no locks; there nobody can be kept out.
        if error.errno not in _NO_LOCKS:
            raise
    return lock


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Run a block that reads a file and writes it again, while other processes wait with theirs.

    Args:
        path: the file. A hidden one beside it is locked, and stays there.

    Raises:
        InputError: others take longer than such a block ever does, or the place cannot be written.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"), PATIENCE_S, fallback_to_soft=False, preserve_lock_file=True)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(f"{path}: another process has kept it for {PATIENCE_S} s") from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()


def remove(lock: BaseFileLock) -> None:
    """Delete a locked file and release it; who opened it before and locks it now finds that it is gone."""
    with contextlib.suppress(OSError):
        Path(lock.lock_file).unlink()
    lock.release(force=True)
