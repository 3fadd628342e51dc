"""Opening files below a directory whose names and links a stranger has chosen.

A path is taken apart and opened one component at a time, never following a link by way of the kernel. A link in the middle
of a path is resolved here, as a process with its root in that directory would: an absolute target starts at the directory,
``..`` stops at it. So no link and no ``..`` leads outside.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

MAX_LINKS = 40
"""Links followed in one path before giving up, as in the kernel (path_resolution(7))."""
_DEVICES = frozenset({stat.S_IFCHR, stat.S_IFBLK})
"""Opening one can do things: rewind a tape, start a watchdog."""
_KEPT_OPEN = 8
"""Directories kept open. Names come in the order of a walk, so the last few serve nearly all."""


def open_unseen(name: str | bytes | Path, flags: int, directory: int | None = None) -> int:
    """Open for reading without leaving an access time behind, which would be a write for each file that is read.

    Only a file's owner and root may do that; for others it is an ordinary open(2). Raises OSError.
    """
    try:
        return os.open(name, flags | os.O_NOATIME, dir_fd=directory)
    except PermissionError:
        return os.open(name, flags, dir_fd=directory)


class Beneath:
    """The files below ``root``. One thread's; a context manager, which closes what it holds open. Raises OSError."""

    def __init__(self, root: Path) -> None:
        self._root = os.open(root, DIRECTORY_FLAGS)
        self._open: OrderedDict[bytes, int] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()
        os.close(self._root)

    def open_file(self, path: bytes) -> int:
        """Return a descriptor, for reading, of what is at ``path``, a tar member's name. The caller closes it.

        A link in the last component is not followed (ELOOP). Opening does not wait, not even for a fifo's other end, and has
        no other effects: devices are not opened (ENXIO). Raises OSError with the number that the system gave; ENOENT for an
        empty path, for one that ends in ``..``, and for one with a NUL in it.
        """
        parent, _, name = path.rpartition(b"/")
        if name in {b"", b".", b".."}:
            return self._open_unusual(path)
        directory = self.directory(parent)
        if b"\0" in name:
            raise _missing(path)
        if stat.S_IFMT(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode) in _DEVICES:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO), os.fsdecode(path))
        return open_unseen(name, FILE_FLAGS, directory)

    def directory(self, path: bytes) -> int:
        """Return a descriptor of the directory at ``path``; it stays this object's and serves until the next call.

        Raises OSError: ENOENT, ENOTDIR, ELOOP.
        """
        if not path:
            return self._root
        if b"\0" in path:
            raise _missing(path)
        known = self._open.get(path)
        if known is not None:
            self._open.move_to_end(path)
            return known
        descriptor = self._walk(path)
        self._open[path] = descriptor
        if len(self._open) > _KEPT_OPEN:
            os.close(self._open.popitem(last=False)[1])
        return descriptor

    def resolve(self, path: bytes) -> bytes:
        """Return ``path`` without links in it: the directory's own place, relative to the root, without a leading slash.

        Raises OSError like ``directory``.
        """
        if b"\0" in path:
            raise _missing(path)
        return b"/".join(self._resolved(path))

    def _open_unusual(self, path: bytes) -> int:
        """Open a name that ends in a slash or a dot."""
        parts = [part for part in path.split(b"/") if part not in {b"", b"."}]
        if not parts or parts[-1] == b"..":
            raise _missing(path)
        return self.open_file(b"/".join(parts))

    def _walk(self, path: bytes) -> int:
        """Open the directory at ``path``: straight down, or, when a link or ``..`` is met, where that leads."""
        try:
            return self._descend(part for part in path.split(b"/") if part not in {b"", b"."})
        except _NotPlainError:
            return self._descend(self._resolved(path))

    def _descend(self, parts: Iterator[bytes] | list[bytes]) -> int:
        descriptor = os.dup(self._root)
        try:
            for part in parts:
                child = _open_plain(part, descriptor)
                os.close(descriptor)
                descriptor = child
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _resolved(self, path: bytes) -> list[bytes]:
        """Return the components of ``path`` with every link in it replaced by where it leads within the root."""
        todo = path.split(b"/")[::-1]
        done: list[bytes] = []
        links = 0
        while todo:
            part = todo.pop()
            if part in {b"", b"."}:
                continue
            if part == b"..":
                del done[-1:]
                continue
            target = self._link_target(done, part)
            if target is None:
                done.append(part)
                continue
            links += 1
            if links > MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fsdecode(path))
            if target.startswith(b"/"):
                done.clear()
            todo.extend(target.split(b"/")[::-1])
        return done

    def _link_target(self, parents: list[bytes], name: bytes) -> bytes | None:
        """Return where ``name`` points if it is a link, None if it is a directory. Raises OSError for anything else."""
        parent = self._descend(parents)
        try:
            try:
                return os.readlink(name, dir_fd=parent)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
            os.close(os.open(name, DIRECTORY_FLAGS, dir_fd=parent))
            return None
        finally:
            os.close(parent)


def _missing(path: bytes) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fsdecode(path))


def _open_plain(part: bytes, parent: int) -> int:
    if part == b"..":
        raise _NotPlainError
    try:
        return os.open(part, DIRECTORY_FLAGS, dir_fd=parent)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            raise _NotPlainError from error
        raise


class _NotPlainError(Exception):
    """Raised when a path cannot be walked straight down."""
