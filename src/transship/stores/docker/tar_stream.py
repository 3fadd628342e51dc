"""A layer's tar stream, put together again from tar-split data and the files on disk.

Source: vbatts/tar-split ``tar/asm/assemble.go``, which does the same in Go, but follows links and checks nothing until the end.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from transship.errors import LayerMismatch, SourceCorrupt
from transship.files.beneath import FILE_FLAGS, Beneath, open_unseen
from transship.formats import tar_split, whiteouts
from transship.stores.docker import small_files

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from pathlib import Path

CHUNK = 1 << 20
"""Bytes handed on at a time. A layer takes this much memory, however large it is."""

_AHEAD = 32 << 20
"""How far ahead of the stream files are opened and asked for: so many bytes."""
_WEIGHT_OF_A_FILE = 128 << 10
"""A file counts as so many bytes more than it has, so that no more than 256 are open."""
_WEIGHT_OF_AN_ENTRY = 1 << 10
"""What an entry without content takes up in memory besides its payload, so that millions of empty files are no burden."""
_ASKED_OF_A_FILE = 1 << 20
"""Bytes of one file that are asked for ahead; of a larger one the kernel reads the rest ahead by itself."""

_BYTES_PER_METADATA_ENTRY = 70
"""What a file takes up in tar-split data on average, packed; used to estimate how many there are without reading it."""

RESTORE_HINT = "pull or rebuild the image, or leave it out"


def read(metadata: Path, directory: Path, marks: Path | None = None) -> Iterator[memoryview]:
    """Yield a layer's tar stream in chunks of at most 1 MiB; each chunk is good until the next is asked for.

    ``metadata`` is the layer's ``tar-split.json.gz``, ``directory`` a directory with its files: the driver's, or another with
    the layer's tree. ``marks`` is the driver's then: whiteouts may have content, and are in no tree. Whether the whole has the
    layer's diff ID is for the caller to check. Raises SourceCorrupt if the metadata is absent or damaged, LayerMismatch
    if a file that it names is missing, not a regular file, or of another size.
    """
    return assembled(entries(metadata), directory, marks)


def assembled(
    source: Iterable[tar_split.Entry],
    directory: Path,
    marks: Path | None = None,
    settle: Callable[[tar_split.Entry, bytes | None], None] | None = None,
) -> Iterator[memoryview]:
    """Yield the tar stream that the entries of ``source`` describe; everything else is as for ``read``.

    ``settle``, if given, is called with each entry when its bytes have been read, and the CRC-64 of its content, None if it
    has none.
    """
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    used = 0
    with _opening(directory, marks) as open_entry, closing(_opened_ahead(source, open_entry)) as opened:
        for entry, descriptor, _ in opened:
            if descriptor is None:
                payload = (entry.payload or b"") if entry.type == tar_split.SEGMENT else b""
                length = len(payload)
                if used + length > CHUNK:
                    yield view[:used]
                    used = 0
                if length > CHUNK:
                    yield memoryview(payload)
                else:
                    view[used : used + length] = payload
                    used += length
                if settle:
                    settle(entry, None)
                continue
            left = entry.size
            content = tar_split.ContentSum() if settle else None
            while left:
                if used == CHUNK:
                    yield view
                    used = 0
                got = _read_some(descriptor, view[used : used + left], directory, entry)
                if content:
                    content.update(view[used : used + got])
                used += got
                left -= got
            if settle and content:
                settle(entry, content.digest())
    if used:
        yield view[:used]


def _read_some(descriptor: int, place: memoryview, directory: Path, entry: tar_split.Entry) -> int:
    """Read the next of a file's content into ``place`` and return how many bytes came. Raises SourceCorrupt, LayerMismatch."""
    try:
        got = os.readv(descriptor, [place])
    except OSError as error:
        raise _unreadable(shown(directory, entry), error) from error
    if not got:
        raise LayerMismatch(f"{shown(directory, entry)} shrank while it was read", remedy="stop whatever writes to the store")
    return got


class _Opened(NamedTuple):
    """An entry with a descriptor of its content, None if it has none. ``weight`` is what it counts for in the way ahead."""

    entry: tar_split.Entry
    descriptor: int | None
    weight: int


def _opened_ahead(source: Iterable[tar_split.Entry], open_entry: Callable[[tar_split.Entry], int]) -> Generator[_Opened]:
    """Yield each entry with its content opened; it is closed when the next is asked for.

    Files are opened some way ahead and the kernel is asked to read them, so that a cold disk has many requests at once to work
    on instead of one after the other.
    """
    ahead: deque[_Opened] = deque()
    weight = 0
    try:
        for entry in source:
            ahead.append(_open_and_ask(entry, open_entry))
            weight += ahead[-1].weight
            while weight > _AHEAD:
                yield ahead[0]
                weight -= _close(ahead.popleft())
        while ahead:
            yield ahead[0]
            _close(ahead.popleft())
    finally:
        while ahead:
            _close(ahead.popleft())


def _open_and_ask(entry: tar_split.Entry, open_entry: Callable[[tar_split.Entry], int]) -> _Opened:
    if entry.type != tar_split.FILE or not entry.size:
        return _Opened(entry, None, len(entry.payload or b"") + _WEIGHT_OF_AN_ENTRY)
    descriptor = open_entry(entry)
    asked = min(entry.size, _ASKED_OF_A_FILE)
    os.posix_fadvise(descriptor, 0, asked, os.POSIX_FADV_WILLNEED)
    return _Opened(entry, descriptor, asked + _WEIGHT_OF_A_FILE)


def _close(opened: _Opened) -> int:
    if opened.descriptor is not None:
        os.close(opened.descriptor)
    return opened.weight


def entries(metadata: Path) -> Iterator[tar_split.Entry]:
    """Yield a layer's tar-split entries. Raises SourceCorrupt if they are absent or damaged, naming the file."""
    try:
        with os.fdopen(open_unseen(metadata, FILE_FLAGS), "rb") as file:
            _ensure_content(os.fstat(file.fileno()))
            yield from tar_split.read(file)
    except FileNotFoundError as error:
        raise SourceCorrupt(
            f"{metadata}: the layer has no tar-split data, so its original stream cannot be rebuilt", remedy=RESTORE_HINT
        ) from error
    except (OSError, ValueError) as error:
        raise SourceCorrupt(f"{metadata}: {error}", remedy=RESTORE_HINT) from error


def _ensure_content(status: os.stat_result) -> None:
    """Raise ValueError unless this is a regular file with something in it: nothing at all passes for gzip data."""
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    if not status.st_size:
        raise ValueError("empty")


def estimated_files(metadata: Path) -> int:
    """Return about how many files a layer has, from the size of its tar-split data; 0 if it has none."""
    try:
        return metadata.stat().st_size // _BYTES_PER_METADATA_ENTRY
    except OSError:
        return 0


@contextmanager
def _opening(directory: Path, marks: Path | None) -> Iterator[Callable[[tar_split.Entry], int]]:
    """Provide what opens the content of an entry, which the caller closes; see ``read``."""
    with ExitStack() as opened:
        try:
            files = opened.enter_context(Beneath(directory))
            marked = opened.enter_context(Beneath(marks or directory))
        except OSError as error:
            raise _unreadable(os.fsdecode(error.filename), error) from error

        def open_entry(entry: tar_split.Entry) -> int:
            if marks is not None and whiteouts.is_below_mark(entry.path):
                return _open_content(marked, entry, marks)
            return _open_content(files, entry, directory)

        yield open_entry


def _unreadable(path: str, error: OSError) -> SourceCorrupt:
    return SourceCorrupt(f"cannot read {path}: {error.strerror}", remedy=small_files.READ_REMEDY)


def _open_content(files: Beneath, entry: tar_split.Entry, directory: Path) -> int:
    """Return a descriptor of the regular file that holds an entry's content. Raises LayerMismatch if it is not there whole."""
    try:
        descriptor = files.open_file(entry.path)
    except OSError as error:
        reason = "is missing" if error.errno == errno.ENOENT else f"cannot be read ({os.strerror(error.errno or 0)})"
        raise LayerMismatch(f"{shown(directory, entry)} {reason}", remedy=RESTORE_HINT) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size:
        os.close(descriptor)
        problem = (
            f"has {status.st_size} bytes instead of {entry.size}" if stat.S_ISREG(status.st_mode) else "is not a regular file"
        )
        raise LayerMismatch(f"{shown(directory, entry)} {problem}", remedy=RESTORE_HINT)
    return descriptor


def first_difference(metadata: Path, directory: Path, marks: Path | None = None) -> str:
    """Say which file of a layer is not what it was, by its CRC-64: the second, slow look after a wrong diff ID.

    Arguments and errors are those of ``read``.
    """
    with _opening(directory, marks) as open_entry:
        for entry in entries(metadata):
            if entry.type != tar_split.FILE or not entry.size:
                continue
            checksum = tar_split.ContentSum()
            descriptor = open_entry(entry)
            try:
                while data := os.read(descriptor, CHUNK):
                    checksum.update(data)
            finally:
                os.close(descriptor)
            if checksum.digest() != entry.payload:
                return f"the content of {shown(directory, entry)} has changed"
    return "every file has its checksum, so the tar-split data itself has changed"


def shown(directory: Path, entry: tar_split.Entry) -> str:
    """Return the path of an entry's file for a message, with bytes that are not text escaped."""
    return (os.fsencode(directory) + b"/" + entry.path).decode("utf-8", "backslashreplace")
