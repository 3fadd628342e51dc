"""Layers' archives as Docker's differ wrote them: what is in them, and each header to the byte where readers do not care."""

from __future__ import annotations

import io
import os
import socket
import stat
import tarfile
import tracemalloc
from contextlib import chdir
from typing import TYPE_CHECKING

import pytest

from tests.stores.docker.builder import open_files
from transship.errors import LayerMismatch
from transship.formats.tar_2015 import HeaderWriter, Member
from transship.formats.tar_archive import Disassembler
from transship.stores.graph import changes, export, stream

if TYPE_CHECKING:
    from pathlib import Path

    from transship.formats.tar_split import Entry

CAPABILITY = b"\x01\0\0\x02\0\x20" + bytes(14)
TIME = 1_400_000_000
MIB = 1 << 20


def archive(directory: Path, parent: Path | None = None, driver: str = "vfs") -> bytes:
    files = stream.LayerFiles(driver, directory, parent, None)
    return b"".join(bytes(chunk) for chunk in stream.traditional(files))


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as found:
        return {member.name: member for member in found}


def dated(path: Path) -> Path:
    os.utime(path, (TIME, TIME), follow_symlinks=False)
    return path


def test_every_byte_of_an_archive(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for place in (old, new):
        (place / "etc").mkdir(parents=True)
        (place / "etc").chmod(0o755)
    (old / "etc/gone").touch()
    (new / "etc/f").write_bytes(b"content")
    (new / "etc/f").chmod(0o4755)
    (new / "etc/l").symlink_to("f")
    (new / "etc/m").hardlink_to(new / "etc/f")
    os.mkfifo(new / "etc/p", 0o600)
    for path in (*new.glob("etc/*"), new / "etc"):
        dated(path)
    uid, gid = os.geteuid(), (new / "etc").stat().st_gid
    headers = HeaderWriter()

    def header(name: bytes, kind: bytes, mode: int, size: int = 0, link: bytes = b"") -> bytes:
        return headers.write(Member(name, kind, mode, uid, gid, size, TIME * 10**9, link))

    assert archive(new, old) == b"".join([
        header(b"etc/", b"5", 0o040755),
        header(b"etc/f", b"0", 0o104755, size=7),
        b"content".ljust(512, b"\0"),
        headers.write(Member(b"etc/.wh.gone", b"\0")),
        header(b"etc/l", b"2", 0o120777, link=b"f"),
        header(b"etc/m", b"1", 0o104755, link=b"etc/f"),
        header(b"etc/p", b"6", 0o010600),
        bytes(1024),
    ])  # fmt: skip


def test_nothing_is_two_blocks_of_zeros(tmp_path: Path) -> None:
    assert archive(tmp_path) == bytes(1024)
    assert archive(tmp_path, tmp_path) == bytes(1024)


def test_a_deletion_is_of_no_day(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    (tmp_path / "old/x").touch()
    [mark] = members(archive(tmp_path / "new", tmp_path / "old")).values()
    assert (mark.name, mark.mtime, mark.mode, mark.size) == (".wh.x", 0, 0, 0)


def test_whiteouts_of_aufs_are_links_of_the_first(tmp_path: Path) -> None:
    (tmp_path / ".wh..wh.aufs").touch(0o444)
    (tmp_path / "d").mkdir()
    for name in ("d/.wh.a", "d/.wh.b", ".wh.c"):
        (tmp_path / name).hardlink_to(tmp_path / ".wh..wh.aufs")
    found = members(archive(tmp_path, parent=tmp_path / "not-there", driver="aufs"))
    assert [(each.name, each.type, each.linkname) for each in found.values()] == [
        (".wh.c", tarfile.REGTYPE, ""),
        ("d", tarfile.DIRTYPE, ""),
        ("d/.wh.a", tarfile.LNKTYPE, ".wh.c"),
        ("d/.wh.b", tarfile.LNKTYPE, ".wh.c"),
    ]
    assert found[".wh.c"].mode == 0o100444


def test_hard_links_of_others_than_files(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("target")
    os.link(tmp_path / "a", tmp_path / "b", follow_symlinks=False)
    os.mkfifo(tmp_path / "c")
    (tmp_path / "d").hardlink_to(tmp_path / "c")
    found = members(archive(tmp_path))
    assert [(each.type, each.linkname) for each in found.values()] == [
        (tarfile.SYMTYPE, "target"),
        (tarfile.LNKTYPE, "a"),
        (tarfile.FIFOTYPE, ""),
        (tarfile.LNKTYPE, "c"),
    ]


def test_a_link_to_what_is_not_in_the_archive_is_a_file(tmp_path: Path) -> None:
    """As everything in a layer of overlay is."""
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    (tmp_path / "old/a").write_bytes(b"content")
    for name in ("a", "b", "c"):
        (tmp_path / "new" / name).hardlink_to(tmp_path / "old/a")
    found = members(archive(tmp_path / "new", tmp_path / "old"))
    assert [(each.name, each.type, each.size) for each in found.values()] == [
        ("b", tarfile.REGTYPE, 7),
        ("c", tarfile.LNKTYPE, 0),
    ]


def test_a_socket_has_no_type(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made, chdir(tmp_path):
        made.bind("s")
    data = archive(tmp_path)
    assert (data[156], data[:2]) == (0, b"s\0")
    assert data[100:108] == b"%07o\0" % (tmp_path / "s").lstat().st_mode
    assert len(data) == 3 * 512


@pytest.mark.usefixtures("as_root")
def test_devices_owners_and_capabilities(tmp_path: Path) -> None:
    os.mknod(tmp_path / "block", stat.S_IFBLK | 0o640, os.makedev(8, 300))
    os.mknod(tmp_path / "char", stat.S_IFCHR | 0o620, os.makedev(4, 1))
    (tmp_path / "file").touch()
    os.chown(tmp_path / "file", 1 << 22, 7)
    os.setxattr(tmp_path / "file", "security.capability", CAPABILITY)
    os.setxattr(tmp_path / "file", "user.lost", b"1")
    data = archive(tmp_path)
    found = members(data)
    assert [(each.devmajor, each.devminor) for each in found.values()][:2] == [(8, 300), (4, 1)]
    assert (found["file"].uid, found["file"].gid) == (1 << 22, 7)
    assert b"SCHILY.xattr.security.capability=" + CAPABILITY in data
    assert b"user.lost" not in data


def test_names_of_all_kinds(tmp_path: Path) -> None:
    long = "d" * 90 + "/" + "e" * 90
    (tmp_path / long).mkdir(parents=True)
    names = [f"{long}/{'f' * 50}", "ä", os.fsdecode(b"\xff"), "n" * 200, "new\nline"]
    for name in names:
        (tmp_path / name).touch()
    assert set(members(archive(tmp_path))) == {*names, "d" * 90, long}


def test_the_entries_are_those_of_the_archive_taken_apart(tmp_path: Path) -> None:
    for name in ("a", "d/empty", "d/large", "ä", "n" * 200, os.fsdecode(b"\xff")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"" if name == "d/empty" else name.encode("utf-8", "surrogateescape") * 200)
    taken_apart: list[Entry] = []
    disassembler = Disassembler(taken_apart.append)
    disassembler.feed(archive(tmp_path))
    disassembler.close()
    made = list(export.entries(tmp_path, changes.everything(tmp_path)))
    for entry in taken_apart:
        entry.payload = None if entry.size else entry.payload  # the CRC is not known before the content is read
    assert made == taken_apart


@pytest.mark.parametrize("happening", ["vanishes", "shrinks"])
def test_what_changes_meanwhile_is_named(tmp_path: Path, happening: str) -> None:
    (tmp_path / "a").write_bytes(os.urandom(40 * MIB))
    for number in range(300):  # more than is looked at ahead
        (tmp_path / f"b{number}").write_bytes(b"x")
    (tmp_path / "z").touch()
    before = open_files()
    chunks = stream.traditional(stream.LayerFiles("vfs", tmp_path, None, None))
    next(chunks)
    if happening == "vanishes":
        (tmp_path / "z").unlink()
        problem = "cannot read .*/z: No such file"
    else:
        os.truncate(tmp_path / "a", 5 * MIB)
        problem = "/a shrank"
    with pytest.raises(LayerMismatch, match=problem):
        list(chunks)
    del chunks
    assert open_files() == before


def test_what_vanished_since_it_was_found_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "new").mkdir()
    (tmp_path / "new/a").touch()
    found = changes.between(tmp_path / "empty", tmp_path / "new")
    (tmp_path / "new/a").unlink()
    with pytest.raises(LayerMismatch, match=f"{tmp_path}/new/a: No such file"):
        list(export.entries(tmp_path / "new", found))


def test_large_archives_take_little_memory(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        file.truncate(64 * MIB)
    tracemalloc.start()
    for _ in stream.traditional(stream.LayerFiles("vfs", tmp_path, None, None)):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * MIB
