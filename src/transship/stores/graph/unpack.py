"""Unpacking a layer's archive into the directory that its graph driver keeps, as Docker 1.9 did.

Source: moby v1.9.1 ``pkg/archive/diff.go`` (UnpackLayer: for vfs and overlay, which have whole trees) and ``archive.go``
(Unpack: for aufs, which keeps marks as they are). Docker worked in a chroot of that directory: links in the middle of a path
lead there too, and nothing leads out of it.
"""
# Names are bytes here, which pathlib does not take.
# ruff: noqa: PTH101, PTH102, PTH112, PTH114, PTH120, PTH211

from __future__ import annotations

import os
import posixpath
import stat
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from transship.files.beneath import Beneath
from transship.files.remove import remove
from transship.formats import whiteouts
from transship.stores.graph.members import HARD_LINK, Member

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

_ROOT = b"."
_MARK = b".wh."
_OWN_OF_AUFS = b".wh..wh."
_KEPT_LINKS = b".wh..wh.plnk"
_OPAQUE = os.fsencode(whiteouts.OPAQUE)
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_COPY_SIZE = 1 << 20


class Unpacker:
    """Unpacks into the directory ``top``; nobody else may change it meanwhile. One thread's; a context manager.

    ``as_it_is``: marks are files like others, as aufs wants them; else they are obeyed. ``shared``: files that are there
    already are links to another layer's, and must not change. ``size`` counts the bytes of unpacked files.
    """

    def __init__(self, top: Path, *, as_it_is: bool, shared: bool) -> None:
        self._top = os.fsencode(top)
        self._as_it_is = as_it_is
        self._shared = shared
        self._closing = ExitStack()
        self._beneath = self._closing.enter_context(Beneath(top))
        self._unpacked: set[bytes] = set()
        self._own: set[int] = set()
        self._directories: list[tuple[bytes, int]] = []
        self._kept_links: dict[bytes, tuple[Member, IO[bytes]]] = {}
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closing.close()

    def add(self, member: Member) -> None:
        """Unpack the next member. Raises ValueError if it cannot be in this tree, OSError if it cannot be made."""
        self.size += member.size
        try:
            self._add(_clean(member.name), member)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError) as error:
            raise ValueError(f"{member.name[:300]!r} cannot be unpacked: {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"{member.name[:300]!r} cannot be unpacked: {error}") from error

    def finish(self) -> None:
        """Set the times of directories, which everything made in them has changed. Raises OSError."""
        for path, mtime in self._directories:
            if _is_directory(path):
                os.utime(path, ns=(mtime, mtime))

    def _add(self, name: bytes, member: Member) -> None:
        if not self._as_it_is:
            if name.startswith(_OWN_OF_AUFS) and name != _OPAQUE:
                if name.startswith(_KEPT_LINKS) and member.kind == stat.S_IFREG:
                    self._keep(name, member)
                return
            if posixpath.basename(name).startswith(_MARK):
                self._obey(name)
                return
        path = self._top
        if name != _ROOT:
            path = self._place(name)
            self._clear_for(path, member)
        elif member.kind != stat.S_IFDIR:
            raise ValueError("the root of a layer is a directory")
        elif self._as_it_is:
            return
        self._make(path, member)
        self._unpacked.add(name)

    def _place(self, name: bytes) -> bytes:
        """Return the path for ``name``, without links but for the last part; what is missing above is made."""
        parent, _, last = name.rpartition(b"/")
        return posixpath.join(self._top, self._directory(parent), last)

    def _directory(self, name: bytes) -> bytes:
        """Return where the directory ``name`` is, relative to the top; what is missing is made."""
        try:
            return self._beneath.resolve(name)
        except FileNotFoundError:
            place = b""
        for part in name.split(b"/"):
            try:
                place = self._beneath.resolve(posixpath.join(place, part))
            except FileNotFoundError:
                place = posixpath.join(place, part)
                path = posixpath.join(self._top, place)
                os.mkdir(path)
                os.chmod(path, 0o755 if self._as_it_is else 0o600)
        return place

    def _obey(self, name: bytes) -> None:
        """Delete what a mark deletes."""
        parent, _, mark = name.rpartition(b"/")
        if mark != _OPAQUE:
            deleted = whiteouts.deleted_name(os.fsdecode(mark))
            if deleted is not None:
                _remove(posixpath.join(self._top, self._directory(parent), os.fsencode(deleted)))
            return
        path = posixpath.join(self._top, self._directory(parent))
        if parent and os.path.islink(self._place(parent)):
            return
        todo = [(parent, path)]
        while todo:
            directory, path = todo.pop()
            with os.scandir(path) as entries:
                for entry in list(entries):
                    below = posixpath.join(directory, entry.name)
                    if below not in self._unpacked:
                        _remove(entry.path)
                    elif entry.is_dir(follow_symlinks=False):
                        todo.append((below, entry.path))

    def _clear_for(self, path: bytes, member: Member) -> None:
        """Remove what is at ``path``, but for a directory that is to be one."""
        if not (member.kind == stat.S_IFDIR and _is_directory(path)):
            _remove(path)

    def _make(self, path: bytes, member: Member) -> None:
        if member.kind == HARD_LINK:
            self._link(path, member)
            return
        if member.kind == stat.S_IFREG:
            self._write(path, member)
        elif member.kind == stat.S_IFLNK:
            os.symlink(member.target, path)
        elif member.kind != stat.S_IFDIR:
            os.mknod(path, member.kind | 0o600, os.makedev(*member.device))
        else:
            if not _is_directory(path):
                os.mkdir(path)
            self._directories.append((path, member.mtime))
        _describe(path, member)

    def _write(self, path: bytes, member: Member) -> None:
        with os.fdopen(os.open(path, _NEW_FILE, 0o600), "wb") as file:
            for offset, length in member.places:
                file.seek(offset)
                file.writelines(member.read(length))
            file.truncate(member.size)
            if self._shared:
                self._own.add(os.fstat(file.fileno()).st_ino)

    def _link(self, path: bytes, member: Member) -> None:
        """Make a hard link. What its header says holds for the file, as long as that is this layer's own."""
        target = _clean(member.target)
        if target.startswith(_KEPT_LINKS) and not self._as_it_is:
            self._make(path, self._kept(target))
            return
        parent, _, last = target.rpartition(b"/")
        existing = posixpath.join(self._top, self._beneath.resolve(parent), last)
        if _is_directory(existing):
            raise ValueError("a hard link to a directory")
        os.link(existing, path, follow_symlinks=False)
        status = os.lstat(path)
        if stat.S_ISREG(status.st_mode) and self._shared and status.st_ino not in self._own:
            return  # Docker changed it in the layers below, too
        if not stat.S_ISLNK(status.st_mode):
            _describe(path, member)

    def _keep(self, name: bytes, member: Member) -> None:
        """Keep what aufs had only for hard links to it: it is in no tree itself."""
        file = tempfile.TemporaryFile(dir=os.path.dirname(self._top))  # noqa: SIM115 - closed with this object
        self._closing.enter_context(file)
        for offset, length in member.places:
            file.seek(offset)
            file.writelines(member.read(length))
        file.truncate(member.size)
        self._kept_links[posixpath.basename(name)] = (member, file)

    def _kept(self, target: bytes) -> Member:
        """Return the member that is kept for links to ``target``, with its content to be read again."""
        found = self._kept_links.get(posixpath.basename(target))
        if found is None:
            raise ValueError("a hard link to what aufs did not leave in the archive")
        member, file = found

        def read(size: int) -> Iterator[bytes]:
            file.seek(0)
            while size and (data := file.read(min(size, _COPY_SIZE))):
                size -= len(data)
                yield data

        return replace(member, places=((0, member.size),), read=read)


def _clean(name: bytes) -> bytes:
    """Return a member's name, or a hard link's target, relative to the top. Raises ValueError if it leads out of it."""
    if name.startswith(b"/"):
        return posixpath.normpath(b"/" + name.lstrip(b"/"))[1:] or _ROOT
    clean = posixpath.normpath(name)
    if clean == b".." or clean.startswith(b"../"):
        raise ValueError("it leads out of the layer")
    return clean


def _describe(path: bytes, member: Member) -> None:
    """Set owner, attributes, mode and time, in this order: each would spoil one after it."""
    is_link = member.kind == stat.S_IFLNK
    os.chown(path, *member.owner, follow_symlinks=False)
    for name, value in member.xattrs.items():
        os.setxattr(path, name, value, follow_symlinks=False)
    if not is_link:
        os.chmod(path, member.mode)
    os.utime(path, ns=(member.mtime, member.mtime), follow_symlinks=False)


def _remove(path: bytes) -> None:
    remove(Path(os.fsdecode(path)))


def _is_directory(path: bytes) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)
