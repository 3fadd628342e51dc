"""The databases in a cache's directory, which are read together and changed one after the other.

They are locked while they are read or changed, and not in between. Changes are written as JSON: files with what became of them.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import msgspec

from transship.errors import SourceCorrupt, SourceMissing
from transship.files.durable import sync_directory
from transship.formats.bolt.draft import Draft, Edit, net
from transship.stores import bolt_file
from transship.stores.mapped import mapped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from transship.formats.bolt.reader import Bucket

_REMEDY = "restore it from a backup; `transship bolt dump` shows all of it"


class _Changes(msgspec.Struct, frozen=True):
    """What is changed in ``file``. ``made``: the file is, too."""

    file: str
    edits: list[Edit]
    made: bool


class Databases:
    """Those in ``directory``, by the names of their files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open = ExitStack()
        self._roots: dict[str, Bucket] = {}

    def draft(self, file: str) -> Draft:
        """Return what is in a file, to be read, or to be changed and made ``changes`` of. Raises like ``bolt_file.opened``.

        Until ``apply``, ``revert`` or ``close`` the file stays locked: others can read it.
        """
        if file not in self._roots:
            database = self._open.enter_context(bolt_file.opened(self._directory / file))
            self._roots[file] = database.root
        return Draft(self._roots[file])

    def draft_if_there(self, file: str) -> Draft | None:
        """Return the same, None if the file is not there."""
        try:
            return self.draft(file)
        except SourceMissing:
            return None

    def changes(self, drafts: Mapping[str, Draft]) -> bytes:
        """Return the changes that were made to drafts, the first first. A file that is not there is to be made."""
        found = [_Changes(file, net(draft.edits), file not in self._roots) for file, draft in drafts.items() if draft.edits]
        return msgspec.json.encode(found) if found else b""

    def apply(self, changes: bytes) -> None:
        """Make changes, in one file after the other, each wholly or not at all. Raises like ``held`` and ``create``."""
        self.close()
        for change in _decoded(changes):
            path = self._directory / change.file
            with self.read(change.file):
                if change.made and not path.exists():
                    draft = Draft(None)
                    draft.redo(change.edits)
                    bolt_file.create(path, draft)
                else:
                    with bolt_file.changed(path) as draft:
                        draft.redo(change.edits)

    def revert(self, changes: bytes) -> bool:
        """Take changes back; return False if some was left. A file that was made goes, if nothing is left in it."""
        self.close()
        whole = True
        for change in _decoded(changes):
            path = self._directory / change.file
            with self.read(change.file):
                try:
                    with bolt_file.changed(path) as draft:
                        whole &= draft.undo(change.edits)
                        empty = next(draft.keys(), None) is None
                except SourceMissing:
                    whole &= change.made
                    continue
                if change.made and empty:
                    with mapped(path):
                        path.unlink()
                        sync_directory(path.parent)
        return whole

    @contextmanager
    def read(self, file: str) -> Iterator[None]:
        """Raise what the block finds wrong in ``file``, a ValueError, as SourceCorrupt."""
        try:
            yield
        except ValueError as error:
            raise SourceCorrupt(f"{self._directory / file}: {error}", remedy=_REMEDY) from error

    def close(self) -> None:
        """Let go of the files."""
        self._roots.clear()
        self._open.close()


class InDatabases:
    """What holders have in common whose snapshots, blobs and leases are in databases below ``directory``: see ``Holder``."""

    def __init__(self, directory: Path) -> None:
        self._databases = Databases(directory)

    def apply(self, changes: bytes) -> None:
        """Make changes."""
        self._databases.apply(changes)

    def revert(self, changes: bytes) -> bool:
        """Take changes back."""
        return self._databases.revert(changes)

    def close(self) -> None:
        """Let go of the databases."""
        self._databases.close()


def _decoded(changes: bytes) -> list[_Changes]:
    return msgspec.json.decode(changes, type=list[_Changes]) if changes else []
