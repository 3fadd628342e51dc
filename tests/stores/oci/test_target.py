"""An OCI image layout as a target."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from tests.stores.suites import store_blob, stored
from transship.errors import TargetRefused
from transship.formats import digest as digests
from transship.stores.interfaces import ImageDescriptor, ImageRecord
from transship.stores.oci.target import LayoutTarget

if TYPE_CHECKING:
    from pathlib import Path

    from transship.formats.digest import Digest
    from transship.stores.interfaces import Target

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def descriptor(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digests.of(data), "size": len(data)}


def store_image(target: LayoutTarget, name: str, *layers: bytes) -> set[Digest]:
    """Store an image of these layers, and return the digests of all its blobs."""
    config = json.dumps({"name": name}).encode()
    manifest = json.dumps(
        {"config": descriptor("config", config), "layers": [descriptor("layer", layer) for layer in layers]}
    ).encode()
    found = {store_blob(target.content, data) for data in {config, *layers} if digests.of(data) not in stored(target.content)}
    found.add(store_blob(target.content, manifest))
    target.images.put(ImageRecord(name, ImageDescriptor(MANIFEST, digests.of(manifest), len(manifest))))
    return found


@pytest.mark.parametrize("depth", ["layout", "a/b/layout"])
def test_looking_leaves_nothing(tmp_path: Path, depth: str) -> None:
    directory = tmp_path / depth
    target: Target = LayoutTarget(directory)
    target.open()
    target.hold("run")
    assert list(target.content.list()) == []
    assert list(target.images.list()) == []
    target.collect(frozenset({digests.of(b"x")}), frozenset())
    target.durable()
    assert target.file_systems() == {"content": tmp_path}
    target.release("run")
    target.close()
    assert list(tmp_path.iterdir()) == []
    assert target.snapshots is None


def test_first_blob_makes_a_valid_layout(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "layout"
    store_blob(LayoutTarget(directory).content, b"data")
    assert json.loads((directory / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads((directory / "index.json").read_bytes())["manifests"] == []
    assert [path.name for path in (directory / "blobs" / "sha256").iterdir()] == [digests.hex_part(digests.of(b"data"))]
    assert {path.name for path in directory.iterdir()} == {"blobs", "index.json", "oci-layout"}
    assert directory.stat().st_mode & 0o777 == 0o700
    assert LayoutTarget(directory).file_systems() == {"content": directory}


@pytest.mark.parametrize("there", [[], ["lost+found/"], ["oci-layout"], ["oci-layout", "blobs/", "index.json.x"]])
def test_empty_and_half_made_directories_are_taken(directory: Path, target: LayoutTarget, there: list[str]) -> None:
    directory.mkdir(mode=0o750)
    for name in there:
        if name.endswith("/"):
            (directory / name).mkdir()
        else:
            (directory / name).touch()
    target.open()
    store_blob(target.content, b"data")
    LayoutTarget(directory).open()
    assert stored(LayoutTarget(directory).content) == {digests.of(b"data")}
    assert directory.stat().st_mode & 0o777 == 0o750


def test_something_else_is_refused(directory: Path, target: LayoutTarget) -> None:
    directory.mkdir()
    (directory / "holiday.jpg").touch()
    for call in (target.open, lambda: store_blob(target.content, b"data"), lambda: target.hold("run")):
        with pytest.raises(TargetRefused, match=f"{directory} is not empty"):
            call()
    assert [path.name for path in directory.iterdir()] == ["holiday.jpg"]


def test_file_is_refused(directory: Path, target: LayoutTarget) -> None:
    directory.touch()
    with pytest.raises(TargetRefused, match=f"{directory} is not a directory"):
        target.open()


@pytest.mark.parametrize("marker", ["x", "[]", '{"imageLayoutVersion": "2.0.0"}', "{}", "x" * 5000, "[" * 4000])
def test_layout_of_another_kind_is_refused(directory: Path, target: LayoutTarget, marker: str) -> None:
    directory.mkdir()
    (directory / "oci-layout").write_text(marker)
    with pytest.raises(TargetRefused, match=str(directory)):
        target.open()
    with pytest.raises(TargetRefused, match=str(directory)):
        store_blob(target.content, b"data")
    assert [path.name for path in directory.iterdir()] == ["oci-layout"]


def test_marker_that_is_a_fifo_is_refused(directory: Path, target: LayoutTarget) -> None:
    directory.mkdir()
    os.mkfifo(directory / "oci-layout")
    with pytest.raises(TargetRefused, match="not a regular file"):
        target.open()


class TestCollect:
    def test_only_what_was_asked_for_and_nothing_reaches(self, target: LayoutTarget) -> None:
        one = store_image(target, "x:1", b"shared", b"one")
        two = store_image(target, "x:2", b"shared", b"two")
        loose, asked = store_blob(target.content, b"loose"), store_blob(target.content, b"asked")
        target.collect(frozenset(one | two | {asked, digests.of(b"missing")}), frozenset())
        assert stored(target.content) == one | two | {loose}
        target.images.delete("x:1")
        target.collect(frozenset(one), frozenset())
        assert stored(target.content) == two | {loose, digests.of(b"shared")}
        target.images.delete("x:2")
        target.collect(frozenset(one | two), frozenset())
        assert stored(target.content) == {loose}

    def test_nested_indexes_keep_what_they_reach(self, directory: Path, target: LayoutTarget) -> None:
        blobs = store_image(target, "x:1", b"layer")
        manifest = target.images.get("x:1").target
        inner = json.dumps({"manifests": [{"mediaType": MANIFEST, "digest": manifest.digest, "size": manifest.size}]}).encode()
        outer = json.dumps({"manifests": [descriptor(INDEX, inner), descriptor(MANIFEST, b"not here")]}).encode()
        blobs |= {store_blob(target.content, inner), store_blob(target.content, outer)}
        (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [descriptor(INDEX, outer)]}))
        target.collect(frozenset(blobs), frozenset())
        assert stored(target.content) == blobs

    @pytest.mark.parametrize("garbage", [b"", b"not JSON", b'{"layers": 1}', b"[" * 100_000, b"\xff" * 10, bytes(17 << 20)])
    def test_damaged_manifest_ends_it(self, target: LayoutTarget, garbage: bytes) -> None:
        loose = store_blob(target.content, b"loose")
        digest = store_blob(target.content, garbage)
        target.images.put(ImageRecord("x:1", ImageDescriptor(MANIFEST, digest, len(garbage))))
        with pytest.raises(TargetRefused, match=digests.hex_part(digest)):
            target.collect(frozenset({loose}), frozenset())
        assert stored(target.content) == {loose, digest}

    def test_changed_manifest_ends_it(self, directory: Path, target: LayoutTarget) -> None:
        blobs = store_image(target, "x:1", b"layer")
        path = directory / "blobs" / "sha256" / digests.hex_part(target.images.get("x:1").target.digest)
        path.chmod(0o644)
        path.write_text('{"layers": []}')
        with pytest.raises(TargetRefused, match="damaged"):
            target.collect(frozenset(blobs), frozenset())
        assert stored(target.content) == blobs
