"""The members of a layer's archive, as what they make in a tree.

Source: Go 1.5 ``archive/tar/reader.go``, by which Docker 1.9 read archives.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass, field, replace
from typing import IO, TYPE_CHECKING

from transship.formats import tar_header, tar_sparse
from transship.formats.tar_archive import Disassembler
from transship.formats.tar_header import BLOCK, EXTENSIONS, Extensions, Header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from transship.formats.tar_sparse import Places
    from transship.formats.tar_split import Entry

HARD_LINK = 0
"""In the place of a file's type."""

_KINDS = {
    **dict.fromkeys((b"\0", b"0", b"7", b"S"), stat.S_IFREG),
    b"1": HARD_LINK,
    b"2": stat.S_IFLNK,
    b"3": stat.S_IFCHR,
    b"4": stat.S_IFBLK,
    b"5": stat.S_IFDIR,
    b"6": stat.S_IFIFO,
}
_DEVICES = frozenset({stat.S_IFCHR, stat.S_IFBLK})
_XATTR = b"SCHILY.xattr."
_OF_OVERLAYFS = "trusted.overlay."
_SECONDS = re.compile(rb"(-?)([0-9]{1,18})(?:\.([0-9]*))?")
_BILLION = 1_000_000_000
_LAST_SECOND = (1 << 33) - 1
_LAST_OWNER = (1 << 32) - 2
_READ_SIZE = 1 << 20

Records = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Member:
    """A member. ``kind`` is a file's type as in a mode, or ``HARD_LINK``; ``target`` that of a link; ``mtime`` in nanoseconds.

    Of a regular file of ``size`` bytes the archive has those at ``places``, which ``read`` yields one after the other, in
    pieces, before the next member is asked for.
    """

    name: bytes
    kind: int
    mode: int
    owner: tuple[int, int]
    mtime: int
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    size: int = 0
    places: Places = ()
    read: Callable[[int], Iterator[bytes]] = lambda _: iter(())


def read_members(archive: IO[bytes], emit: Callable[[Entry], None]) -> Iterator[Member]:
    """Yield the members of an uncompressed archive, while its tar-split entries go to ``emit``.

    Raises ValueError if it is damaged or has what cannot be unpacked, OSError if reading fails.
    """
    stream = _Stream(archive, emit)
    while (found := _read_header(stream)) is not None:
        header, records, block = found
        stream.left = header.stored
        try:
            yield _member(header, records, block, stream)
        except ValueError as error:
            raise ValueError(f"{header.name[:300]!r}: {error}") from error
        stream.skip(stream.left + -header.stored % BLOCK)
    stream.skip_rest()


class _Stream:
    """The archive, of whose bytes a ``Disassembler`` sees each before it is looked at here.

    So all that can be wrong with headers has been found then, and nothing is longer than it allows.
    """

    def __init__(self, archive: IO[bytes], emit: Callable[[Entry], None]) -> None:
        self._archive = archive
        self._disassembler = Disassembler(emit)
        self.left = 0
        """How many bytes of the content are still to come."""

    def read(self, size: int) -> bytes:
        """Return ``size`` bytes, fewer only at the end of the archive."""
        data = b""
        while missing := size - len(data):
            some = self._archive.read(missing)
            if not some:
                break
            self._disassembler.feed(some)
            data = data + some if data else some
        return data

    def block(self) -> bytes:
        """Return the next block of the content."""
        self.left -= BLOCK
        if self.left < 0:
            raise ValueError("a sparse file that ends before its map")
        return self.read(BLOCK)

    def content(self, size: int) -> Iterator[bytes]:
        """Yield the next ``size`` bytes of the content, in pieces."""
        self.left -= size
        while size and (data := self.read(min(size, _READ_SIZE))):
            size -= len(data)
            yield data
        if size:
            raise ValueError("the archive ends before its content does")

    def skip(self, size: int) -> None:
        while size and (data := self.read(min(size, _READ_SIZE))):
            size -= len(data)

    def skip_rest(self) -> None:
        """Read what follows the end of the archive."""
        while self.read(_READ_SIZE):
            pass
        self._disassembler.close()


def _read_header(stream: _Stream) -> tuple[Header, Records, bytes] | None:
    """Return the next member's header, its pax records and its block; None at the end of the archive."""
    extensions, records = Extensions(), Records()
    while len(block := stream.read(BLOCK)) == BLOCK and any(block):
        header = tar_header.parse(block)
        if header.type not in EXTENSIONS:
            return extensions.applied(header), records, block
        content = stream.read(header.size)
        stream.skip(-header.size % BLOCK)
        extensions.add(header.type, content)
        if header.type == tar_header.PAX:
            records += _records(content)
        elif header.type == tar_header.LONG_LINK:
            records.append((b"linkpath", content.partition(b"\0")[0]))
    return None


def _records(content: bytes) -> Records:
    """Return the records of a pax header, which ``Extensions`` has found to be well-formed."""
    found = Records()
    while content:
        length, _, _ = content.partition(b" ")
        key, _, value = content[len(length) + 1 : int(length)].partition(b"=")
        found.append((key, value[:-1]))
        content = content[int(length) :]
    return found


def _member(header: Header, records: Records, block: bytes, stream: _Stream) -> Member:
    known = dict(records)
    kind = _KINDS.get(header.type)
    if kind is None:
        raise ValueError(f"a member of the type {header.type!r}, of which Docker knew nothing")
    if header.type == b"\0" and header.name.endswith(b"/"):
        kind = stat.S_IFDIR
    member = Member(
        header.name,
        kind,
        mode=_number(block[100:108]) & 0o7777,
        owner=(_owner(known.get(b"uid"), block[108:116]), _owner(known.get(b"gid"), block[116:124])),
        mtime=_mtime(known.get(b"mtime"), block[136:148]),
        target=known.get(b"linkpath") or block[157:257].partition(b"\0")[0],
        device=(_number(block[329:337]), _number(block[337:345])) if kind in _DEVICES else (0, 0),
        xattrs=_xattrs(records),
    )
    if kind != stat.S_IFREG:
        return member
    if not header.is_sparse:
        return replace(member, size=header.size, places=((0, header.size),), read=stream.content)
    places, size = _sparse(header, records, block, stream)
    tar_sparse.ensure_fit(places, stream.left, size)
    return replace(member, size=size, places=places, read=stream.content)


def _sparse(header: Header, records: Records, block: bytes, stream: _Stream) -> tuple[Places, int]:
    """Return where in a sparse file anything is, and its size."""
    if header.type == b"S":
        return tar_sparse.old_map(block, _more_map(header, stream), _number), _number(block[483:495])
    known = dict(records)
    stated = known.get(b"GNU.sparse.realsize") or known.get(b"GNU.sparse.size") or b""
    if not stated.isdigit() or len(stated) > 18:
        raise ValueError(f"a sparse file of {stated[:40]!r} bytes")
    if known.get(b"GNU.sparse.major") == b"1":
        return tar_sparse.leading_map(stream.block), int(stated)
    return tar_sparse.pax_map(records), int(stated)


def _more_map(header: Header, stream: _Stream) -> Iterator[bytes]:
    goes_on = header.map_goes_on
    while goes_on:
        block = stream.read(BLOCK)
        goes_on = len(block) == BLOCK and tar_header.goes_on(block)
        yield block


def _number(field: bytes) -> int:
    """Read a number, which is octal, or in base 256 and then may be negative. Raises ValueError."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << 8 * len(field) - 1) - 1)
        return value - (1 << 8 * len(field) - 1) if field[0] & 0x40 else value
    digits = field.strip(b" \0").partition(b"\0")[0]
    if digits.strip(b"01234567"):
        raise ValueError(f"{digits!r} is not an octal number")
    return int(digits or b"0", 8)


def _owner(record: bytes | None, field: bytes) -> int:
    value = int(record) if record and record.isdigit() and len(record) < 20 else _number(field)
    if not 0 <= value <= _LAST_OWNER:
        raise ValueError(f"no user or group can have the number {value}")
    return value


def _mtime(record: bytes | None, field: bytes) -> int:
    """Return the time in nanoseconds. Docker took those before 1970, and after 2242, for the beginning of 1970."""
    found = _SECONDS.fullmatch(record) if record else None
    if found is None:
        seconds, fraction = _number(field), 0
    else:
        seconds, fraction = int(found[1] + found[2]), int((found[3] or b"")[:9].ljust(9, b"0"))
    return seconds * _BILLION + fraction if 0 <= seconds <= _LAST_SECOND else 0


def _xattrs(records: Records) -> dict[str, bytes]:
    found = {}
    for key, value in records:
        if key.startswith(_XATTR):
            name = key[len(_XATTR) :].decode("utf-8", "surrogateescape")
            if name.startswith(_OF_OVERLAYFS):
                raise ValueError(f"the attribute {name!r}, which would mean something to overlayfs")
            found[name] = value
    return found
