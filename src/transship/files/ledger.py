"""Changes that can be taken back exactly, whatever happens between.

Before anything is changed, what was there is written down, durably, outside the tree. A change that a kill or a power cut kept
from being made needs no taking back, one that was made finds in the ledger what to put in its place.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from typing import TYPE_CHECKING

import msgspec

from transship.errors import JournalError
from transship.files.changes import (
    Change,
    Copy,
    Directory,
    File,
    HardLink,
    Move,
    SymbolicLink,
    aside_of,
    discard,
    is_directory,
    link_text,
    make_all,
    same_file,
    sync_file_systems,
)
from transship.files.durable import sync_directory, write_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_ENTRIES = "entries.json"
_TIMES = "times.json"


class _Link(msgspec.Struct, frozen=True):
    """A symbolic link that was there: what it says, its owner, when it was made (ns)."""

    text: str
    owner: tuple[int, int]
    mtime: int


class _Entry(msgspec.Struct):
    """What is to be known of a change to take it back. Without ``copy`` and ``link``, nothing was at ``path``."""

    path: str
    kind: str
    source: str = ""
    """Where a move took it from; what a hard link is a further name of; what a symbolic link says."""
    digests: tuple[str, ...] = ()
    """The SHA-256 of what a file may hold that is ours; two while it is about to change."""
    copy: str = ""
    """The name in the page of a copy of the file that was there."""
    link: _Link | None = None


class Ledger:
    """The changes made to the tree at ``root``, page by page, kept in ``directory``. Thread-safe for different pages.

    A page is what one key stands for; its changes are made, and taken back, together.
    """

    def __init__(self, root: Path, directory: Path) -> None:
        self._root = root
        self._directory = directory

    def make(self, key: str, changes: Sequence[Change]) -> bool:
        """Make ``changes``, after writing down under ``key`` what they replace. Return whether this page changes anything.

        A page that is there already, of an attempt that was stopped or of changes made before these, is kept: it knows how
        things were at first. Raises OSError, JournalError.
        """
        page = self._page(key)
        entries = {entry.path: entry for entry in self._entries(page)}
        to_do = [change for change in changes if not change.is_made(self._root)]
        if to_do:
            page.mkdir(parents=True, exist_ok=True)
            for change in to_do:
                known = entries.get(change.path)
                entries[change.path] = self._updated(known, change) if known else self._entry(page, len(entries), change)
            sync_directory(page)
            document = msgspec.to_builtins(list(entries.values()))
            write_file(page / _ENTRIES, json.dumps(document).encode(), 0o600)
            sync_directory(page.parent)
        make_all(self._root, to_do, key)
        return bool(entries)

    def knows(self, key: str) -> bool:
        """Tell whether the page ``key`` is there, so that some of its changes may have been made."""
        return (self._page(key) / _ENTRIES).exists()

    def is_as_made(self, key: str) -> bool:
        """Tell whether the files of the page ``key`` that are there are what it made of them, or what they were before.

        Raises OSError, JournalError.
        """
        page = self._page(key)
        for entry in self._entries(page):
            place = self._root / entry.path
            is_file = entry.kind not in {Directory.__name__, Move.__name__}
            if is_file and os.path.lexists(place) and not self._is_ours(entry, place) and not _is_as_before(page, entry, place):
                return False
        return True

    def take_back(self, key: str) -> bool:
        """Put back what was there before the page ``key``, and drop it. What has changed since then stays: return False.

        Raises OSError, JournalError.
        """
        page = self._page(key)
        entries = self._entries(page)
        whole = True
        for entry in reversed(entries):
            aside = self._root / aside_of(entry.path, key)
            discard(aside)
            whole &= self._put_back(page, entry, aside)
        if entries:
            sync_file_systems(self._root, (entry.path for entry in entries))
        if whole and page.exists():
            (page / _ENTRIES).unlink(missing_ok=True)  # before the copies that it speaks of
            shutil.rmtree(page)
        return whole

    def remember_times(self, directories: Iterable[str]) -> None:
        """Write down when these directories, those that are there, were last changed, unless that is written down already."""
        path = self._directory / _TIMES
        if path.exists():
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        times = {each: os.lstat(self._root / each).st_mtime_ns for each in directories if is_directory(self._root / each)}
        write_file(path, json.dumps(times).encode(), 0o600)

    def restore_times(self) -> None:
        """Have the directories look as if they had never been changed, durably."""
        path = self._directory / _TIMES
        if not path.exists():
            return
        times = json.loads(path.read_bytes())
        for each, mtime in times.items():
            if is_directory(self._root / each):
                os.utime(self._root / each, ns=(os.lstat(self._root / each).st_atime_ns, mtime))
        sync_file_systems(self._root, times)

    def _page(self, key: str) -> Path:
        return self._directory / hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:32]

    def _entries(self, page: Path) -> list[_Entry]:
        path = page / _ENTRIES
        try:
            return msgspec.convert(json.loads(path.read_bytes()), list[_Entry])
        except FileNotFoundError:
            return []
        except ValueError as error:
            raise JournalError(f"{path} is damaged: {error}", remedy="restore it: it says how things were before") from error

    def _updated(self, entry: _Entry, change: Change) -> _Entry:
        """Return what is to be known of a change once ``change`` is made in its stead, to the same file."""
        still = [digest for digest in entry.digests if digest == _digest(self._root / entry.path)]
        return msgspec.structs.replace(entry, digests=(*still, *_digests(change)))

    def _entry(self, page: Path, number: int, change: Change) -> _Entry:
        """Return what is to be known to take ``change`` back; the file that it replaces is copied to ``page``."""
        place = self._root / change.path
        entry = _Entry(change.path, type(change).__name__, _source(change), _digests(change))
        try:
            status = os.lstat(place)
        except FileNotFoundError:
            return entry
        if stat.S_ISLNK(status.st_mode):
            entry.link = _Link(link_text(place) or "", (status.st_uid, status.st_gid), status.st_mtime_ns)
        elif stat.S_ISREG(status.st_mode):
            entry.copy = str(number)
            _copy(place, page / entry.copy)
        elif not (isinstance(change, Directory) and stat.S_ISDIR(status.st_mode)):  # another page is making that one, too
            raise FileExistsError(errno.EEXIST, "something else is in the way", str(place))
        return entry

    def _put_back(self, page: Path, entry: _Entry, aside: Path) -> bool:
        """Take back one change. Return False if something else is there by now."""
        place = self._root / entry.path
        if entry.kind == Directory.__name__:
            return _removed(place)
        if entry.kind == Move.__name__:
            if not self._move_back(page, entry, place):
                return False
        elif os.path.lexists(place) and not _is_as_before(page, entry, place):
            if not self._is_ours(entry, place):
                return False
            if not entry.copy and entry.link is None:
                place.unlink()
        if not _is_as_before(page, entry, place):
            _restore(page, entry, place, aside)
        return True

    def _is_ours(self, entry: _Entry, place: Path) -> bool:
        """Tell whether what is at ``place`` is what the change has made."""
        if entry.kind == HardLink.__name__:
            return same_file(place, self._root / entry.source)
        if entry.kind == SymbolicLink.__name__:
            return link_text(place) == entry.source
        return _digest(place) in entry.digests

    def _move_back(self, page: Path, entry: _Entry, place: Path) -> bool:
        """Have it be at its source. Return False if something has come to be there meanwhile."""
        source = self._root / entry.source
        if not os.path.lexists(source):
            if os.path.lexists(place) and not place.is_symlink():
                place.rename(source)
            return True
        if link_text(place) == str(source.absolute()):  # it could not be moved
            place.unlink()
        return not os.path.lexists(place) or _is_as_before(page, entry, place)


def _source(change: Change) -> str:
    match change:
        case Move(source=source) | HardLink(source=source) | SymbolicLink(target=source):
            return source
    return ""


def _digests(change: Change) -> tuple[str, ...]:
    """Return the SHA-256 of what a file is to hold, nothing if ``change`` is of another sort."""
    if isinstance(change, File):
        return (hashlib.sha256(change.data).hexdigest(),)
    return (_digest(change.original),) if isinstance(change, Copy) else ()


def _digest(path: Path) -> str:
    """Return the SHA-256 of a regular file, an empty text for anything else, or nothing."""
    if not os.path.lexists(path) or not stat.S_ISREG(os.lstat(path).st_mode):
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _removed(directory: Path) -> bool:
    """Remove a directory; return False if something is in it, or something else is there."""
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
            return False
        raise
    return True


def _is_as_before(page: Path, entry: _Entry, place: Path) -> bool:
    """Tell whether ``place`` has the file or link that was there before, or nothing if that was so."""
    if not os.path.lexists(place):
        return not entry.copy and entry.link is None
    status = os.lstat(place)
    if entry.link is not None:
        return link_text(place) == entry.link.text and status.st_mtime_ns == entry.link.mtime
    if not entry.copy:
        return False
    kept = os.lstat(page / entry.copy)
    return _traits(status) == _traits(kept) and _digest(place) == _digest(page / entry.copy)


def _traits(status: os.stat_result) -> tuple[int, ...]:
    return status.st_mode, status.st_uid, status.st_gid, status.st_size, status.st_mtime_ns


def _restore(page: Path, entry: _Entry, place: Path, aside: Path) -> None:
    """Have the file or link be there that was there before."""
    if entry.copy:
        _copy(page / entry.copy, aside)
        aside.rename(place)
    elif entry.link is not None:
        aside.symlink_to(entry.link.text)
        os.lchown(aside, *entry.link.owner)
        os.utime(aside, ns=(entry.link.mtime, entry.link.mtime), follow_symlinks=False)
        aside.rename(place)


def _copy(file: Path, place: Path) -> None:
    """Copy a regular file with all that belongs to it, durably."""
    place.unlink(missing_ok=True)
    shutil.copyfile(file, place, follow_symlinks=False)
    status = os.lstat(file)
    os.chown(place, status.st_uid, status.st_gid)
    shutil.copystat(file, place, follow_symlinks=False)  # after its owner has changed, which takes bits of the mode
    with place.open("rb") as copy:
        os.fsync(copy.fileno())
