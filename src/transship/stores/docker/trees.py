"""A layer's files in the form that a snapshotter wants, from the form in which the driver keeps them.

overlay2 keeps diffs, vfs keeps full trees. A full tree is made of diffs by laying them over one another; a diff is cut out of a
full tree by the names in the layer's tar-split data, which say exactly what the layer owns, whiteouts included.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from transship.errors import LayerMismatch
from transship.files.beneath import DIRECTORY_FLAGS, Beneath, open_unseen
from transship.files.fill import Filler, FillMode
from transship.files.tree import OPAQUE, Child, Directory, DiskDirectory, MergedDirectory, full_xattrs
from transship.formats import tar_split
from transship.stores.docker import tar_stream
from transship.stores.interfaces import TreeForm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from transship.stores.docker.layers import Layer
    from transship.stores.docker.store import Store

DRIVER_FORMS = {"overlay2": TreeForm.DIFF, "vfs": TreeForm.FULL}
_RESERVED = b".wh..wh."
"""Before names that aufs kept for itself; Docker's unpacking skips them (moby ``go-archive/diff.go``)."""


@dataclass(frozen=True)
class Origin:
    """Where a layer's tree is to be read from, and in which form: all that is needed to open it, in any process.

    ``directories`` are those of the layer and, if they are needed, of the layers below it, topmost first.
    """

    form: TreeForm
    kept: TreeForm
    directories: tuple[Path, ...]
    metadata: Path

    @classmethod
    def of(cls, store: Store, layer: Layer, form: TreeForm) -> Origin:
        """Return the origin of the tree of ``layer`` in the form wanted."""
        kept = DRIVER_FORMS[store.driver]
        merged = kept is TreeForm.DIFF and form is TreeForm.FULL
        layers = _stack(store, layer) if merged else [layer]
        return cls(form, kept, tuple(layer.driver_directory for layer in layers), layer.tar_split)


def open_tree(origin: Origin) -> Directory:
    """Open a layer's tree in the form wanted. The caller closes it. Raises OSError, SourceCorrupt."""
    if origin.kept is origin.form:
        return DiskDirectory.open(origin.directories[0])
    if origin.form is TreeForm.FULL:
        return MergedDirectory.open(list(origin.directories))
    return CutDirectory.open(origin.directories[0], origin.metadata)


def fill(origin: Origin, directory: Path, mode: FillMode, check_cancelled: Callable[[], None] = lambda: None) -> None:
    """Fill the empty ``directory`` with a layer's tree. Raises OSError, SourceError."""
    Filler(mode, origin.form is TreeForm.FULL, lambda _: check_cancelled()).fill(open_tree(origin), directory)


def _stack(store: Store, layer: Layer) -> Iterator[Layer]:
    """Yield ``layer`` and the layers below it, topmost first."""
    current: Layer | None = layer
    while current is not None:
        yield current
        current = store.layers[current.parent] if current.parent else None


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
        below = self._owned.names[child.name] or _Owned()
        if child.name in self._owned.whiteouts:
            below.opaque = True  # deleted and made again: nothing of the old directory may show through
        return CutDirectory(open_unseen(child.name, DIRECTORY_FLAGS, self._descriptor), below)

    def xattrs(self) -> Mapping[str, bytes]:
        found = full_xattrs(self._descriptor)
        return {**found, OPAQUE: b"y"} if self._owned.opaque else found

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
                raise LayerMismatch(
                    f"{tar_stream.shown(directory, entry)} has a NUL in its name", remedy=tar_stream.RESTORE_HINT
                )
            parent, name = _split(entry.path)
            if not name:
                continue  # the root itself, which every diff has
            if parent not in parents:
                parents[parent] = _owned_directory(files, root, parent)
            owned = parents[parent]
            if owned is not None:
                _own(owned, name)
            elif not name.startswith(tar_split.WHITEOUT_PREFIX):
                raise LayerMismatch(
                    f"{tar_stream.shown(directory, entry)} is missing, and so is its directory", remedy=tar_stream.RESTORE_HINT
                )
    return root


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


def _own(owned: _Owned, name: bytes) -> None:
    if name == tar_split.OPAQUE_MARKER:
        owned.opaque = True
    elif name.startswith(_RESERVED):
        return
    elif name.startswith(tar_split.WHITEOUT_PREFIX):
        owned.whiteouts.add(os.fsdecode(name.removeprefix(tar_split.WHITEOUT_PREFIX)))
    else:
        owned.names.setdefault(os.fsdecode(name), None)
