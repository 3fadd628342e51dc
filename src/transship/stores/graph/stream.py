"""The tar stream of a v1 layer: as Docker 1.8 and 1.9 recorded it, or made anew from the files.

Source: moby v1.10.3 ``layer/migration.go`` and ``daemon/graphdriver/``, and tar-split ``tar/storage/packer.go``. Unlike these,
nothing is read outside the layer, and what cannot be read is an error.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from transship.errors import LayerMismatch, SourceCorrupt
from transship.files.changes import ASIDE
from transship.files.durable import sync_directory
from transship.formats import tar_split
from transship.formats.digest import Digest
from transship.stores.docker import tar_stream
from transship.stores.graph import changes, export

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

MAX_NAMES = 4 << 20
"""More names than any layer's tar-split data have; gigabytes of them fit into a small file, but not into memory."""


@dataclass(frozen=True)
class LayerFiles:
    """Where a v1 layer's files are.

    ``directory`` has them in the form of ``driver`` (aufs: a diff; others: the whole tree), ``parent`` is the parent layer's
    directory (None: a base), ``tar_data`` what Docker recorded of its stream (None: nothing is there).
    """

    driver: str
    directory: Path
    parent: Path | None
    tar_data: Path | None


@dataclass(frozen=True)
class Checksum:
    """What a layer's stream comes to.

    ``size`` is what Docker 1.10 noted as ``.migration-size``: the sum of the sizes of the entries, in bytes. ``tar_data`` are
    the tar-split data of this very stream. ``fallback`` says why the recorded ones did not serve; it is empty if they did.
    """

    diff_id: Digest
    size: int
    tar_data: Path
    fallback: str


def recorded(files: LayerFiles) -> Iterator[memoryview]:
    """Yield a layer's tar stream as it was recorded, in chunks of at most 1 MiB, each good until the next is asked for.

    Raises SourceCorrupt if the tar-split data are absent, damaged, or have a name twice; LayerMismatch at the first file
    that is missing, is not a regular file, or has another size or CRC-64 than it had.
    """
    return _recorded(files, _Sizes())


def traditional(files: LayerFiles) -> Iterator[memoryview]:
    """Yield a layer's tar stream as the differ of Docker's graph drivers makes it of the files, in chunks like ``recorded``.

    No tar-split data are read. Raises SourceCorrupt for what cannot be read, LayerMismatch for what changes meanwhile.
    """
    return _traditional(files, None)


def checksum(files: LayerFiles, record: Path, passed: Callable[[int], None]) -> Checksum:
    """Read a layer's stream and return what it comes to; ``passed`` is called with a number of bytes when these have been read.

    If the recorded tar-split data do not serve, the layer is read once more, by the differ, and tar-split data of that stream
    are written to ``record``, durably, in place of whatever name was there. Raises SourceCorrupt if a layer cannot be read
    either way, OSError if ``record`` cannot be written.
    """
    try:
        return _checksum_of_recorded(files, passed)
    except SourceCorrupt as error:
        fallback = error.message
    return _checksum_of_traditional(files, record, passed, fallback)


def _checksum_of_recorded(files: LayerFiles, passed: Callable[[int], None]) -> Checksum:
    sizes = _Sizes()
    diff_id = _digest(_recorded(files, sizes), passed)
    assert files.tar_data is not None  # noqa: S101 - else nothing was recorded
    return Checksum(diff_id, sizes.total, files.tar_data, "")


def _checksum_of_traditional(files: LayerFiles, record: Path, passed: Callable[[int], None], fallback: str) -> Checksum:
    sizes = _Sizes()
    with _replacing(record) as file, tar_split.Writer(file) as writer:

        def keep(entry: tar_split.Entry, checksum: bytes | None) -> None:
            entry.payload = checksum if entry.type == tar_split.FILE else entry.payload
            sizes.total += entry.size
            writer.add(entry)

        diff_id = _digest(_traditional(files, keep), passed)
    return Checksum(diff_id, sizes.total, record, fallback)


def _digest(chunks: Iterable[memoryview], passed: Callable[[int], None]) -> Digest:
    sha256 = hashlib.sha256()
    for chunk in chunks:
        sha256.update(chunk)
        passed(len(chunk))
    return Digest(f"sha256:{sha256.hexdigest()}")


class _Sizes:
    """The sizes of the entries that passed by, added up, in bytes."""

    total = 0


def _recorded(files: LayerFiles, sizes: _Sizes) -> Iterator[memoryview]:
    if files.tar_data is None:
        raise SourceCorrupt(f"{files.directory}: no tar-split data were recorded", remedy=tar_stream.RESTORE_HINT)

    def check(entry: tar_split.Entry, checksum: bytes | None) -> None:
        sizes.total += entry.size
        if checksum is not None and checksum != entry.payload:
            raise LayerMismatch(
                f"the content of {tar_stream.shown(files.directory, entry)} has changed", remedy=tar_stream.RESTORE_HINT
            )

    yield from tar_stream.assembled(_unique(files.tar_data), files.directory, settle=check)


def _traditional(files: LayerFiles, keep: Callable[[tar_split.Entry, bytes | None], None] | None) -> Iterator[memoryview]:
    entries = export.entries(files.directory, _changes(files))
    return tar_stream.assembled(entries, files.directory, settle=keep)


def _unique(tar_data: Path) -> Iterator[tar_split.Entry]:
    """Yield the entries in ``tar_data``. Raises SourceCorrupt for a name that is there twice, as in Docker, or for too many."""
    names: set[int] = set()
    for entry in tar_stream.entries(tar_data):
        if entry.type == tar_split.FILE:
            name = hash(_cleaned(entry.path))  # as large for a long name as for a short one
            if name in names:
                raise SourceCorrupt(f"{tar_data}: {_shown(entry.path)} is there twice", remedy=tar_stream.RESTORE_HINT)
            if len(names) == MAX_NAMES:
                raise SourceCorrupt(f"{tar_data} has more than {MAX_NAMES} names", remedy=tar_stream.RESTORE_HINT)
            names.add(name)
        yield entry


def _shown(name: bytes) -> str:
    return name[:1000].decode("utf-8", "backslashreplace")


def _cleaned(name: bytes) -> bytes:
    """Return ``name`` as Go's ``path.Clean`` does: without double slashes, ``.`` and ``..``, and without a slash at its end."""
    return posixpath.normpath(b"/" + name.lstrip(b"/") if name.startswith(b"/") else name)


def _changes(files: LayerFiles) -> Iterator[changes.Change]:
    """Yield what the differ of the layer's driver has to say. A generator, so that nothing is looked at until it is asked."""
    if files.driver == "aufs":
        yield from changes.of_aufs(files.directory)
    elif files.parent is None:
        yield from changes.everything(files.directory)
    else:
        yield from changes.between(files.parent, files.directory)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Provide a new file that takes the place of ``path`` in the end, durably; what else was called so is left as it is."""
    aside = path.with_name(f"{ASIDE}{path.name}")
    aside.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        aside.rename(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
