"""Numbers and times as Go programs write them into their databases.

Sources: Go ``encoding/binary/varint.go``, ``time/time.go`` (``MarshalBinary``, version 1). Raises ValueError for what they
would not have written.
"""

from __future__ import annotations

import struct

_TIME = struct.Struct(">bqih")
_TIME_VERSION = 1
_UTC = -1
"""The offset from UTC, in minutes, of a time that is in UTC."""
_YEAR_1 = 62_135_596_800
"""Seconds from the beginning of year 1 to that of 1970."""
_NANOSECONDS = 1_000_000_000
_LONGEST = 10
"""Bytes of the longest number."""


def uvarint(number: int) -> bytes:
    """Encode a number that is not negative."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def varint(number: int) -> bytes:
    """Encode a number that may be negative."""
    return uvarint(number << 1 if number >= 0 else ~(number << 1))


def read_uvarint(data: bytes) -> int:
    """Decode what ``uvarint`` made."""
    number = 0
    for place, byte in enumerate(data[:_LONGEST]):
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            if len(data) != place + 1:
                break
            return number
    raise ValueError(f"not a number of Go's: {data[:20]!r}")


def read_varint(data: bytes) -> int:
    """Decode what ``varint`` made."""
    number = read_uvarint(data)
    return number >> 1 if number & 1 == 0 else ~(number >> 1)


def time(nanoseconds: int) -> bytes:
    """Encode a time, in nanoseconds since 1970, as one in UTC."""
    seconds, rest = divmod(nanoseconds, _NANOSECONDS)
    return _TIME.pack(_TIME_VERSION, seconds + _YEAR_1, rest, _UTC)


def read_time(data: bytes) -> int:
    """Decode a time; return nanoseconds since 1970."""
    if len(data) != _TIME.size or data[0] != _TIME_VERSION:
        raise ValueError(f"not a time of Go's: {data[:20]!r}")
    _, seconds, rest, _ = _TIME.unpack(data)
    return int((seconds - _YEAR_1) * _NANOSECONDS + rest)
