"""Writing a bbolt file, all of it, from its first key to its last.

It is a file of its own, or the next transaction of one that is there. Trees are built from the leaves up, a page at a time, so
that memory holds one page for each of their levels, and one value. bbolt goes on with the file as with its own: pages are
where their headers say, a branch has two children at least (else it dies of "parent must have at least 2 children",
etcd-io/bbolt ``node.go``), small buckets are inline where bbolt would have them (``bucket.go``), the high-water mark is exact.
"""

from __future__ import annotations

import sys
from array import array
from typing import IO, TYPE_CHECKING, NamedTuple, Protocol

from transship.formats.bolt.meta import Meta
from transship.formats.bolt.page import (
    BRANCH,
    BRANCH_ELEMENT,
    BUCKET,
    BUCKET_HEADER,
    FREELIST,
    HEADER,
    LEAF,
    LEAF_ELEMENT,
    LONG_COUNT,
    MAX_DEPTH,
    MAX_KEY,
    MAX_PAGE_SIZE,
    MAX_VALUE,
    META,
    MIN_PAGE_SIZE,
    Damage,
)
from transship.formats.bolt.tree import FIRST

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transship.formats.bolt.reader import Database

PAGE_SIZE = 4096
"""Bytes of a page unless there is a reason for others: those of a page of memory, as bbolt has it, on most machines."""


class Content(Protocol):
    """What a bucket is to hold; a ``Bucket`` that was read is one."""

    @property
    def sequence(self) -> int:
        """The last number that the bucket gave out."""
        ...

    def items(self) -> Iterable[tuple[bytes, bytes | Content]]:
        """Return all keys, ascending, each with its value or another bucket; asked for once."""
        ...


def write(file: IO[bytes], root: Content, page_size: int = PAGE_SIZE) -> None:
    """Write a database into ``file``, which is empty and can seek. ``page_size`` is in bytes. All that was read can be written.

    Raises ValueError for page sizes that are not read either, for keys that do not ascend, are empty or too long, for values
    that are too long, and for buckets too deep in one another; and what ``file`` and ``root`` raise.
    """
    if not MIN_PAGE_SIZE <= page_size <= MAX_PAGE_SIZE:
        raise ValueError(f"pages of {page_size} bytes")
    pages = _Pages(file, page_size, FIRST)
    freelist = pages.add_freelist(range(0))
    number = _tree(pages, root, 0).finish()
    for page in range(FIRST):
        meta = Meta(page, page_size, number, root.sequence, freelist, pages.next, transaction=page)
        file.seek(page * page_size)
        file.write(_meta_page(meta).ljust(page_size, b"\0"))


class Commit(NamedTuple):
    """What makes a transaction count, once all else of it is on disk: ``data`` at ``offset``, less than a sector."""

    offset: int
    data: bytes


def add_transaction(file: IO[bytes], database: Database, root: Content) -> Commit:
    """Write ``root`` behind the pages of ``database``, which is in ``file``, as its next transaction.

    Returns what is to be written at last. Nothing that is in use is touched, so ``root`` may be read from the database as it
    is written. bbolt finds the pages that were used before free, and uses them again. Raises like ``write``, and Damage if
    pages are missing at the file's end.
    """
    meta = database.meta
    if meta.pages > -(-len(database.buffer) // meta.page_size):
        raise Damage(None, f"{len(database.buffer)} bytes, too short for its {meta.pages} pages")
    pages = _Pages(file, meta.page_size, meta.pages)
    freelist = pages.add_freelist(range(FIRST, meta.pages))
    number = _tree(pages, root, 0).finish()
    page = 1 - meta.page
    transaction = meta.transaction + 1
    if transaction % 2 != page:  # bbolt writes it to the page of its number, which must not be the one in use
        transaction += 1
    new = Meta(page, meta.page_size, number, root.sequence, freelist, pages.next, transaction)
    return Commit(page * meta.page_size, _meta_page(new))


def _meta_page(meta: Meta) -> bytes:
    return HEADER.pack(meta.page, META, 0, 0) + meta.encode()


def _tree(pages: _Pages, content: Content, depth: int) -> _Tree:
    """Begin the tree of a bucket that is in ``depth`` others; its last pages are yet to be written."""
    if depth > MAX_DEPTH:
        raise ValueError(f"more than {MAX_DEPTH} buckets in one another")
    tree = _Tree(pages)
    last = b""
    for key, value in content.items():
        if key <= last:
            raise ValueError(f"key {key[:80]!r} does not come after {last[:80]!r}" if key else "an empty key")
        if len(key) > MAX_KEY:
            raise ValueError(f"key {key[:80]!r}… of {len(key)} bytes, over the limit of {MAX_KEY}")
        if isinstance(value, bytes):
            tree.add(key, value, 0)
        else:
            tree.add(key, _bucket(pages, value, depth + 1), BUCKET)
        last = key
    return tree


def _bucket(pages: _Pages, content: Content, depth: int) -> bytes:
    """Write a bucket that is in ``depth`` others; return the value that stands for it: all of it if it is small."""
    tree = _tree(pages, content, depth)
    inline = tree.inline()
    if inline is None:
        return BUCKET_HEADER.pack(tree.finish(), content.sequence)
    return BUCKET_HEADER.pack(0, content.sequence) + inline


class _Entry(NamedTuple):
    """An element of a node: in a leaf with a value and its flags, in a branch with a child's page number."""

    key: bytes
    value: bytes = b""
    flags: int = 0
    child: int = 0


class _Pages:
    """Puts pages into the file, one behind the other. ``next`` is the number of the next one."""

    def __init__(self, file: IO[bytes], page_size: int, first: int) -> None:
        self._file = file
        self.page_size = page_size
        self.next = first
        file.seek(first * page_size)

    def add(self, kind: int, count: int, body: bytes) -> int:
        """Write a page, and as many more as ``body`` needs; return its number."""
        number, taken = self.next, -(-(HEADER.size + len(body)) // self.page_size)
        self._file.write(HEADER.pack(number, kind, count, taken - 1))
        self._file.write(body)
        self._file.write(bytes(taken * self.page_size - HEADER.size - len(body)))
        self.next += taken
        return number

    def add_freelist(self, free: range) -> int:
        """Write the list of pages that are free; return its page's number."""
        numbers = array("Q", free)
        if sys.byteorder == "big":
            numbers.byteswap()
        if len(numbers) < LONG_COUNT:
            return self.add(FREELIST, len(numbers), numbers.tobytes())
        return self.add(FREELIST, LONG_COUNT, len(numbers).to_bytes(8, "little") + numbers.tobytes())


class _Tree:
    """The tree of one bucket, from the leaves up: a level of branches is begun when a page of that below has been written."""

    def __init__(self, pages: _Pages) -> None:
        self._pages = pages
        self._levels = [_Level(pages.page_size, least=1)]

    def add(self, key: bytes, value: bytes, flags: int) -> None:
        """Add a key, behind all others. Raises ValueError if the value is too long."""
        if len(value) > MAX_VALUE:
            raise ValueError(f"a value of {len(value)} bytes under key {key[:80]!r}, over the limit of {MAX_VALUE}")
        self._add(0, _Entry(key, value, flags))

    def inline(self) -> bytes | None:
        """Return the bucket as one page in its parent, None if it is too large for that or has buckets itself."""
        leaf = self._levels[0]
        if len(self._levels) > 1 or leaf.size > self._pages.page_size // 4 or any(entry.flags for entry in leaf.entries):
            return None
        return HEADER.pack(0, LEAF, len(leaf.entries), 0) + _body(LEAF, leaf.entries)

    def finish(self) -> int:
        """Write what is left; return the root's page number. A branch with one child is none: that child is the root."""
        number = 0
        while True:
            entries = self._levels[number].entries
            if number > 0 and number == len(self._levels) - 1 and len(entries) == 1:
                return entries[0].child
            self._write(number, entries)
            number += 1

    def _add(self, number: int, entry: _Entry) -> None:
        full = self._levels[number].add(entry)
        if full:
            self._write(number, full)

    def _write(self, number: int, entries: list[_Entry]) -> None:
        kind = BRANCH if number else LEAF
        page = self._pages.add(kind, len(entries), _body(kind, entries))
        if number + 1 == len(self._levels):
            self._levels.append(_Level(self._pages.page_size, least=2))
        self._add(number + 1, _Entry(entries[0].key if entries else b"", child=page))


class _Level:
    """What waits to be written as nodes of one level, each of at least ``least`` elements and, if it can be, in one page.

    So a node is not written before the next one has as many.
    """

    def __init__(self, page_size: int, least: int) -> None:
        self._page_size = page_size
        self._least = least
        self.entries: list[_Entry] = []
        self.size = HEADER.size
        """Bytes that all of them need as one node."""
        self._cut = self._cut_size = 0
        """How many of them make the next node, and the bytes that it needs; 0: not known yet."""

    def add(self, entry: _Entry) -> list[_Entry]:
        """Add an element; return a node to be written if there is one now."""
        before, self.size = self.size, self.size + LEAF_ELEMENT.size + len(entry.key) + len(entry.value)
        if not self._cut and self.size > self._page_size and len(self.entries) >= self._least:
            self._cut, self._cut_size = len(self.entries), before
        self.entries.append(entry)
        if not self._cut or len(self.entries) < self._cut + self._least:
            return []
        node, self.entries = self.entries[: self._cut], self.entries[self._cut :]
        self.size -= self._cut_size - HEADER.size
        self._cut = 0
        return node


def _body(kind: int, entries: list[_Entry]) -> bytes:
    """Return what follows the header of a node."""
    elements: list[bytes] = []
    data: list[bytes] = []
    distance = LEAF_ELEMENT.size * len(entries)
    for key, value, flags, child in entries:
        if kind == LEAF:
            elements.append(LEAF_ELEMENT.pack(flags, distance, len(key), len(value)))
        else:
            elements.append(BRANCH_ELEMENT.pack(distance, len(key), child))
        data += (key, value)
        distance += len(key) + len(value) - LEAF_ELEMENT.size
    return b"".join([*elements, *data])
