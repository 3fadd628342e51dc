"""The maps of sparse files in tar archives. Whole archives by GNU tar: see tests/stores/graph/test_unpack.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transship.formats import tar_sparse

places = st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 10**12)), max_size=80).map(tuple)


def octal(field: bytes) -> int:
    return int(field.strip(b" \0") or b"0", 8)


def written(numbers: list[int]) -> bytes:
    return b"".join(b"%011o\0" % number for number in numbers)


@given(places.map(lambda drawn: tuple((offset % 8**11, length % 8**11) for offset, length in drawn)))
def test_the_old_map_goes_on_in_blocks(drawn: tar_sparse.Places) -> None:
    entries = [written([offset, length]) for offset, length in drawn]
    header = bytes(386) + b"".join(entries[:4]).ljust(96, b"\0") + bytes(30)
    more = [b"".join(entries[at : at + 21]).ljust(512, b"\0") for at in range(4, len(entries), 21)]
    assert tar_sparse.old_map(header, more, octal) == drawn


@given(places)
def test_both_maps_in_records(drawn: tar_sparse.Places) -> None:
    numbers = [b"%d" % number for place in drawn for number in place]
    keys = [b"GNU.sparse.offset", b"GNU.sparse.numbytes"] * len(drawn)
    assert tar_sparse.pax_map(list(zip(keys, numbers, strict=True))) == drawn
    if numbers:
        assert tar_sparse.pax_map([(b"path", b"x"), (b"GNU.sparse.map", b",".join(numbers))]) == drawn


@given(places)
def test_a_map_before_the_content(drawn: tar_sparse.Places) -> None:
    text = b"%d\n" % len(drawn) + b"".join(b"%d\n%d\n" % place for place in drawn)
    blocks = [text[at : at + 512].ljust(512, b"\0") for at in range(0, len(text), 512)]
    unread = iter(blocks)
    assert tar_sparse.leading_map(lambda: next(unread)) == drawn
    assert list(unread) == []


@pytest.mark.parametrize(
    "text", [b"", b"x\n", b"-1\n", b"1\n5\nx\n", b"2\n1 \n2\n3\n4\n", b"99999999999\n", b"1\n%d\n1\n" % 10**30]
)
def test_malformed_maps_before_the_content(text: bytes) -> None:
    blocks = iter([text.ljust(512, b"\0"), *[bytes(512)] * 10])
    with pytest.raises(ValueError, match="sparse"):
        tar_sparse.leading_map(lambda: next(blocks))


@pytest.mark.parametrize("value", [b"1", b"1,2,3", b"1,,2", b"a,b", b","])
def test_malformed_maps_in_records(value: bytes) -> None:
    with pytest.raises(ValueError, match="sparse"):
        tar_sparse.pax_map([(b"GNU.sparse.map", value)])


@pytest.mark.parametrize(
    ("drawn", "stored", "size"),
    [(((0, 5),), 4, 10), (((0, 5),), 5, 4), (((5, 1), (0, 1)), 2, 10), (((0, 5), (4, 1)), 6, 10), ((), 1, 1)],
)
def test_places_that_do_not_make_the_file(drawn: tar_sparse.Places, stored: int, size: int) -> None:
    with pytest.raises(ValueError, match="sparse"):
        tar_sparse.ensure_fit(drawn, stored, size)


def test_places_that_do() -> None:
    tar_sparse.ensure_fit(((0, 5), (5, 0), (8, 2)), 7, 10)
    tar_sparse.ensure_fit((), 0, 10)
