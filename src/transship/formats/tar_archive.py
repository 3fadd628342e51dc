"""tar archives taken apart into tar-split entries, from which they can be put together again, exactly.

Source: vbatts/tar-split ``tar/asm/disassemble.go``, for what goes into which entry. As in its versions before 0.10.2, the last
segment is what follows the end of the archive, even if that is nothing. Unlike these, this loses nothing of an archive without
an end, and keeps sparse files as they are stored.
"""

from __future__ import annotations

import hashlib
import posixpath
from typing import TYPE_CHECKING

from transship.formats import tar_header
from transship.formats.tar_header import BLOCK, Extensions, Header
from transship.formats.tar_split import FILE, SEGMENT, ContentSum, Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

MAX_EXTENSION = 1 << 20
"""Longest pax header or long name accepted, in bytes: Go's limit, too."""
MAX_EXTENSIONS = 16
"""So many of them may stand before a file."""

_MAX_SEGMENT = 1 << 20


class Disassembler:
    """Takes a tar archive as it passes by, and hands out the tar-split entries from which it can be put together again.

    ``emit`` gets them in order, their positions counted from 0. The content of a file is not kept, only summed up; all else
    goes into segments of at most 1 MiB. The content of a sparse file goes there, too, as it is stored otherwise than it is
    unpacked, and that of a member of unknown type: their own entries have size 0. Takes a few MiB of memory, and about 150
    bytes for each name.
    """

    def __init__(self, emit: Callable[[Entry], None]) -> None:
        self._emit = emit
        self._position = 0
        self._names: set[bytes] = set()
        self._segment = bytearray()
        self._piece = memoryview(b"")
        self._is_ended = False
        self._offset = 0
        self._start = 0
        self._parser = self._parse()

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next piece of the archive, of any size.

        Raises ValueError, with the offset in bytes, if this is no tar archive, if a header is malformed or comes after longer
        or more extensions than are accepted, or if a name occurs twice. Nothing may be fed after that.
        """
        self._piece = memoryview(data)
        self._go_on()

    def close(self) -> None:
        """Take note that the archive has ended. Raises ValueError if it ended inside a member, or as ``feed`` does."""
        self._is_ended = True
        self._go_on()

    def _go_on(self) -> None:
        try:
            next(self._parser, None)
        except ValueError as error:
            raise ValueError(f"member at byte {self._start} of the archive: {error}") from error

    def _parse(self) -> Generator[None]:
        """Read the archive as one reads a file; where the next piece is needed, this yields."""
        while header := (yield from self._read_header()):
            self._refuse_twice(header.name)
            self._flush()
            size = header.stored
            if header.is_stored_whole and size:
                self._add_file(header.name, size, (yield from self._read_sum(size)))
            else:
                self._add_file(header.name)
                while size:
                    size -= len((yield from self._read_all(min(size, _MAX_SEGMENT))))
            yield from self._read(-header.stored % BLOCK)  # padding, which the last member may lack
        self._flush()
        while (yield from self._read(_MAX_SEGMENT)):
            pass
        self._add(Entry(SEGMENT, payload=bytes(self._segment)))

    def _read_header(self) -> Generator[None, None, Header | None]:
        """Return the next file's header with what its extensions say, None at the end of the archive."""
        extensions = Extensions()
        for _ in range(MAX_EXTENSIONS + 1):
            self._start = self._offset
            block = yield from self._read(BLOCK)
            if not any(block):
                yield from self._read_end(block, extensions)
                return None
            header = tar_header.parse(block)
            if header.type not in tar_header.EXTENSIONS:
                goes_on = header.map_goes_on
                while goes_on:
                    goes_on = tar_header.goes_on((yield from self._read_all(BLOCK)))
                return extensions.applied(header)
            if header.size > MAX_EXTENSION:
                raise ValueError(f"a pax header or long name of {header.size} bytes, of which {MAX_EXTENSION} are accepted")
            extensions.add(header.type, (yield from self._read_all(header.size)))
            yield from self._read(-header.size % BLOCK)
        raise ValueError(f"more than {MAX_EXTENSIONS} pax headers and long names for one file")

    def _read_end(self, block: bytes, extensions: Extensions) -> Generator[None]:
        """Look at what follows the zero ``block`` at the end, which may be short. Raises ValueError if that is a member."""
        if extensions.announce:
            raise ValueError("the archive ends where a file should follow its pax header or long name")
        if len(block) == BLOCK and tar_header.is_header((yield from self._read(BLOCK))):
            raise ValueError("another member follows a single block of zeros, so that it is uncertain where the archive ends")

    def _read_sum(self, size: int) -> Generator[None, None, bytes]:
        """Return the sum of the next ``size`` bytes, which are a file's content."""
        content = ContentSum()
        while size:
            data = yield from self._read_some(size)
            if not data:
                raise ValueError(f"the archive ends {size} bytes before the content does")
            content.update(data)
            size -= len(data)
        return content.digest()

    def _read_all(self, size: int) -> Generator[None, None, bytes]:
        """Return the next ``size`` bytes, which go into a segment. Raises ValueError if there are not as many."""
        data = yield from self._read(size)
        if len(data) < size:
            raise ValueError(f"the archive ends after {len(data)} of {size} bytes")
        return data

    def _read(self, size: int) -> Generator[None, None, bytes]:
        """Return the next ``size`` bytes, fewer at the end of the stream. They go into a segment."""
        data = bytearray()
        while missing := size - len(data):
            some = yield from self._read_some(missing)
            if not some:
                break
            data += some
        self._segment += data
        while len(self._segment) >= _MAX_SEGMENT:
            self._add(Entry(SEGMENT, payload=bytes(self._segment[:_MAX_SEGMENT])))
            del self._segment[:_MAX_SEGMENT]
        return bytes(data)

    def _read_some(self, most: int) -> Generator[None, None, memoryview]:
        """Return from 1 to ``most`` bytes, none at the end of the stream."""
        while not self._piece and not self._is_ended:
            self._piece = memoryview(b"")
            yield
        some, self._piece = self._piece[:most], self._piece[most:]
        self._offset += len(some)
        return some

    def _refuse_twice(self, name: bytes) -> None:
        """Raise ValueError if a member of that name has been there: readers of tar-split data do not take such."""
        path = posixpath.normpath(name)
        if path.startswith(b"//"):  # kept by POSIX, not by Go
            path = path[1:]
        known = hashlib.blake2b(path, digest_size=16).digest()  # hostile names are long
        if known in self._names:
            raise ValueError(f"a second member is called {name[:300]!r}")
        self._names.add(known)

    def _flush(self) -> None:
        if self._segment:
            self._add(Entry(SEGMENT, payload=bytes(self._segment)))
            self._segment.clear()

    def _add_file(self, name: bytes, size: int = 0, checksum: bytes | None = None) -> None:
        try:
            entry = Entry(FILE, name=name.decode() or None, size=size, payload=checksum)
        except UnicodeDecodeError:
            entry = Entry(FILE, name_raw=name, size=size, payload=checksum)
        self._add(entry)

    def _add(self, entry: Entry) -> None:
        entry.position = self._position
        self._position += 1
        self._emit(entry)
