"""Writing that survives a power cut.

A file is written aside, synced, renamed into place, and its directory synced. Whole trees are made durable by one
``syncfs`` of their file system, which callers at the same time share.
"""

from __future__ import annotations

import ctypes
import errno
import os
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_libc = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1


def sync_file_system(path: Path) -> None:
    """Write out all of the file system that holds ``path`` (syncfs(2), which Python does not wrap). Raises OSError."""
    with _opened(path) as descriptor:
        if _libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))


def sync_directory(path: Path) -> None:
    """Make the names in the directory ``path`` durable: what was created in it, renamed or removed. Raises OSError."""
    with _opened(path) as descriptor:
        os.fsync(descriptor)


def write_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace the file ``path`` by one with ``data``, wholly or not at all, whenever the power goes. Raises OSError."""
    descriptor, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(aside).rename(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def rename_new(path: Path, new: Path) -> None:
    """Give a file the name ``new``, which nothing has yet (renameat2(2), which Python does not wrap). Raises OSError."""
    if _libc.renameat2(_AT_FDCWD, os.fsencode(path), _AT_FDCWD, os.fsencode(new), _RENAME_NOREPLACE) == 0:
        return
    number = ctypes.get_errno()
    if number not in {errno.EINVAL, errno.ENOSYS}:
        raise OSError(number, os.strerror(number), str(new))
    os.link(path, new)  # on file systems that cannot do it
    path.unlink()


class SharedSync:
    """``syncfs`` for many threads: a sync that began after a thread asked serves it, however many ask at once."""

    def __init__(self, path: Path) -> None:
        """``path`` is anything on the file system concerned; it must exist when ``wait`` is called."""
        self._path = path
        self._condition = threading.Condition()
        self._begun = 0
        self._ended = 0
        self._running = False

    def wait(self) -> None:
        """Return when everything written before this call is durable. Raises OSError if the sync fails."""
        with self._condition:
            wanted = self._begun + 1
            while self._ended < wanted:
                if not self._running:
                    self._running = True
                    self._begun += 1
                    break
                self._condition.wait()
            else:
                return
        succeeded = False
        try:
            sync_file_system(self._path)
            succeeded = True
        finally:
            with self._condition:
                self._running = False
                if succeeded:
                    self._ended = self._begun
                self._condition.notify_all()


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
