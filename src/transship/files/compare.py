"""Telling whether a directory on disk is the tree that it is to be, to the byte."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from transship.files.beneath import open_unseen
from transship.files.tree import Child, DiskDirectory, diff_xattrs, full_xattrs, is_whiteout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from transship.files.tree import Directory

_CHUNK = 1 << 20
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Comparison:
    """One comparison of a tree with a directory. ``full`` as in ``Filler``: overlayfs' own xattrs do not count."""

    def __init__(self, *, full: bool, check_cancelled: Callable[[], None]) -> None:
        self._full = full
        self._check_cancelled = check_cancelled
        self._first_names: dict[tuple[int, int], tuple[int, int]] = {}

    def differences(self, wanted: Directory, place: Path) -> Iterator[str]:
        """Yield what differs between ``wanted`` (which is closed) and the directory ``place``, a line each; nothing if equal.

        Compares types, modes, owners, sizes, contents, link targets, device numbers, modification times, xattrs and which
        names are hard links of each other. Raises OSError.
        """
        stack: list[tuple[str, Directory, DiskDirectory]] = [("", wanted, DiskDirectory.open(place))]
        try:
            while stack:
                path, expected, found = stack.pop()
                try:
                    yield from self._directories(path, expected, found, stack)
                finally:
                    expected.close()
                    found.close()
        finally:
            for _, expected, found in stack:
                expected.close()
                found.close()

    def _directories(
        self, path: str, wanted: Directory, found: DiskDirectory, stack: list[tuple[str, Directory, DiskDirectory]]
    ) -> Iterator[str]:
        self._check_cancelled()
        shown = path or "/"
        yield from _status(shown, wanted.status, found.status)
        yield from _attributes(shown, wanted.xattrs(), found.xattrs())
        theirs = {child.name: child for child in found.children()}
        for child in wanted.children():
            name = f"{path}/{child.name}"
            other = theirs.pop(child.name, None)
            if other is None or other.status is None:
                yield f"{_text(name)}: missing"
            elif child.is_directory and other.is_directory:
                stack.append((name, wanted.enter(child), found.enter(other)))
            else:
                yield from self._others(name, child, other, other.status)
        for name in theirs:
            yield f"{_text(f'{path}/{name}')}: should not be there"

    def _others(self, name: str, wanted: Child, found: Child, found_status: os.stat_result) -> Iterator[str]:
        """Compare what are not two directories."""
        status = wanted.status
        if status is None:
            if not is_whiteout(found_status):
                yield f"{_text(name)}: should be a whiteout"
            return
        yield from _status(name, status, found_status)
        if stat.S_IFMT(status.st_mode) != stat.S_IFMT(found_status.st_mode):
            return
        if status.st_nlink > 1 and not self._same_group(status, found_status):
            yield f"{_text(name)}: hard links differ"
        if os.path.samestat(status, found_status):
            return
        yield from _attributes(name, self._xattrs_of(wanted), self._xattrs_of(found))
        if stat.S_ISLNK(status.st_mode):
            if os.readlink(wanted.name, dir_fd=wanted.at) != os.readlink(found.name, dir_fd=found.at):
                yield f"{_text(name)}: link target differs"
        elif stat.S_ISREG(status.st_mode) and status.st_size == found_status.st_size:
            position = self._first_different_byte(wanted, found)
            if position is not None:
                yield f"{_text(name)}: content differs from byte {position} on"

    def _same_group(self, wanted: os.stat_result, found: os.stat_result) -> bool:
        """Tell whether names of one inode in the tree are names of one inode in the directory."""
        identity = (found.st_dev, found.st_ino)
        return self._first_names.setdefault((wanted.st_dev, wanted.st_ino), identity) == identity

    def _xattrs_of(self, child: Child) -> Mapping[str, bytes]:
        place = f"/proc/self/fd/{child.at}/{child.name}"
        return full_xattrs(place) if self._full else diff_xattrs(place)

    def _first_different_byte(self, wanted: Child, found: Child) -> int | None:
        with (
            os.fdopen(open_unseen(wanted.name, _FLAGS, wanted.at), "rb", buffering=0) as left,
            os.fdopen(open_unseen(found.name, _FLAGS, found.at), "rb", buffering=0) as right,
        ):
            position = 0
            while True:
                one, two = left.read(_CHUNK), right.read(_CHUNK)
                if one != two:
                    return position + next(
                        (i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two))
                    )
                if not one:
                    return None
                position += len(one)
                self._check_cancelled()


def _status(name: str, wanted: os.stat_result, found: os.stat_result) -> Iterator[str]:
    for what, one, two in (
        ("type", stat.S_IFMT(wanted.st_mode), stat.S_IFMT(found.st_mode)),
        ("mode", oct(stat.S_IMODE(wanted.st_mode)), oct(stat.S_IMODE(found.st_mode))),
        ("owner", f"{wanted.st_uid}:{wanted.st_gid}", f"{found.st_uid}:{found.st_gid}"),
        ("modification time", wanted.st_mtime_ns, found.st_mtime_ns),
        ("size", _size(wanted), _size(found)),
        ("device number", wanted.st_rdev, found.st_rdev),
    ):
        if one != two:
            yield f"{_text(name)}: {what} is {two}, should be {one}"


def _size(status: os.stat_result) -> int:
    # A directory's size is its file system's business.
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _attributes(name: str, wanted: Mapping[str, bytes], found: Mapping[str, bytes]) -> Iterator[str]:
    for xattr in sorted(wanted.keys() | found.keys()):
        if wanted.get(xattr) != found.get(xattr):
            yield f"{_text(name)}: attribute {xattr} differs"


def _text(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")
