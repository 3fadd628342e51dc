"""The pages of a bbolt file as nodes of trees that share nothing.

A file that was damaged, or made to do harm, can lead in circles, or through the same pages again and again. So it is
remembered which place in the file each page was reached from: a page that is reached from a second one is damaged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from transship.formats.bolt.page import BUCKET_HEADER, HEADER, LEAF, MAX_DEPTH, Damage, read_header, read_node

if TYPE_CHECKING:
    from transship.formats.bolt.meta import Meta
    from transship.formats.bolt.page import Branch, Buffer, Header, Node

FIRST = 2
"""The first page that is not a meta page."""
_META_PLACE = 0
"""Where the root bucket is reached from."""


class Reference(NamedTuple):
    """A node as its parent tells of it: where that says so, its page, and between what its keys are."""

    place: int
    page: int
    low: bytes = b""
    high: bytes | None = None
    """The first key beyond, None if there is no bound."""


class BucketHeader(NamedTuple):
    """What the value of a bucket says. ``place`` and ``end`` are the value's offsets, ``depth`` how many buckets it is in."""

    place: int
    end: int
    depth: int
    root: int
    sequence: int


def root_of(meta: Meta) -> BucketHeader:
    """Return the root bucket, which a meta page has instead of a value."""
    return BucketHeader(_META_PLACE, _META_PLACE, 0, meta.root, meta.sequence)


class Pages:
    """The ``count`` pages of ``page_size`` bytes in a file; the last may be cut short if the rest of it is not used."""

    def __init__(self, buffer: Buffer, page_size: int, high_water: int) -> None:
        self._buffer = buffer
        self._page_size = page_size
        self.count = min(high_water, -(-len(buffer) // page_size))
        self._places: dict[int, int] = {}

    @property
    def reached(self) -> set[int]:
        """The pages that have been reached so far."""
        return set(self._places)

    def header(self, page: int) -> Header:
        """Return a page's header. Raises Damage if it is not in the file, or says that it is another's."""
        if page >= self.count:
            raise Damage(page, f"beyond the {self.count} pages of the file")
        header = read_header(self._buffer, page, page * self._page_size)
        if header.page != page:
            raise Damage(page, f"says that it is page {header.page}")
        return header

    def node(self, reference: Reference) -> Node:
        """Return the node that is meant. Raises Damage, also if it was reached from elsewhere before."""
        page = reference.page
        if page < FIRST:
            raise Damage(page, "used as a node")
        header = self.header(page)
        end = self.reach(header, reference.place)
        node = read_node(self._buffer, header, page, page * self._page_size, end)
        if node.keys and (node.keys[0] < reference.low or (reference.high is not None and node.keys[-1] >= reference.high)):
            raise Damage(page, "keys that do not belong there by what the page above says")
        return node

    def reach(self, header: Header, place: int) -> int:
        """Note that a page, with those that it takes besides, is reached from ``place``; return the offset of its end."""
        after = header.page + header.overflow + 1
        if after > self.count:
            raise Damage(header.page, f"takes {header.overflow} more, beyond the {self.count} pages of the file")
        if self._places.get(header.page) != place:
            for page in reversed(range(header.page, after)):  # its own last: that one shows that it has all of them
                if self._places.setdefault(page, place) != place:
                    raise Damage(page, "used twice")
        return min(after * self._page_size, len(self._buffer))

    def bucket(self, start: int, size: int, depth: int) -> BucketHeader:
        """Return what the value at offset ``start`` says of a bucket that is in ``depth`` others. Raises Damage."""
        if depth > MAX_DEPTH:
            raise Damage(self._page_of(start), f"more than {MAX_DEPTH} buckets in one another")
        data = self._buffer[start : start + min(size, BUCKET_HEADER.size)]
        if len(data) < BUCKET_HEADER.size:
            raise Damage(self._page_of(start), f"a bucket in {size} bytes")
        return BucketHeader(start, start + size, depth, *BUCKET_HEADER.unpack(data))

    def root(self, bucket: BucketHeader) -> Node:
        """Return the root of a bucket's tree. Raises Damage."""
        if bucket.root or bucket.place == _META_PLACE:
            return self.node(Reference(bucket.place, bucket.root))
        page, start = self._page_of(bucket.place), bucket.place + BUCKET_HEADER.size
        if bucket.end - start < HEADER.size:
            raise Damage(page, "an inline bucket without a page")
        header = read_header(self._buffer, page, start)
        if header.kind != LEAF:
            raise Damage(page, f"an inline bucket of kind {header.kind:#x}")
        return read_node(self._buffer, header, page, start, bucket.end)

    def value(self, start: int, size: int) -> bytes:
        """Return the value at offset ``start``, which a node of this file has named."""
        return self._buffer[start : start + size]

    def _page_of(self, offset: int) -> int:
        return offset // self._page_size


def child(branch: Branch, index: int, high: bytes | None) -> Reference:
    """Return the child number ``index`` of a branch whose keys are below ``high``."""
    place, page = branch.children[index]
    return Reference(place, page, branch.keys[index], branch.keys[index + 1] if index + 1 < len(branch.keys) else high)
