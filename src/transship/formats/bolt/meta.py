"""The two meta pages of a bbolt file, one of which counts: etcd-io/bbolt ``internal/common/meta.go``, ``db.go``.

bbolt writes them in turns, so that one that was cut short costs the last transaction only.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transship.formats.bolt.page import HEADER, MAX_PAGE_SIZE, MIN_PAGE_SIZE, Damage

if TYPE_CHECKING:
    from transship.formats.bolt.page import Buffer

_FIELDS = struct.Struct("<IIIIQQQQQ")
_SUM = struct.Struct("<Q")
_MAGIC = 0xED0CDAED
_VERSION = 2
_SIZE = _FIELDS.size + _SUM.size
_PROBED = [1024 << shift for shift in range(11)]
"""Page sizes for which a second meta page is looked for when the first is no good."""


@dataclass(frozen=True, slots=True)
class Meta:
    """What a meta page says. Sizes in bytes; ``pages`` is the high-water mark: how many pages the file has had use for.

    ``page`` is which of the two it is, 0 or 1.
    """

    page: int
    page_size: int
    root: int
    sequence: int
    freelist: int
    pages: int
    transaction: int

    def encode(self) -> bytes:
        """Return what follows the page's header."""
        fields = (self.page_size, 0, self.root, self.sequence, self.freelist, self.pages, self.transaction)
        data = _FIELDS.pack(_MAGIC, _VERSION, *fields)
        return data + _SUM.pack(_fnv1a(data))


def newest(buffer: Buffer) -> Meta:
    """Return the meta page that counts: of those that are whole the one of the later transaction.

    Raises Damage if neither is, or the file is too short for both.
    """
    try:
        first = _decode(buffer, 0)
    except Damage as error:
        first, problem = None, error
    second = _second(buffer, [first.page_size] if first else _PROBED)
    found = [meta for meta in (first, second) if meta is not None]
    if not found:
        raise problem
    meta = max(found, key=lambda each: each.transaction)
    if len(buffer) < 2 * meta.page_size:
        raise Damage(None, f"{len(buffer)} bytes, less than the two pages that every file has")
    return meta


def _second(buffer: Buffer, sizes: list[int]) -> Meta | None:
    """Return what the second page says if pages have one of ``sizes``, and it is whole."""
    for size in sizes:
        try:
            meta = _decode(buffer, size)
        except Damage:
            continue
        if meta.page_size == size:
            return meta
    return None


def _decode(buffer: Buffer, start: int) -> Meta:
    """Return the meta page at offset ``start``. Raises Damage, worded for the first page."""
    data = buffer[start + HEADER.size : start + HEADER.size + _SIZE]
    if len(data) < _SIZE:
        raise Damage(None, f"{len(buffer)} bytes, too short for a bbolt file")
    magic, version, page_size, _, root, sequence, freelist, pages, transaction = _FIELDS.unpack_from(data)
    if magic != _MAGIC:
        raise Damage(None, "not a bbolt file")
    if version != _VERSION:
        raise Damage(None, f"version {version} of bbolt's format, of which only {_VERSION} is known")
    if _SUM.unpack_from(data, _FIELDS.size)[0] != _fnv1a(data[: _FIELDS.size]):
        raise Damage(None, "neither of its first two pages has a checksum that is right")
    if not MIN_PAGE_SIZE <= page_size <= MAX_PAGE_SIZE:
        raise Damage(None, f"pages of {page_size} bytes")
    return Meta(int(start > 0), page_size, root, sequence, freelist, pages, transaction)


def _fnv1a(data: bytes) -> int:
    """Return the 64-bit FNV-1a hash."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value
