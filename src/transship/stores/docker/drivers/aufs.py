"""The driver aufs: ``aufs/diff/<cache-id>`` holds what a layer changed, its deletions as files ``.wh.NAME``.

Source: moby ``daemon/graphdriver/aufs`` (Docker up to 23). The driver unpacks an archive as it is, so that a mark may be of any
type and have any content. No container sees a name that begins with ``.wh.``, nor what is below it. So it is with those that
aufs keeps for itself (``.wh..wh.plnk`` and others), which it leaves at the root of what it has mounted writable.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from transship.errors import SourceCorrupt
from transship.files.beneath import DIRECTORY_FLAGS, open_unseen
from transship.files.tree import OPAQUE, Child, Directory, MergedDirectory, full_xattrs, scan
from transship.formats import whiteouts
from transship.stores.docker.drivers.driver import RESTORE_HINT, ensure_directory
from transship.stores.docker.drivers.opaque_root import OpaqueRoot

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class Aufs:
    """See ``Driver``."""

    name = "aufs"

    def find(self, root: Path, cache_id: str) -> Path:
        place = root / "aufs" / "diff" / cache_id
        if os.path.islink(place):  # noqa: PTH114 - False where it cannot be read, too
            return _relocated(root, place)
        if not os.path.lexists(place):
            old = root.resolve() / "graph" / cache_id / "layer"
            if _is_inside(root, old):
                return old  # where Docker 0.6 had it, and nobody has moved it since
        ensure_directory(place)
        return place

    def diff(self, directories: Sequence[Path], metadata: Path) -> Directory:  # noqa: ARG002
        tree = AufsDirectory.open(directories[0])
        if not tree.opaque or len(directories) == 1:
            return tree
        try:
            return OpaqueRoot(tree, _names(self.full(directories[1:])))
        except BaseException:
            tree.close()
            raise

    def full(self, directories: Sequence[Path]) -> Directory:
        return MergedDirectory.open(_down_to_opaque(directories), AufsDirectory.open)


class AufsDirectory:
    """A directory of a diff in aufs' form, as a ``DiffDirectory``.

    Of a name that a layer deletes and also has, what it has counts, as in an archive, and nothing below shows through.
    """

    def __init__(self, descriptor: int) -> None:
        """Takes ``descriptor`` over. Raises OSError, SourceCorrupt."""
        self._descriptor = descriptor
        try:
            self.status = os.fstat(descriptor)
            entries = scan(descriptor)
            self._entries = [entry for entry in entries if not whiteouts.is_mark(entry.name)]
            marks = [entry.name for entry in entries if whiteouts.is_mark(entry.name)]
            self.opaque = whiteouts.OPAQUE in marks
            self._deleted = self._names_deleted(marks)
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def open(cls, path: Path) -> AufsDirectory:
        """Open the diff at ``path``. Raises OSError if it is not a directory, or a link to one; SourceCorrupt."""
        return cls(open_unseen(path, DIRECTORY_FLAGS))

    def _names_deleted(self, marks: list[str]) -> set[str]:
        try:
            return {name for name in map(whiteouts.deleted_name, marks) if name is not None}
        except ValueError as error:
            place = Path(f"/proc/self/fd/{self._descriptor}").readlink()
            raise SourceCorrupt(f"{place}: {error}", remedy=RESTORE_HINT) from error

    def children(self) -> Iterator[Child]:
        for entry in self._entries:
            yield Child(entry.name, entry.stat(follow_symlinks=False), self._descriptor)
        for name in self._deleted.difference(entry.name for entry in self._entries):
            yield Child(name, None, self._descriptor)

    def enter(self, child: Child) -> AufsDirectory:
        entered = AufsDirectory(open_unseen(child.name, DIRECTORY_FLAGS, self._descriptor))
        if child.name in self._deleted:
            entered.opaque = True
        return entered

    def xattrs(self) -> Mapping[str, bytes]:
        found = full_xattrs(self._descriptor)
        return {**found, OPAQUE: b"y"} if self.opaque else found

    def close(self) -> None:
        os.close(self._descriptor)


def _down_to_opaque(directories: Sequence[Path]) -> Iterator[Path]:
    """Yield ``directories`` down to the first that hides what is below it."""
    for directory in directories:
        yield directory
        if os.path.lexists(directory / whiteouts.OPAQUE):
            return


def _names(tree: Directory) -> list[str]:
    """Return what is in the root of ``tree``, which is closed."""
    try:
        return [child.name for child in tree.children()]
    finally:
        tree.close()


def _relocated(root: Path, link: Path) -> Path:
    """Return where a layer is that stands as a link in the driver's place.

    Docker 0.12 to 1.9 made such links when it met the layout of Docker 0.6: to ``graph/<ID>/layer`` in the data root, by the
    absolute path that this had then. Raises SourceCorrupt if it leads to no directory inside the root.
    """
    target = link.readlink()
    places = [Path(os.path.realpath(link))]
    if target.parts[-3:] == ("graph", link.name, "layer"):
        places.append(root.resolve() / "graph" / link.name / "layer")  # the root has been moved since
    for place in places:
        if _is_inside(root, place):
            return place
    raise SourceCorrupt(f"{link} is a link to {str(target)!r}, which is no directory in {root}", remedy=RESTORE_HINT)


def _is_inside(root: Path, place: Path) -> bool:
    """Tell whether ``place``, without any link in it, is a directory inside the root."""
    return root.resolve() in place.parents and os.path.realpath(place) == str(place) and place.is_dir()
