"""What is in the layer between an image and a container: places that Docker mounts things on when the container starts.

Source: moby v1.9.1 ``daemon/daemon_unix.go`` (setupInitLayer). It worked on the image with the new layer mounted over it, so
that what the image has as a directory was left to the image, and directories above what is new came along with their owners.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from transship.files.changes import Directory, File, SymbolicLink

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping

    from transship.files import tree
    from transship.files.changes import Change

_DIRECTORIES = ("dev/pts", "dev/shm", "proc", "sys")
_FILES = (".dockerinit", ".dockerenv", "etc/resolv.conf", "etc/hosts", "etc/hostname", "dev/console")
_LINKS = {"etc/mtab": "/proc/mounts"}
_ABOVE = ("dev", "etc")
_PLACES = frozenset({*_ABOVE, *_DIRECTORIES, *_FILES, *_LINKS})
_MODE = 0o755


def init_layer(place: str, image: tree.Directory) -> Iterator[Change]:
    """Yield what fills the layer at ``place``, relative to the data root, over the tree ``image``, which is closed.

    Raises OSError, SourceCorrupt.
    """
    known = _directories(image)
    new = [path for path in (*_DIRECTORIES, *_FILES, *_LINKS) if path not in known]
    for path in _ABOVE:
        if any(each.startswith(f"{path}/") for each in new):
            yield _above(f"{place}/{path}", known.get(path))
    for path in new:
        if path in _DIRECTORIES:
            yield Directory(f"{place}/{path}", _MODE)
        elif path in _FILES:
            yield File(f"{place}/{path}", b"", _MODE)
        else:
            yield SymbolicLink(f"{place}/{path}", _LINKS[path])


def _above(path: str, status: os.stat_result | None) -> Directory:
    if status is None:
        return Directory(path, _MODE)
    return Directory(path, stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid))


def _directories(image: tree.Directory, prefix: str = "") -> Mapping[str, os.stat_result]:
    """Return those of the places above that are directories in ``image``, by path. Each begins with ``prefix``."""
    found: dict[str, os.stat_result] = {}
    try:
        for child in image.children():
            path = prefix + child.name
            if child.status is not None and child.is_directory and path in _PLACES:
                found[path] = child.status
                found |= _directories(image.enter(child), f"{path}/") if path in _ABOVE else {}
    finally:
        image.close()
    return found
