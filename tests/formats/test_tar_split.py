"""tar-split data: what comes in comes out, and nothing that comes in does harm."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transship.formats import tar_split
from transship.formats.tar_split import FILE, MAX_ENTRY, SEGMENT, ContentSum, Entry

if TYPE_CHECKING:
    from collections.abc import Callable

_texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
_segments = st.builds(Entry, type=st.just(SEGMENT), payload=st.binary(max_size=3000))
_files = st.builds(
    Entry,
    type=st.just(FILE),
    name=_texts,
    size=st.integers(0, 2**63 - 1),
    payload=st.none() | st.binary(min_size=8, max_size=8),
)
_strange = st.builds(Entry, type=st.just(FILE), name_raw=st.binary(min_size=1), size=st.integers(0, 2**63 - 1))


def unpack(data: bytes) -> list[Entry]:
    return list(tar_split.read(io.BytesIO(data)))


def packed(entries: list[Entry]) -> bytes:
    file = io.BytesIO()
    tar_split.write(file, entries)
    return file.getvalue()


def lines(*documents: dict[str, Any]) -> bytes:
    return gzip.compress(b"".join(json.dumps(document).encode() + b"\n" for document in documents))


@given(st.lists(_segments | _files | _strange))
def test_what_is_written_is_read(entries: list[Entry]) -> None:
    for position, entry in enumerate(entries):
        entry.position = position
    assert unpack(packed(entries)) == entries


def test_as_docker_writes_it() -> None:
    header = b"\0" * 512
    data = (
        b'{"type":2,"payload":"' + base64.b64encode(header) + b'","position":0}\n'
        b'{"type":1,"name":"bin/sh","size":3,"payload":"AAAAAAAAAAE=","position":1}\n'
        b'{"type":1,"name_raw":"/w==","payload":null,"position":2}\n'
        b'{"type":2,"payload":"","position":3}\n'
    )
    entries = unpack(gzip.compress(data))
    assert [(entry.type, entry.path, entry.size, entry.payload) for entry in entries] == [
        (SEGMENT, b"", 0, header),
        (FILE, b"bin/sh", 3, b"\0\0\0\0\0\0\0\1"),
        (FILE, b"\xff", 0, None),
        (SEGMENT, b"", 0, b""),
    ]


def test_last_line_may_lack_its_end() -> None:
    assert len(unpack(gzip.compress(b'{"type":2,"payload":""}\n{"type":2,"payload":""}'))) == 2


def test_empty() -> None:
    assert unpack(gzip.compress(b"")) == []
    assert unpack(gzip.compress(b"\n\n")) == []


@pytest.mark.parametrize("size", [(1 << 20) - 1, 1 << 20, (256 << 10) // 4 * 3 - 30, 5 << 20])
def test_long_segments(size: int) -> None:
    entries = [Entry(SEGMENT, position=number, payload=bytes([number]) * size) for number in range(3)]
    assert unpack(packed(entries)) == entries


@given(st.lists(_segments | _files, min_size=1), st.data())
def test_truncated(entries: list[Entry], data: st.DataObject) -> None:
    whole = packed(entries)
    with pytest.raises(ValueError, match=r"\S"):
        unpack(whole[: data.draw(st.integers(1, len(whole) - 1))])


@given(st.binary())
def test_arbitrary_bytes(data: bytes) -> None:
    _only_value_error(data)


@given(st.binary())
def test_arbitrary_bytes_packed(data: bytes) -> None:
    _only_value_error(gzip.compress(data))


@given(st.lists(_segments | _files, max_size=3), st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte(entries: list[Entry], position: int, byte: int) -> None:
    data = bytearray(packed(entries))
    data[position % len(data)] = byte
    _only_value_error(bytes(data))


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.dictionaries(st.sampled_from(["type", "position", "name", "name_raw", "size", "payload", "other"]), _json))
def test_arbitrary_json(document: dict[str, Any]) -> None:
    _only_value_error(lines(document))


def _only_value_error(data: bytes) -> None:
    try:
        for entry in tar_split.read(io.BytesIO(data)):
            assert isinstance(entry.path, bytes)
    except ValueError:
        pass


@pytest.mark.parametrize(
    "document",
    [
        {"type": 0},
        {"type": 3},
        {"type": 1, "size": -1},
        {"type": 1, "size": 1.5},
        {"type": 1, "name": 1},
        {"type": 2, "payload": "not base64!"},
        {"size": 1},
    ],
)
def test_entries_that_cannot_be(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"entry 0|not tar-split data"):
        unpack(lines(document))


@pytest.mark.parametrize(
    "text",
    [
        b'{"type":1,"name":"\\ud800"}',
        b'{"type":1,"name":"\xff"}',
        b'{"type":1,"x":' + b"[" * 100_000,
        b'{"type":1,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"[" * 100_000,
        b"null",
        b"\0",
        b'{"type":1,"size":1e400}',
        b'{"type":1,"size":' + b"9" * 5000 + b"}",
    ],
    ids=range(9),
)
def test_nasty_json(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        [entry.path for entry in tar_split.read(io.BytesIO(gzip.compress(text)))]


def test_bytes_after_the_end_are_refused_or_zero() -> None:
    good = packed([Entry(SEGMENT, payload=b"x")])
    assert len(unpack(good + bytes(100))) == 1
    with pytest.raises(ValueError, match="gzip"):
        unpack(good + b"garbage")


@pytest.mark.parametrize("filler", [b" ", b"x"])
def test_bomb_takes_little_memory(filler: bytes) -> None:
    """200 MiB in one line, in 200 KB."""
    packer = io.BytesIO()
    with gzip.open(packer, "wb", compresslevel=6) as file:
        for _ in range(200):
            file.write(filler * (1 << 20))
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"longer than {MAX_ENTRY} bytes"):
        unpack(packer.getvalue())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * MAX_ENTRY


def test_reading_is_lazy() -> None:
    entries = tar_split.read(io.BytesIO(packed([Entry(SEGMENT, payload=bytes(1000)) for _ in range(10_000)])[:-100]))
    assert next(entries).payload == bytes(1000)
    with pytest.raises(ValueError, match="gzip"):
        list(entries)


def test_content_sum() -> None:
    """The check value of CRC-64/GO-ISO, whatever the pieces."""
    total = ContentSum()
    for piece in (b"1234", b"", b"56789"):
        total.update(piece)
    assert total.digest() == bytes.fromhex("b90956c775a41001")
    assert ContentSum().digest() == bytes(8)


def test_every_file_of_a_real_store(docker_fixture: Callable[[str], Path]) -> None:
    """Positions count up, contents have the checksums, what is written again is read the same."""
    for path in (docker_fixture("overlay2") / "image" / "overlay2" / "layerdb" / "sha256").glob("*/tar-split.json.gz"):
        entries = unpack(path.read_bytes())
        assert [entry.position for entry in entries] == list(range(len(entries)))
        assert unpack(packed(entries)) == entries
        layer = docker_fixture("overlay2") / "overlay2" / (path.parent / "cache-id").read_text() / "diff"
        for entry in entries:
            if entry.type == FILE and entry.size:
                data = Path(os.fsdecode(os.fsencode(layer) + b"/" + entry.path)).read_bytes()
                content = ContentSum()
                content.update(data)
                assert (content.digest(), len(data)) == (entry.payload, entry.size)


def test_names_are_written_as_go_writes_them() -> None:
    name = "a<b>&\u2028\u2029\b\f\n\x01é\\"
    written = rb"a\u003cb\u003e\u0026\u2028\u2029\u0008\u000c\n\u0001" + "é".encode() + rb"\\"
    file = io.BytesIO()
    tar_split.write(file, [Entry(FILE, name=name, payload=None)])
    assert gzip.decompress(file.getvalue()) == b'{"type":1,"name":"' + written + b'","payload":null,"position":0}\n'
    assert [entry.name for entry in tar_split.read(io.BytesIO(file.getvalue()))] == [name]
