"""What one layer owns of a full tree: a diff, cut out by the names in the layer's tar-split data."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from transship.errors import LayerMismatch
from transship.files.beneath import DIRECTORY_FLAGS, Beneath, open_unseen
from transship.files.tree import OPAQUE, Child, full_xattrs
from transship.formats import tar_split, whiteouts
from transship.stores.docker import tar_stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


@dataclass(slots=True)
class _Owned:
    """What a layer owns in one directory: names and what it owns below them, deleted names, and whether it hides the rest."""

    names: dict[str, _Owned | None] = field(default_factory=dict)
    whiteouts: set[str] = field(default_factory=set)
    opaque: bool = False

    def directory(self, name: str) -> _Owned:
        below = self.names.get(name)
        if below is None:
            below = self.names[name] = _Owned()
        return below


class CutDirectory:
    """Of a full tree, what one layer owns: a diff."""

    def __init__(self, descriptor: int, owned: _Owned) -> None:
        """Takes ``descriptor`` over."""
        self._descriptor = descriptor
        self._owned = owned
        self.opaque = owned.opaque
        self.status = os.fstat(descriptor)

    @classmethod
    def open(cls, directory: Path, metadata: Path) -> CutDirectory:
        """Open what ``metadata`` (tar-split data) cuts out of the full tree at ``directory``. Raises OSError, SourceCorrupt."""
        owned = _owned_by_layer(directory, metadata)
        return cls(open_unseen(directory, DIRECTORY_FLAGS), owned)

    def children(self) -> Iterator[Child]:
        for name in self._owned.names:
            try:
                status = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
            except FileNotFoundError as error:
                raise LayerMismatch(f"{name!r}, which the layer owns, is missing", remedy=tar_stream.RESTORE_HINT) from error
            yield Child(name, status, self._descriptor)
        for name in self._owned.whiteouts - self._owned.names.keys():
            yield Child(name, None, self._descriptor)

    def enter(self, child: Child) -> CutDirectory:
        descriptor = open_unseen(child.name, DIRECTORY_FLAGS, self._descriptor)
        entered = CutDirectory(descriptor, self._owned.names[child.name] or _Owned())
        if child.name in self._owned.whiteouts:
            entered.opaque = True  # deleted and made again: nothing of the old directory may show through
        return entered

    def xattrs(self) -> Mapping[str, bytes]:
        found = full_xattrs(self._descriptor)
        return {**found, OPAQUE: b"y"} if self.opaque else found

    def close(self) -> None:
        os.close(self._descriptor)


def _owned_by_layer(directory: Path, metadata: Path) -> _Owned:
    root = _Owned()
    with Beneath(directory) as files:
        parents: dict[bytes, _Owned | None] = {b"": root}
        for entry in tar_stream.entries(metadata):
            if entry.type != tar_split.FILE:
                continue
            if b"\0" in entry.path:
                raise _mismatch(directory, entry, "has a NUL in its name")
            parent, name = _split(entry.path)
            if not name:
                continue  # the root itself, which every diff has
            if parent not in parents:
                parents[parent] = _owned_directory(files, root, parent)
            owned = parents[parent]
            if owned is not None:
                try:
                    _own(owned, os.fsdecode(name))
                except ValueError as error:
                    raise _mismatch(directory, entry, f"cannot be: {error}") from error
            elif not whiteouts.is_below_mark(entry.path):
                raise _mismatch(directory, entry, "is missing, and so is its directory")
    return root


def _mismatch(directory: Path, entry: tar_split.Entry, what: str) -> LayerMismatch:
    return LayerMismatch(f"{tar_stream.shown(directory, entry)} {what}", remedy=tar_stream.RESTORE_HINT)


def _split(path: bytes) -> tuple[bytes, bytes]:
    """Return a member's directory and name; both empty for the root. ``..`` stops at the root."""
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in {b"", b"."}:
            parts.append(part)
    return (b"/".join(parts[:-1]), parts[-1]) if parts else (b"", b"")


def _owned_directory(files: Beneath, root: _Owned, path: bytes) -> _Owned | None:
    """Return where the layer's names below ``path`` belong, links in it resolved; None if there is no such directory."""
    try:
        parts = files.resolve(path).split(b"/")
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR}:
            return None
        raise
    owned = root
    for part in parts:
        owned = owned.directory(os.fsdecode(part)) if part else owned
    return owned


def _own(owned: _Owned, name: str) -> None:
    """Note what a member says. Raises ValueError if it says nothing."""
    if not whiteouts.is_mark(name):
        owned.names.setdefault(name, None)
    elif name == whiteouts.OPAQUE:
        owned.opaque = True
    elif (deleted := whiteouts.deleted_name(name)) is not None:
        owned.whiteouts.add(deleted)
