"""Writing bbolt files: what is written is read, and as bbolt wants it."""

from __future__ import annotations

import io
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.formats.bolt.databases import Made, Reading, fixtures, inline, read, told, written
from transship.formats.bolt.check import check
from transship.formats.bolt.page import MAX_KEY
from transship.formats.bolt.reader import Database
from transship.formats.bolt.writer import write

if TYPE_CHECKING:
    from collections.abc import Iterator

_keys = st.binary(min_size=1, max_size=12) | st.builds(
    lambda key, times: key * times, st.binary(min_size=1, max_size=4), st.integers(1, 400)
)
_values = st.binary(max_size=40) | st.builds(
    lambda byte, times: byte * times, st.binary(min_size=1, max_size=1), st.integers(0, 9000)
)
_sequences = st.just(0) | st.integers(0, 2**64 - 1)


@st.composite
def _many(draw: st.DrawFn) -> dict[bytes, bytes | Made]:
    """Return enough small keys for branches upon branches, where pages are small."""
    count, step, size = draw(st.integers(1, 500)), draw(st.integers(1, 1 << 40)), draw(st.integers(0, 300))
    tail = b"k" * draw(st.sampled_from([0, 3, 200, 600]))
    return {b"%020d" % (number * step) + tail: b"v" * (number * 7 % (size + 1)) for number in range(count)}


_flat = st.dictionaries(_keys, _values, max_size=8) | _many()
_buckets = st.recursive(
    st.builds(Made, _flat, _sequences),
    lambda inner: st.builds(Made, st.dictionaries(_keys, _values | inner, max_size=6), _sequences),
    max_leaves=8,
)


def as_bbolt_wants(root: Made, page_size: int = 4096) -> Reading:
    """Write a database, and return an independent reading of it, which finds nothing wrong."""
    data = written(root, page_size)
    reading = Reading(data)
    assert reading.problems == []
    assert reading.root == root
    database = Database(data)
    assert list(check(database)) == []
    assert read(data) == root
    return reading


@settings(max_examples=2000)
@given(_buckets, st.sampled_from([512, 1024, 2048, 3000, 4096, 8192, 16384, 65536]))
def test_what_is_written_is_read(root: Made, page_size: int) -> None:
    as_bbolt_wants(root, page_size)


@pytest.mark.parametrize("name", [name for name, (_, facts) in fixtures().items() if "root" in facts])
def test_what_bbolt_wrote_written_again(name: str) -> None:
    """Same contents, and the same buckets inline."""
    data, facts = fixtures()[name]
    reading = Reading(written(Database(data).root, facts["page_size"]))
    assert reading.problems == []
    assert reading.root == told(facts["root"])
    assert reading.inline == inline(facts["root"])


@pytest.mark.parametrize("count", range(60))
@pytest.mark.parametrize("key_size", [300, 800, 2000])
def test_no_branch_has_a_single_child(count: int, key_size: int) -> None:
    """Two or three of such keys fill a branch: each count of them leaves another rest."""
    as_bbolt_wants(Made({b"%04d" % number + bytes(key_size): b"" for number in range(count)}), 1024)


@pytest.mark.parametrize("size", range(200, 300, 4))
def test_small_buckets_are_inline(size: int) -> None:
    reading = as_bbolt_wants(Made({b"bucket": Made({b"key": bytes(size)})}), 1024)
    assert bool(reading.inline) is (16 + 16 + 3 + size <= 256)


def test_empty() -> None:
    reading = as_bbolt_wants(Made())
    assert reading.high_water == 4
    assert as_bbolt_wants(Made({b"bucket": Made(sequence=9)})).inline == {(b"bucket",)}


def test_largest() -> None:
    as_bbolt_wants(Made({bytes([number]) * MAX_KEY: bytes(100_000) for number in range(1, 12)}), 1024)


def test_deepest() -> None:
    root = Made({b"end": b"reached"})
    for _ in range(100):
        root = Made({b"down": root})
    as_bbolt_wants(root)
    with pytest.raises(ValueError, match="more than 100 buckets"):
        written(Made({b"down": root}))


@pytest.mark.parametrize(
    ("items", "problem"),
    [
        ([(b"b", b""), (b"a", b"")], "does not come after"),
        ([(b"a", b""), (b"a", b"")], "does not come after"),
        ([(b"", b"")], "an empty key"),
        ([(b"k" * (MAX_KEY + 1), b"")], "over the limit"),
    ],
)
def test_what_bbolt_would_not_take(items: list[tuple[bytes, bytes | Made]], problem: str) -> None:
    class Wrong(Made):
        def items(self) -> list[tuple[bytes, bytes | Made]]:
            return items

    for root in (Wrong(), Made({b"bucket": Wrong()})):
        with pytest.raises(ValueError, match=problem):
            written(root)


@pytest.mark.parametrize("page_size", [0, 256, 1 << 21])
def test_page_sizes_that_are_not_written(page_size: int) -> None:
    with pytest.raises(ValueError, match=f"pages of {page_size} bytes"):
        written(Made(), page_size)


def test_memory_is_bounded() -> None:
    """Whatever there is of it, and as deep as it may be."""

    class Endless:
        sequence = 1

        def items(self) -> Iterator[tuple[bytes, bytes]]:
            return ((b"%08d" % number, b"v" * 1000) for number in range(20_000))

    class Outer:
        sequence = 0

        def items(self) -> Iterator[tuple[bytes, Endless]]:
            yield b"only", Endless()

    class Sink(io.RawIOBase):
        size = 0

        def write(self, data: object) -> int:
            assert isinstance(data, bytes)
            self.size += len(data)
            return len(data)

        def seek(self, offset: int, whence: int = 0) -> int:
            assert whence == 0
            return offset

    sink = Sink()
    tracemalloc.start()
    try:
        write(sink, Outer())  # type: ignore[arg-type]  # as much of a file as is needed
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()
    assert sink.size > 20_000_000
