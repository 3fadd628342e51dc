"""What a layer changed, found out from directories: for layers of which no tar stream was recorded.

Source: moby v1.10.3 ``pkg/archive/changes.go``, ``changes_linux.go`` and ``changes_unix.go``; for what is left out of aufs'
branches ``daemon/graphdriver/aufs/aufs.go``.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, NamedTuple

from transship.errors import SourceCorrupt
from transship.stores.docker.tar_stream import RESTORE_HINT
from transship.stores.graph.layer_tree import LayerTree

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from pathlib import Path

_AUFS_OWN = b".wh..wh."
_AUFS_OPAQUE = b".wh..wh..opq"


class Change(NamedTuple):
    """A path, relative to the layer's directory, that is in the layer's tar stream, or that it says was deleted."""

    path: bytes
    deleted: bool = False

    @property
    def name(self) -> bytes:
        """What it is called in the stream."""
        if not self.deleted:
            return self.path
        above, slash, name = self.path.rpartition(b"/")
        return b"%s%s.wh.%s" % (above, slash, name)


def everything(directory: Path) -> Iterator[Change]:
    """Yield all that is below ``directory``, each directory before what is in it, names sorted by their bytes.

    Raises SourceCorrupt.
    """
    with LayerTree(directory) as tree:
        todo = [(b"", True)]
        while todo:
            path, is_directory = todo.pop()
            if path:
                yield Change(path)
            if is_directory:
                children = tree.children(path)
                todo += ((child, children[child].is_directory) for child in sorted(children, reverse=True))


def of_aufs(directory: Path) -> Iterator[Change]:
    """Yield what is in the aufs branch ``directory``, like ``everything``, but for what aufs keeps for itself at the root.

    A layer's whiteouts are files there, and stay so. Raises SourceCorrupt.
    """
    for change in everything(directory):
        top = change.path.partition(b"/")[0]
        if top == _AUFS_OPAQUE or not top.startswith(_AUFS_OWN):
            yield change


def between(old: Path, new: Path) -> list[Change]:
    """Return in what the tree at ``new`` differs from that at ``old``, sorted by the bytes of whole paths.

    With what changed come the directories above it, but for the root. What is deleted stands for all below it. Takes
    memory for all changes, and for the names in one directory. Raises SourceCorrupt, also if a deletion would be called like
    a file that is there.
    """
    found: dict[bytes, bool] = {}
    with LayerTree(old) as before, LayerTree(new) as after:
        todo = [_Pair(b"", before, after)]
        while todo:
            for change in _compare(todo.pop(), todo):
                found[change.path] = change.deleted
                above = _parent(change.path)
                while above and above not in found:
                    found[above] = False
                    above = _parent(above)
    changes = [Change(path, deleted) for path, deleted in sorted(found.items())]
    for change in changes:
        if change.deleted and found.get(change.name) is False:
            name = change.name.decode("utf-8", "backslashreplace")
            raise SourceCorrupt(f"{new}/{name} is a file, and would say that another was deleted", remedy=RESTORE_HINT)
    return changes


class _Pair(NamedTuple):
    """A path to be compared; ``old`` and ``new`` are the trees in which it is a directory."""

    path: bytes
    old: LayerTree | None
    new: LayerTree | None


def _compare(pair: _Pair, todo: list[_Pair]) -> Iterator[Change]:
    """Yield what differs right in one directory, and add the directories in it to ``todo``."""
    old, new = pair.old, pair.new
    before = old.children(pair.path) if old else {}
    after = new.children(pair.path) if new else {}
    prunes = old and new and old.device(pair.path) == new.device(pair.path)
    for path, child in after.items():
        was = before.pop(path, None)
        if was is None or old is None or new is None:
            yield Change(path)
            if child.is_directory:
                todo.append(_Pair(path, None, new))
        elif not (prunes and child.inode == was.inode):
            then, now = old.status(path), new.status(path)
            if _differ(then, now) or (old.capability(path) or b"") != (new.capability(path) or b""):
                yield Change(path)
            # Where a socket or a block device is now, what was in the directory is deleted one by one: it passes for one.
            goes_on = was.is_directory and _passes_for_directory(now)
            if goes_on or child.is_directory:
                todo.append(_Pair(path, old if goes_on else None, new if child.is_directory else None))
    for path in before:
        yield Change(path, deleted=True)


def _differ(old: os.stat_result, new: os.stat_result) -> bool:
    """Tell whether files differ in what a tar archive keeps. A time may have lost its fraction of a second in one."""
    if (old.st_mode, old.st_uid, old.st_gid, old.st_rdev) != (new.st_mode, new.st_uid, new.st_gid, new.st_rdev):
        return True
    if _passes_for_directory(old):
        return False
    return old.st_size != new.st_size or not _same_time(old.st_mtime_ns, new.st_mtime_ns)


def _passes_for_directory(status: os.stat_result) -> bool:
    """Tell what Docker took for a directory: block devices and sockets, whose types have that bit as well, are among them."""
    return status.st_mode & stat.S_IFDIR != 0


def _same_time(one: int, other: int) -> bool:
    seconds, fraction = divmod(one, 1_000_000_000)
    other_seconds, other_fraction = divmod(other, 1_000_000_000)
    return seconds == other_seconds and (fraction == other_fraction or not fraction or not other_fraction)


def _parent(path: bytes) -> bytes:
    return path.rpartition(b"/")[0]
