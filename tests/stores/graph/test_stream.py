"""A layer's stream: as it was recorded while that is whole, and else what the differ makes, with a reason."""

from __future__ import annotations

import gzip
import os
import stat
from typing import TYPE_CHECKING

import pytest

from tests.stores.docker.builder import open_files, split
from tests.stores.graph.builder import GraphBuilder
from transship.errors import LayerMismatch, SourceCorrupt
from transship.formats import digest, tar_split
from transship.formats.tar_split import FILE, SEGMENT, ContentSum, Entry
from transship.stores.graph import check, stream
from transship.stores.graph.stream import LayerFiles

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1 << 20
FILES = {"etc": None, "etc/passwd": b"root:x:0:0", "etc/empty": b"", "large": os.urandom(3 * MIB + 5)}


class Layer:
    """A layer on another one, and where the data of its stream may be recorded."""

    def __init__(self, place: Path, driver: str) -> None:
        self.graph = GraphBuilder(place / "root", driver)
        base = self.graph.image({"etc": None, "etc/hosts": b"localhost", "etc/passwd": b"x"})
        self.id = self.graph.image(dict(FILES) | {"etc/.wh.hosts": b""}, base)
        self.directory = self.graph.layer(self.id)
        self.tar_data = self.graph.directory(self.id) / "tar-data.json.gz"
        self.record = place / "record"
        self.files = LayerFiles(driver, self.directory, self.graph.layer(base), self.tar_data)
        self.tar = self.graph.tar(self.id)
        self.passed: list[int] = []

    def enter(self, *entries: Entry) -> None:
        with self.tar_data.open("wb") as file:
            tar_split.write(file, entries)

    def checksum(self) -> stream.Checksum:
        return stream.checksum(self.files, self.record, self.passed.append)

    @property
    def traditional(self) -> bytes:
        return joined(stream.traditional(self.files))


def joined(chunks: Iterator[memoryview]) -> bytes:
    return b"".join(bytes(chunk) for chunk in chunks)


def file_entry(name: str, content: bytes, size: int | None = None) -> Entry:
    content_sum = ContentSum()
    content_sum.update(content)
    return Entry(FILE, name=name, size=len(content) if size is None else size, payload=content_sum.digest())


@pytest.fixture(params=["vfs", "overlay", "aufs"])
def layer(request: pytest.FixtureRequest, tmp_path: Path) -> Layer:
    return Layer(tmp_path, request.param)


@pytest.fixture
def vfs(tmp_path: Path) -> Layer:
    return Layer(tmp_path, "vfs")


def test_what_was_recorded_is_read(layer: Layer) -> None:
    assert joined(stream.recorded(layer.files)) == layer.tar
    assert joined(check.best_stream(layer.files)[0]) == layer.tar


def test_the_checksum_of_what_was_recorded(layer: Layer) -> None:
    found = layer.checksum()
    size = sum(len(content or b"") for content in FILES.values())
    assert found == stream.Checksum(digest.of(layer.tar), size, layer.tar_data, "")
    assert sum(layer.passed) == len(layer.tar)
    assert not layer.record.exists()


def test_without_a_record_the_differ_makes_one(layer: Layer) -> None:
    expected = layer.traditional
    layer.tar_data.unlink()
    found = layer.checksum()
    assert (found.diff_id, found.tar_data) == (digest.of(expected), layer.record)
    assert found.size == sum(len(content or b"") for content in FILES.values())
    assert found.fallback == f"{layer.tar_data}: the layer has no tar-split data, so its original stream cannot be rebuilt"
    again = LayerFiles(layer.files.driver, layer.directory, None, layer.record)
    assert joined(stream.recorded(again)) == expected
    assert joined(check.best_stream(layer.files)[0]) == expected
    assert stream.checksum(again, layer.tar_data, layer.passed.append).fallback == ""
    assert not layer.tar_data.exists()


def test_it_is_said_if_nothing_was_recorded_at_all(vfs: Layer) -> None:
    vfs.files = LayerFiles("vfs", vfs.directory, vfs.files.parent, None)
    assert vfs.checksum().fallback == f"{vfs.directory}: no tar-split data were recorded"


def test_the_record_is_as_docker_wrote_it(vfs: Layer) -> None:
    data = vfs.traditional
    vfs.tar_data.unlink()
    vfs.checksum()
    expected = list(split(data))
    *others, end = expected
    with vfs.record.open("rb") as file:
        assert list(tar_split.read(file)) == [*others, end, Entry(SEGMENT, end.position + 1, payload=b"")]


@pytest.mark.parametrize("ending", [b"", bytes(512), bytes(10240), bytes(1024) + b"garbage"])
def test_odd_ends_stay_as_they_were_recorded(vfs: Layer, ending: bytes) -> None:
    *others, end = split(vfs.tar)
    vfs.enter(*others, Entry(SEGMENT, end.position, payload=ending))
    found = vfs.checksum()
    assert found.fallback == ""
    assert found.diff_id == digest.of(b"".join([vfs.tar[: -len(end.payload or b"")], ending]))


def gzipped(text: bytes) -> bytes:
    return gzip.compress(text, mtime=0)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (gzipped(b'{"type":2,"payload":"AAAA"}\n')[:-5], "gzip"),
        (b"no gzip", "gzip"),
        (gzipped(b"no json\n"), "not tar-split data"),
        (gzipped(b'{"type":3}\n'), "type 3"),
        (gzipped(b'{"type":2,"payload":"' + b"A" * (33 * MIB)), "longer than"),
    ],
    ids=["empty", "truncated", "no-gzip", "no-json", "no-type", "bomb"],
)
def test_data_that_cannot_be_read_do_not_serve(vfs: Layer, data: bytes, reason: str) -> None:
    vfs.tar_data.write_bytes(data)
    found = vfs.checksum()
    assert str(vfs.tar_data) in found.fallback
    assert reason in found.fallback
    assert found.diff_id == digest.of(vfs.traditional)
    assert joined(check.best_stream(vfs.files)[0]) == vfs.traditional
    with pytest.raises(SourceCorrupt, match=str(vfs.tar_data)):
        joined(stream.recorded(vfs.files))


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_data_that_are_no_file_do_not_serve(vfs: Layer, kind: str, tmp_path: Path) -> None:
    vfs.tar_data.rename(tmp_path / "elsewhere")
    match kind:
        case "link":
            vfs.tar_data.symlink_to(tmp_path / "elsewhere")
        case "fifo":
            os.mkfifo(vfs.tar_data)
        case "directory":
            vfs.tar_data.mkdir()
    assert str(vfs.tar_data) in vfs.checksum().fallback


def test_the_first_file_with_other_content_ends_it(layer: Layer) -> None:
    path = layer.directory / "etc/passwd"
    status = path.stat()
    path.write_bytes(b"toor:x:0:0")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    before = open_files()
    with pytest.raises(LayerMismatch, match=r"the content of .*/etc/passwd has changed"):
        joined(stream.recorded(layer.files))
    assert open_files() == before
    found = layer.checksum()
    assert found.fallback == f"the content of {path} has changed"
    assert found.diff_id == digest.of(layer.traditional)


def test_what_was_read_in_vain_was_read(vfs: Layer) -> None:
    """The large file is read once before it is found to have changed, and again by the differ."""
    with (vfs.directory / "large").open("r+b") as file:
        file.write(b"other")
    vfs.checksum()
    assert sum(vfs.passed) > len(vfs.traditional) + 2 * MIB


@pytest.mark.parametrize("happening", ["missing", "longer", "a directory", "a link"])
def test_a_file_that_is_not_what_it_was(vfs: Layer, happening: str) -> None:
    path = vfs.directory / "large"
    match happening:
        case "missing":
            path.unlink()
        case "longer":
            path.write_bytes(b"longer" * MIB)
        case "a directory":
            path.unlink()
            path.mkdir()
        case "a link":
            path.rename(vfs.directory / "moved")
            path.symlink_to("moved")
    with pytest.raises(LayerMismatch, match="/large "):
        joined(stream.recorded(vfs.files))
    assert vfs.checksum().diff_id == digest.of(vfs.traditional)


@pytest.mark.parametrize("name", ["../../../../secret", "/../secret", "out/secret", "up/../../secret", "etc/../../../secret"])
def test_no_name_leads_outside(vfs: Layer, tmp_path: Path, name: str) -> None:
    for place in (tmp_path, vfs.directory.parent, vfs.directory.parent.parent):
        (place / "secret").write_bytes(b"secret")
    (vfs.directory / "out").symlink_to(tmp_path)
    (vfs.directory / "up").symlink_to("../..")
    vfs.enter(Entry(SEGMENT, payload=bytes(512)), file_entry(name, b"secret"))
    with pytest.raises(LayerMismatch, match="secret"):
        joined(stream.recorded(vfs.files))
    found = vfs.checksum()
    assert "secret" in found.fallback
    assert b"secret" not in joined(stream.traditional(vfs.files)).replace(bytes(vfs.directory), b"")


@pytest.mark.parametrize(
    ("one", "other"), [("a", "a"), ("etc/", "etc"), ("./etc/passwd", "etc//passwd"), ("//x", "/x"), ("a/../b", "b/.")]
)
def test_a_name_that_is_there_twice_is_refused(vfs: Layer, one: str, other: str) -> None:
    vfs.enter(Entry(FILE, name=one), Entry(FILE, name=other))
    with pytest.raises(SourceCorrupt, match="is there twice"):
        joined(stream.recorded(vfs.files))


def test_names_that_only_look_alike(vfs: Layer) -> None:
    names = ["a", "A", "/a", "../a", "a ", ".a"]
    vfs.enter(*(Entry(FILE, name=name) for name in names), Entry(FILE, name_raw=b"a\xff"), Entry(FILE, name_raw=b"a\xfe"))
    assert joined(stream.recorded(vfs.files)) == b""


def test_there_is_a_most_of_names(vfs: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_NAMES", 100)
    vfs.enter(*(Entry(FILE, name=str(number)) for number in range(100)))
    assert vfs.checksum().fallback == ""
    vfs.enter(*(Entry(FILE, name=str(number)) for number in range(101)))
    assert "more than 100 names" in vfs.checksum().fallback


def test_the_record_takes_the_place_of_a_name_only(vfs: Layer) -> None:
    """A migration of Docker's that was stopped may have left a link to the original there."""
    original = vfs.tar_data.read_bytes()
    vfs.record.hardlink_to(vfs.tar_data)
    vfs.record.with_name(f".transship-{vfs.record.name}").hardlink_to(vfs.tar_data)
    (vfs.directory / "large").write_bytes(b"changed")
    vfs.checksum()
    assert vfs.tar_data.read_bytes() == original
    assert stat.S_IMODE(vfs.record.stat().st_mode) == 0o644
    assert sorted(path.name for path in vfs.record.parent.iterdir()) == ["record", "root"]


def test_a_layer_that_cannot_be_read_leaves_nothing(vfs: Layer) -> None:
    vfs.tar_data.unlink()
    gone = LayerFiles("vfs", vfs.directory / "gone", None, vfs.tar_data)
    with pytest.raises(SourceCorrupt, match=r"cannot read .*/gone: No such file"):
        stream.checksum(gone, vfs.record, vfs.passed.append)
    assert sorted(path.name for path in vfs.record.parent.iterdir()) == ["root"]


def test_where_nothing_can_be_written_it_is_said(vfs: Layer) -> None:
    vfs.tar_data.unlink()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        stream.checksum(vfs.files, vfs.record.parent / "nowhere/record", vfs.passed.append)


def test_a_file_named_like_a_deletion_is_no_layer_of_docker(vfs: Layer) -> None:
    vfs.tar_data.unlink()
    (vfs.directory / "etc/.wh.hosts").touch()
    with pytest.raises(SourceCorrupt, match=r"etc/\.wh\.hosts"):
        vfs.checksum()
