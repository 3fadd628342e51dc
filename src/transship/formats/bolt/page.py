"""The pages of a bbolt file: etcd-io/bbolt ``internal/common/page.go``.

A page is a header and, for as many elements as that says, fixed-size descriptions with offsets of keys and values behind
them. A node that needs more than a page takes those after it, too (overflow), which have no header. Numbers are
little-endian, as on all machines that Docker runs on but s390x, whose files are not read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from operator import lt
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import mmap

Buffer: TypeAlias = "bytes | mmap.mmap"
"""A whole file."""

HEADER = struct.Struct("<QHHI")
"""Page number, kind, count of elements, count of pages taken besides this one."""
LEAF_ELEMENT = struct.Struct("<IIII")
"""Flags, distance of the key from this element, sizes of key and of the value behind it."""
BRANCH_ELEMENT = struct.Struct("<IIQ")
"""Distance of the key from this element, its size, page number of the child."""
BUCKET_HEADER = struct.Struct("<QQ")
"""A bucket's root page and sequence. Root 0: the bucket is inline, its only page follows."""

BRANCH, LEAF, META, FREELIST = 0x01, 0x02, 0x04, 0x10
"""Kinds of pages."""
BUCKET = 1
"""The flag of a leaf element whose value is a bucket's header."""
NO_FREELIST = (1 << 64) - 1
"""Page number of a free list that was not written (bbolt's option NoFreelistSync)."""
LONG_COUNT = 0xFFFF
"""Count of a free list whose real count is its first number."""
MAX_KEY = 32768
MAX_VALUE = (1 << 31) - 2
"""Bytes that bbolt allows."""
MIN_PAGE_SIZE = 512
MAX_PAGE_SIZE = 1 << 20
"""Bytes. bbolt takes those of a page of memory, 4 to 64 KiB; in more than 1 MiB were more elements than a page can count."""
MAX_DEPTH = 100
"""Buckets in one another that are read or written; nobody has more than a dozen."""


class Damage(ValueError):
    """Raised when something in a file cannot be what bbolt wrote. ``page`` is where, None if it is no page's matter."""

    def __init__(self, page: int | None, problem: str) -> None:
        super().__init__(problem if page is None else f"page {page}: {problem}")
        self.page = page
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Header:
    """A page's header; ``overflow`` counts the pages that it takes besides its own."""

    page: int
    kind: int
    count: int
    overflow: int


@dataclass(frozen=True, slots=True)
class Leaf:
    """Keys, ascending, and for each the offset and size of its value, and whether that is a bucket."""

    keys: list[bytes]
    values: list[tuple[int, int, bool]]


@dataclass(frozen=True, slots=True)
class Branch:
    """Keys, ascending, each the first below a child; for each the offset of its element, and the child's page."""

    keys: list[bytes]
    children: list[tuple[int, int]]


Node: TypeAlias = Leaf | Branch


def read_header(buffer: Buffer, page: int, start: int) -> Header:
    """Return the header at offset ``start``, which is that of ``page``. Raises Damage if the file ends before."""
    data = buffer[start : start + HEADER.size]
    if len(data) < HEADER.size:
        raise Damage(page, "beyond the end of the file")
    return Header(*HEADER.unpack(data))


def read_node(buffer: Buffer, header: Header, page: int, start: int, end: int) -> Node:
    """Return the node with ``header`` that is at offsets from ``start`` (the header's) to ``end``, which exist.

    Keys and values lie within these, each behind the one before, as bbolt puts them, so that no byte is read as two things;
    keys ascend, and no size is over bbolt's limits. Raises Damage, naming ``page``.
    """
    if header.kind not in {BRANCH, LEAF}:
        raise Damage(page, f"of kind {header.kind:#x}, where a branch (0x1) or a leaf (0x2) should be")
    first = start + HEADER.size
    elements_end = first + LEAF_ELEMENT.size * header.count
    if elements_end > end:
        raise Damage(page, f"no room for its {header.count} elements")
    read = _leaf if header.kind == LEAF else _branch
    try:
        node = read(buffer, buffer[first:elements_end], first, end)
    except _Outside:
        raise Damage(page, "keys or values that are not in it, or too long, or lie on one another") from None
    if not all(map(lt, node.keys, node.keys[1:])):
        raise Damage(page, "keys that do not ascend")
    if node.keys and not node.keys[0]:
        raise Damage(page, "an empty key")
    if not node.keys and header.kind == BRANCH:
        raise Damage(page, "a branch without children")
    return node


class _Outside(Exception):
    """Raised when an element points outside of its page, into what is another's, or to more than bbolt allows."""


def _leaf(buffer: Buffer, elements: bytes, at: int, end: int) -> Leaf:
    keys, values = [], []
    free = at + len(elements)
    for flags, distance, key_size, value_size in LEAF_ELEMENT.iter_unpack(elements):
        key = at + distance
        value = key + key_size
        if key < free or value + value_size > end or key_size > MAX_KEY or value_size > MAX_VALUE:
            raise _Outside
        free = value + value_size
        keys.append(buffer[key:value])
        values.append((value, value_size, bool(flags & BUCKET)))
        at += LEAF_ELEMENT.size
    return Leaf(keys, values)


def _branch(buffer: Buffer, elements: bytes, at: int, end: int) -> Branch:
    keys, children = [], []
    free = at + len(elements)
    for distance, key_size, child in BRANCH_ELEMENT.iter_unpack(elements):
        key = at + distance
        if key < free or key + key_size > end or key_size > MAX_KEY:
            raise _Outside
        free = key + key_size
        keys.append(buffer[key:free])
        children.append((at, child))
        at += BRANCH_ELEMENT.size
    return Branch(keys, children)
