"""Databases to be written and read, files that bbolt wrote, and a reading of files that owes nothing to the one under test."""

from __future__ import annotations

import base64
import io
import json
import struct
import tarfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zstandard

from transship.formats.bolt import writer
from transship.formats.bolt.reader import Bucket, Database

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transship.formats.bolt.page import Buffer

ARCHIVE = Path(__file__).parents[2] / "data" / "bolt" / "bbolt-1.5.0.tar.zst"


@dataclass
class Made:
    """A bucket: what it holds, and its sequence."""

    held: dict[bytes, bytes | Made] = field(default_factory=dict)
    sequence: int = 0

    def items(self) -> Iterable[tuple[bytes, bytes | Made]]:
        return sorted(self.held.items(), key=lambda item: item[0])


def written(root: writer.Content, page_size: int = 4096) -> bytes:
    file = io.BytesIO()
    writer.write(file, root, page_size)
    return file.getvalue()


def held(bucket: Bucket) -> Made:
    """Return all that is in a bucket that is read."""
    return Made({key: held(value) if isinstance(value, Bucket) else value for key, value in bucket.items()}, bucket.sequence)


@cache
def fixtures() -> dict[str, tuple[bytes, dict[str, Any]]]:
    """Return files that bbolt wrote, and what it makes of them: see tests/data/bolt/README.md."""
    tar = zstandard.ZstdDecompressor(max_window_size=1 << 25).decompress(ARCHIVE.read_bytes())
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        files = {member.name: _content(archive, member) for member in archive}
    names = sorted(name.removesuffix(".db") for name in files if name.endswith(".db"))
    return {name: (files[f"{name}.db"], json.loads(files[f"{name}.json"])) for name in names}


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None
    return file.read()


def told(bucket: dict[str, Any]) -> Made:
    """Return a bucket of a fixture's facts."""
    items = {
        base64.b64decode(key): base64.b64decode(value) if isinstance(value, str) else told(value)
        for key, value in bucket["items"]
    }
    return Made(items, bucket["sequence"])


def inline(bucket: dict[str, Any], path: tuple[bytes, ...] = ()) -> set[tuple[bytes, ...]]:
    """Return the paths of a fixture's buckets that are inline."""
    found = {path} if bucket["inline"] else set()
    for key, value in bucket["items"]:
        if not isinstance(value, str):
            found |= inline(value, (*path, base64.b64decode(key)))
    return found


class Reading:
    """What Go's ``bbolt check`` goes through, and what bbolt relies on when it changes a file, page by page.

    All problems are in ``problems``, what is in the file in ``root``, the paths of inline buckets in ``inline``.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.problems: list[str] = []
        self.inline: set[tuple[bytes, ...]] = set()
        metas = [self._meta(0, 0)]
        self.page_size = metas[0][0]
        metas.append(self._meta(1, self.page_size))
        self.page_size, root, sequence, freelist, self.high_water, _ = max(metas, key=lambda meta: meta[-1])
        self.expect(len(data) == self.high_water * self.page_size, "high-water mark")
        self.expect(metas[0][:-1] == metas[1][:-1], "meta pages differ")
        self._reached: set[int] = {0, 1}
        free = self._freelist(freelist)
        self.root = Made(self._bucket(root, ()), sequence)
        for page in range(self.high_water):
            self.expect((page in self._reached) != (page in free), f"page {page} reached and free, or neither")

    def expect(self, truth: bool, problem: str) -> None:
        if not truth:
            self.problems.append(problem)

    def _meta(self, page: int, at: int) -> tuple[int, ...]:
        self.expect(struct.unpack_from("<QHHI", self.data, at) == (page, 4, 0, 0), f"header of page {page}")
        magic, version, page_size, flags, *rest = struct.unpack_from("<IIIIQQQQQQ", self.data, at + 16)
        digest = 14695981039346656037
        for byte in self.data[at + 16 : at + 72]:
            digest = ((digest ^ byte) * 1099511628211) % 2**64
        self.expect((magic, version, flags, rest.pop()) == (0xED0CDAED, 2, 0, digest), f"meta page {page}")
        self.expect(rest[-1] % 2 == page, f"transaction of page {page}")
        return (page_size, *rest)

    def _header(self, page: int) -> tuple[int, int]:
        """Return kind and count, and note all its pages as reached."""
        number, kind, count, overflow = struct.unpack_from("<QHHI", self.data, page * self.page_size)
        self.expect(number == page, f"page {page} says that it is {number}")
        for each in range(page, page + overflow + 1):
            self.expect(each < self.high_water and each not in self._reached, f"page {each} out of bounds, or reached twice")
            self._reached.add(each)
        return kind, count

    def _freelist(self, page: int) -> set[int]:
        kind, count = self._header(page)
        self.expect(kind == 0x10, "kind of the free list")
        free = struct.unpack_from(f"<{count}Q", self.data, page * self.page_size + 16)
        self.expect(list(free) == sorted(set(free)), "order of the free list")
        return set(free)

    def _bucket(self, page: int, path: tuple[bytes, ...]) -> dict[bytes, bytes | Made]:
        found = self._node(page, path)
        keys = [key for key, _ in found]
        self.expect(keys == sorted(set(keys)) and b"" not in keys, f"order of keys in {path}")
        return dict(found)

    def _node(self, page: int, path: tuple[bytes, ...]) -> list[tuple[bytes, bytes | Made]]:
        kind, count = self._header(page)
        at, size = page * self.page_size + 16, 16
        found: list[tuple[bytes, bytes | Made]] = []
        if kind == 2:
            found, size = self._leaf(at, count, path)
        else:
            self.expect(kind == 1, f"kind of page {page}")
            self.expect(count >= 2, f"page {page} has a single child")
            for element in range(at, at + 16 * count, 16):
                distance, key_size, child = struct.unpack_from("<IIQ", self.data, element)
                below = self._node(child, path)
                key = self.data[element + distance : element + distance + key_size]
                self.expect(below[:1] != [] and below[0][0] == key, f"first key of page {child}")
                found += below
                size += 16 + key_size
        overflow = struct.unpack_from("<I", self.data, at - 4)[0]
        self.expect(overflow == -(-size // self.page_size) - 1, f"overflow of page {page}")
        self.expect(overflow == 0 or kind == 1 or count == 1, f"page {page} with more than there is room for")
        return found

    def _leaf(self, at: int, count: int, path: tuple[bytes, ...]) -> tuple[list[tuple[bytes, bytes | Made]], int]:
        found: list[tuple[bytes, bytes | Made]] = []
        size = 16
        for element in range(at, at + 16 * count, 16):
            flags, distance, key_size, value_size = struct.unpack_from("<IIII", self.data, element)
            start = element + distance
            key, value = self.data[start : start + key_size], self.data[start + key_size : start + key_size + value_size]
            found.append((key, self._inner(value, start + key_size, (*path, key)) if flags & 1 else value))
            size += 16 + key_size + value_size
        return found, size

    def _inner(self, value: bytes, at: int, path: tuple[bytes, ...]) -> Made:
        root, sequence = struct.unpack_from("<QQ", value)
        if root:
            bucket = Made(self._bucket(root, path), sequence)
            size = 16 + sum(16 + len(key) + len(each) for key, each in bucket.held.items() if isinstance(each, bytes))
            has_buckets = any(isinstance(each, Made) for each in bucket.held.values())
            self.expect(has_buckets or size > self.page_size // 4, f"{path} should be inline")
            return bucket
        self.inline.add(path)
        page, kind, count, overflow = struct.unpack_from("<QHHI", value, 16)
        self.expect((page, kind, overflow) == (0, 2, 0), f"header of inline {path}")
        found, size = self._leaf(at + 32, count, path)
        self.expect(16 + size == len(value) and size <= self.page_size // 4, f"size of inline {path}")
        self.expect(not any(isinstance(each, Made) for _, each in found), f"bucket in inline {path}")
        return Made(dict(found), sequence)


def read(data: Buffer) -> Made:
    """Read all of a file with what is under test."""
    return held(Database(data).root)
