"""bbolt files on disk: opened under the lock that bbolt itself takes, and changed as bbolt changes them.

bbolt holds flock(2) on a file that it has open, exclusive if it may write (etcd-io/bbolt ``bolt_unix.go``). So does this.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

from transship.errors import SourceBusy, SourceCorrupt, SourceError, SourceMissing, TargetExists, TargetUnavailable
from transship.files.beneath import FILE_FLAGS
from transship.files.durable import rename_new, sync_directory
from transship.files.locks import holder
from transship.formats.bolt.draft import Draft
from transship.formats.bolt.page import Damage
from transship.formats.bolt.reader import Database
from transship.formats.bolt.writer import add_transaction, write
from transship.stores.mapped import mapped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transship.formats.bolt.writer import Content

_STOP_HINT = "stop the program that uses it, then run again"
_READ_HINT = "run as root, and check the disk if that is not it"
_RESTORE_HINT = "restore it from a backup; `transship bolt check` names all that is wrong with it"

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_held_here: set[tuple[int, int]] = set()
"""The files that this process has locked to change them."""


@contextmanager
def opened(path: Path) -> Iterator[Database]:
    """Have the database at ``path`` to read, shared with others that read; it is nobody's to use after the block.

    Does not wait, and does not follow a link. Raises SourceMissing, SourceBusy if a program may write to it, SourceError if it
    cannot be read, and SourceCorrupt for Damage, also for what the block meets. It must not be cut short meanwhile, which
    nobody does who heeds the lock: that would end the process (SIGBUS).
    """
    with _locked(path, fcntl.LOCK_SH) as descriptor, _damage_of(path), _mapped_into_memory(path, descriptor) as buffer:
        yield Database(buffer)


def create(path: Path, content: Content) -> None:
    """Make a database of ``content`` at ``path``, its owner's alone, durable when this returns.

    No two may make the same at once. Raises TargetExists if something is there, TargetFull or TargetUnavailable if it cannot be
    written; and like ``write``.
    """
    aside = path.with_name(f".{path.name}.transship")
    with mapped(path):
        aside.unlink(missing_ok=True)  # of one that was killed
        try:
            _write_new(aside, content)
            rename_new(aside, path)
        except FileExistsError:
            raise TargetExists(f"{path} is there already") from None
        finally:
            aside.unlink(missing_ok=True)
        sync_directory(path.parent)


def _write_new(path: Path, content: Content) -> None:
    descriptor = os.open(path, _NEW, 0o600)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            write(file, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Held:
    """A database that is nobody else's while it is held, and can be changed as often as one likes."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._buffer, self._database = self._read()

    @property
    def database(self) -> Database:
        """It, as the last commit left it; until the next one."""
        return self._database

    def draft(self) -> Draft:
        """Return its root bucket, to be changed and committed."""
        return Draft(self._database.root)

    def commit(self, content: Content) -> None:
        """Replace all that it holds by ``content``, wholly or not at all; durable when this returns.

        As bbolt does it: in pages that were not in use, and then by one write to a meta page. So the file stays the same, for
        those too that wait for its lock. What was read before may be among the content, and is nobody's to use afterwards.
        Raises TargetFull, TargetUnavailable; ValueError like ``write``.
        """
        size = os.fstat(self._descriptor).st_size
        with mapped(self.path):
            try:
                with open(self._descriptor, "r+b", closefd=False) as file:
                    last = add_transaction(file, self._database, content)
                os.fsync(self._descriptor)
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(self._descriptor, size)
                raise
            os.pwrite(self._descriptor, last.data, last.offset)
            os.fsync(self._descriptor)
        self._buffer.close()
        self._buffer, self._database = self._read()

    def close(self) -> None:
        """Let go of what was read; the lock is ``held``'s."""
        self._buffer.close()

    def _read(self) -> tuple[mmap.mmap, Database]:
        buffer = _mapped_into_memory(self.path, self._descriptor)
        try:
            return buffer, Database(buffer)
        except Damage:
            buffer.close()
            raise


@contextmanager
def held(path: Path) -> Iterator[Held]:
    """Have the database at ``path`` to change. Raises like ``opened``, here if any other program has it open; TargetUnavailable
    if it cannot be written to.
    """
    with _locked(path, fcntl.LOCK_EX) as descriptor, _damage_of(path), closing(Held(path, descriptor)) as database:
        file = _identity(os.fstat(descriptor))
        _held_here.add(file)
        try:
            yield database
        finally:
            _held_here.discard(file)


def is_held_here(path: Path) -> bool:
    """Tell whether it is this process that holds the database at ``path`` to change it."""
    try:
        return _identity(path.stat()) in _held_here
    except OSError:
        return False


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


@contextmanager
def changed(path: Path) -> Iterator[Draft]:
    """Have the database at ``path`` to change: what the block has changed is committed at its end. Raises like ``held``."""
    with held(path) as database:
        draft = database.draft()
        yield draft
        if draft.edits:
            database.commit(draft)


@contextmanager
def _locked(path: Path, operation: int) -> Iterator[int]:
    """Open a regular file, to be written to if the lock is exclusive, and lock it, at once or not at all."""
    try:
        descriptor = os.open(path, FILE_FLAGS | (os.O_RDWR if operation == fcntl.LOCK_EX else 0))
    except FileNotFoundError as error:
        raise SourceMissing(f"{path} is not there") from error
    except OSError as error:
        if error.errno == errno.EROFS:
            raise TargetUnavailable(f"{path}: {error.strerror}", remedy="mount it writable, then run again") from error
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
            process = holder(status)
            who = f": {process}" if process else ""
            raise SourceBusy(f"another program has {path} open{who}", remedy=_STOP_HINT) from error
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


def _mapped_into_memory(path: Path, descriptor: int) -> mmap.mmap:
    if os.fstat(descriptor).st_size == 0:  # which cannot be mapped
        raise SourceCorrupt(f"{path} is empty", remedy=_RESTORE_HINT)
    try:
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}", remedy=_READ_HINT) from error


@contextmanager
def _damage_of(path: Path) -> Iterator[None]:
    try:
        yield
    except Damage as error:
        raise SourceCorrupt(f"{path}: {error}", remedy=_RESTORE_HINT) from error
