"""Headers as Go wrote them in 2015: to the byte where readers would not care, and readable by others."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transship.formats import tar_2015
from transship.formats.tar_2015 import BLOCK, HeaderWriter, Member

MAGIC = slice(257, 265)
USTAR = b"ustar\x0000"
GNU = b"ustar  \0"


def write(member: Member) -> bytes:
    return HeaderWriter().write(member)


def read(*members: Member) -> list[tarfile.TarInfo]:
    """What Python makes of an archive of ``members``, none of which has content."""
    headers = HeaderWriter()
    data = b"".join(headers.write(member) for member in members) + tar_2015.END
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as archive:
        return archive.getmembers()


def field(data: bytes, offset: int, size: int) -> bytes:
    return data[offset : offset + size]


def test_every_byte_of_a_header() -> None:
    member = Member(b"etc/passwd", tar_2015.FILE, 0o100644, 1000, 100, 1234, 1_400_000_000_999_999_999)
    expected = (
        b"etc/passwd".ljust(100, b"\0")
        + b"0100644\0"
        + b"0001750\0"
        + b"0000144\0"
        + b"00000002322\0"
        + b"12334447000\0"
        + b"011266\0 "
        + b"0"
        + bytes(100)
        + b"ustar\x0000"
        + bytes(64)
        + b"0000000\0" * 2
        + bytes(167)
    )
    assert write(member) == expected


def test_what_has_no_type_has_nothing_but_a_name() -> None:
    header = write(Member(b"etc/.wh.hosts", tar_2015.NO_TYPE))
    assert field(header, 100, 48) == b"0000000\0" * 3 + b"00000000000\0" * 2
    assert field(header, 156, 1) == b"\0"


def test_devices_have_numbers() -> None:
    header = write(Member(b"tty", tar_2015.CHARACTER_DEVICE, 0o020620, major=0xFFF, minor=0xFFFFF))
    assert field(header, 329, 16) == b"0007777\0" + b"3777777\0"


@pytest.mark.parametrize("field_name", ["uid", "gid"])
def test_owners_without_room_are_binary_and_all_that_follows_is_gnu(field_name: str) -> None:
    headers = HeaderWriter()
    small, large = (1 << 21) - 1, 1 << 21
    offset = 108 if field_name == "uid" else 116
    written = [
        headers.write(Member(b"x", tar_2015.FILE)._replace(**{field_name: value}))  # type: ignore[arg-type]
        for value in (small, large, 0xFFFFFFFE, 0)
    ]
    assert [field(header, offset, 8) for header in written] == [
        b"7777777\0",
        b"\x80\0\0\0\0\x20\0\0",
        b"\x80\0\0\0\xff\xff\xff\xfe",
        b"0000000\0",
    ]
    assert [header[MAGIC] for header in written] == [USTAR, GNU, GNU, GNU]


def test_sizes_without_room_are_binary() -> None:
    assert field(write(Member(b"x", tar_2015.FILE, size=(8 << 30) - 1)), 124, 12) == b"77777777777\0"
    header = write(Member(b"x", tar_2015.FILE, size=8 << 30))
    assert field(header, 124, 12) == b"\x80\0\0\0\0\0\0\x02\0\0\0\0"
    assert header[MAGIC] == GNU


@pytest.mark.parametrize(
    ("mtime", "written"),
    [
        (0, b"00000000000"),
        (999_999_999, b"00000000000"),
        (1_000_000_000, b"00000000001"),
        (-1, b"00000000000"),
        (-5_000_000_000, b"00000000000"),
        (((1 << 33) - 1) * 10**9, b"77777777777"),
        (((1 << 33) - 1) * 10**9 + 1, b"00000000000"),
    ],
)
def test_times_are_whole_seconds_of_those_that_have_room(mtime: int, written: bytes) -> None:
    assert field(write(Member(b"x", tar_2015.FILE, mtime=mtime)), 136, 12) == written + b"\0"


def test_a_long_name_is_cut_at_a_slash() -> None:
    name = b"d" * 100 + b"/" + b"n" * 100
    header = write(Member(name, tar_2015.FILE))
    assert len(header) == BLOCK
    assert (field(header, 345, 155).rstrip(b"\0"), field(header, 0, 100)) == (b"d" * 100, b"n" * 100)


def test_a_name_with_just_enough_room_is_not_cut() -> None:
    name = b"d/" + b"n" * 98
    header = write(Member(name, tar_2015.FILE))
    assert (field(header, 0, 100), field(header, 345, 155)) == (name, bytes(155))


@pytest.mark.parametrize(
    "name",
    [
        b"n" * 101,
        b"d/" + b"n" * 101,
        b"/" + b"n" * 100,
        b"d" * 156 + b"/n",
        b"d" * 100 + b"/" + b"n" * 100 + b"/",
        b"d" * 150 + b"/" + "nämn".encode(),
    ],
    ids=["no-slash", "long-last", "slash-first", "long-prefix", "only-slash-last", "not-ascii"],
)
def test_a_name_that_cannot_be_cut_stands_in_a_pax_header_only(name: bytes) -> None:
    data = write(Member(name, tar_2015.FILE, mtime=7 * 10**9))
    size = len(name) + len(b"000 path=\n")
    extension, body, header = data[:BLOCK], data[BLOCK:-BLOCK], data[-BLOCK:]
    assert body == (b"%d path=%s\n" % (size, name)).ljust(BLOCK, b"\0")
    assert field(header, 0, 100) == bytes(100)
    assert field(header, 345, 155) == bytes(155)
    assert (
        field(extension, 100, 57) == b"0000000\0" * 3 + b"%011o\0" % size + b"00000000007\0" + field(extension, 148, 8) + b"x"
    )


def test_a_directory_is_cut_before_the_slash_at_its_end() -> None:
    header = write(Member(b"d" * 60 + b"/" + b"n" * 60 + b"/", tar_2015.DIRECTORY))
    assert field(header, 345, 155).rstrip(b"\0") == b"d" * 60
    assert field(header, 0, 100).rstrip(b"\0") == b"n" * 60 + b"/"


def test_a_short_name_that_is_not_ascii_stands_in_a_pax_header_only() -> None:
    data = write(Member(b"caf\xe9", tar_2015.FILE))
    assert data[BLOCK : 2 * BLOCK].rstrip(b"\0") == b"13 path=caf\xe9\n"
    assert field(data[-BLOCK:], 0, 100) == bytes(100)


def test_a_name_is_not_cut_when_the_link_is_too_long_as_well() -> None:
    name, link = b"d" * 100 + b"/n", b"l" * 101
    data = write(Member(name, tar_2015.SYMBOLIC_LINK, link=link))
    assert data[BLOCK : 2 * BLOCK].rstrip(b"\0") == b"115 linkpath=%s\n" % link + b"112 path=%s\n" % name
    assert field(data[-BLOCK:], 0, 100) + field(data[-BLOCK:], 157, 100) + field(data[-BLOCK:], 345, 155) == bytes(355)


def test_a_link_may_be_as_long_as_the_field() -> None:
    assert field(write(Member(b"x", tar_2015.SYMBOLIC_LINK, link=b"l" * 100)), 157, 100) == b"l" * 100


def test_a_name_is_cut_beside_extended_attributes() -> None:
    name = b"d" * 100 + b"/n"
    data = write(Member(name, tar_2015.FILE, xattrs=(("security.capability", b"\x01\0\xff\n=x"),)))
    assert data[BLOCK : 2 * BLOCK].rstrip(b"\0") == b"43 SCHILY.xattr.security.capability=\x01\0\xff\n=x\n"
    assert field(data[-BLOCK:], 345, 155).rstrip(b"\0") == b"d" * 100


def test_records_are_sorted() -> None:
    member = Member(b"\xff", tar_2015.HARD_LINK, link=b"\xfe", xattrs=(("security.capability", b"x"),))
    assert write(member)[BLOCK : 2 * BLOCK].rstrip(b"\0") == (
        b"38 SCHILY.xattr.security.capability=x\n" + b"14 linkpath=\xfe\n" + b"9 path=\xff\n"
    )


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"\xc3\xa9", b"PaxHeaders.0/"),
        (b"dir/n\xc3\xa9e", b"dir/PaxHeaders.0/ne"),
        (b"d\xc3\xa9r/n", b"dr/PaxHeaders.0/n"),
        (b"a/\xff/", b"a//PaxHeaders.0"),
        (b"n" * 200, b"PaxHeaders.0/" + b"n" * 87),
    ],
)
def test_how_pax_headers_are_called(name: bytes, shown: bytes) -> None:
    assert field(write(Member(name, tar_2015.FILE)), 0, 100).rstrip(b"\0") == shown


def test_the_pax_header_of_a_binary_header_is_gnu_as_well() -> None:
    data = write(Member(b"\xff", tar_2015.FILE, uid=1 << 21))
    assert (data[MAGIC], data[-BLOCK:][MAGIC]) == (GNU, GNU)


def test_padding() -> None:
    assert [len(tar_2015.padding(size)) for size in (0, 1, 511, 512, 513)] == [0, 511, 1, 0, 511]


_parts = st.binary(min_size=1, max_size=120).filter(lambda name: not {0, 0x2F} & set(name) and name not in {b".", b".."})
_names = st.lists(_parts, min_size=1, max_size=5).map(b"/".join)
_members = st.builds(
    Member,
    name=_names,
    type=st.sampled_from([tar_2015.FILE, tar_2015.SYMBOLIC_LINK, tar_2015.DIRECTORY, tar_2015.FIFO]),
    mode=st.integers(0, 0o177777),
    uid=st.integers(0, 2**32 - 1),
    gid=st.integers(0, 2**32 - 1),
    mtime=st.integers(0, 2**33 * 10**9 - 10**9),
    link=st.just(b"") | _names,
    size=st.just(0),
    major=st.just(0),
    minor=st.just(0),
    xattrs=st.just(()),
)


@given(st.lists(_members, max_size=4))
def test_others_read_what_is_written(members: list[Member]) -> None:
    found = read(*members)
    assert [
        (each.name.encode("utf-8", "surrogateescape"), each.type, each.mode, each.uid, each.gid, each.mtime) for each in found
    ] == [(each.name, each.type, each.mode, each.uid, each.gid, each.mtime // 10**9) for each in members]
    assert [each.linkname.encode("utf-8", "surrogateescape") for each in found] == [each.link for each in members]


@given(st.integers(1, 1200))
def test_the_length_of_a_record_counts_itself(size: int) -> None:
    [member] = read(Member(b"n" * 100 + b"m" * size, tar_2015.FILE))
    assert member.name == "n" * 100 + "m" * size
