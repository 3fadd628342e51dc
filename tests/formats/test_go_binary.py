"""Numbers and times of Go's, against what Go wrote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transship.formats import go_binary


@given(st.integers(0, (1 << 64) - 1))
def test_uvarint(number: int) -> None:
    assert go_binary.read_uvarint(go_binary.uvarint(number)) == number


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_varint(number: int) -> None:
    assert go_binary.read_varint(go_binary.varint(number)) == number


@given(st.integers(-(1 << 62), 1 << 63))
def test_time(nanoseconds: int) -> None:
    assert go_binary.read_time(go_binary.time(nanoseconds)) == nanoseconds


def test_as_go_wrote_them() -> None:
    assert go_binary.varint(3) == b"\x06"
    assert go_binary.varint(-1) == b"\x01"
    assert go_binary.varint(10240) == bytes.fromhex("80a001")
    assert go_binary.uvarint(300) == bytes.fromhex("ac02")
    moment = bytes.fromhex("010000000ee293b287" + "1d335c5b" + "ffff")
    assert go_binary.time(go_binary.read_time(moment)) == moment


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x01\x01", b"\xff" * 11])
def test_what_is_no_number(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a number of Go's"):
        go_binary.read_uvarint(data)


@pytest.mark.parametrize("data", [b"", bytes(15), b"\x01" * 14])
def test_what_is_no_time(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a time of Go's"):
        go_binary.read_time(data)
