"""The headers of tar archives, as far as they say what a member is called and how much follows it.

Sources: POSIX.1-2017 ``pax`` (ustar and pax formats), GNU tar ``src/tar.h`` (long names, sparse files, base-256 numbers). Where
these leave a choice, Go's ``archive/tar/reader.go`` decides: it unpacked what Docker has.
"""

from __future__ import annotations

from typing import NamedTuple

BLOCK = 512
"""Bytes of a header; contents are padded to a multiple of it."""

PAX, PAX_GLOBAL, LONG_NAME, LONG_LINK = b"x", b"g", b"L", b"K"
EXTENSIONS = frozenset({PAX, PAX_GLOBAL, LONG_NAME, LONG_LINK})
"""Types of members that are no files: their contents tell about members that follow."""

_GNU_SPARSE = b"S"
_OLD_FILE = b"\0"
_FILES = frozenset({_OLD_FILE, b"0", b"7"})
_WITHOUT_CONTENT = frozenset({b"1", b"2", b"3", b"4", b"5", b"6"})
"""Links, devices, directories and pipes. Some writers give them a size all the same; nothing of that follows."""

_MAX_SIZE = (1 << 63) - 1
_PAX_SPARSE = b"GNU.sparse."


class Header(NamedTuple):
    """One member. ``size`` is as stated, in bytes; ``map_goes_on`` tells of blocks before the content, see ``goes_on``."""

    type: bytes
    name: bytes
    size: int
    is_sparse: bool = False
    map_goes_on: bool = False

    @property
    def stored(self) -> int:
        """Bytes of content in the archive, without padding."""
        is_old_directory = self.type == _OLD_FILE and self.name.endswith(b"/")
        return 0 if self.type in _WITHOUT_CONTENT or is_old_directory else self.size

    @property
    def is_stored_whole(self) -> bool:
        """Tell whether what is in the archive is the file as it is unpacked: not so of sparse files and unknown types."""
        return self.type in _FILES and not self.is_sparse


def parse(block: bytes) -> Header:
    """Read a header of any format. Raises ValueError if ``block`` is none, or has a size that cannot be."""
    if not is_header(block):
        raise ValueError("no tar header")
    name = _until_nul(block[:100])
    if prefix := _prefix(block):
        name = prefix + b"/" + name
    kind = block[156:157]
    is_sparse = kind == _GNU_SPARSE
    return Header(kind, name, _number(block[124:136]), is_sparse, is_sparse and block[482] != 0)


def is_header(block: bytes) -> bool:
    """Tell whether a block is whole and has the checksum that makes it a header."""
    if len(block) < BLOCK:
        return False
    try:
        stated = _number(block[148:156])
    except ValueError:
        return False
    counted = (block[:148] + b" " * 8 + block[156:]).translate(None, b"\0")
    return stated == sum(counted) or stated == sum(memoryview(counted).cast("b"))  # some old writers added signed bytes


def goes_on(block: bytes) -> bool:
    """Tell whether another block follows this one of a sparse file's map."""
    return block[504] != 0


def _number(field: bytes) -> int:
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") - (0x80 << 8 * (len(field) - 1))
        if value > _MAX_SIZE:  # or below 0, with the highest bits set
            raise ValueError(f"a number below 0 or above {_MAX_SIZE}")
        return value
    digits = _until_nul(field.strip(b" \0"))
    if digits.strip(b"01234567"):
        raise ValueError(f"{digits!r} is not an octal number")
    return int(digits or b"0", 8)


def _prefix(block: bytes) -> bytes:
    """Return what stands before the name's last part in another field of the header."""
    if block[257:263] == b"ustar\0":
        return _until_nul(block[345:476] if block[508:] == b"tar\0" else block[345:500])
    if block[257:265] == b"ustar  \0" and block[345]:
        # GNU keeps times there. Go before 1.8, and so Docker, wrote a prefix all the same when a number was in base 256.
        try:
            _number(block[345:357])
            _number(block[357:369])
        except ValueError:
            return _until_nul(block[345:500])
    return b""


def _until_nul(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


class Extensions:
    """What the members before a file say of it."""

    def __init__(self) -> None:
        self._records: dict[bytes, bytes] = {}
        self._long_name = b""
        self.announce = False
        """Whether a file has to follow."""

    def add(self, kind: bytes, content: bytes) -> None:
        """Take the content of a member of one of ``EXTENSIONS``. Raises ValueError if its records are malformed."""
        if kind == PAX:
            self._records = _records(content)
        elif kind == LONG_NAME:
            self._long_name = _until_nul(content)
        self.announce = self.announce or kind != PAX_GLOBAL  # global names and sizes have no effect, as with Go

    def applied(self, header: Header) -> Header:
        """Return ``header`` with all that is known of the file. Raises ValueError if its size cannot be."""
        records = self._records
        if not records and not self._long_name:
            return header
        is_sparse = header.is_sparse or any(key.startswith(_PAX_SPARSE) for key in records)
        name = records.get(_PAX_SPARSE + b"name") or self._long_name or records.get(b"path") or header.name
        size = _decimal(records[b"size"]) if records.get(b"size") else header.size
        return header._replace(name=name, size=size, is_sparse=is_sparse)


def _records(content: bytes) -> dict[bytes, bytes]:
    """Return the records of a pax header that concern name or size: ``LENGTH KEY=VALUE`` and a newline each."""
    found = {}
    start = 0
    while start < len(content):
        length, _, _ = content[start : start + 20].partition(b" ")
        end = start + _decimal(length)
        key, equals, value = content[start + len(length) + 1 : end].partition(b"=")
        if end > len(content) or not key or not equals or not value.endswith(b"\n"):
            raise ValueError(f"a malformed pax record: {content[start : start + 40]!r}")
        if key in {b"path", b"size"} or key.startswith(_PAX_SPARSE):
            found[key] = value[:-1]
        start = end
    for key in (b"path", _PAX_SPARSE + b"name"):
        if b"\0" in found.get(key, b""):
            raise ValueError("a name with a NUL in it")
    return found


def _decimal(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > len(str(_MAX_SIZE)) or int(digits) > _MAX_SIZE:
        raise ValueError(f"{digits[:40]!r} is not a number of bytes")
    return int(digits)
