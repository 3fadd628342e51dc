"""Headers of tar archives as Go's ``archive/tar`` wrote them in 2015, byte for byte.

Source: golang ``archive/tar/writer.go`` (Go 1.4 and 1.5), of which vbatts/tar-split 0.9 has a copy. Docker up to 1.10 hands it
the whole ``st_mode``, and neither user nor group names. One difference: pax headers were named after the daemon's process
ID, and their records stood in random order; here the number is 0, and the records are sorted.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

BLOCK = 512
END = bytes(2 * BLOCK)
"""What an archive ends with."""

FILE = b"0"
HARD_LINK = b"1"
SYMBOLIC_LINK = b"2"
CHARACTER_DEVICE = b"3"
BLOCK_DEVICE = b"4"
DIRECTORY = b"5"
FIFO = b"6"
NO_TYPE = b"\0"
"""What Docker left unset: sockets and whiteouts."""
_PAX = b"x"

_USTAR = b"ustar\x0000"
_GNU = b"ustar  \0"

_NAME_SIZE = 100
_PREFIX_SIZE = 155
_MAX_TIME = ((1 << 33) - 1) * 1_000_000_000

# name, mode, uid, gid, size, mtime, checksum, type, link name, magic, user and group name, major, minor, prefix
_LAYOUT = struct.Struct(f"{_NAME_SIZE}s8s8s8s12s12s8ss{_NAME_SIZE}s8s64x8s8s{_PREFIX_SIZE}s12x")
_CHECKSUM = slice(148, 156)


class Member(NamedTuple):
    """What a header says. ``size`` in bytes, ``mtime`` in nanoseconds since 1970; ``xattrs`` by name."""

    name: bytes
    type: bytes
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    link: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()


class HeaderWriter:
    """Writes the headers of one archive. They depend on those before: see ``_number``."""

    def __init__(self) -> None:
        self._magic = _USTAR

    def write(self, member: Member) -> bytes:
        """Return the header of ``member``, with a pax header before it if there is something that it has no room for."""
        records: dict[str, bytes] = {}
        name, prefix, link = member.name, b"", member.link
        if not link.isascii() or len(link) > _NAME_SIZE:
            records["linkpath"] = link
            link = b""
        if not name.isascii() or len(name) > _NAME_SIZE:
            # Only a name that is the one trouble is cut in two.
            prefix, name = (b"", b"") if records else _cut(name)
            if not name:
                records["path"] = member.name
        block = self._block(member, name, prefix, link)
        records |= {f"SCHILY.xattr.{key}": value for key, value in member.xattrs}
        return self._pax(member, records) + block if records else block

    def _pax(self, member: Member, records: dict[str, bytes]) -> bytes:
        body = b"".join(_record(f"{key}=".encode() + value) for key, value in sorted(records.items()))
        above, _, base = member.name.rpartition(b"/")
        path = b"/".join(part for part in (above, b"PaxHeaders.0", base) if part)
        name = path.decode("ascii", "ignore").encode()[:_NAME_SIZE]
        header = Member(name, _PAX, size=len(body), mtime=member.mtime)
        return self._block(header, name, b"", b"") + body + padding(len(body))

    def _block(self, member: Member, name: bytes, prefix: bytes, link: bytes) -> bytes:
        numbers = (
            b"%07o\0" % member.mode,
            self._number(member.uid, 8),
            self._number(member.gid, 8),
            self._number(member.size, 12),
            b"%011o\0" % (member.mtime // 1_000_000_000 if 0 <= member.mtime <= _MAX_TIME else 0),
        )
        device = (b"%07o\0" % member.major, b"%07o\0" % member.minor)
        block = _LAYOUT.pack(name, *numbers, b" " * 8, member.type, link, self._magic, *device, prefix)
        return block[: _CHECKSUM.start] + b"%06o\0 " % sum(block) + block[_CHECKSUM.stop :]

    def _number(self, value: int, width: int) -> bytes:
        """Return ``value`` in octal digits, or, if these have no room, in base 256: from then on the magic is GNU's."""
        if value < 1 << 3 * (width - 1):
            return b"%0*o\0" % (width - 1, value)
        self._magic = _GNU
        return (value | 0x80 << 8 * (width - 1)).to_bytes(width, "big")


def padding(size: int) -> bytes:
    """Return what follows ``size`` bytes of content to the end of a block."""
    return bytes(-size % BLOCK)


def _cut(name: bytes) -> tuple[bytes, bytes]:
    """Return ``name`` cut at a slash, for the fields of prefix and name; both empty if it cannot be."""
    end = _PREFIX_SIZE + 1 if len(name) > _PREFIX_SIZE + 1 else len(name.removesuffix(b"/"))
    cut = name.rfind(b"/", 0, end)
    prefix, rest = name[: max(cut, 0)], name[cut + 1 :]
    return (prefix, rest) if prefix and rest and len(rest) <= _NAME_SIZE and name.isascii() else (b"", b"")


def _record(text: bytes) -> bytes:
    """Return a pax record: its own length in decimal digits, a space, ``text``, a newline."""
    size = len(text) + 2
    size += len(str(size))
    record = b"%d %s\n" % (size, text)
    return record if len(record) == size else b"%d %s\n" % (len(record), text)
