"""Reading a bbolt file: buckets as nested mappings, in the order of their keys.

Nothing is read before it is asked for. Memory: a few nodes, and some 100 bytes for each page that was read.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import ItemsView, Mapping
from itertools import takewhile
from typing import TYPE_CHECKING

from transship.formats.bolt.meta import newest
from transship.formats.bolt.page import Branch
from transship.formats.bolt.tree import Pages, child, root_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transship.formats.bolt.page import Buffer, Leaf, Node
    from transship.formats.bolt.tree import BucketHeader, Reference


class Database:
    """The bbolt file in ``buffer``, as its last transaction left it. Raises Damage, here and in all that is read of it."""

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer
        self.meta = newest(buffer)
        self.root = Bucket(self.pages(), root_of(self.meta))

    def pages(self) -> Pages:
        """Return the file's pages, none of them reached yet."""
        return Pages(self.buffer, self.meta.page_size, self.meta.pages)


class Bucket(Mapping[bytes, "bytes | Bucket"]):
    """Keys, each with a value or another bucket. All that is asked of it raises Damage if it meets any."""

    def __init__(self, pages: Pages, header: BucketHeader) -> None:
        self._pages = pages
        self._header = header

    @property
    def sequence(self) -> int:
        """The last number that the bucket gave out (Go's ``NextSequence``)."""
        return self._header.sequence

    def __getitem__(self, key: bytes) -> bytes | Bucket:
        node, high = self._pages.root(self._header), None
        while isinstance(node, Branch):
            index = bisect_right(node.keys, key) - 1
            if index < 0:
                raise KeyError(key)
            node, high = self._below(child(node, index, high))
        index = bisect_left(node.keys, key)
        if node.keys[index : index + 1] != [key]:
            raise KeyError(key)
        return self._value(node, index)

    def __iter__(self) -> Iterator[bytes]:
        for leaf, _ in self._leaves(b""):
            yield from leaf.keys

    def __len__(self) -> int:
        return sum(len(leaf.keys) for leaf, _ in self._leaves(b""))

    def items(self) -> ItemsView[bytes, bytes | Bucket]:
        return _Items(self)

    def between(self, start: bytes = b"", stop: bytes | None = None) -> Iterator[tuple[bytes, bytes | Bucket]]:
        """Yield keys from ``start`` on, up to but not ``stop``, with what they have."""
        for leaf, first in self._leaves(start):
            for index in range(first, len(leaf.keys)):
                key = leaf.keys[index]
                if stop is not None and key >= stop:
                    return
                yield key, self._value(leaf, index)

    def prefixed(self, prefix: bytes) -> Iterator[tuple[bytes, bytes | Bucket]]:
        """Yield the keys that begin with ``prefix``, with what they have."""
        return takewhile(lambda item: item[0].startswith(prefix), self.between(prefix))

    def _leaves(self, start: bytes) -> Iterator[tuple[Leaf, int]]:
        """Yield the leaves in order, from that on where ``start`` would be; in each the index to begin at."""
        node, high = self._pages.root(self._header), None
        waiting: list[Reference] = []
        while True:
            if isinstance(node, Branch):
                first = max(bisect_right(node.keys, start) - 1, 0)
                waiting += [child(node, index, high) for index in range(len(node.keys) - 1, first - 1, -1)]
            else:
                yield node, bisect_left(node.keys, start)
            if not waiting:
                return
            node, high = self._below(waiting.pop())

    def _below(self, reference: Reference) -> tuple[Node, bytes | None]:
        return self._pages.node(reference), reference.high

    def _value(self, leaf: Leaf, index: int) -> bytes | Bucket:
        start, size, is_bucket = leaf.values[index]
        if is_bucket:
            return Bucket(self._pages, self._pages.bucket(start, size, self._header.depth + 1))
        return self._pages.value(start, size)


class _Items(ItemsView[bytes, "bytes | Bucket"]):
    """What ``items`` returns: read in one go, not key by key."""

    _mapping: Bucket

    def __iter__(self) -> Iterator[tuple[bytes, bytes | Bucket]]:
        return self._mapping.between()
