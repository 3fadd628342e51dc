"""Directory trees as they are to be, read from one or several directories on disk.

A tree is walked a directory at a time through descriptors, never through paths: no link is followed, and no path is too long.
Two forms (``TreeForm`` of stores/interfaces.py): a *diff* holds a layer's own changes as overlayfs keeps them, a *full* tree
holds everything that is to be seen. Source for overlayfs' form: the kernel's ``Documentation/filesystems/overlayfs.rst``.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

from transship.errors import SourceUnsupported
from transship.files.beneath import DIRECTORY_FLAGS, open_unseen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

OPAQUE = "trusted.overlay.opaque"

_PREFIX = "trusted.overlay."
"""Where overlayfs keeps its own xattrs."""
_MEANINGFUL = frozenset({OPAQUE, "trusted.overlay.redirect", "trusted.overlay.metacopy"})
"""Those of them that say something about the tree."""
_NOT_MERGED = frozenset({
    "trusted.overlay.redirect",
    "trusted.overlay.metacopy",
    "user.overlay.opaque",
    "user.overlay.redirect",
    "user.overlay.metacopy",
    "user.overlay.whiteout",
})  # fmt: skip
"""Marks that merging does not follow: content under another name or in another layer, and what means something only to mounts
with the option userxattr, as a rootless daemon uses, and is an attribute like any other elsewhere."""

_SEEN_TWICE = frozenset({"trusted.SGI_ACL_FILE", "trusted.SGI_ACL_DEFAULT"})
"""How xfs keeps access control lists, which it shows as ``system.posix_acl_*`` too."""


@dataclass(slots=True)
class Child:
    """One name in a directory.

    ``status`` describes what is really there, at ``name`` in the open directory ``at``; None stands for a whiteout that has no
    file of its own.
    """

    name: str
    status: os.stat_result | None
    at: int

    @property
    def is_directory(self) -> bool:
        return self.status is not None and stat.S_ISDIR(self.status.st_mode)


class Directory(Protocol):
    """One open directory of a tree. ``close`` is called once its children are done with."""

    status: os.stat_result

    def children(self) -> Iterator[Child]:
        """Yield what is in it, each name once, without ``.`` and ``..``. Raises OSError."""
        ...

    def enter(self, child: Child) -> Directory:
        """Open a child that is a directory. Raises OSError."""
        ...

    def xattrs(self) -> Mapping[str, bytes]:
        """Return the extended attributes that it is to have. Raises OSError."""
        ...

    def close(self) -> None:
        """Let go of its descriptors."""
        ...


def is_whiteout(status: os.stat_result) -> bool:
    """Tell whether this is overlayfs' mark for a deleted name: a character device 0/0."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


class DiffDirectory(Directory, Protocol):
    """One open directory of a diff, whatever keeps it, to be laid over others. A whiteout is a child without a status."""

    opaque: bool
    """Whether it hides what is in the same directory of the diffs below."""

    def enter(self, child: Child) -> DiffDirectory:
        """Open a child that is a directory. Raises OSError."""
        ...


class DiskDirectory:
    """A directory as it is on disk: a diff of overlay2's or a full tree of vfs', ready-made."""

    def __init__(self, descriptor: int) -> None:
        """Takes ``descriptor`` over."""
        self._descriptor = descriptor
        self.status = os.fstat(descriptor)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the tree at ``path``. Raises OSError if it is not a directory, or a link to one."""
        return cls(open_unseen(path, DIRECTORY_FLAGS))

    def children(self) -> Iterator[Child]:
        for entry in scan(self._descriptor):
            yield Child(entry.name, entry.stat(follow_symlinks=False), self._descriptor)

    def enter(self, child: Child) -> DiskDirectory:
        return DiskDirectory(open_unseen(child.name, DIRECTORY_FLAGS, self._descriptor))

    def xattrs(self) -> Mapping[str, bytes]:
        return diff_xattrs(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


class OverlayDirectory(DiskDirectory):
    """A directory of a diff in overlayfs' form, read as overlayfs reads it."""

    def __init__(self, descriptor: int) -> None:
        """Takes ``descriptor`` over."""
        super().__init__(descriptor)
        self.opaque = _is_opaque(descriptor)

    def children(self) -> Iterator[Child]:
        for child in super().children():
            whiteout = child.status is not None and is_whiteout(child.status)
            yield Child(child.name, None, child.at) if whiteout else child

    def enter(self, child: Child) -> OverlayDirectory:
        return OverlayDirectory(open_unseen(child.name, DIRECTORY_FLAGS, self._descriptor))


class MergedDirectory:
    """Directories of diffs, the topmost first, seen as the one that a container sees: a full tree.

    All that are given are shown, whether one is opaque or not: at the root of a mount overlayfs does not heed it.
    """

    def __init__(self, directories: Sequence[DiffDirectory]) -> None:
        """Takes ``directories`` over."""
        self._directories = directories
        self._stacks: dict[str, list[tuple[DiffDirectory, Child]]] = {}
        self.status = directories[0].status

    @classmethod
    def open(cls, paths: Iterable[Path], diff: Callable[[Path], DiffDirectory] = OverlayDirectory.open) -> MergedDirectory:
        """Open the diffs at ``paths``, the topmost first, each with ``diff``. Raises OSError."""
        return cls(_opened(diff(path) for path in paths))

    def children(self) -> Iterator[Child]:
        for directory in self._directories:
            for child in directory.children():
                self._stacks.setdefault(child.name, []).append((directory, child))
        for (_, top), *_ in self._stacks.values():
            if top.status is None:
                continue
            if stat.S_ISREG(top.status.st_mode):
                _refuse_marks(top)
            yield top

    def enter(self, child: Child) -> MergedDirectory:
        return MergedDirectory(_opened(_entered(self._stacks[child.name])))

    def xattrs(self) -> Mapping[str, bytes]:
        return {name: value for name, value in self._directories[0].xattrs().items() if not name.startswith(_PREFIX)}

    def close(self) -> None:
        for directory in self._directories:
            directory.close()


def _entered(stack: Iterable[tuple[DiffDirectory, Child]]) -> Iterator[DiffDirectory]:
    """Yield the directories of one name, opened, down to the first that hides the others."""
    for directory, child in stack:
        if not child.is_directory:
            return
        _refuse_marks(child)
        entered = directory.enter(child)
        yield entered
        if entered.opaque:
            return


def _opened(directories: Iterable[DiffDirectory]) -> list[DiffDirectory]:
    """Return all ``directories``, which are opened as one asks for them; if one fails, those before it are closed."""
    opened: list[DiffDirectory] = []
    try:
        for directory in directories:
            opened.append(directory)  # noqa: PERF402 - what is open must be closed if one fails
    except BaseException:
        for directory in opened:
            directory.close()
        raise
    return opened


def scan(descriptor: int) -> list[os.DirEntry[str]]:
    """Return a directory's entries in inode order: the order in which a cold disk has them."""
    with os.scandir(descriptor) as entries:
        return sorted(entries, key=os.DirEntry.inode)


def diff_xattrs(place: int | str) -> dict[str, bytes]:
    """Return the xattrs of ``place`` (a descriptor or a path, whose last component is not followed) that belong into a diff.

    Of overlayfs' own those that say something about the tree; the others are the kernel's caches and do not travel.
    """
    return _xattrs(place, lambda name: not name.startswith(_PREFIX) or name in _MEANINGFUL)


def full_xattrs(place: int | str) -> dict[str, bytes]:
    """Return the xattrs of ``place`` that belong into a full tree: none of overlayfs' own."""
    return _xattrs(place, lambda name: not name.startswith(_PREFIX))


def _xattrs(place: int | str, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    # Python refuses follow_symlinks=False for a descriptor, where it has no meaning.
    if isinstance(place, int):
        return {name: os.getxattr(place, name) for name in os.listxattr(place) if name not in _SEEN_TWICE and wanted(name)}
    names = os.listxattr(place, follow_symlinks=False)
    return {name: os.getxattr(place, name, follow_symlinks=False) for name in names if name not in _SEEN_TWICE and wanted(name)}


def _is_opaque(descriptor: int) -> bool:
    # Another value than "y" says something else: "x" that there may be whiteouts of another form in it.
    return OPAQUE in os.listxattr(descriptor) and os.getxattr(descriptor, OPAQUE) == b"y"


def _refuse_marks(child: Child) -> None:
    for xattr in _NOT_MERGED.intersection(os.listxattr(f"/proc/self/fd/{child.at}/{child.name}", follow_symlinks=False)):
        raise SourceUnsupported(
            f"{child.name!r} carries {xattr}, which is not understood here",
            remedy="use the snapshotter overlayfs, which keeps the mark",
        )
