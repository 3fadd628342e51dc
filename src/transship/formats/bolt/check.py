"""Looking for all damage in a bbolt file, as ``bbolt check`` does (etcd-io/bbolt ``tx_check.go``), and for more.

More: what bbolt's own check lets pass, while bbolt dies of it when it changes the file.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from operator import itemgetter
from typing import TYPE_CHECKING

from transship.formats.bolt.page import FREELIST, HEADER, LONG_COUNT, META, NO_FREELIST, Branch, Damage
from transship.formats.bolt.tree import FIRST, child, root_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transship.formats.bolt.reader import Database
    from transship.formats.bolt.tree import BucketHeader, Reference

_FREELIST_PLACE = -1
"""Where the free list is reached from; no offset of any element."""
_NUMBER = struct.Struct("<Q")


def check(database: Database) -> Iterator[Damage]:
    """Yield all that is wrong with a file, whatever it is. Goes on after damage, without what is behind it."""
    return _Check(database).problems()


class _Check:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._meta = database.meta
        self._pages = database.pages()
        self._lost = False
        """Whether pages could not be looked at, so that nobody knows what these use."""

    def problems(self) -> Iterator[Damage]:
        yield from self._meta_pages()
        if self._pages.count < self._meta.pages:
            yield Damage(None, f"the file ends after {self._pages.count} of its {self._meta.pages} pages")
            self._lost = True
        free: list[int] = []
        try:
            free = self._free()
        except Damage as error:
            yield error
            self._lost = True
        yield from self._free_pages(free)
        yield from self._buckets()
        yield from self._used(set(free))

    def _meta_pages(self) -> Iterator[Damage]:
        for page in range(FIRST):
            try:
                kind = self._pages.header(page).kind
            except Damage as error:
                yield error
                continue
            if kind != META:
                yield Damage(page, f"of kind {kind:#x}, where a meta page (0x4) should be")

    def _free(self) -> list[int]:
        """Return the pages in the free list, none if it was not written. Raises Damage."""
        if self._meta.freelist == NO_FREELIST:
            return []
        header = self._pages.header(self._meta.freelist)
        if header.kind != FREELIST:
            raise Damage(header.page, f"of kind {header.kind:#x}, where the free list (0x10) should be")
        end = self._pages.reach(header, _FREELIST_PLACE)
        start = header.page * self._meta.page_size + HEADER.size
        data = self._database.buffer[start : end - (end - start) % _NUMBER.size]
        numbers = [number for (number,) in _NUMBER.iter_unpack(data)]
        count = numbers.pop(0) if header.count == LONG_COUNT and numbers else header.count
        if count > len(numbers):
            raise Damage(header.page, f"no room for the {count} pages of the free list")
        return numbers[:count]

    def _free_pages(self, free: list[int]) -> Iterator[Damage]:
        for before, page in pairwise([FIRST - 1, *free]):
            if page <= before:
                yield Damage(page, "in the free list twice, or out of order")
            if page >= self._meta.pages:
                yield Damage(page, f"free, but beyond the {self._meta.pages} pages of the file")

    def _buckets(self) -> Iterator[Damage]:
        """Go through all nodes of all buckets: each is a bucket's root, or below one of its branches."""
        waiting: list[tuple[BucketHeader, Reference | None]] = [(root_of(self._meta), None)]
        while waiting:
            bucket, reference = waiting.pop()
            try:
                node = self._pages.root(bucket) if reference is None else self._pages.node(reference)
            except Damage as error:
                yield error
                self._lost = True
                continue
            if reference is not None and node.keys[:1] != [reference.low]:
                yield Damage(reference.page, "its first key is not the one that the page above has for it")
            if isinstance(node, Branch):
                if len(node.keys) == 1:
                    yield Damage(bucket.root if reference is None else reference.page, "a branch with a single child")
                high = None if reference is None else reference.high
                waiting += [(bucket, child(node, index, high)) for index in reversed(range(len(node.keys)))]
            else:
                for start, size, _ in filter(itemgetter(2), node.values):
                    try:
                        waiting.append((self._pages.bucket(start, size, bucket.depth + 1), None))
                    except Damage as error:
                        yield error
                        self._lost = True

    def _used(self, free: set[int]) -> Iterator[Damage]:
        """Hold the pages that are used against those that are free."""
        used = self._pages.reached
        for page in sorted(used & free):
            yield Damage(page, "used, but in the free list")
        if self._lost or self._meta.freelist == NO_FREELIST:
            return
        known = sorted(page for page in used | free if FIRST <= page < self._meta.pages)
        for before, page in pairwise([FIRST - 1, *known, self._meta.pages]):
            if page - before > 1:
                more = f", nor are the {page - before - 2} after it" if page - before > 2 else ""
                yield Damage(before + 1, f"neither used nor free{more}")
