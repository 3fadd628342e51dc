"""Layers' tar streams put together again: exact when all is well, a typed error that names the file when it is not."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isal import igzip

from tests.stores.docker.builder import make_tar, open_files, split
from transship.errors import LayerMismatch, SourceCorrupt
from transship.formats import tar_split
from transship.stores.docker import tar_stream

MIB = 1 << 20


class OneLayer:
    """A layer on disk: the directory with its files, and its tar-split data."""

    def __init__(self, place: Path) -> None:
        self.directory = place / "diff"
        self.metadata = place / "tar-split.json.gz"
        self.directory.mkdir()

    def enter(self, *entries: tar_split.Entry) -> None:
        with self.metadata.open("wb") as file:
            tar_split.write(file, entries)

    def unpack(self, tar: bytes) -> None:
        """Split ``tar``, and put the files of it that have content where they belong."""
        self.enter(*split(tar))
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            for member in archive:
                if member.isreg():
                    content = archive.extractfile(member)
                    assert content is not None
                    self.put(member.name.strip("/"), content.read())

    def put(self, name: str, content: bytes) -> Path:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def read(self) -> bytes:
        return b"".join(bytes(chunk) for chunk in tar_stream.read(self.metadata, self.directory))


@pytest.fixture
def layer(tmp_path: Path) -> OneLayer:
    return OneLayer(tmp_path)


def member(name: str | bytes, content: bytes = b"content") -> tar_split.Entry:
    checksum = tar_split.ContentSum()
    checksum.update(content)
    payload = checksum.digest() if content else None
    if isinstance(name, bytes):
        return tar_split.Entry(tar_split.FILE, name_raw=name, size=len(content), payload=payload)
    return tar_split.Entry(tar_split.FILE, name=name, size=len(content), payload=payload)


def archive(*members: tarfile.TarInfo, format: int = tarfile.PAX_FORMAT) -> bytes:  # noqa: A002 - tarfile's own name
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for each in members:
            tar.addfile(each, io.BytesIO(bytes(each.size)))
    return buffer.getvalue()


def entry(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size, made.type = size, kind
    for key, value in fields.items():
        setattr(made, key, value)
    return made


@pytest.mark.parametrize(
    "tar",
    [
        make_tar({}),
        make_tar({"empty": b"", "also/": None, "also/empty": b"", "one": b"1"}),
        make_tar({"a": bytes(511), "b": bytes(512), "c": bytes(513)}),
        make_tar({"large": os.urandom(3 * MIB + 17), "small": b"x"}),
        make_tar({"exact": bytes(MIB - 512), "next": b"x"}),
        make_tar({os.fsdecode(b"caf\xe9"): b"latin-1", os.fsdecode(b"d\xff/\xfe"): b"deeper"}),
        make_tar({"a": b"1"}) + b"trailing bytes that are no archive",
        make_tar({"a": b"1"}) + bytes(2 * MIB),
        make_tar({"a": b"1"})[:2048],
        archive(entry("f", 7), entry("g", kind=tarfile.LNKTYPE, linkname="f"), entry("h", 3)),
        archive(entry("l", kind=tarfile.SYMTYPE, linkname="/etc/passwd"), entry("p", kind=tarfile.FIFOTYPE)),
        archive(entry("x", 5, pax_headers={"comment": "c" * (2 * MIB), "SCHILY.xattr.user.a": "b"}), entry("y", 1)),
        archive(entry("n" * 255, 5), entry("d/" * 100 + "f", 5), format=tarfile.GNU_FORMAT),
        archive(entry("/absolute", 5), entry("./dotted", 5), entry("a//b", 5)),
    ],
    ids=[
        "no-members",
        "zero-size",
        "padding",
        "large",
        "chunk-boundary",
        "not-utf-8",
        "trailing",
        "trailing-zeros",
        "no-blocking",
        "hard-link",
        "links",
        "pax-header-over-1-mib",
        "gnu-long-names",
        "odd-names",
    ],
)
def test_the_original_stream_comes_back(layer: OneLayer, tar: bytes) -> None:
    layer.unpack(tar)
    before = open_files()
    chunks = [bytes(chunk) for chunk in tar_stream.read(layer.metadata, layer.directory)]
    assert b"".join(chunks) == tar
    assert open_files() == before


def test_chunks_are_bounded_except_for_one_long_header(layer: OneLayer) -> None:
    layer.unpack(make_tar({str(number): os.urandom(300_000) for number in range(20)}))
    sizes = [len(chunk) for chunk in tar_stream.read(layer.metadata, layer.directory)]
    assert max(sizes) <= tar_stream.CHUNK
    assert len(sizes) < 12  # small pieces are put together


names = st.text(st.sampled_from("ab.-_é中"), min_size=1, max_size=8).filter(lambda name: name not in {".", ".."})
byte_names = st.binary(min_size=1, max_size=8).filter(lambda name: not {0, 47} & set(name) and name not in {b".", b".."})
paths = st.lists(names | byte_names.map(os.fsdecode), min_size=1, max_size=4).map("/".join)


@st.composite
def archives(draw: st.DrawFn) -> tuple[bytes, dict[str, bytes]]:
    """A tar stream of any of the formats that tarfile writes, and what is in its files."""
    style = draw(st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    files: dict[str, bytes] = {}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=style) as tar:
        for name in draw(st.lists(paths, unique=True, max_size=8)):
            if any(name.startswith(f"{other}/") or other.startswith(f"{name}/") for other in files):
                continue
            kind = draw(st.sampled_from([tarfile.REGTYPE, tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]))
            content = draw(st.binary(max_size=1500)) if kind == tarfile.REGTYPE else b""
            made = entry(name, len(content), kind, linkname="target", mtime=draw(st.integers(0, 2**31)))
            tar.addfile(made, io.BytesIO(content))
            if kind == tarfile.REGTYPE:
                files[name] = content
    return buffer.getvalue() + draw(st.binary(max_size=700)), files


@settings(max_examples=80, deadline=None)
@given(archives())
def test_any_archive_comes_back(made: tuple[bytes, dict[str, bytes]]) -> None:
    tar, files = made
    with tempfile.TemporaryDirectory() as name:
        layer = OneLayer(Path(name))
        layer.enter(*split(tar))
        for path, content in files.items():
            layer.put(path, content)
        assert layer.read() == tar


# Files that are not what they were


def test_a_file_of_another_size_is_named_at_once(layer: OneLayer) -> None:
    layer.unpack(make_tar({"a": b"one", "dir/b": b"two", "c": b"three"}))
    (layer.directory / "dir/b").write_bytes(b"longer")
    with pytest.raises(LayerMismatch, match=r"/dir/b has 6 bytes instead of 3") as caught:
        layer.read()
    assert caught.value.remedy


def test_a_file_of_the_same_size_is_named_by_the_slow_look(layer: OneLayer) -> None:
    tar = make_tar({"a": b"one", "dir/b": b"two", "c": b"three"})
    layer.unpack(tar)
    (layer.directory / "dir/b").write_bytes(b"TWO")
    assert hashlib.sha256(layer.read()).digest() != hashlib.sha256(tar).digest()
    assert f"{layer.directory}/dir/b" in tar_stream.first_difference(layer.metadata, layer.directory)


def test_damage_to_the_metadata_themselves_is_told_apart(layer: OneLayer) -> None:
    layer.enter(tar_split.Entry(tar_split.SEGMENT, payload=b"changed"), member("a", b"one"))
    layer.put("a", b"one")
    assert "tar-split data itself" in tar_stream.first_difference(layer.metadata, layer.directory)


def test_a_missing_file_is_named(layer: OneLayer) -> None:
    layer.enter(member("gone/away"))
    with pytest.raises(LayerMismatch, match="gone/away is missing"):
        layer.read()


def as_directory(path: Path) -> None:
    path.mkdir()


def as_fifo(path: Path) -> None:
    os.mkfifo(path)


def as_link(path: Path) -> None:
    path.with_name("real").write_bytes(b"content")
    path.symlink_to("real")


def as_link_outside(path: Path) -> None:
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize("make", [as_directory, as_fifo, as_link, as_link_outside])
def test_what_is_no_regular_file_is_named_and_does_not_hang(layer: OneLayer, make: object) -> None:
    layer.enter(member("f"))
    assert callable(make)
    make(layer.directory / "f")
    before = open_files()
    with pytest.raises(LayerMismatch, match="diff/f "):
        layer.read()
    assert open_files() == before


def test_a_name_that_is_not_text_is_shown_escaped(layer: OneLayer) -> None:
    layer.enter(member(b"caf\xe9"))
    with pytest.raises(LayerMismatch, match=r"caf\\xe9 is missing") as caught:
        layer.read()
    caught.value.message.encode()  # can be written to a report


# Links and dots in paths: as for a process with its root in the layer's directory


@pytest.mark.parametrize("target", ["real", "/real", "../../real", "other", "/../real", "sub/../real", "./real/."])
def test_a_link_in_a_path_is_resolved_within_the_layer(layer: OneLayer, target: str) -> None:
    layer.put("real/f", b"content")
    layer.put("sub/g", b"")
    (layer.directory / "other").symlink_to("/real")
    (layer.directory / "link").symlink_to(target)
    layer.enter(member("link/f"))
    assert layer.read() == b"content"


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("link/secret", "/OUTSIDE"),
        ("link/secret", "../outside"),
        ("link/secret", "link"),
        ("link/secret", "other"),
        ("../outside/secret", "x"),
        ("a/../../outside/secret", "x"),
        ("/OUTSIDE/secret", "x"),
        ("..", "x"),
        ("", "x"),
        (".", "x"),
        ("/", "x"),
        ("x\0y", "x"),
        ("x\0/y", "x"),
        ("n" * 300, "x"),
        ("d/" * 3000 + "f", "x"),
    ],
)
def test_nothing_leads_out_of_the_layer(layer: OneLayer, tmp_path: Path, name: str, target: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"content")
    (layer.directory / "a").mkdir()
    (layer.directory / "other").symlink_to("link")
    (layer.directory / "link").symlink_to(target.replace("OUTSIDE", str(outside)[1:]))
    layer.enter(member(name.replace("OUTSIDE", str(outside)[1:])))
    before = open_files()
    with pytest.raises(LayerMismatch):
        layer.read()
    assert open_files() == before


def test_dots_and_slashes_in_a_name_stop_at_the_layers_root(layer: OneLayer) -> None:
    layer.put("d/f", b"content")
    for name in ("/d/f", "./d/f", "../../d/f", "d/../d/f", "//d//f", "/../d/f"):
        layer.enter(member(name))
        assert layer.read() == b"content", name


# Metadata that are damaged


def test_a_layer_without_entries_has_an_empty_stream(layer: OneLayer) -> None:
    layer.enter()
    assert layer.read() == b""


def test_absent_metadata_are_told_of(layer: OneLayer) -> None:
    with pytest.raises(SourceCorrupt, match=r"tar-split.json.gz.*no tar-split data") as caught:
        layer.read()
    assert caught.value.remedy


GOOD = b'{"type":2,"payload":"YQ==","position":0}\n'


@pytest.mark.parametrize(
    "raw",
    [
        b"not gzip at all",
        gzip.compress(GOOD * 1000)[:-8],
        gzip.compress(GOOD * 1000)[:-1],
        gzip.compress(GOOD * 1000)[:40],
        gzip.compress(GOOD)[:-6] + b"xxxxxx",
        gzip.compress(b"garbage\n"),
        gzip.compress(b'{"type":2,"payload":"YQ=='),
        gzip.compress(b'{"type":3}\n'),
        gzip.compress(b'{"type":1,"size":-1,"name":"x"}\n'),
        gzip.compress(b'{"type":"1"}\n'),
        gzip.compress(b'{"type":2,"payload":"!!"}\n'),
        gzip.compress(b"[" * 100_000),
        gzip.compress(b'{"type":1,"x":' + b"[" * 100_000 + b"\n"),
        gzip.compress(b'{"type":1,"name":"\xff"}\n'),
        gzip.compress(b"\0" * 100_000),
    ],
)
def test_damaged_metadata_are_named(layer: OneLayer, raw: bytes) -> None:
    layer.metadata.write_bytes(raw)
    before = open_files()
    with pytest.raises(SourceCorrupt, match=str(layer.metadata)):
        layer.read()
    assert open_files() == before


@pytest.mark.parametrize("size", [1 << 40, 1 << 62, 1 << 70])
def test_a_size_that_cannot_be_is_no_reason_to_wait(layer: OneLayer, size: int) -> None:
    layer.put("f", b"content")
    layer.metadata.write_bytes(gzip.compress(b'{"type":1,"name":"f","size":%d}\n' % size))
    with pytest.raises(SourceCorrupt, match=r"/f |tar-split"):
        layer.read()


BOMB_READER = """\
import resource, sys
from pathlib import Path
from transship.errors import SourceCorrupt
from transship.stores.docker import tar_stream

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    for _ in tar_stream.read(Path(sys.argv[1]), Path(sys.argv[2])):
        pass
except SourceCorrupt as error:
    print(error.message)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


EMPTY_FILES = b'{"type":1,"name":"x"}\n' * (MIB // 22)
SEGMENT = b'{"type":2,"payload":"' + b"A" * MIB + b'"}\n'


@pytest.mark.parametrize(
    ("start", "filling", "verdict"),
    [
        (b'{"type":2,"payload":"', b"A" * MIB, "longer than"),
        (b"", b" " * MIB, "longer than"),
        (b"", b"\n" * MIB, ""),
        (b"", SEGMENT, ""),
        (b"", EMPTY_FILES, ""),
    ],
    ids=["one-line", "white-space", "no-lines", "segments", "empty-files"],
)
def test_a_gzip_bomb_takes_little_memory(layer: OneLayer, start: bytes, filling: bytes, verdict: str) -> None:
    with igzip.open(layer.metadata, "wb", compresslevel=1) as bomb:
        bomb.write(start)
        for _ in range(30 if filling is EMPTY_FILES else 1000):
            bomb.write(filling)
    ended = subprocess.run(
        [sys.executable, "-c", BOMB_READER, str(layer.metadata), str(layer.directory)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    *message, megabytes = ended.stdout.splitlines()
    assert verdict in "".join(message)
    assert int(megabytes) < 150


def test_giving_up_in_the_middle_closes_everything(layer: OneLayer) -> None:
    layer.unpack(make_tar({f"{number}/f": os.urandom(MIB) for number in range(5)}))
    before = open_files()
    stream = tar_stream.read(layer.metadata, layer.directory)
    next(stream)
    stream.close()  # type: ignore[attr-defined] # it is a generator
    assert open_files() == before


def test_a_file_that_shrinks_while_it_is_read_is_named(layer: OneLayer) -> None:
    layer.unpack(make_tar({"f": os.urandom(4 * MIB)}))
    stream = tar_stream.read(layer.metadata, layer.directory)
    next(stream)
    os.truncate(layer.directory / "f", MIB)
    with pytest.raises(LayerMismatch, match="/f shrank"):
        list(stream)
