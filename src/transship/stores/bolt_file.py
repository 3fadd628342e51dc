"""bbolt files on disk: opened under the lock that bbolt itself takes, and replaced as a whole.

bbolt holds flock(2) on a file that it has open, exclusive if it may write (etcd-io/bbolt ``bolt_unix.go``). So does this.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from transship.errors import SourceBusy, SourceCorrupt, SourceError, SourceMissing, TargetExists
from transship.files.beneath import FILE_FLAGS
from transship.files.durable import sync_directory
from transship.formats.bolt.page import Damage
from transship.formats.bolt.reader import Database
from transship.formats.bolt.writer import PAGE_SIZE, write
from transship.stores.mapped import mapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transship.formats.bolt.writer import Content

_STOP_HINT = "stop the program that uses it, then run again"
_READ_HINT = "run as root, and check the disk if that is not it"
_RESTORE_HINT = "restore it from a backup; `transship bolt check` names all that is wrong with it"


@contextmanager
def opened(path: Path) -> Iterator[Database]:
    """Have the database at ``path`` to read, shared with others that read; it is nobody's to use after the block.

    Does not wait, and does not follow a link. Raises SourceMissing, SourceBusy if a program may write to it, SourceError if it
    cannot be read, and SourceCorrupt for Damage, also for what the block meets. It must not be cut short meanwhile, which
    nobody does who heeds the lock: that would end the process (SIGBUS).
    """
    with _locked(path, fcntl.LOCK_SH) as descriptor, _mapped_into_memory(path, descriptor) as database:
        yield database


def create(path: Path, content: Content) -> None:
    """Make a database of ``content`` at ``path``, its owner's alone, durable when this returns.

    Raises TargetExists if something is there, TargetFull or TargetUnavailable if it cannot be written; and like ``write``.
    """
    with mapped(path), _written_aside(path, content, PAGE_SIZE) as aside:
        os.fsync(aside.fileno())
        try:
            os.link(aside.name, path)
        except FileExistsError:
            raise TargetExists(f"{path} is there already") from None
        sync_directory(path.parent)


def rewrite(path: Path, change: Callable[[Database], Content]) -> None:
    """Replace the database at ``path`` by what ``change`` makes of it, wholly or not at all; its owner and mode stay.

    Durable when this returns. ``change`` may give back what reads from the old one as it is written. Who has come to wait for
    the lock meanwhile will have the old file, that nobody sees any more: have daemons stopped, and not started before this
    ends. Raises like ``opened``, here if any other program has it open, and like ``create``.
    """
    with _locked(path, fcntl.LOCK_EX) as descriptor, _mapped_into_memory(path, descriptor) as database:
        old = os.fstat(descriptor)
        with mapped(path), _written_aside(path, change(database), database.meta.page_size) as aside:
            os.fchown(aside.fileno(), old.st_uid, old.st_gid)
            os.fchmod(aside.fileno(), stat.S_IMODE(old.st_mode))
            os.fsync(aside.fileno())
            Path(aside.name).rename(path)
            sync_directory(path.parent)


@contextmanager
def _locked(path: Path, operation: int) -> Iterator[int]:
    """Open a regular file for reading and lock it, at once or not at all."""
    try:
        descriptor = os.open(path, FILE_FLAGS)
    except FileNotFoundError as error:
        raise SourceMissing(f"{path} is not there") from error
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}", remedy=_READ_HINT) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SourceError(f"{path} is not a regular file")
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK:
                raise SourceError(f"cannot lock {path}: {error.strerror}", remedy=_READ_HINT) from error
            raise SourceBusy(f"another program has {path} open", remedy=_STOP_HINT) from error
        if not _is_at(path, status):  # replaced between being opened and being locked
            raise SourceBusy(f"{path} has just been replaced", remedy="run again")
        yield descriptor
    finally:
        os.close(descriptor)


def _is_at(path: Path, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(follow_symlinks=False), status)
    except FileNotFoundError:
        return False


@contextmanager
def _mapped_into_memory(path: Path, descriptor: int) -> Iterator[Database]:
    if os.fstat(descriptor).st_size == 0:  # which cannot be mapped
        raise SourceCorrupt(f"{path} is empty", remedy=_RESTORE_HINT)
    try:
        buffer = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}", remedy=_READ_HINT) from error
    try:
        with buffer:
            yield Database(buffer)
    except Damage as error:
        raise SourceCorrupt(f"{path}: {error}", remedy=_RESTORE_HINT) from error


@contextmanager
def _written_aside(path: Path, content: Content, page_size: int) -> Iterator[IO[bytes]]:
    """Write a database to a file beside ``path``, which is gone at the end unless it was renamed."""
    with tempfile.NamedTemporaryFile(prefix=f".{path.name}.", dir=path.parent, delete=False) as file:
        try:
            write(file, content, page_size)
            file.flush()
            yield file
        finally:
            Path(file.name).unlink(missing_ok=True)
