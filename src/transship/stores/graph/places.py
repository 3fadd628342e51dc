"""The directories in which graph drivers keep a v1 image's layer: making them on a parent's, removing them.

Source: moby v1.9.1 ``daemon/graphdriver/{vfs,overlay,aufs}``. vfs copies the parent's tree, overlay links its files, aufs
notes the parents' IDs and has nothing of theirs.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from transship.errors import SourceCorrupt, UsageError
from transship.files.fill import Filler, FillMode
from transship.files.remove import remove
from transship.files.tree import DiskDirectory
from transship.stores.docker import small_files
from transship.stores.docker.drivers.known import DRIVERS

if TYPE_CHECKING:
    from pathlib import Path

WRITABLE = ("aufs", "overlay", "vfs")
"""The drivers for which layers can be made."""

_BOOK_LIMIT = 1024 * 1024


def make_layer(root: Path, driver: str, image_id: str, parent: str | None) -> Path:
    """Make the directories of a layer, as they are before its own files come, and return the one for these.

    What is there of that ID already is removed first. Raises SourceCorrupt if the parent has no layer, OSError.
    """
    below = None if parent is None else DRIVERS[driver].find(root, parent)
    remove_layer(root, driver, image_id)
    match driver:
        case "vfs":
            return _make_copy(root / "vfs", image_id, below)
        case "overlay":
            return _make_linked(root / "overlay", image_id, below)
        case "aufs":
            return _make_diff(root / "aufs", image_id, parent)
    raise UsageError(f"no layers can be made for the graph driver {driver}", remedy=f"only for {', '.join(WRITABLE)}")


def remove_layer(root: Path, driver: str, image_id: str) -> None:
    """Remove the directories of a layer, as far as they are there. Raises OSError."""
    places = {
        "vfs": [root / "vfs/dir" / image_id],
        "overlay": [root / "overlay" / image_id],
        "aufs": [root / "aufs" / name / image_id for name in ("mnt", "diff", "layers")],
    }
    for place in places[driver]:
        remove(place)


def disk_usage(directory: Path) -> int:
    """Return the bytes of all files below ``directory``, each inode once: a size as aufs' driver took it. Raises OSError."""
    sizes: dict[int, int] = {}
    todo = [os.fspath(directory)]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                else:
                    sizes[entry.inode()] = entry.stat(follow_symlinks=False).st_size
    return sum(sizes.values())


def _make_copy(home: Path, image_id: str, below: Path | None) -> Path:
    place = home / "dir" / image_id
    _make_parents(place, 0o700)
    place.mkdir()
    if below is not None:
        _fill(place, below, FillMode.COPY)
        os.chown(place, os.geteuid(), os.getegid())  # Docker copies what is in the directory, not what it is itself
    place.chmod(0o755)
    return place


def _make_linked(home: Path, image_id: str, below: Path | None) -> Path:
    place = home / image_id
    _make_parents(place, 0o755)
    place.mkdir(mode=0o700)
    tree = place / "root"
    tree.mkdir()
    tree.chmod(0o755)
    if below is not None:
        _fill(tree, below, FillMode.LINK_ALL)
    return tree


def _make_diff(home: Path, image_id: str, parent: str | None) -> Path:
    ancestors = "" if parent is None else f"{parent}\n{_ancestors(home, parent)}"
    for name in ("mnt", "diff"):
        _make_parents(home / name / image_id, 0o755)
        (home / name / image_id).mkdir()
        (home / name / image_id).chmod(0o755)
    book = home / "layers" / image_id
    _make_parents(book, 0o755)
    book.write_text(ancestors)
    book.chmod(0o644)
    return home / "diff" / image_id


def _ancestors(home: Path, image_id: str) -> str:
    """Return the lines of the IDs that an image's layer stands on, nearest first."""
    path = home / "layers" / image_id
    text = small_files.read_text(str(path), _BOOK_LIMIT)
    if text is None:
        raise SourceCorrupt(f"{path} is missing", remedy="without it aufs does not know what the layer stands on")
    return f"{text}\n" if text else ""


def _fill(place: Path, below: Path, mode: FillMode) -> None:
    Filler(mode, full=True, advance=lambda _: None).fill(DiskDirectory.open(below), place)


def _make_parents(place: Path, mode: int) -> None:
    for directory in reversed(place.parents[:2]):
        directory.mkdir(mode=mode, exist_ok=True)
