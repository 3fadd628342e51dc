"""The files in a layer's directory as they lie there, read a path at a time, never through a link."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Self

from transship.errors import LayerMismatch, SourceCorrupt
from transship.files.beneath import Beneath
from transship.stores.docker import small_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

CAPABILITY = "security.capability"
"""The one extended attribute that Docker's differ knows."""

MAX_PATH = 4095
"""Longest path in a layer, in bytes. Docker went by paths, and could not have made a longer one (PATH_MAX)."""

_NO_XATTR = {errno.ENODATA, errno.ENOTSUP}


class Child(NamedTuple):
    """A name in a directory; ``inode`` is what the directory says, which need not be what the file says (mount points)."""

    inode: int
    is_directory: bool


class LayerTree:
    """What is below ``directory``, at paths relative to it. One thread's; a context manager.

    Every method raises SourceCorrupt for what cannot be read, LayerMismatch for what is not there any more; both name the file.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with self._naming(b""):
            self._files = Beneath(directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._files.__exit__(kind, error, trace)

    def device(self, path: bytes) -> int:
        """Return the number of the device that the directory at ``path`` is on."""
        with self._naming(path):
            return os.fstat(self._files.directory(path)).st_dev

    def children(self, path: bytes) -> dict[bytes, Child]:
        """Return what is in the directory at ``path``, by path."""
        above = path + b"/" if path else b""
        with self._naming(path), os.scandir(self._files.directory(path)) as found:
            children = {
                above + os.fsencode(each.name): Child(each.inode(), each.is_dir(follow_symlinks=False)) for each in found
            }
        longest = max(children, key=len, default=b"")
        if len(longest) > MAX_PATH:
            raise SourceCorrupt(
                f"{self._shown(longest)[:300]}… is longer than {MAX_PATH} bytes", remedy="remove it: Docker cannot have made it"
            )
        return children

    def status(self, path: bytes) -> os.stat_result:
        """Return lstat(2) of the file at ``path``."""
        try:
            directory, name = self._place(path)
            return os.stat(name, dir_fd=directory, follow_symlinks=False)
        except OSError as error:
            raise self._trouble(path, error) from error

    def capability(self, path: bytes) -> bytes | None:
        """Return the file capabilities of the file at ``path``, None if it has none."""
        try:
            return os.getxattr(b"/proc/self/fd/%d/%s" % self._place(path), CAPABILITY, follow_symlinks=False)
        except OSError as error:
            if error.errno in _NO_XATTR:
                return None
            raise self._trouble(path, error) from error

    def link(self, path: bytes) -> bytes:
        """Return where the symbolic link at ``path`` points."""
        with self._naming(path):
            directory, name = self._place(path)
            return os.readlink(name, dir_fd=directory)

    def _place(self, path: bytes) -> tuple[int, bytes]:
        above, _, name = path.rpartition(b"/")
        return self._files.directory(above), name

    @contextmanager
    def _naming(self, path: bytes) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._trouble(path, error) from error

    def _trouble(self, path: bytes, error: OSError) -> SourceCorrupt:
        kind = LayerMismatch if error.errno == errno.ENOENT else SourceCorrupt
        return kind(f"cannot read {self._shown(path)}: {error.strerror}", remedy=small_files.READ_REMEDY)

    def _shown(self, path: bytes) -> str:
        return small_files.shown(os.fsdecode(os.path.join(os.fsencode(self._directory), path).rstrip(b"/")))  # noqa: PTH118
