"""tar-split: what a layer's tar stream had besides the contents of its files.

Source: vbatts/tar-split ``tar/storage/entry.go`` and ``packer.go``: gzip over newline-delimited JSON objects, in the order of
the stream. A *segment* holds raw bytes (headers, padding, the end of the archive); a *file* names a member, the
size of its content in bytes and the content's CRC-64 (ISO polynomial, 8 bytes big-endian).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, BinaryIO, Self

import fastcrc
import msgspec
from isal import igzip

from transship.formats import go_json
from transship.formats.compression import gunzipped

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

    from _typeshed import ReadableBuffer

FILE = 1
SEGMENT = 2

MAX_ENTRY = 32 << 20
"""Longest JSON line accepted, in bytes. Docker cuts segments at 1 MiB; only a member's own PAX headers can be longer."""

_READ_SIZE = 256 << 10
_ESCAPED = re.compile("[<>&\u2028\u2029\b\f]")
"""What Go's encoder writes in another way than msgspec's, which is several times as fast as ours."""
_WRITE_SIZE = 64 << 10


class Entry(msgspec.Struct, gc=False):
    """One entry. ``payload`` is the raw bytes of a segment, the CRC-64 of a file (None if it has no content)."""

    type: int
    position: int = 0
    name: str | None = None
    name_raw: bytes | None = None
    size: int = 0
    payload: bytes | None = None

    @property
    def path(self) -> bytes:
        """The member's name as it stands in the archive."""
        return self.name_raw if self.name_raw is not None else (self.name or "").encode()


_decoder = msgspec.json.Decoder(Entry)
_encoder = msgspec.json.Encoder()


def read(file: BinaryIO) -> Iterator[Entry]:
    """Yield the entries of a ``tar-split.json.gz``, in constant memory however large it unpacks.

    Raises ValueError if it is truncated, not gzip, not such JSON, or has an entry that cannot be.
    """
    rest = b""
    for chunk in gunzipped(file, _READ_SIZE):
        lines, newline, tail = chunk.rpartition(b"\n")
        if newline:
            yield from _decode(rest + lines)
            rest = tail
        else:
            rest += chunk
        if len(rest) > MAX_ENTRY:
            raise ValueError(f"an entry is longer than {MAX_ENTRY} bytes")
    if rest.strip():
        yield from _decode(rest)


def _decode(lines: bytes) -> Iterator[Entry]:
    try:
        entries = _decoder.decode_lines(lines)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not tar-split data ({error})") from error
    for entry in entries:
        if entry.type not in {FILE, SEGMENT} or entry.size < 0:
            raise ValueError(f"entry {entry.position} has type {entry.type} and size {entry.size}")
        yield entry


def write(file: BinaryIO, entries: Iterable[Entry]) -> None:
    """Write ``entries`` as Docker's packer does: gzip, one object a line, absent fields left out."""
    with Writer(file) as writer:
        for entry in entries:
            writer.add(entry)


class Writer:
    """Writes entries to ``file`` one by one, in Docker's form. A context manager, at whose end the gzip is complete."""

    def __init__(self, file: BinaryIO) -> None:
        self._packed = igzip.IGzipFile(fileobj=file, mode="wb", mtime=0)
        self._lines = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._packed:
            self._packed.write(self._lines)

    def add(self, entry: Entry) -> None:
        """Write ``entry``. Raises OSError."""
        document: dict[str, object] = {"type": entry.type}
        if entry.name:
            document["name"] = msgspec.Raw(go_json.quote(entry.name)) if _ESCAPED.search(entry.name) else entry.name
        if entry.name_raw is not None:
            document["name_raw"] = entry.name_raw
        if entry.size:
            document["size"] = entry.size
        document["payload"] = entry.payload
        document["position"] = entry.position
        self._lines += _encoder.encode(document)
        self._lines += b"\n"
        if len(self._lines) >= _WRITE_SIZE:
            self._packed.write(self._lines)
            self._lines.clear()


class ContentSum:
    """The running CRC-64 of a file's content, as in the ``payload`` of its entry."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: ReadableBuffer) -> None:
        """Add ``data``."""
        self._value = fastcrc.crc64.go_iso(data, self._value)

    def digest(self) -> bytes:
        """Return the sum, 8 bytes big-endian."""
        return self._value.to_bytes(8, "big")
