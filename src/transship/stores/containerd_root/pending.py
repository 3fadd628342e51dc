"""What is done to the databases and not in them yet: a file of JSON lines beside them.

A database is written as a whole, which for each of a run's steps would be too much. So changes are noted here, in order, each
line what has to be made together, and come into the databases now and then. The first line says on which states of the
databases they build: who finds the file can tell whether they are still to be made, or another program has been here since.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from transship.files.beneath import FILE_FLAGS
from transship.files.durable import sync_directory
from transship.formats.bolt.draft import Edit, net
from transship.formats.bolt.meta import Meta

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from transship.formats.bolt.draft import Draft
    from transship.formats.bolt.reader import Database

Changes = dict[str, list[Edit]]
"""By database: what is changed in it."""
_VERSION = 1


class _Beginning(msgspec.Struct, frozen=True):
    version: int
    databases: dict[str, Meta]


_BEGINNING = msgspec.json.Decoder(_Beginning)
_LINE = msgspec.json.Decoder(Changes)


class Pending:
    """The file at ``path``, made anew for changes to databases that are in the states ``databases``. Raises OSError."""

    def __init__(self, path: Path, databases: Mapping[str, Meta]) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._size = 0
        try:
            self._write(msgspec.json.encode(_Beginning(_VERSION, dict(databases))))
        except BaseException:
            self.close()
            raise

    def append(self, changes: Mapping[str, Iterable[Edit]]) -> None:
        """Note changes that belong together. They survive a power cut once the file system has been synced."""
        self._write(msgspec.json.encode(changes))

    def close(self) -> None:
        """Leave it to whoever comes next."""
        os.close(self._descriptor)

    def _write(self, line: bytes) -> None:
        left = memoryview(line + b"\n")
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except BaseException:
            os.ftruncate(self._descriptor, self._size)
            os.lseek(self._descriptor, self._size, os.SEEK_SET)
            raise
        self._size += len(line) + 1


class Found(msgspec.Struct, frozen=True):
    """What is in a file of pending changes: the databases' states that they build on, and what the changes come to."""

    databases: dict[str, Meta]
    changes: Changes


def read(path: Path) -> Found | None:
    """Read the file at ``path``; None if it is not there. What a kill or a power cut has left of its end does not count.

    Raises OSError.
    """
    try:
        descriptor = os.open(path, FILE_FLAGS)
    except FileNotFoundError:
        return None
    changes: Changes = {}
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a path would follow a link
        try:
            beginning = _BEGINNING.decode(_whole(file.readline()))
            if beginning.version != _VERSION:
                return Found({}, {})
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return Found({}, {})
        try:
            for line in file:
                for name, edits in _LINE.decode(_whole(line)).items():
                    changes.setdefault(name, []).extend(edits)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            pass
    return Found(beginning.databases, {name: net(edits) for name, edits in changes.items()})


def redo(found: Found, databases: Mapping[str, Database], drafts: Mapping[str, Draft]) -> bool:
    """Make what was found in ``drafts`` of ``databases``; ``edits`` has then what is new. Drafts may have more of them.

    Returns False if another program has changed one of them since, so that all is void; drafts are nobody's to use then.
    A database that has all its changes is fine, too: its checkpoint was not the last thing to be done.
    """
    if not found.databases or not found.databases.keys() <= databases.keys():
        return False
    for name, state in found.databases.items():
        whole = drafts[name].redo(found.changes.get(name, []))
        if not whole or (databases[name].meta != state and drafts[name].edits):
            return False
    return True


def remove(path: Path) -> None:
    """Remove the file, durably; none is success. Raises OSError."""
    path.unlink(missing_ok=True)
    sync_directory(path.parent)


def _whole(line: bytes) -> bytes:
    """Return a line that has been written to its end. Raises MsgspecError for another."""
    if not line.endswith(b"\n"):
        raise msgspec.DecodeError("cut off")
    return line
