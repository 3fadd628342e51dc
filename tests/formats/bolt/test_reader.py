"""Reading bbolt files: all that bbolt wrote, and nothing that it would not read."""

from __future__ import annotations

import bisect
import mmap
import random
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.formats.bolt.databases import Made, fixtures, read, told, written
from transship.formats.bolt.page import Damage
from transship.formats.bolt.reader import Bucket, Database

if TYPE_CHECKING:
    from pathlib import Path

_READ = [name for name, (_, facts) in fixtures().items() if "root" in facts]
_REFUSED = {
    "bad-magic-both": "not a bbolt file",
    "corrupt-meta-both": "checksum",
    "garbage": "not a bbolt file",
    "page-wrong-id": "page 2: says that it is page 3",
    "truncated-1-page": "4096 bytes",
    "truncated-100-bytes": "100 bytes",
    "truncated-2-pages": "beyond the 2 pages",
    "truncated-half": "page 239: beyond the 128 pages",
    "truncated-mid-page": "page 239: beyond the 217 pages",
    "version-1": "version 1",
    "version-3": "version 3",
    "zero-length": "0 bytes",
}


@pytest.mark.parametrize("name", _READ)
def test_what_bbolt_wrote(name: str) -> None:
    data, facts = fixtures()[name]
    database = Database(data)
    assert read(data) == told(facts["root"])
    assert (database.meta.page_size, database.meta.transaction) == (facts["page_size"], facts["transaction"])


@pytest.mark.parametrize(("name", "problem"), _REFUSED.items())
def test_what_bbolt_refuses(name: str, problem: str) -> None:
    with pytest.raises(Damage, match=problem):
        read(fixtures()[name][0])


def test_each_file_is_one_or_the_other() -> None:
    assert sorted([*_READ, *_REFUSED]) == list(fixtures())


def test_mapped_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(fixtures()["nested-buckets"][0])
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
        assert read(buffer) == told(fixtures()["nested-buckets"][1]["root"])


def test_is_a_mapping() -> None:
    root = Database(written(Made({b"a": b"1", b"b": Made({b"x": b""}, 7), b"c": b"3"}))).root
    assert list(root) == [b"a", b"b", b"c"]
    assert len(root) == 3
    assert (root[b"a"], root.get(b"0"), root.get(b"aa"), root.get(b"d")) == (b"1", None, None, None)
    assert b"c" in root
    assert b"" not in root
    inner = root[b"b"]
    assert isinstance(inner, Bucket)
    assert (dict(inner), inner.sequence) == ({b"x": b""}, 7)
    with pytest.raises(KeyError):
        root[b"nothing"]


@pytest.mark.parametrize("page_size", [1024, 4096])
def test_every_key_is_found_and_no_other(page_size: int) -> None:
    keys = [b"%06d" % number for number in range(0, 9000, 3)]
    root = Database(written(Made({key: key[::-1] for key in keys}), page_size)).root
    assert all(root[key] == key[::-1] for key in keys)
    assert not any(b"%06d" % number in root for number in range(1, 9000, 3))


def test_range_ends_before_its_stop() -> None:
    root = Database(written(Made(dict.fromkeys([b"a", b"b", b"c"], b"")))).root
    assert [key for key, _ in root.between(b"a", b"c")] == [b"a", b"b"]
    assert [key for key, _ in root.between(b"b", b"b")] == []


@given(st.sets(st.binary(min_size=1, max_size=3), max_size=400), st.binary(max_size=4), st.none() | st.binary(max_size=4))
def test_ranges(keys: set[bytes], start: bytes, stop: bytes | None) -> None:
    root = Database(written(Made(dict.fromkeys(keys, b"v" * 40)), 1024)).root
    ordered = sorted(keys)
    first = bisect.bisect_left(ordered, start)
    last = len(ordered) if stop is None else max(bisect.bisect_left(ordered, stop), first)
    assert [key for key, _ in root.between(start, stop)] == ordered[first:last]
    assert [key for key, _ in root.between(stop=start)] == ordered[:first]
    assert [key for key, _ in root.prefixed(start)] == [key for key in ordered if key.startswith(start)]


def test_only_what_is_asked_for_is_read() -> None:
    data = bytearray(written(Made({b"%05d" % number: bytes(500) for number in range(2000)})))
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 16] = bytes(16)
    root = Database(bytes(data)).root
    for key in (b"00000", b"01999"):
        assert root[key] == next(root.between(key))[1] == bytes(500)
    assert len(list(root.between(b"01990"))) == 10
    with pytest.raises(Damage, match=f"page {middle // 4096}: "):
        list(root)


def test_memory_is_bounded() -> None:
    data = written(Made({b"%06d" % number: bytes(1000) for number in range(20000)}))
    tracemalloc.start()
    try:
        assert sum(len(value) for _, value in Database(data).root.items() if isinstance(value, bytes)) == 20_000_000
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["nested-buckets", "inline-buckets", "sequences", "pagesize-1024", "freelist"])
def test_no_change_does_harm(name: str) -> None:
    """Whatever bytes are other than they were: the file reads as something, or is damaged, and soon."""
    data, _ = fixtures()[name]
    random.seed(name)
    for _ in range(150):
        changed = bytearray(data)
        for _ in range(random.randint(1, 4)):
            page = random.randrange(len(data) // 1024) * 1024
            at = page + random.randrange(random.choice([16, 64, 1024]))
            changed[at] = random.choice([0, 1, 2, 255, random.randrange(256)])
        try:
            read(bytes(changed))
        except Damage:
            continue
