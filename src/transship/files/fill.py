"""Making a tree: everything in it exact, by the cheapest means that is safe.

A file's bytes arrive as a *reflink* (shared blocks), a hard *link* (same inode), or a *copy*. Modes, owners, nanosecond times,
extended attributes, hard links within the tree, devices, fifos, sockets, whiteouts and holes come through; a directory's own
times are set after what is in it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from transship.files.beneath import DIRECTORY_FLAGS, open_unseen
from transship.files.tree import Child, Directory, diff_xattrs, full_xattrs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

LINK_THRESHOLD = 64 << 10
"""Files of at least this many bytes are linked in mode auto, smaller ones copied: a doubled link count is visible inside
containers, and Debian's cron, for one, refuses such crontabs."""

_FICLONE = 0x40049409  # ioctl_ficlone(2): _IOW(0x94, 9, int)
_NO_REFLINK = frozenset({errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM})
_NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP})
_WHITEOUT = stat.S_IFCHR
_COPY_SIZE = 1 << 20
_SOURCE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class FillMode(Enum):
    """How files arrive. AUTO: reflink where the file system can, else LINK."""

    AUTO = "auto"
    REFLINK = "reflink"
    LINK = "link"
    """Hard links for files of 64 KiB and more, copies of smaller ones."""
    LINK_ALL = "link-all"
    COPY = "copy"


@dataclass
class _Frame:
    """A directory being made."""

    source: Directory
    children: list[Child]
    descriptor: int
    path: bytes


@dataclass
class Filler:
    """Fills empty directories with trees, each in one call. Made for one pair of file systems; used from one thread at a time.

    ``full`` says that full trees are made, so that overlayfs' own xattrs stay behind. ``advance`` is told bytes as they arrive
    and may raise to stop.
    """

    mode: FillMode
    full: bool
    advance: Callable[[int], None]
    _reflinks: bool = field(init=False)
    _root: int = field(init=False, default=-1)
    _seen: dict[tuple[int, int], bytes] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._reflinks = self.mode in {FillMode.AUTO, FillMode.REFLINK}

    def fill(self, tree: Directory, destination: Path) -> None:
        """Make ``tree`` in the empty directory ``destination``; ``tree`` is closed. Raises OSError."""
        self._seen.clear()
        try:
            self._root = os.open(destination, DIRECTORY_FLAGS)
        except OSError:
            tree.close()
            raise
        stack: list[_Frame] = []
        try:
            _remove_acls(self._root)
            stack.append(_frame(tree, os.dup(self._root), b""))
            while stack:
                frame = stack[-1]
                below = self._fill_until_directory(frame)
                if below is not None:
                    stack.append(below)
                    continue
                _finish(frame.descriptor, frame.source.status, frame.source.xattrs())
                self._leave(stack.pop())
        finally:
            while stack:
                self._leave(stack.pop())
            os.close(self._root)

    def _leave(self, frame: _Frame) -> None:
        frame.source.close()
        os.close(frame.descriptor)

    def _fill_until_directory(self, frame: _Frame) -> _Frame | None:
        """Make the rest of a directory's children; stop at the first that is a directory and return it, opened."""
        while frame.children:
            child = frame.children.pop()
            status = child.status
            if status is None:
                os.mknod(child.name, _WHITEOUT, 0, dir_fd=frame.descriptor)
            elif stat.S_ISREG(status.st_mode):
                self._file(child, status, frame)
                self.advance(status.st_size)
            elif stat.S_ISDIR(status.st_mode):
                return self._enter(child, frame)
            elif not self._linked_before(child, status, frame):
                self._special(child, status, frame.descriptor)
        return None

    def _enter(self, child: Child, frame: _Frame) -> _Frame:
        os.mkdir(child.name, 0o700, dir_fd=frame.descriptor)
        source = frame.source.enter(child)
        try:
            descriptor = os.open(child.name, DIRECTORY_FLAGS, dir_fd=frame.descriptor)
        except OSError:
            source.close()
            raise
        return _frame(source, descriptor, _join(frame.path, child.name))

    def _linked_before(self, child: Child, status: os.stat_result, frame: _Frame) -> bool:
        """Link to the name under which the same inode was made before, if it was."""
        if status.st_nlink == 1:
            return False
        key = (status.st_dev, status.st_ino)
        first = self._seen.setdefault(key, _join(frame.path, child.name))
        if first == _join(frame.path, child.name):
            return False
        os.link(first, child.name, src_dir_fd=self._root, dst_dir_fd=frame.descriptor, follow_symlinks=False)
        return True

    def _file(self, child: Child, status: os.stat_result, frame: _Frame) -> None:
        if self._linked_before(child, status, frame):
            return
        if self._wants_link(status) and _link(child, frame.descriptor):
            return
        source = open_unseen(child.name, _SOURCE_FLAGS, child.at)
        try:
            target = os.open(child.name, _NEW_FILE_FLAGS, 0o600, dir_fd=frame.descriptor)
            try:
                if not (self._reflinks and status.st_size and self._reflink(source, target)):
                    self._copy(source, target, status)
                _finish(target, status, full_xattrs(source) if self.full else diff_xattrs(source))
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _wants_link(self, status: os.stat_result) -> bool:
        if self.mode is FillMode.LINK_ALL:
            return True
        linking = self.mode is FillMode.LINK or (self.mode is FillMode.AUTO and not self._reflinks)
        return linking and status.st_size >= LINK_THRESHOLD

    def _reflink(self, source: int, target: int) -> bool:
        try:
            fcntl.ioctl(target, _FICLONE, source)
        except OSError as error:
            if self.mode is FillMode.REFLINK or error.errno not in _NO_REFLINK:
                raise
            self._reflinks = False
            return False
        return True

    def _copy(self, source: int, target: int, status: os.stat_result) -> None:
        if status.st_size <= _COPY_SIZE and status.st_blocks * 512 >= status.st_size:
            data = os.read(source, status.st_size + 1)
            if len(data) == status.st_size and os.write(target, data) == len(data):
                return
            os.ftruncate(target, 0)
        self._copy_data(source, target, status.st_size)

    def _copy_data(self, source: int, target: int, size: int) -> None:
        """Copy a large or sparse file, its holes as holes."""
        os.ftruncate(target, size)
        position = 0
        while position < size:
            try:
                start = os.lseek(source, position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # a hole to the end
                    return
                raise
            position = min(os.lseek(source, start, os.SEEK_HOLE), size)
            while start < position:
                data = os.pread(source, min(_COPY_SIZE, position - start), start)
                if not data:
                    raise OSError(errno.EIO, "file shrank while it was copied")
                start += os.pwrite(target, data, start)
                self.advance(0)

    def _special(self, child: Child, status: os.stat_result, parent: int) -> None:
        """Make a link, device, fifo or socket."""
        if stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(child.name, dir_fd=child.at), child.name, dir_fd=parent)
            os.chown(child.name, status.st_uid, status.st_gid, dir_fd=parent, follow_symlinks=False)
        else:
            os.mknod(child.name, status.st_mode, status.st_rdev, dir_fd=parent)
            os.chown(child.name, status.st_uid, status.st_gid, dir_fd=parent, follow_symlinks=False)
            os.chmod(child.name, stat.S_IMODE(status.st_mode), dir_fd=parent)
        origin = f"/proc/self/fd/{child.at}/{child.name}"
        for name, value in (full_xattrs(origin) if self.full else diff_xattrs(origin)).items():
            os.setxattr(f"/proc/self/fd/{parent}/{child.name}", name, value, follow_symlinks=False)
        os.utime(child.name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=parent, follow_symlinks=False)


def _frame(source: Directory, descriptor: int, path: bytes) -> _Frame:
    """List ``source``; it and ``descriptor`` are the frame's, or closed if that fails."""
    try:
        return _Frame(source, list(source.children()), descriptor, path)
    except BaseException:
        source.close()
        os.close(descriptor)
        raise


def _remove_acls(descriptor: int) -> None:
    """Remove the access control lists that a new directory got from its parent, lest what is made in it gets them too."""
    for name in ("system.posix_acl_default", "system.posix_acl_access"):
        try:
            os.removexattr(descriptor, name)
        except OSError as error:
            if error.errno not in {errno.ENODATA, errno.EOPNOTSUPP}:
                raise


def _link(child: Child, parent: int) -> bool:
    try:
        os.link(child.name, child.name, src_dir_fd=child.at, dst_dir_fd=parent, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        return False
    return True


def _finish(descriptor: int, status: os.stat_result, xattrs: Mapping[str, bytes]) -> None:
    """Set owner, mode, xattrs and times, in this order: each would spoil one after it."""
    os.fchown(descriptor, status.st_uid, status.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
    for name, value in xattrs.items():
        os.setxattr(descriptor, name, value)
    os.utime(descriptor, ns=(status.st_atime_ns, status.st_mtime_ns))


def _join(parent: bytes, name: str) -> bytes:
    return parent + b"/" + os.fsencode(name) if parent else os.fsencode(name)
