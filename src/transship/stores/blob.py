"""A stream made into a compressed blob, in one pass and in constant memory.

Runs front to back in one worker thread: hashing, compressing and writing release the interpreter's lock.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transship.formats.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from transship.formats.compression import Compressor


@dataclass(frozen=True)
class Compressed:
    """What came of a stream: its own digest and size, and those of the blob made of it; sizes in bytes."""

    diff_id: Digest
    uncompressed_size: int
    digest: Digest
    size: int


def compress(chunks: Iterable[memoryview], compressor: Compressor, write: Callable[[bytes], None]) -> Compressed:
    """Read ``chunks`` once, compress them, and hand the result to ``write``. Returns digests and sizes of both."""
    plain, packed = hashlib.sha256(), hashlib.sha256()
    plain_size = packed_size = 0

    def emit(data: bytes) -> None:
        nonlocal packed_size
        if data:
            packed.update(data)
            packed_size += len(data)
            write(data)

    for chunk in chunks:
        plain.update(chunk)
        plain_size += len(chunk)
        emit(compressor.compress(chunk))
    emit(compressor.flush())
    return Compressed(Digest(f"sha256:{plain.hexdigest()}"), plain_size, Digest(f"sha256:{packed.hexdigest()}"), packed_size)
