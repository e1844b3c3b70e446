"""Locks that keep other processes out of a place for as long as this one is at work there, however it ends.

The kernel keeps the lock, on a file, so a process that is killed leaves nothing that would have to be cleaned up.
Processes exclude each other if they keep three rules: nobody replaces the locked file by another; what is found in the
place counts only if it is found after the file was locked; and only the process that holds the lock deletes the file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import weakref
from pathlib import Path

LOCK_FILE = ".psvit.lock"
"""What the locked file of a folder is called; it is empty, and nothing reads it."""

_HELD_BY_ANOTHER = {errno.EAGAIN, errno.EACCES}
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


class Lock:
    """A locked file. It is unlocked when the lock is released, or not referred to any more, or the process ends.

    Args:
        path: the file.
        descriptor: of the file, open for writing; the lock closes it.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self.holds = 1
        self.unlock = weakref.finalize(self, _unlock, descriptor)
        # While a process ends, it may still be at work; the kernel unlocks the file afterwards.
        self.unlock.atexit = False

    @property
    def keeps_others_out(self) -> bool:
        """Whether the file is still locked, and still the one that others would lock."""
        if not self.unlock.alive:
            return False
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self.descriptor), self.path.stat())
        return False

    def release(self) -> None:
        """Unlock the file, once this was called as often as the file was locked."""
        self.holds -= 1
        if not self.holds:
            self.unlock()


_locks: weakref.WeakValueDictionary[tuple[threading.Thread, Path], Lock] = weakref.WeakValueDictionary()
"""The locks of this process, by the thread that made them and the file."""


def hold(path: Path) -> Lock | None:
    """Lock a file, which is made where there is none, until the lock is released or not referred to any more.

    Forked children have no part in it: those that load images may outlive a killed parent. Within one thread the same
    file can be locked again, so that in a notebook a run continues that was interrupted and is still referred to.

    Returns:
        The lock, or `None` if another process (or another thread) holds it.

    Raises:
        OSError: the file cannot be opened for writing.
    """
    path = path.resolve()
    place = (threading.current_thread(), path)
    lock = _locks.get(place)
    if lock is not None and lock.keeps_others_out:
        lock.holds += 1
        return lock
    lock = Lock(path, os.open(path, os.O_RDWR | os.O_CREAT, 0o666))
    try:
        fcntl.flock(lock.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD_BY_ANOTHER:
            return None
        # Some file systems have no locks; there nobody can be kept out.
        if error.errno not in _NO_LOCKS:
            raise
    # Who held the file when it was opened here may have deleted it before it was locked.
    if not lock.keeps_others_out:
        return None
    _locks[place] = lock
    return lock


def remove(lock: Lock) -> None:
    """Delete a locked file and unlock it; who opened it before and locks it now finds that it is gone."""
    with contextlib.suppress(OSError):
        lock.path.unlink()
    lock.unlock()


def _unlock(descriptor: int) -> None:
    # Closing is not enough: a child that was forked just now has the file open too.
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _leave_to_parent() -> None:
    for lock in list(_locks.values()):
        if lock.unlock.detach():
            os.close(lock.descriptor)
    _locks.clear()


os.register_at_fork(after_in_child=_leave_to_parent)
