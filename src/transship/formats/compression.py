"""How layer blobs are compressed, so that the same layer gives the same digest everywhere.

A *recipe* fixes all that shapes the output: codec, level, and the library with its version. libzstd's output does not depend on
how the input is cut, nor on the number of worker threads as long as there is at least one; so there always is one.
Media types: OCI image-spec ``layer.md``.
"""

from __future__ import annotations

import gzip
import io
import zlib
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

import isal
import zstandard
from isal import igzip, isal_zlib

from transship.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from _typeshed import WriteableBuffer

_PIECE = 1 << 20
_IsalError = cast("type[Exception]", isal_zlib.error)

_ZSTD_MAX_WINDOW_LOG = 23
"""8 MiB: the window that every zstd decoder is asked to support (RFC 8878, section 3.1.1.1.2)."""

_ZSTD_JOB_SIZE = 2 << 20
"""Bytes that a worker thread compresses at a time. libzstd would take four times as much, and memory, at level 3."""

_GZIP_BLOCK_SIZE = 1 << 20


class Codec(Enum):
    """Ways to compress a layer blob."""

    ZSTD = "zstd"
    GZIP = "gzip"
    NONE = "none"


_MEDIA_TYPES = {
    Codec.ZSTD: "application/vnd.oci.image.layer.v1.tar+zstd",
    Codec.GZIP: "application/vnd.oci.image.layer.v1.tar+gzip",
    Codec.NONE: "application/vnd.oci.image.layer.v1.tar",
}
_LEVELS = {Codec.ZSTD: range(1, 20), Codec.GZIP: range(4), Codec.NONE: range(1)}
_DEFAULT_LEVELS = {Codec.ZSTD: 3, Codec.GZIP: 1, Codec.NONE: 0}


class Compressor(Protocol):
    """A running compression: bytes in, bytes out, ``flush`` at the end."""

    def compress(self, data: bytes | memoryview, /) -> bytes:
        """Take ``data``; return what is ready (may be empty)."""
        ...

    def flush(self) -> bytes:
        """Return the rest. Nothing may follow."""
        ...


class _Verbatim:
    """The compressor that does not compress."""

    def compress(self, data: bytes | memoryview, /) -> bytes:
        return bytes(data)

    def flush(self) -> bytes:
        return b""


class _Gzip:
    """ISA-L's gzip, fed in pieces of one size: how its input is cut shows in its output."""

    def __init__(self, level: int) -> None:
        self._deflate = isal_zlib.compressobj(level, isal_zlib.DEFLATED, 16 + isal_zlib.MAX_WBITS)
        self._waiting = bytearray()

    def compress(self, data: bytes | memoryview, /) -> bytes:
        view = memoryview(data)
        ready = []
        while len(self._waiting) + len(view) >= _GZIP_BLOCK_SIZE:
            missing = _GZIP_BLOCK_SIZE - len(self._waiting)
            if self._waiting:
                self._waiting += view[:missing]
                ready.append(self._deflate.compress(self._waiting))
                self._waiting.clear()
            else:
                ready.append(self._deflate.compress(view[:missing]))
            view = view[missing:]
        self._waiting += view
        return b"".join(ready)

    def flush(self) -> bytes:
        return self._deflate.compress(self._waiting) + self._deflate.flush()


@dataclass(frozen=True)
class Recipe:
    """What shapes a compressed blob. Two runs with equal ``name`` make equal blobs of equal layers."""

    codec: Codec
    level: int

    @classmethod
    def make(cls, codec: Codec = Codec.ZSTD, level: int | None = None) -> Recipe:
        """Return the recipe for ``codec`` at ``level`` (None: the codec's default). Raises UsageError for an unknown level."""
        levels = _LEVELS[codec]
        chosen = _DEFAULT_LEVELS[codec] if level is None else level
        if chosen not in levels:
            raise UsageError(
                f"compression {codec.value} has no level {level}", remedy=f"give one from {levels[0]} to {levels[-1]}"
            )
        return cls(codec, chosen)

    @classmethod
    def parse(cls, name: str) -> Recipe:
        """Return the recipe with codec and level of ``name``; the library is the one here. Raises UsageError, ValueError."""
        codec, _, level = name.partition(" ")[0].rpartition("-")
        return cls.make(Codec(codec), int(level))

    @property
    def name(self) -> str:
        """Codec, level and library, e.g. ``zstd-3 libzstd-1.5.7 jobs-2M``: written to the journal and as a label."""
        library = {
            Codec.ZSTD: f"libzstd-{'.'.join(map(str, zstandard.ZSTD_VERSION))} jobs-{_ZSTD_JOB_SIZE >> 20}M",
            Codec.GZIP: f"isal-{isal.__version__} blocks-{_GZIP_BLOCK_SIZE >> 20}M",
            Codec.NONE: "tar",
        }[self.codec]
        return f"{self.codec.value}-{self.level} {library}"

    @property
    def media_type(self) -> str:
        """The media type of a layer blob made with this recipe."""
        return _MEDIA_TYPES[self.codec]

    def compressor(self, threads: int = 1) -> Compressor:
        """Start a compression. ``threads`` (1 or more) changes how fast zstd is, not what it writes."""
        if self.codec is Codec.GZIP:
            return _Gzip(self.level)
        if self.codec is Codec.NONE:
            return _Verbatim()
        window_log = min(zstandard.ZstdCompressionParameters.from_level(self.level).window_log, _ZSTD_MAX_WINDOW_LOG)
        parameters = zstandard.ZstdCompressionParameters.from_level(
            self.level, window_log=window_log, job_size=_ZSTD_JOB_SIZE, threads=threads, write_checksum=True
        )
        return zstandard.ZstdCompressor(compression_params=parameters).compressobj()


def decompressed(chunks: Iterable[bytes], media_type: str) -> Iterator[bytes]:
    """Yield the content of a layer blob of any media type that OCI and Docker know, in pieces of bounded size.

    Raises ValueError for an unknown media type, and for data that are damaged or, gzip, end early. zstd data that end early
    give what there is: the content's digest tells.
    """
    if media_type.endswith("+zstd"):
        yield from _unpacked_zstd(chunks)
    elif media_type.endswith(("+gzip", ".tar.gzip")):
        yield from _unpacked_gzip(chunks)
    elif media_type.endswith(".tar"):
        yield from chunks
    else:
        raise ValueError(f"unknown media type {media_type!r}")


def _unpacked_zstd(chunks: Iterable[bytes]) -> Iterator[bytes]:
    reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(
        cast("BinaryIO", _Joined(chunks)), read_across_frames=True
    )
    try:
        while data := reader.read(_PIECE):
            yield data
    except zstandard.ZstdError as error:
        raise ValueError(f"not whole zstd data ({error})") from error


def _unpacked_gzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    yield from gunzipped(cast("BinaryIO", _Joined(chunks)), _PIECE)


def gunzipped(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield what a gzip ``file`` unpacks to, at most ``size`` bytes at a time. Raises ValueError if it is not whole."""
    try:
        with igzip.IGzipFile(fileobj=file, mode="rb") as reader:
            while data := reader.read(size):
                yield data
    except (EOFError, zlib.error, gzip.BadGzipFile, _IsalError) as error:
        raise ValueError(f"not whole gzip data ({error})") from error


class _Joined(io.RawIOBase):
    """Chunks as a file that can be read once."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        place = memoryview(buffer).cast("B")
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        count = min(len(place), len(self._rest))
        place[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
