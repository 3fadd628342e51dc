"""tar archives taken apart: what is put together again from the pieces is the archive, to the byte."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import subprocess
import tarfile
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transship.formats import tar_split
from transship.formats.tar_archive import MAX_EXTENSION, MAX_EXTENSIONS, Disassembler
from transship.formats.tar_split import FILE, SEGMENT, ContentSum, Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

GIB = 1 << 30
NO_TIME_LIMIT = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]


# ---- taking apart, putting together


def taken_apart(archive: bytes, pieces: Iterable[int] = (1 << 20,)) -> list[Entry]:
    """Feed an archive in pieces of the sizes given, over and over, and return its entries."""
    entries: list[Entry] = []
    disassembler = Disassembler(entries.append)
    start = 0
    view = memoryview(archive)
    for size in itertools.cycle(pieces):
        if start >= len(archive):
            break
        disassembler.feed(view[start : start + size])
        start += size
    disassembler.close()
    return entries


def assembled(entries: list[Entry], content_of: Callable[[bytes], bytes]) -> bytes:
    """Put an archive together as Docker does, from entries and the contents of its files."""
    parts = []
    for entry in entries:
        if entry.type == SEGMENT:
            parts.append(entry.payload or b"")
        elif entry.size:
            content = content_of(entry.path)
            assert (entry.size, entry.payload) == (len(content), crc(content))
            parts.append(content)
    return b"".join(parts)


def crc(content: bytes) -> bytes:
    total = ContentSum()
    total.update(content)
    return total.digest()


def files(entries: list[Entry]) -> list[tuple[bytes, int]]:
    return [(entry.path, entry.size) for entry in entries if entry.type == FILE]


def check_form(entries: list[Entry]) -> None:
    """Check what every reader of tar-split data counts on, and that the entries survive being written."""
    assert [entry.position for entry in entries] == list(range(len(entries)))
    assert all(len(entry.payload or b"") <= 1 << 20 for entry in entries)
    packed = io.BytesIO()
    tar_split.write(packed, entries)
    packed.seek(0)
    assert list(tar_split.read(packed)) == entries


# ---- raw archives


def header(
    name: bytes,
    kind: bytes = b"0",
    size: int | bytes = 0,
    *,
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
    rest: bytes = b"",
    signed: bool = False,
) -> bytes:
    size_field = b"%011o\0" % size if isinstance(size, int) else size
    block = bytearray(512)
    block[0 : len(name)] = name
    block[100:148] = b"0000644\x000000000\x000000000\0" + size_field.ljust(12, b"\0") + b"00000000000\0"
    block[148:157] = b" " * 8 + kind
    block[257:265] = magic.ljust(8, b"\0")
    block[345 : 345 + len(prefix)] = prefix
    block[386 : 386 + len(rest)] = rest
    total = sum(memoryview(bytes(block)).cast("b")) if signed else sum(block)
    block[148:156] = b"%06o\0 " % (total % (1 << 18))
    return bytes(block)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def member(name: bytes, content: bytes) -> bytes:
    return header(name, size=len(content)) + padded(content)


def record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    while length != len(line := b"%d %s=%s\n" % (length, key, value)):
        length = len(line)
    return line


def pax(records: dict[bytes, bytes], kind: bytes = b"x") -> bytes:
    return extension(kind, b"".join(record(key, value) for key, value in records.items()))


def extension(kind: bytes, content: bytes) -> bytes:
    return header(b"././@LongLink", kind, len(content), magic=b"ustar  ") + padded(content)


END = bytes(1024)


# ---- random archives


class Piece(NamedTuple):
    """What a maker of members returns: the raw bytes before the content, whether the content is a file's, how it is called."""

    before: bytes
    is_file: bool = True
    name: bytes | None = None
    has_content: bool = True


def _ustar_prefix(name: bytes, size: int) -> Piece:
    at = name.rfind(b"/", 0, 156)
    if at < 1 or len(name) - at - 1 > 100 or name.endswith(b"/"):
        return _pax_path(name, size)
    return Piece(header(name[at + 1 :], size=size, prefix=name[:at]))


def _pax_path(name: bytes, size: int) -> Piece:
    return Piece(pax({b"mtime": b"1.5", b"path": name}) + header(name[:100].rstrip(b"/"), size=size))


def _pax_size(name: bytes, size: int) -> Piece:
    return Piece(pax({b"size": b"%d" % size, b"path": name, b"linkpath": name}) + header(b"short", size=0o777))


def _long_name(name: bytes, size: int) -> Piece:
    return Piece(extension(b"L", name + b"\0") + header(name[:100], size=size, magic=b"ustar  "))


def _long_link_and_name(name: bytes, size: int) -> Piece:
    before = extension(b"K", name * 3) + extension(b"L", name)
    return Piece(before + header(b"short", b"1", size, magic=b"ustar  "), has_content=False)


def _v7(name: bytes, size: int) -> Piece:
    return Piece(header(name[:100], b"\0", size, magic=b"", signed=True), name=name[:100])


def _base_256(name: bytes, size: int) -> Piece:
    return Piece(header(name[:100], b"7", b"\x80" + size.to_bytes(11, "big"), magic=b"ustar  "), name=name[:100])


def _odd_octal(name: bytes, size: int) -> Piece:
    return Piece(header(name[:100], size=b" %o " % size, magic=b"ustar\0??"), name=name[:100])


def _global(name: bytes, size: int) -> Piece:
    return Piece(
        pax({b"comment": name, b"path": b"other", b"size": b"12345"}, b"g") + header(name[:100], size=size), name=name[:100]
    )


def _sparse(name: bytes, size: int) -> Piece:
    blocks = size % 3
    maps = b"".join(b"00000000001\0" * 42 + bytes([number + 1 < blocks]) + b"map    " for number in range(blocks))
    rest = b"00000000000\x0000000000777\0".ljust(96, b"\0") + bytes([blocks > 0]) + b"00000010000\0"
    return Piece(header(name[:100], b"S", size, magic=b"ustar  ", rest=rest) + maps, is_file=False, name=name[:100])


def _pax_sparse(name: bytes, size: int) -> Piece:
    records = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": name, b"GNU.sparse.realsize": b"9999"}
    return Piece(pax(records) + header(b"GNUSparseFile.1/short", size=size), is_file=False)


def _other(kind: bytes, *, has_content: bool) -> Callable[[bytes, int], Piece]:
    def make(name: bytes, size: int) -> Piece:
        return Piece(header(name[:100], kind, size), is_file=False, name=name[:100], has_content=has_content)

    return make


def _directory(name: bytes, size: int) -> Piece:
    return Piece(pax({b"path": name + b"/"}) + header(b"x/", b"\0", size), name=name + b"/", has_content=False)


_MAKERS: list[Callable[[bytes, int], Piece]] = [
    *(_ustar_prefix, _pax_path, _pax_size, _long_name, _long_link_and_name, _v7, _base_256, _odd_octal, _global),
    *(_sparse, _pax_sparse, _directory),
    *(_other(bytes([kind]), has_content=False) for kind in b"123456"),
    *(_other(bytes([kind]), has_content=True) for kind in b"VMDZ"),
]

_names = st.binary(max_size=250).map(lambda name: name.replace(b"\0", b"/").replace(b"..", b"__").rstrip(b"/"))
_members = st.lists(st.tuples(st.sampled_from(_MAKERS), _names, st.integers(0, 2000)), max_size=6)


class Sample(NamedTuple):
    archive: bytes
    contents: dict[bytes, bytes]
    files: list[tuple[bytes, int]]


@st.composite
def _archives(draw: st.DrawFn) -> Sample:
    parts = []
    contents = {}
    expected = []
    filler = draw(st.sampled_from([b"\0", b"\0", b"\xaa"]))
    padding = b""
    for number, (make, unnumbered, size) in enumerate(draw(_members)):
        name = b"%d-%s" % (number, unnumbered)
        piece = make(name, size)
        content = (name * 2000)[:size] if piece.has_content else b""
        called = name if piece.name is None else piece.name
        is_kept = piece.is_file and piece.has_content
        contents[called] = content
        expected.append((called, size if is_kept else 0))
        padding = filler * (-len(content) % 512)
        parts += [piece.before, content, padding]
    archive = b"".join(parts)
    ends = draw(st.sampled_from([0, 1, 2, 2, 3, 30]))
    if not ends:
        return Sample(archive[: len(archive) - draw(st.integers(0, len(padding)))], contents, expected)
    archive += bytes(512 * ends) + draw(st.binary(max_size=700)) * draw(st.sampled_from([0, 0, 1, 5]))
    archive += bytes(-len(archive) % draw(st.sampled_from([1, 512, 10240])))
    return Sample(archive, contents, expected)


@given(_archives(), st.lists(st.sampled_from([13, 200, 511, 512, 513, 4096, 1 << 20]), min_size=1, max_size=3))
@settings(max_examples=10_000, deadline=None, suppress_health_check=NO_TIME_LIMIT)
def test_any_archive(sample: Sample, pieces: list[int]) -> None:
    entries = taken_apart(sample.archive, pieces)
    assert assembled(entries, sample.contents.__getitem__) == sample.archive
    assert files(entries) == sample.files
    check_form(entries)


@given(st.binary(max_size=3000), st.binary(max_size=600), st.sampled_from([1, 100, 4096]))
@settings(max_examples=300)
def test_arbitrary_bytes(data: bytes, content: bytes, piece: int) -> None:
    """What is accepted can be put together again, and nothing else is raised than ValueError."""
    for archive in (data, member(b"a", content) + data, END + data, bytes(512) + data):
        try:
            entries = taken_apart(archive, [piece])
        except ValueError:
            continue
        assert assembled(entries, lambda _: content) == archive


@pytest.mark.parametrize("make", [make for make in _MAKERS if make is not _global])  # after that an archive may end, too
def test_cut_short_anywhere(make: Callable[[bytes, int], Piece]) -> None:
    """An archive may end between two members, in the padding or in the zeros, nowhere else."""
    content = b"x" * 700
    made = make(b"b", 700)
    first = member(b"a", content)
    last = made.before + (content if made.has_content else b"")
    archive = first + padded(last) + END
    whole = {*range(700 + 512, len(first) + 1), *range(len(first) + len(last), len(archive) + 1), 0}
    for cut in range(len(archive) + 1):
        try:
            entries = taken_apart(archive[:cut])
        except ValueError:
            assert cut not in whole
        else:
            assert cut in whole
            assert assembled(entries, lambda _: content) == archive[:cut]


def test_byte_by_byte() -> None:
    archive = (
        b"".join(
            padded(make(b"%d" % number, 700).before + b"y" * 700 * make(b"", 700).has_content)
            for number, make in enumerate(_MAKERS)
        )
        + END
    )
    assert taken_apart(archive, [1]) == taken_apart(archive)


# ---- the form that Docker gives them


def test_as_docker_does_it() -> None:
    """Padding and headers are one segment, content and size 0 make no difference, what follows the end is the last segment."""
    directory, file, link = header(b"d/", b"5"), header(b"d/\xff", size=3), pax({b"path": b"d/\xc3\xbc"}) + header(b"d/u", b"2")
    entries = taken_apart(directory + file + padded(b"abc") + link + END + b"rest", [100])
    assert entries == [
        Entry(SEGMENT, 0, payload=directory),
        Entry(FILE, 1, name="d/"),
        Entry(SEGMENT, 2, payload=file),
        Entry(FILE, 3, name_raw=b"d/\xff", size=3, payload=crc(b"abc")),
        Entry(SEGMENT, 4, payload=bytes(509) + link),
        Entry(FILE, 5, name="d/ü"),
        Entry(SEGMENT, 6, payload=END),
        Entry(SEGMENT, 7, payload=b"rest"),
    ]


def test_nothing_after_the_end_is_an_empty_segment() -> None:
    assert taken_apart(END) == [Entry(SEGMENT, 0, payload=END), Entry(SEGMENT, 1, payload=b"")]
    assert taken_apart(b"") == [Entry(SEGMENT, 0, payload=b"")]


def test_every_layer_of_a_real_store(docker_fixture: Callable[[str], Path]) -> None:
    """Docker 1.10.3 and 1.9.1 wrote the same entries for the same streams."""
    root = docker_fixture("overlay")
    compared = 0
    for path in (root / "image" / "overlay" / "layerdb" / "sha256").glob("*/tar-split.json.gz"):
        with path.open("rb") as file:
            entries = list(tar_split.read(file))
        layer = root / "overlay" / (path.parent / "cache-id").read_text() / "root"
        archive = assembled(entries, contents_below(layer))
        assert taken_apart(archive, [10_000]) == entries
        compared += 1
    assert compared > 10


def contents_below(directory: Path) -> Callable[[bytes], bytes]:
    return lambda name: Path(os.fsdecode(os.fsencode(directory) + b"/" + name)).read_bytes()


# ---- names


@pytest.mark.parametrize(
    ("archive", "name"),
    [
        (header(b"n" * 100), b"n" * 100),
        (header(b"\xff", magic=b"", signed=True), b"\xff"),
        (header(b"n", prefix=b"p/q"), b"p/q/n"),
        (header(b"n", prefix=b"p" * 155), b"p" * 155 + b"/n"),
        (header(b"n", prefix=b"p" * 131 + b"00000000000\x0000000000000\0" + bytes(8) + b"tar\0"), b"p" * 131 + b"/n"),
        (header(b"n", magic=b"", prefix=b"p"), b"n"),
        (header(b"n", magic=b"ustar  ", prefix=b"14371234567\x0014371234567\0"), b"n"),
        (header(b"n", magic=b"ustar  ", prefix=b"usr/share"), b"usr/share/n"),
        (extension(b"L", b"long\0rest") + header(b"n"), b"long"),
        (extension(b"L", b"first") + extension(b"L", b"second") + header(b"n"), b"second"),
        (extension(b"K", b"link") + header(b"n", b"2"), b"n"),
        (pax({b"path": b"a\xff=b\n"}) + header(b"n"), b"a\xff=b\n"),
        (pax({b"path": b""}) + header(b"n"), b"n"),
        (pax({b"path": b"first"}) + pax({b"path": b"second"}) + header(b"n"), b"second"),
        (pax({b"path": b"p"}) + pax({b"comment": b"c"}) + header(b"n"), b"n"),
        (pax({b"path": b"p"}) + extension(b"L", b"long") + header(b"n"), b"long"),
        (pax({b"path": b"p", b"GNU.sparse.name": b"s", b"GNU.sparse.major": b"1"}) + header(b"n"), b"s"),
        (pax({b"path": b"p"}, b"g") + header(b"n"), b"n"),
        (pax({b"path": b"p"}) + pax({b"comment": b"c"}, b"g") + header(b"n"), b"p"),
        (header(b""), b""),
    ],
)
def test_names(archive: bytes, name: bytes) -> None:
    entries = taken_apart(archive + END)
    assert files(entries) == [(name, 0)]
    check_form(entries)


def test_an_extension_is_for_one_member() -> None:
    entries = taken_apart(pax({b"path": b"p", b"size": b"0"}) + header(b"n", size=5) + member(b"m", b"12345") + END)
    assert files(entries) == [(b"p", 0), (b"m", 5)]


@pytest.mark.parametrize(
    ("one", "other"), [(b"a", b"a"), (b"a", b"./a"), (b"d/", b"d"), (b"/a", b"//a"), (b"a/b/../c", b"a//c"), (b"", b".")]
)
def test_a_name_twice(one: bytes, other: bytes) -> None:
    with pytest.raises(ValueError, match=r"byte 1024.* second member is called"):
        taken_apart(member(one, b"1") + header(other, b"5") + END)


def test_names_that_differ() -> None:
    names = [b"a", b"/a", b"a ", b"A", b"../a", b"a/a", b"\xff", b"\xc3\xbf"]
    assert files(taken_apart(b"".join(map(header, names)))) == [(name, 0) for name in names]


# ---- archives by real programs


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with files of many kinds, whose names are at most 100 bytes."""
    root = tmp_path_factory.mktemp("tree")
    (root / "dir" / "empty").mkdir(parents=True)
    for size in (0, 1, 511, 512, 513, 100_000):
        (root / "dir" / f"file-{size}").write_bytes(os.urandom(size))
    (root / "dir" / "ü").write_bytes(b"text")
    Path(os.fsdecode(os.fsencode(root) + b"/\xff")).write_bytes(b"not UTF-8")
    (root / "link").symlink_to("x" * 90)
    (root / "hard").hardlink_to(root / "dir" / "file-513")
    os.mkfifo(root / "pipe")
    return root


@pytest.fixture(scope="module")
def long_tree(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same and names of 256 bytes, which only some formats can hold."""
    root = tmp_path_factory.mktemp("long") / "tree"
    shutil.copytree(tree, root, symlinks=True, ignore=shutil.ignore_patterns("pipe"))
    deep = root / "/".join(["d" * 50] * 4)
    deep.mkdir(parents=True)
    (deep / ("f" * (256 - 4 * 51 - 2))).write_bytes(b"256 bytes with ./")
    (root / ("n" * 255)).write_bytes(b"one part")
    (root / "long-link").symlink_to("y" * 300)
    return root


def written(program: str, *arguments: str | Path) -> bytes:
    return subprocess.run([program, *arguments], check=True, capture_output=True).stdout


def check_real(archive: bytes, tmp_path: Path) -> list[Entry]:
    """Unpack an archive with GNU tar: from the files on disk, the archive can be put together again."""
    subprocess.run(["tar", "-x", "--no-same-owner", "-C", tmp_path], input=archive, check=True)
    entries = taken_apart(archive, [4000])
    assert assembled(entries, contents_below(tmp_path)) == archive
    check_form(entries)
    return entries


@pytest.mark.parametrize("form", ["v7", "oldgnu", "gnu", "ustar", "pax"])
def test_gnu_tar(form: str, tree: Path, tmp_path: Path) -> None:
    skipped = ["--exclude=./pipe"] if form == "v7" else []
    entries = check_real(written("tar", f"--format={form}", *skipped, "-cC", tree, "."), tmp_path)
    assert len(files(entries)) == 14 - len(skipped)


@pytest.mark.parametrize("form", ["oldgnu", "gnu", "pax"])
@pytest.mark.parametrize("blocks", ["1", "20", "200"])
def test_gnu_tar_long_names(form: str, blocks: str, long_tree: Path, tmp_path: Path) -> None:
    entries = check_real(written("tar", f"--format={form}", f"--blocking-factor={blocks}", "-cC", long_tree, "."), tmp_path)
    assert max(len(name) for name, _ in files(entries)) == 257


@pytest.mark.parametrize(
    "form", ["oldgnu", "gnu", "pax --sparse-version=0.0", "pax --sparse-version=0.1", "pax --sparse-version=1.0"]
)
@pytest.mark.parametrize("extents", [0, 1, 4, 5, 60])
def test_gnu_tar_sparse(form: str, extents: int, tmp_path: Path) -> None:
    """The file on disk is not what is stored, and yet nothing is lost."""
    source = tmp_path / "source"
    source.mkdir()
    with (source / "sparse").open("wb") as file:
        file.truncate(10 << 20)
        for number in range(extents):
            file.seek(number << 17)
            file.write(b"data")
    (source / "sure").write_bytes(b"next")
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    archive = written("tar", "--sparse", *f"--format={form}".split(), "-cC", source, "sparse", "sure")
    assert len(archive) < 1 << 20
    assert files(check_real(archive, unpacked)) == [(b"sparse", 0), (b"sure", 4)]
    assert (unpacked / "sparse").stat().st_size == 10 << 20


def test_gnu_tar_label_and_incremental(tree: Path, tmp_path: Path) -> None:
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    archive = written("tar", "--label=volume", f"--listed-incremental={tmp_path}/snapshot", "-cC", tree, ".")
    entries = check_real(archive, unpacked)
    assert (b"volume", 0) in files(entries)
    assert {(b"./dir/", 0), (b"./dir/file-512", 512)} < set(files(entries))


def test_gnu_tar_volumes(tree: Path, tmp_path: Path) -> None:
    """A volume that breaks off in a file is no whole archive; the next begins with the rest of it, of a type of its own."""
    volumes = [tmp_path / "1", tmp_path / "2"]
    written("tar", "-cML", "60", "-f", volumes[0], "-f", volumes[1], "-C", tree, "dir/file-100000")
    with pytest.raises(ValueError, match=r"ends .* bytes before the content does"):
        taken_apart(volumes[0].read_bytes())
    archive = volumes[1].read_bytes()
    entries = taken_apart(archive)
    assert files(entries) == [(b"dir/file-100000", 0)]
    assert assembled(entries, contents_below(tree)) == archive


def test_gnu_tar_concatenated(tree: Path, tmp_path: Path) -> None:
    for name, what in (("a.tar", "hard"), ("b.tar", "link")):
        written("tar", "-cf", tmp_path / name, "-C", tree, what)
    written("tar", "-Af", tmp_path / "a.tar", tmp_path / "b.tar")
    assert files(check_real((tmp_path / "a.tar").read_bytes(), tmp_path)) == [(b"hard", 513), (b"link", 0)]


@pytest.mark.real
@pytest.mark.parametrize(("form", "members"), [("v7", 13), ("ustar", 14), ("gnutar", 14), ("pax", 14), ("rpax", 14)])
def test_bsdtar(form: str, members: int, tree: Path, tmp_path: Path) -> None:
    """It puts no pipes into an archive of the form v7."""
    packed = written("bsdtar", f"--format={form}", "-cf", "-", "-C", str(tree), ".")
    assert len(files(check_real(packed, tmp_path))) == members


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_python(form: int, tree: Path, long_tree: Path, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as archive:
        archive.add(tree if form == tarfile.USTAR_FORMAT else long_tree, "top")
    entries = check_real(packed.getvalue(), tmp_path)
    assert (b"top/\xff", 9) in files(entries)


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_more_than_8_gib(form: str) -> None:
    """The size is in base 256 or in a pax record. The content takes no memory."""
    info = tarfile.TarInfo("large")
    info.size = 9 * GIB + 1
    before = info.tobuf(tarfile.GNU_FORMAT if form == "gnu" else tarfile.PAX_FORMAT)
    entries: list[Entry] = []
    piece = bytes(64 << 20)
    tracemalloc.start()
    disassembler = Disassembler(entries.append)
    disassembler.feed(before)
    total = ContentSum()
    for _ in range(9 * GIB // len(piece)):
        disassembler.feed(memoryview(piece))
    disassembler.feed(b"\x01" + bytes(511) + header(b"next") + END)
    disassembler.close()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    for _ in range(9 * GIB // len(piece)):
        total.update(piece)
    total.update(b"\x01")
    assert entries[:2] == [Entry(SEGMENT, 0, payload=before), Entry(FILE, 1, "large", size=info.size, payload=total.digest())]
    assert [entry.payload for entry in entries[2:]] == [bytes(511) + header(b"next"), None, END, b""]
    assert peak < 1 << 20


# ---- what is refused


@pytest.mark.parametrize(
    ("archive", "problem"),
    [
        (b"garbage" * 100, "byte 0 .*no tar header"),
        (b"short", "byte 0 .*no tar header"),
        (member(b"a", b"1") + b"garbage" * 100, "byte 1024 .*no tar header"),
        (member(b"a", b"1") + b"garbage", "byte 1024 .*no tar header"),
        (header(b"a")[:-1] + b"x" + END, "byte 0 .*no tar header"),
        (member(b"a", b"1") + bytes(512) + header(b"b"), "byte 1024 .*another member follows"),
        (header(b"a", size=b"\xff" * 12) + END, "a number below 0"),
        (header(b"a", size=b"\xff" * 11 + b"\x00") + END, "a number below 0"),
        (header(b"a", size=b"\x80" + b"\xff" * 11) + END, "a number below 0 or above"),
        (header(b"a", size=b"\x80\0\0\0\x80" + bytes(7)) + END, "a number below 0 or above"),
        (header(b"a", size=b"-0000000001") + END, "not an octal number"),
        (header(b"a", size=b"0x1") + END, "not an octal number"),
        (header(b"a", size=b"1 1") + END, "not an octal number"),
        (header(b"a", size=b"9") + END, "not an octal number"),
        (header(b"a", size=b"7" * 12) + END, "ends .* bytes before the content does"),
        (header(b"a", size=b"\x80\0\0\0\x7f" + b"\xff" * 7) + END, "ends .* bytes before the content does"),
        (header(b"a", b"Z", b"\x80\0\0\0\x7f" + b"\xff" * 7) + END, "ends after 1024 of 1048576 bytes"),
        (pax({b"size": b"-1"}) + header(b"a") + END, "not a number of bytes"),
        (pax({b"size": b"1_0"}) + header(b"a") + END, "not a number of bytes"),
        (pax({b"size": b" 1"}) + header(b"a") + END, "not a number of bytes"),
        (pax({b"size": b"9223372036854775808"}) + header(b"a") + END, "not a number of bytes"),
        (pax({b"size": b"9" * 100_000}) + header(b"a") + END, "not a number of bytes"),
        (pax({b"size": b"600"}) + member(b"a", b"x" * 100) + member(b"b", b"x" * 100) + END, "no tar header"),
        (pax({b"size": b"1"}) + member(b"a", b"x" * 600) + END, "no tar header"),
        (pax({b"path": b"a\0b"}) + header(b"a") + END, "NUL"),
        (pax({b"GNU.sparse.name": b"a\0b"}) + header(b"a") + END, "NUL"),
        (pax({b"path": b"a"}), "ends where a file should follow"),
        (pax({b"path": b"a"}) + END, "ends where a file should follow"),
        (extension(b"L", b"a") + END, "ends where a file should follow"),
        (extension(b"K", b"a") + pax({}, b"g") + END, "ends where a file should follow"),
        (header(b"a", b"S", magic=b"ustar  ", rest=bytes(96) + b"\1"), "ends after 0 of 512 bytes"),
    ],
)
def test_refused(archive: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        taken_apart(archive, [700])


@pytest.mark.parametrize(
    "content",
    [
        *(
            b"x",
            b"5",
            b"9 a=b\n",
            b"5 a=b\n",
            b"6 a=bc\n",
            b"6 a=bc",
            b"6 ab\n\n",
            b"5 =b\n",
            b"0 a=b\n",
            b"-6 a=b\n",
            b" 6 a=b\n",
            b"+6 a=b\n",
        ),
        *(
            b"6  a=b\n",
            b"06 a=b\n6",
            b"6 a=b\n\0",
            b"6 a=b\n" + bytes(506),
            b"9" * 30,
            b"9" * 30 + b" a=b\n",
            b"6 a=b",
            b"6_0 a=b\n",
        ),
    ],
)
def test_malformed_pax_records(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"malformed pax record|not a number of bytes"):
        taken_apart(extension(b"x", content) + header(b"a") + END)


def test_a_single_block_of_zeros_ends_an_archive() -> None:
    """Not as with Go, but as with GNU tar, if no member is lost by it."""
    archive = member(b"a", b"1") + bytes(512) + b"no header" * 100
    assert assembled(taken_apart(archive), lambda _: b"1") == archive


def test_a_global_header_need_not_be_followed_by_a_file() -> None:
    archive = pax({b"comment": b"an empty tree of git"}, b"g") + END
    assert assembled(taken_apart(archive), lambda _: b"") == archive


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_length_of_extensions(kind: bytes) -> None:
    value = b"v" * (MAX_EXTENSION - len(b"1048576 comment=\n"))
    content = record(b"comment", value)
    assert len(content) == MAX_EXTENSION
    archive = extension(kind, content) + header(b"a") + END
    assert assembled(taken_apart(archive), lambda _: b"") == archive
    with pytest.raises(ValueError, match=f"{MAX_EXTENSION + 1} bytes"):
        taken_apart(extension(kind, record(b"comment", value + b"v")))


def test_number_of_extensions() -> None:
    archive = pax({b"path": b"p"}) * MAX_EXTENSIONS + header(b"a") + END
    assert files(taken_apart(archive)) == [(b"p", 0)]
    with pytest.raises(ValueError, match=f"more than {MAX_EXTENSIONS}"):
        taken_apart(pax({b"path": b"p"}) + archive)


@pytest.mark.parametrize("kind", [b"x", b"g", b"L"])
def test_an_endless_chain_takes_little_memory(kind: bytes) -> None:
    link = extension(kind, record(b"comment", b"v" * ((1 << 20) - 100)))
    with pytest.raises(ValueError, match="more than"):
        peak_of(itertools.repeat(link, 100))


@pytest.mark.parametrize(
    "before",
    [
        END,
        header(b"a", b"Z", 300 << 20),
        header(b"a", b"S", 300 << 20),
        header(b"a", b"S", magic=b"ustar  ", rest=bytes(96) + b"\1"),
    ],
    ids=["end", "unknown type", "sparse", "endless map"],
)
def test_long_raw_bytes_take_little_memory(before: bytes) -> None:
    block = b"\1" * 512
    length = 40 if before[156:157] == b"S" and before[482] else 300
    assert peak_of(itertools.chain([before], itertools.repeat(block * 2048, length), [END])) < 8 << 20


def test_many_long_names_take_little_memory() -> None:
    links = (extension(b"L", b"%d" % number + b"n" * ((1 << 20) - 10)) + header(b"a") for number in range(50))
    assert peak_of(links) < 10 << 20


def peak_of(pieces: Iterable[bytes]) -> int:
    """Return how many bytes of memory it takes at most to take pieces of an archive apart and forget the entries."""
    tracemalloc.start()
    try:
        disassembler = Disassembler(lambda _: None)
        for piece in pieces:
            disassembler.feed(piece)
        disassembler.close()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
