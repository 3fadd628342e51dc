"""Registering and deleting images: what is on disk then, and that nothing is left of what failed."""

from __future__ import annotations

import io
import json
import stat
import tarfile
import threading
from typing import IO, TYPE_CHECKING

import pytest

from tests.files.trees import descriptors, listing
from tests.stores.graph.builder import GraphBuilder, make_tar, usual_json
from transship.errors import SourceCorrupt, TargetNotFound, TargetRefused, UsageError
from transship.stores.graph.holds import Locks
from transship.stores.graph.relations import ensure_loadable
from transship.stores.graph.store import read_graph
from transship.stores.graph.stream import LayerFiles, recorded
from transship.stores.graph.write import GraphWriter

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("as_root")

BASE, TOP = "a" * 64, "b" * 64
DIGEST = "sha256:" + "d" * 64
FILES: dict[str, bytes | None] = {"bin": None, "bin/sh": b"shell", "etc": None}
MORE: dict[str, bytes | None] = {"etc": None, "etc/conf": b"x=1", "bin/.wh.sh": b""}


def archive(files: dict[str, bytes | None]) -> IO[bytes]:
    return io.BytesIO(make_tar(files, 1_400_000_000))


def json_of(image_id: str, parent: str | None = None) -> bytes:
    return usual_json(image_id, parent, {})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "docker").mkdir(mode=0o700)
    return tmp_path / "docker"


@pytest.fixture
def writer(root: Path, driver: str) -> GraphWriter:
    return GraphWriter(root, driver)


@pytest.fixture
def filled(writer: GraphWriter) -> GraphWriter:
    """A store with an image on another one."""
    assert writer.register(BASE, json_of(BASE), archive(FILES))
    assert writer.register(TOP, json_of(TOP, BASE), archive(MORE))
    return writer


def everything(root: Path) -> dict[bytes, object]:
    """What is in the root, but for times of directories, which are those of the last change."""
    found = listing(root)
    return {path: about | ({"mtime": 0} if stat.S_ISDIR(int(about["mode"], 8)) else {}) for path, about in found.items()}


def stream(root: Path, driver: str, image_id: str) -> bytes:
    graph = read_graph(root, driver)
    image = graph.images[image_id]
    files = LayerFiles(driver, graph.layer_directory(image_id), None, image.tar_data)
    return b"".join(bytes(chunk) for chunk in recorded(files))


@pytest.mark.usefixtures("filled")
def test_an_image_comes_back_as_it_was_registered(root: Path, driver: str) -> None:
    assert stream(root, driver, BASE) == make_tar(FILES, 1_400_000_000)
    assert stream(root, driver, TOP) == make_tar(MORE, 1_400_000_000)
    graph = read_graph(root, driver)
    assert graph.problems == ()
    assert graph.images[TOP].parent == BASE
    assert (graph.images[BASE].size, graph.images[TOP].size) == (5, 3)
    for image in graph.images.values():
        ensure_loadable(image)


@pytest.mark.usefixtures("filled")
def test_what_is_on_disk(root: Path, driver: str) -> None:
    def modes(place: Path) -> dict[str, str]:
        return {path.name: oct(stat.S_IMODE(path.lstat().st_mode)) for path in place.iterdir()}

    assert modes(root)["graph"] == "0o700"
    assert modes(root / "graph") == {"_tmp": "0o700", BASE: "0o700", TOP: "0o700"}
    assert modes(root / "graph" / TOP) == dict.fromkeys(("json", "layersize", "tar-data.json.gz"), "0o600")
    assert (root / "graph" / TOP / "json").read_bytes() == json_of(TOP, BASE)
    assert (root / "graph" / TOP / "layersize").read_text() == "3"
    layer = read_graph(root, driver).layer_directory(TOP)
    assert stat.S_IMODE(layer.stat().st_mode) == 0o755
    found = sorted(str(path.relative_to(layer)) for path in layer.rglob("*"))
    if driver == "aufs":
        assert found == ["bin", "bin/.wh.sh", "etc", "etc/conf"]
        assert (root / "aufs/layers" / BASE).read_text() == ""
        assert (root / "aufs/layers" / TOP).read_text() == f"{BASE}\n"
        assert list((root / "aufs/mnt" / TOP).iterdir()) == []
    else:
        assert found == ["bin", "etc", "etc/conf"]
    if driver == "overlay":
        assert modes(root / "overlay") == {BASE: "0o700", TOP: "0o700"}
        assert modes(root / "overlay" / TOP) == {"root": "0o755"}


@pytest.mark.parametrize("driver", ["overlay", "vfs"])
def test_files_of_the_parent(filled: GraphWriter, root: Path, driver: str) -> None:
    image_id = "c" * 64
    filled.register(image_id, json_of(image_id, TOP), archive({"new": b""}))
    graph = read_graph(root, driver)
    parent, child = graph.layer_directory(TOP) / "etc/conf", graph.layer_directory(image_id) / "etc/conf"
    assert parent.samefile(child) == (driver == "overlay")
    assert child.read_bytes() == b"x=1"
    assert child.stat().st_mtime_ns == parent.stat().st_mtime_ns


@pytest.mark.parametrize(("driver", "mode", "owner"), [("vfs", 0o755, 0), ("overlay", 0o700, 7), ("aufs", 0o755, 0)])
def test_the_root_of_a_tree(root: Path, driver: str, mode: int, owner: int) -> None:
    """vfs does not hand on what the root of the layer below is, and aufs does not unpack it at all."""
    info = tarfile.TarInfo("./")
    info.type, info.mode, info.uid = tarfile.DIRTYPE, 0o700, 7
    writer = GraphWriter(root, driver)
    writer.register(BASE, json_of(BASE), io.BytesIO(info.tobuf() + bytes(1024)))
    writer.register(TOP, json_of(TOP, BASE), archive({}))
    status = read_graph(root, driver).layer_directory(TOP).stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (mode, owner)


def test_ancestors_of_aufs(root: Path) -> None:
    writer = GraphWriter(root, "aufs")
    ids = [digit * 64 for digit in "1234"]
    for number, image_id in enumerate(ids):
        writer.register(image_id, json_of(image_id, ids[number - 1] if number else None), archive({}))
    assert (root / "aufs/layers" / ids[3]).read_text() == f"{ids[2]}\n{ids[1]}\n{ids[0]}\n"


def test_what_is_there_is_not_registered_again(filled: GraphWriter, root: Path) -> None:
    before = everything(root)
    assert not filled.register(TOP, json_of(TOP, BASE), archive({"other": b"x"}))
    assert everything(root) == before


@pytest.mark.usefixtures("filled")
def test_an_image_whose_layer_is_absent_is_replaced(root: Path, driver: str) -> None:
    """As those are of which another graph driver has the layer."""
    other = "vfs" if driver != "vfs" else "overlay"
    again = GraphWriter(root, other)
    assert again.register(BASE, json_of(BASE), archive({"other": b"x"}))
    assert stream(root, other, BASE) == make_tar({"other": b"x"}, 1_400_000_000)
    assert [path.name for path in (root / "graph/_tmp").iterdir()] == []


def test_leftovers_of_what_was_interrupted_are_no_obstacle(filled: GraphWriter, root: Path, driver: str) -> None:
    """A kill leaves the driver's directories and scratch: as if the image's own directory had not come yet."""
    (root / "graph" / TOP).rename(root / "graph/_tmp" / TOP)
    assert filled.register(TOP, json_of(TOP, BASE), archive(MORE))
    assert stream(root, driver, TOP) == make_tar(MORE, 1_400_000_000)
    assert [path.name for path in (root / "graph/_tmp").iterdir()] == []


def test_the_old_id_of_a_parent_is_noted(filled: GraphWriter, root: Path, driver: str) -> None:
    image_id, strong = "c" * 64, "e" * 64
    raw = json.dumps({"created": "2015-01-01T00:00:00Z", "parent_id": f"sha256:{strong}"}).encode()
    assert filled.register(image_id, raw, archive({}), TOP)
    path = root / "graph" / image_id / "parent"
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == (TOP, 0o600)
    assert read_graph(root, driver).images[image_id].parent == TOP


class Failing(io.RawIOBase):
    """An archive that ends in an error, or in something else."""

    def __init__(self, data: bytes, error: BaseException | None) -> None:
        self._data = io.BytesIO(data)
        self._error = error

    def read(self, size: int = -1) -> bytes:
        data = self._data.read(size)
        if not data and self._error is not None:
            raise self._error
        return data


BROKEN = {
    "cut off": (make_tar(FILES, 0)[:1600], None),
    "no archive": (make_tar(FILES, 0)[:1536] + b"garbage" * 200, None),
    "unreadable": (make_tar(FILES, 0)[:1536], OSError(5, "Input/output error")),
    "stopped": (make_tar(FILES, 0)[:1536], KeyboardInterrupt()),
    "outside": (make_tar({"d": None, "d/x": b"x", "../x": b"x"}, 0), None),
    "below a file": (make_tar({"d": b"", "d/x": b"x"}, 0), None),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_nothing_is_left_of_what_failed(filled: GraphWriter, root: Path, kind: str) -> None:
    data, error = BROKEN[kind]
    image_id = "c" * 64
    before, opened = everything(root), descriptors()
    with pytest.raises(KeyboardInterrupt if kind == "stopped" else Exception) as caught:
        filled.register(image_id, json_of(image_id, TOP), Failing(data, error))  # type: ignore[arg-type]
    if error is None:
        assert isinstance(caught.value, SourceCorrupt)
        assert image_id in caught.value.message
    assert everything(root) == before
    del caught
    assert descriptors() == opened
    assert filled.register(image_id, json_of(image_id, TOP), archive({}))


@pytest.mark.parametrize("image_id", ["", "x", "a" * 63, "A" * 64, "../" + "a" * 61, "a" * 64 + "\n", "27cf784147099545"])
def test_ids_that_are_none(writer: GraphWriter, root: Path, image_id: str) -> None:
    with pytest.raises(UsageError, match="not an image ID"):
        writer.register(image_id, json_of(image_id), archive({}))
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("raw", [b"", b"null", b"{", b"[]", b'{"id":"x"}', b'{"id":1}', b" " * (17 << 20)])
def test_jsons_that_are_none_of_this_image(writer: GraphWriter, root: Path, raw: bytes) -> None:
    with pytest.raises(SourceCorrupt):
        writer.register(TOP, raw, archive({}))
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("parent", [TOP, "../x", "A" * 64])
def test_parents_that_cannot_be(writer: GraphWriter, root: Path, parent: str) -> None:
    with pytest.raises(UsageError, match="cannot stand on"):
        writer.register(TOP, json_of(TOP, parent), archive({}))
    assert list(root.iterdir()) == []


def test_a_parent_that_is_not_there(writer: GraphWriter, root: Path) -> None:
    with pytest.raises(SourceCorrupt, match=BASE):
        writer.register(TOP, json_of(TOP, BASE), archive({}))
    assert [path.name for path in root.rglob("*") if path.name not in {"graph", "_tmp"}] == []


def test_a_driver_that_cannot_be_written(root: Path) -> None:
    with pytest.raises(UsageError, match="btrfs"):
        GraphWriter(root, "btrfs")


def test_deleting_takes_back_registering(filled: GraphWriter, root: Path) -> None:
    image_id = "c" * 64
    before = everything(root)
    filled.register(image_id, json_of(image_id, TOP), archive({"x": b"x"}))
    filled.delete(image_id)
    assert everything(root) == before
    with pytest.raises(TargetNotFound):
        filled.delete(image_id)


def test_what_others_stand_on_is_not_deleted(filled: GraphWriter, root: Path) -> None:
    before = everything(root)
    with pytest.raises(TargetRefused, match=TOP[:12]):
        filled.delete(BASE)
    assert everything(root) == before
    filled.delete(TOP)
    filled.delete(BASE)


@pytest.mark.parametrize("image_id", ["", "_tmp", "..", "../../x", "a" * 64 + "/../" + "b" * 64])
def test_what_is_no_image_is_not_deleted(filled: GraphWriter, root: Path, image_id: str) -> None:
    before = everything(root)
    with pytest.raises(TargetNotFound):
        filled.delete(image_id)
    assert everything(root) == before


def test_what_a_session_needs_is_not_deleted(filled: GraphWriter) -> None:
    filled.retain("pull 1", TOP, "e" * 64)
    filled.retain("pull 1", TOP)
    filled.retain("build 2", TOP)
    filled.release("pull 1", TOP)
    assert filled.is_retained(TOP)
    with pytest.raises(TargetRefused, match="build 2"):
        filled.delete(TOP)
    filled.release("build 2", TOP, BASE)
    filled.release("nobody", TOP)
    assert not filled.is_retained(TOP)
    filled.delete(TOP)
    assert filled.is_retained("e" * 64)


class Waiting(io.BytesIO):
    """An archive that does not go on before it may."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.begun, self.may_go_on = threading.Event(), threading.Event()

    def read(self, size: int | None = -1) -> bytes:
        self.begun.set()
        assert self.may_go_on.wait(30)
        return super().read(size)


def test_one_image_is_registered_once_whoever_comes_meanwhile(filled: GraphWriter, root: Path, driver: str) -> None:
    image_id, slow, ended = "c" * 64, Waiting(make_tar({"first": b""}, 0)), []

    def register(layer: IO[bytes]) -> None:
        ended.append(filled.register(image_id, json_of(image_id, TOP), layer))

    first = threading.Thread(target=register, args=[slow])
    first.start()
    assert slow.begun.wait(30)
    with pytest.raises(TargetRefused, match=f"register {image_id}"):
        filled.delete(TOP)  # on which it will stand
    second = threading.Thread(target=register, args=[archive({"second": b""})])
    second.start()
    slow.may_go_on.set()
    for thread in (first, second):
        thread.join(30)
    assert sorted(ended) == [False, True]
    assert stream(root, driver, image_id) == make_tar({"first": b""}, 0)


def test_locks_that_nobody_has_take_no_memory() -> None:
    locks = Locks()
    with locks.held("a"), locks.held("b"):
        assert set(locks._locks) == {"a", "b"}
    assert locks._locks == {}


def test_digests(filled: GraphWriter, root: Path) -> None:
    assert filled.registry_digest(TOP) is None
    filled.set_registry_digest(TOP, DIGEST)
    assert filled.registry_digest(TOP) == DIGEST
    path = root / "graph" / TOP / "checksum"
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == (DIGEST, 0o600)
    with pytest.raises(UsageError, match="not a digest"):
        filled.set_registry_digest(TOP, "tarsum+sha256:x")
    with pytest.raises(TargetNotFound):
        filled.set_registry_digest("c" * 64, DIGEST)
    with pytest.raises(TargetNotFound):
        filled.registry_digest("../x")


def test_v1_compatibility_is_made_for_all_that_have_none(filled: GraphWriter, root: Path) -> None:
    text = json.loads(filled.v1_compatibility(TOP))
    assert (text["id"], text["parent"], text["Size"]) == (TOP, BASE, 3)
    for image_id in (TOP, BASE):
        path = root / "graph" / image_id / "v1Compatibility"
        assert path.read_bytes() == filled.v1_compatibility(image_id)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_v1_compatibility_that_is_stored_stays(filled: GraphWriter, root: Path) -> None:
    filled.set_v1_compatibility(BASE, b'{"id":"what the registry says"}')
    (root / "graph" / BASE / "json").write_bytes(b"damaged, and not needed")
    before = read_graph(root).broken
    assert set(before) == {BASE}
    with pytest.raises(SourceCorrupt):
        filled.v1_compatibility(TOP)
    (root / "graph" / BASE / "json").write_bytes(json_of(BASE, "f" * 64))  # whose own parent is not there
    assert json.loads(filled.v1_compatibility(TOP))["parent"] == "what the registry says"
    assert filled.v1_compatibility(BASE) == b'{"id":"what the registry says"}'


def test_v1_compatibility_in_circles(tmp_path: Path) -> None:
    builder = GraphBuilder(tmp_path / "circle")
    for image_id, parent in ((BASE, TOP), (TOP, BASE)):
        builder.image(raw=json_of(image_id, parent), image_id=image_id)
    with pytest.raises(SourceCorrupt, match="own ancestors"):
        GraphWriter(builder.root, "vfs").v1_compatibility(TOP)
    assert not list(builder.graph.rglob("v1Compatibility"))
