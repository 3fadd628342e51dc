"""A model of how Docker's vfs driver makes a layer: a copy of the tree below, and the archive's members applied in their order.

Source: moby ``pkg/archive/diff.go`` (UnpackLayer), which runs in a chroot of the layer's directory.
"""

# Paths are bytes, since names in a layer may be any.
# ruff: noqa: PTH101, PTH102, PTH108, PTH112, PTH114, PTH115, PTH208, PTH211

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from transship.formats import tar_split

if TYPE_CHECKING:
    from collections.abc import Iterable

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"


@dataclass(frozen=True)
class Member:
    """An archive's member. ``target`` is that of a link (of a hard link: a name in the same archive)."""

    name: bytes
    kind: int = stat.S_IFREG
    content: bytes = b""
    target: bytes = b""
    mtime: int = 1_700_000_000
    mode: int = 0o644

    @property
    def entry(self) -> tar_split.Entry:
        """Its entry in tar-split data."""
        return tar_split.Entry(tar_split.FILE, name_raw=self.name + (b"/" if self.kind == stat.S_IFDIR else b""))


HARD_LINK = 0


class UndoneError(Exception):
    """Raised for a member that Docker could not unpack, or that undoes what the same archive has made."""


def stack(place: Path, layers: Iterable[Iterable[Member]]) -> list[list[Member]]:
    """Make the full trees ``place/0``, ``place/1`` … of ``layers``. Returns what was unpacked, without what could not be."""
    applied: list[list[Member]] = []
    for number, members in enumerate(layers):
        tree = place / str(number)
        if number:
            subprocess.run(["cp", "-a", str(place / str(number - 1)), str(tree)], check=True)
        else:
            tree.mkdir(mode=0o755)
        applied.append(_Unpacking(os.fsencode(tree)).unpack(members))
    return applied


class _Unpacking:
    def __init__(self, root: bytes) -> None:
        self._root = root
        self._made: set[bytes] = set()
        self._used: set[bytes] = set()

    def unpack(self, members: Iterable[Member]) -> list[Member]:
        applied, directories = [], []
        for member in members:
            try:
                path = self._apply(member)
            except UndoneError:
                continue
            applied.append(member)
            if member.kind == stat.S_IFDIR:
                directories.append((path, member))
        for path, member in directories:
            os.utime(path, ns=(member.mtime, member.mtime))
        return applied

    def _apply(self, member: Member) -> bytes:
        parent_name, _, name = member.name.rpartition(b"/")
        parent, missing, passed = self._resolve(parent_name)
        if name == OPAQUE:
            if parent != b"/".join(filter(None, [self._root, parent_name])):
                raise UndoneError  # through a link Docker does nothing
        else:
            self._ensure_possible(parent + b"/" + name.removeprefix(WHITEOUT), member)
        for directory in missing:
            os.mkdir(directory, 0o755)
        self._used |= passed
        if name == OPAQUE:
            for child in os.listdir(parent):
                self._clear(parent + b"/" + child)
        elif name.startswith(WHITEOUT):
            _delete(parent + b"/" + name.removeprefix(WHITEOUT))
        else:
            self._make(parent + b"/" + name, member)
        return parent + b"/" + name

    def _resolve(self, path: bytes) -> tuple[bytes, list[bytes], set[bytes]]:
        """Return where the directory ``path`` is, links followed within the root; what is missing of it; its way there."""
        done, todo, links = self._root, path.split(b"/")[::-1], 0
        missing: list[bytes] = []
        passed: set[bytes] = set()
        while todo:
            part = todo.pop()
            if part == b"..":
                done = self._root if done == self._root else done.rpartition(b"/")[0]
            if part in {b"", b".", b".."}:
                continue
            here = done + b"/" + part
            passed.add(here)
            if os.path.islink(here):
                links += 1
                if links > 40:
                    raise UndoneError
                target = os.readlink(here)
                done = self._root if target.startswith(b"/") else done
                todo.extend(target.split(b"/")[::-1])
                continue
            if not os.path.lexists(here):
                if links:
                    raise UndoneError  # a dangling link is no directory to unpack into
                missing.append(here)
            elif not os.path.isdir(here):
                raise UndoneError
            done = here
        return done, missing, passed

    def _clear(self, path: bytes) -> None:
        """Remove what this archive has not made."""
        if path in self._made:
            if _is_directory(path):
                for child in os.listdir(path):
                    self._clear(path + b"/" + child)
        elif not self._is_needed(path):
            _delete(path)

    def _is_needed(self, path: bytes) -> bool:
        return any(other == path or other.startswith(path + b"/") for other in self._made | self._used)

    def _ensure_possible(self, path: bytes, member: Member) -> None:
        both_directories = _is_directory(path) and member.kind == stat.S_IFDIR
        if self._is_needed(path) and not both_directories:
            raise UndoneError
        first = self._root + b"/" + member.target
        if member.kind == HARD_LINK and (first not in self._made or not stat.S_ISREG(os.lstat(first).st_mode)):
            raise UndoneError

    def _make(self, path: bytes, member: Member) -> None:
        if member.kind != stat.S_IFDIR or not _is_directory(path):
            _delete(path)
        if member.kind == HARD_LINK:
            os.link(self._root + b"/" + member.target, path)
        elif member.kind == stat.S_IFLNK:
            os.symlink(member.target, path)
        elif member.kind == stat.S_IFREG:
            Path(os.fsdecode(path)).write_bytes(member.content)
        elif member.kind != stat.S_IFDIR:
            os.mknod(path, member.kind | 0o600, os.makedev(7, 9) if member.kind != stat.S_IFIFO else 0)
        elif not _is_directory(path):
            os.mkdir(path)
        if member.kind not in {stat.S_IFLNK, HARD_LINK}:
            os.chmod(path, member.mode)
        if member.kind != HARD_LINK:
            os.utime(path, ns=(member.mtime, member.mtime), follow_symlinks=False)
        self._made.add(path)


class _UnpackingAsItIs(_Unpacking):
    def _apply(self, member: Member) -> bytes:
        self._make(self._root + b"/" + member.name, member)
        return self._root + b"/" + member.name


def unpack_as_it_is(directory: Path, members: Iterable[Member]) -> None:
    """Make a layer as Docker's aufs driver does: whiteouts are files like others. Parents have to be among the members."""
    directory.mkdir(mode=0o755)
    _UnpackingAsItIs(os.fsencode(directory)).unpack(members)


def with_parents(members: Iterable[Member]) -> list[Member]:
    """Return ``members``, which are in order, with those of all directories that they are in."""
    made: dict[bytes, Member] = {}
    for member in members:
        parts = member.name.split(b"/")
        for length in range(1, len(parts)):
            name = b"/".join(parts[:length])
            made.setdefault(name, Member(name, stat.S_IFDIR, mode=0o755))
        made[member.name] = member
    return list(made.values())


def _is_directory(path: bytes) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _delete(path: bytes) -> None:
    if _is_directory(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)
