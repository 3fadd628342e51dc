"""Changes to a directory tree, described before they are made, so that they can be shown, checked, made, and made again.

Making a change that has been made already does nothing. All paths are relative to the root of the tree, without links in them.
"""

from __future__ import annotations

import errno
import filecmp
import hashlib
import os
import secrets
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from transship.files.beneath import FILE_FLAGS, open_unseen
from transship.files.durable import sync_file_system

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

ASIDE = ".transship-"
"""How the names begin of files that are being written."""
_UNFINISHED = 0
"""The mode of a directory of ours that has not got its own yet."""


class Change(Protocol):
    """Something to be at ``path``."""

    @property
    def path(self) -> str:
        """Where, relative to the root."""
        ...

    def is_made(self, root: Path) -> bool:
        """Tell whether it is as it should be already. Raises OSError."""
        ...

    def prepare(self, root: Path, aside: str) -> bool:
        """Write what takes time to ``aside``, where nothing is; return whether something is there now. Raises OSError."""
        ...

    def make(self, root: Path, aside: str) -> None:
        """Have it be there, in place of whatever file was, made of what was prepared. Raises OSError."""
        ...


class _WrittenAside:
    """A change that only needs what is aside to take its place."""

    path: str

    def make(self, root: Path, aside: str) -> None:
        (root / aside).rename(root / self.path)


class _MadeAtOnce:
    """A change that nothing is to be prepared for."""

    def prepare(self, root: Path, aside: str) -> bool:  # noqa: ARG002
        return False


@dataclass(frozen=True)
class File(_WrittenAside):
    """A regular file with ``data``."""

    path: str
    data: bytes
    mode: int

    def is_made(self, root: Path) -> bool:
        return holds(root / self.path, self.data, self.mode)

    def prepare(self, root: Path, aside: str) -> bool:
        with (root / aside).open("xb") as file:
            file.write(self.data)
            os.fchmod(file.fileno(), self.mode)
        return True


@dataclass(frozen=True)
class Copy(_WrittenAside):
    """A copy of the regular file ``original``, which is outside the tree."""

    path: str
    original: Path
    mode: int

    def is_made(self, root: Path) -> bool:
        place = root / self.path
        try:
            status = os.lstat(place)
        except OSError:
            return False
        alike = stat.S_ISREG(status.st_mode) and stat.S_IMODE(status.st_mode) == self.mode
        return alike and filecmp.cmp(place, self.original, shallow=False)

    def prepare(self, root: Path, aside: str) -> bool:
        with os.fdopen(open_unseen(self.original, FILE_FLAGS), "rb") as source, (root / aside).open("xb") as copy:
            shutil.copyfileobj(source, copy)
            os.fchmod(copy.fileno(), self.mode)
        return True


@dataclass(frozen=True)
class Directory:
    """A directory; one that is there already stays as it is. ``owner`` is a user and a group, None: those who run this."""

    path: str
    mode: int
    owner: tuple[int, int] | None = None

    def is_made(self, root: Path) -> bool:
        place = root / self.path
        return is_directory(place) and (self.mode == _UNFINISHED or stat.S_IMODE(os.lstat(place).st_mode) != _UNFINISHED)

    def prepare(self, root: Path, aside: str) -> bool:
        self.make(root, aside)  # for what is written into it
        return False

    def make(self, root: Path, aside: str) -> None:  # noqa: ARG002
        place = root / self.path
        if self.is_made(root):
            return
        try:
            place.mkdir(_UNFINISHED)
        except FileExistsError:  # two may be about to make it
            if not is_directory(place):
                raise
        if self.owner is not None:
            os.chown(place, *self.owner)
        place.chmod(self.mode)


@dataclass(frozen=True)
class HardLink(_WrittenAside):
    """A further name of the file at ``source``, which is never written to by way of it."""

    path: str
    source: str

    def is_made(self, root: Path) -> bool:
        return same_file(root / self.path, root / self.source)

    def prepare(self, root: Path, aside: str) -> bool:
        os.link(root / self.source, root / aside, follow_symlinks=False)
        return True


@dataclass(frozen=True)
class SymbolicLink(_WrittenAside):
    """A symbolic link that says ``target``."""

    path: str
    target: str

    def is_made(self, root: Path) -> bool:
        return link_text(root / self.path) == self.target

    def prepare(self, root: Path, aside: str) -> bool:
        (root / aside).symlink_to(self.target)
        return True


@dataclass(frozen=True)
class Move(_MadeAtOnce):
    """What was at ``source`` is at ``path``. Nothing, or a symbolic link to it, may have been there before.

    Where these are on different file systems, or mounts, a link to the source has to do. It does not count as made: once it
    can be, the move takes the link's place.
    """

    path: str
    source: str

    def is_made(self, root: Path) -> bool:
        return not os.path.lexists(root / self.source) and os.path.lexists(root / self.path)

    def make(self, root: Path, aside: str) -> None:  # noqa: ARG002
        place, source = root / self.path, root / self.source
        try:
            _rename(source, place)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            if not os.path.lexists(place):
                place.symlink_to(source.absolute())


def make_all(root: Path, changes: Sequence[Change], mark: str | None = None) -> None:
    """Make ``changes``, in this order, durably. Whenever the power goes, a file is as it was or as it is to be.

    ``mark`` stands for the changes: whoever makes changes with the same one next takes away what a kill has left aside; no two
    may at once. None: nobody does, and any number may. Raises OSError; what was made stays then.
    """
    mark = secrets.token_hex(16) if mark is None else mark
    to_do = [change for change in changes if not change.is_made(root)]
    asides = [aside_of(change.path, mark) for change in to_do]
    prepared = False
    try:
        for change, aside in zip(to_do, asides, strict=True):
            discard(root / aside)
            prepared |= change.prepare(root, aside)
        if prepared:
            sync_file_systems(root, asides)
        for change, aside in zip(to_do, asides, strict=True):
            change.make(root, aside)
    except BaseException:
        for aside in asides:
            discard(root / aside)
        raise
    if to_do:
        sync_file_systems(root, asides)


def aside_of(path: str, mark: str) -> str:
    """Return where ``make_all`` writes what is to be at ``path``: a name in the same directory."""
    name = hashlib.sha256(os.fsencode(f"{mark}\0{path}")).hexdigest()[:32]
    return f"{path.rpartition('/')[0]}/{ASIDE}{name}".removeprefix("/")


def discard(aside: Path) -> None:
    """Remove a file that was being written, if it is there. Raises OSError."""
    with suppress(FileNotFoundError, NotADirectoryError):
        aside.unlink()


def sync_file_systems(root: Path, paths: Iterable[str]) -> None:
    """Write out every file system below ``root`` that ``paths`` are on, or were. Raises OSError."""
    places = {directory.stat().st_dev: directory for directory in {_directory_of(root, path) for path in paths}}
    for directory in places.values():
        sync_file_system(directory)


def holds(path: Path, data: bytes, mode: int) -> bool:
    """Tell whether ``path`` is a regular file with this content and mode. Raises OSError."""
    try:
        descriptor = os.open(path, FILE_FLAGS)
    except OSError:
        return False
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or stat.S_IMODE(status.st_mode) != mode or status.st_size != len(data):
            return False
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(len(data) + 1) == data
    finally:
        os.close(descriptor)


def is_directory(path: Path) -> bool:
    """Tell whether ``path`` is a directory, and not a link to one."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def same_file(one: Path, other: Path) -> bool:
    """Tell whether both are names of one file, links not followed."""
    try:
        return os.path.samestat(os.lstat(one), os.lstat(other))
    except OSError:
        return False


def link_text(path: Path) -> str | None:
    """Return what the symbolic link at ``path`` says, to the letter; None if there is none."""
    try:
        return os.readlink(path)  # noqa: PTH115 - a Path would tidy it up
    except OSError:
        return None


def _rename(source: Path, place: Path) -> None:
    """Rename, also to where a symbolic link is. Mounts are compared first: if they differ, the link stays."""
    try:
        source.rename(place)
    except NotADirectoryError:
        if not place.is_symlink():
            raise
        place.unlink()
        source.rename(place)


def _directory_of(root: Path, path: str) -> Path:
    """Return the directory that ``path`` is in, or the nearest above it that is there still."""
    return next((above for above in (root / path).parents if above.is_dir()), root)
