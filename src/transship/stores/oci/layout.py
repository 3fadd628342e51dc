"""The directory of an OCI image layout: whether it is one, how it is made, who may write to it.

Source: OCI image-spec ``image-layout.md``. A layout is made at the first write. ``oci-layout`` gets its content last, so that
a directory where it is empty is a layout whose making was interrupted. The same file is what writers lock: it is never
replaced, so that a lock on it means the same to every process.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from transship.errors import TargetRefused, TargetUnavailable
from transship.files import durable
from transship.stores.directories import names_in
from transship.stores.mapped import mapped

if TYPE_CHECKING:
    from collections.abc import Iterator

_MARKER = "oci-layout"
_INDEX = "index.json"
_VERSION = "1.0.0"
_NO_IMAGES = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'
_INGEST_PREFIX = ".ingest-"


class _Marker(msgspec.Struct):
    version: str = msgspec.field(name="imageLayoutVersion")


class Layout:
    """The layout at ``directory``, which may be yet to be made. Raises TargetError in all that it does."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.blobs = directory / "blobs" / "sha256"
        self.index = directory / _INDEX
        self._marker = directory / _MARKER
        self._threads = threading.Lock()
        self._made = False

    def check(self) -> bool:
        """Tell whether the layout is there, False if it can be made.

        Raises TargetRefused if the directory holds something else, TargetUnavailable if it cannot be read, or made.
        """
        names = names_in(self.directory)
        marker = read_small(self._marker, 4096)
        if marker:
            self._check_version(marker)
            return True
        if names and marker is None:
            raise TargetRefused(
                f"{self.directory} is not empty, and not an OCI image layout",
                remedy="give a new or empty directory, or a layout",
            )
        self.check_writable()
        return False

    def check_writable(self) -> None:
        """Raise TargetUnavailable if nothing can be written to the layout, or where it is to be."""
        landing = self.landing()
        if not os.access(landing, os.W_OK | os.X_OK):
            raise TargetUnavailable(f"{landing} cannot be written to", remedy="run as root, or give another directory")

    def landing(self) -> Path:
        """Return the directory, or, if it is yet to be made, the nearest above it that is there."""
        directory = self.directory.absolute()
        return next(path for path in (directory, *directory.parents) if path.is_dir() or path == path.parent)

    def make(self) -> None:
        """Make the layout if it is not there."""
        with self._threads, mapped(self.directory):
            if self._made:
                return
            self.check()
            _make_directory(self.directory, 0o700)  # images may hold secrets; whoever may see them is the owner's choice
            with _locked(self._marker, os.O_CREAT) as descriptor:
                _make_directory(self.blobs.parent, 0o755)
                _make_directory(self.blobs, 0o755)
                if not self.index.exists():
                    durable.write_file(self.index, _NO_IMAGES)
                if os.fstat(descriptor).st_size == 0:
                    os.fchmod(descriptor, 0o644)
                    os.write(descriptor, msgspec.json.encode(_Marker(_VERSION)))
                    os.fsync(descriptor)
                    durable.sync_directory(self.directory)
            self._made = True

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all other writers of the layout's names, in this process and others, waiting. The layout must be there."""
        with self._threads, mapped(self.directory), _locked(self._marker):
            yield

    def create_aside(self) -> tuple[int, Path]:
        """Return the descriptor and path of a new file for bytes on their way in; it is locked while it is open."""
        while True:
            descriptor, path = tempfile.mkstemp(prefix=_INGEST_PREFIX, dir=self.directory)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if os.fstat(descriptor).st_nlink:  # else another process took it for a stale one just before it was locked
                    return descriptor, Path(path)
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def remove_stale_ingests(self) -> None:
        """Remove what killed processes left on its way in: the files that nobody has locked.

        One that is read-only is just being renamed by another thread or process; another user's is left to that user.
        """
        for path in self.directory.glob(f"{_INGEST_PREFIX}*"):
            with suppress(FileNotFoundError, BlockingIOError, PermissionError), _locked(path, os.O_NOFOLLOW, fcntl.LOCK_NB):
                path.unlink()

    def remove_stale(self) -> None:
        """Remove all that killed processes left. No layout is success."""
        if not self.check():
            return
        with self.locked():
            self.remove_stale_ingests()
            for path in self.directory.glob(f".{_INDEX}.*"):  # files aside of durable.write_file
                path.unlink()

    def _check_version(self, marker: bytes) -> None:
        try:
            version = msgspec.json.decode(marker, type=_Marker).version
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise TargetRefused(
                f"{self._marker}: {error}", remedy="give a new or empty directory, or a whole layout"
            ) from error
        if version != _VERSION:
            raise TargetRefused(f"{self.directory} is a layout of version {version}", remedy=f"give one of version {_VERSION}")


def read_small(path: Path, limit: int) -> bytes | None:
    """Return what the file at ``path`` holds, None if it is not there. Raises TargetRefused if it is over ``limit`` bytes or
    not a regular file.
    """
    with mapped(path):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a path would wait for a fifo
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise TargetRefused(f"{path} is not a regular file")
            data = file.read(limit + 1)
    if len(data) > limit:
        raise TargetRefused(f"{path} is over the limit of {limit} bytes")
    return data


@contextmanager
def _locked(path: Path, flags: int = 0, how: int = 0) -> Iterator[int]:
    """Hold a lock on the file at ``path``. Locks of files open for writing work on network file systems too."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | how)
        yield descriptor
    finally:
        os.close(descriptor)


def _make_directory(path: Path, mode: int) -> None:
    """Make the directory, durably, and those above it; one that is there is success."""
    if path.is_dir():
        return
    _make_directory(path.parent, 0o755)
    with suppress(FileExistsError):
        path.mkdir(mode)
    durable.sync_directory(path.parent)
