"""meta.db: records as containerd has them, byte for byte."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from transship.formats import go_binary
from transship.formats.bolt.draft import Draft
from transship.stores.containerd_db import metadata, objects
from transship.stores.containerd_db.metadata import ImageTarget, Namespace

if TYPE_CHECKING:
    from typing import Any

TIMES = {b"createdat", b"updatedat"}


@pytest.fixture
def root() -> Draft:
    return Draft(None)


@pytest.fixture
def namespace(root: Draft) -> Namespace:
    return Namespace(root, "moby")


def held(bucket: Draft | None) -> dict[bytes, Any]:
    """Return all that is in a bucket, times by whether they are now."""
    assert bucket is not None
    found: dict[bytes, Any] = {}
    for key, value in bucket.items():
        if isinstance(value, Draft):
            found[key] = held(value)
        elif key in TIMES:
            assert isinstance(value, bytes)
            found[key] = abs(go_binary.read_time(value) - time.time_ns()) < 10_000_000_000
        else:
            found[key] = value
    return found


NOW = dict.fromkeys(TIMES, True)


def test_version(root: Draft) -> None:
    metadata.check_version(root)
    metadata.mark_version(root)
    assert held(root) == {b"v1": {b"version": b"\x06"}}
    metadata.mark_version(root)
    metadata.check_version(root)
    root.made(b"v1").put(b"version", b"\x08")
    metadata.mark_version(root)
    metadata.check_version(root)
    assert held(root) == {b"v1": {b"version": b"\x08"}}


@pytest.mark.parametrize("version", [b"\x04", b"\x0a", b"\x80\x01", None])
def test_version_that_is_not_known(root: Draft, version: bytes | None) -> None:
    root.made(b"v1", b"moby")
    if version is not None:
        root.made(b"v1").put(b"version", version)
    with pytest.raises(ValueError, match=r"version \d+ of meta.db"):
        metadata.check_version(root)


def test_namespaces(root: Draft, namespace: Namespace) -> None:
    assert metadata.namespaces(root) == []
    metadata.mark_version(root)
    namespace.add_blob("sha256:1", 1, {})
    root.made(b"v1", b"a\xff")
    assert metadata.namespaces(root) == ["a\udcff", "moby"]


def test_blob(root: Draft, namespace: Namespace) -> None:
    namespace.add_blob("sha256:1", 10240, {"a": "1", "empty": ""})
    record = {b"size": b"\x80\xa0\x01", b"labels": {b"a": b"1"}, **NOW}
    assert held(root) == {b"v1": {b"moby": {b"content": {b"blob": {b"sha256:1": record}}}}}
    namespace.add_blob("sha256:2", 0, {})
    assert list(namespace.digests()) == [name for name, _ in namespace.blobs()] == ["sha256:1", "sha256:2"]
    found = namespace.blob("sha256:1")
    assert found is not None
    assert (metadata.size_of(found), objects.labels(found)) == (10240, {"a": "1"})
    namespace.remove_blob("sha256:1")
    namespace.remove_blob("sha256:1")
    assert namespace.blob("sha256:1") is None
    assert list(Namespace(root, "other").digests()) == []


def test_ingests(root: Draft, namespace: Namespace) -> None:
    place = root.made(b"v1", b"moby", b"content", b"ingests")
    place.made(b"one").put(b"ref", b"moby/1/one")
    place.made(b"two").put(b"expected", b"sha256:1")
    found = {name: (metadata.reference_of(record), metadata.expected_by(record)) for name, record in namespace.ingests()}
    assert found == {"one": ("moby/1/one", ""), "two": ("", "sha256:1")}


def test_image(root: Draft, namespace: Namespace) -> None:
    namespace.put_image("x:1", ImageTarget("type", "sha256:1", 700), {"a": "1", "b": "1"})
    target = {b"digest": b"sha256:1", b"mediatype": b"type", b"size": b"\xf8\x0a"}
    record = {b"target": target, b"labels": {b"a": b"1", b"b": b"1"}, **NOW}
    assert held(root) == {b"v1": {b"moby": {b"images": {b"x:1": record}}}}
    image = namespace.image("x:1")
    assert image is not None
    assert image.value(b"createdat") == image.value(b"updatedat")
    created = image.value(b"createdat")
    image.made(b"annotations").put(b"name", b"x")
    namespace.put_image("x:1", ImageTarget("type", "sha256:2", 700), {"b": "2"})
    assert held(image) == {b"target": {**target, b"digest": b"sha256:2"}, b"labels": {b"b": b"2"}, **NOW}
    assert image.value(b"createdat") == created != image.value(b"updatedat")
    assert metadata.target_of(image) == ImageTarget("type", "sha256:2", 700)
    namespace.remove_image("x:1")
    assert list(namespace.images()) == []


def test_image_without_a_target(namespace: Namespace) -> None:
    namespace.put_image("x:1", ImageTarget("type", "sha256:1", 1), {})
    image = namespace.image("x:1")
    assert image is not None
    image.delete(b"target")
    with pytest.raises(ValueError, match="without a target"):
        metadata.target_of(image)


class TestSnapshots:
    @pytest.fixture
    def records(self, root: Draft, namespace: Namespace) -> Draft:
        assert namespace.add_snapshot("overlayfs", "base", None, {}) == "moby/1/base"
        assert namespace.add_snapshot("overlayfs", "active", "base", {"a": "1"}) == "moby/2/active"
        records = root.bucket(b"v1", b"moby", b"snapshots", b"overlayfs")
        assert records is not None
        return records

    def test_add(self, records: Draft, namespace: Namespace) -> None:
        base = {b"name": b"moby/1/base", b"children": {b"active": b""}, **NOW}
        active = {b"name": b"moby/2/active", b"parent": b"base", b"labels": {b"a": b"1"}, **NOW}
        assert held(records) == {b"base": base, b"active": active}
        assert records.sequence == 2
        assert [name for name, _ in namespace.snapshots("overlayfs")] == ["active", "base"]
        assert list(namespace.snapshots("native")) == []

    def test_commit(self, records: Draft, namespace: Namespace) -> None:
        assert namespace.commit_snapshot("overlayfs", "top", "active", {"b": "2"}) == "moby/3/top"
        base = {b"name": b"moby/1/base", b"children": {b"top": b""}, **NOW}
        top = {b"name": b"moby/3/top", b"parent": b"base", b"labels": {b"b": b"2"}, **NOW}
        assert held(records) == {b"base": base, b"top": top}
        with pytest.raises(ValueError, match="no snapshot active"):
            namespace.commit_snapshot("overlayfs", "other", "active", {})

    def test_remove(self, records: Draft, namespace: Namespace) -> None:
        base = namespace.snapshot("overlayfs", "base")
        assert base is not None
        assert metadata.has_children(base)
        namespace.remove_snapshot("overlayfs", "active")
        namespace.remove_snapshot("overlayfs", "missing")
        assert held(records) == {b"base": {b"name": b"moby/1/base", b"children": {}, **NOW}}
        assert not metadata.has_children(base)
        assert (metadata.key_of(base), metadata.parent_of(base)) == ("moby/1/base", None)


def test_lease(root: Draft, namespace: Namespace) -> None:
    lease = namespace.add_lease("one", {"a": "1"})
    metadata.hold(lease, "content", "sha256:1")
    metadata.hold(lease, "snapshots/overlayfs", "base")
    metadata.hold(lease, "snapshots/overlayfs", "gone")
    metadata.let_go(lease, "snapshots/overlayfs", "gone")
    metadata.let_go(lease, "snapshots/native", "gone")
    metadata.let_go(lease, "ingests", "gone")
    record = {
        b"createdat": True,
        b"labels": {b"a": b"1"},
        b"content": {b"sha256:1": b""},
        b"snapshots": {b"overlayfs": {b"base": b""}},
    }
    assert held(root) == {b"v1": {b"moby": {b"leases": {b"one": record}}}}
    assert list(metadata.held_by(lease)) == [("content", "sha256:1"), ("snapshots/overlayfs", "base")]
    assert [name for name, _ in namespace.leases()] == ["one"]
    namespace.remove_lease("one")
    assert namespace.lease("one") is None


def test_names_are_bytes(namespace: Namespace) -> None:
    name = b"\xff/ \n".decode("utf-8", "surrogateescape")
    namespace.add_snapshot("overlayfs", name, None, {})
    assert [found for found, _ in namespace.snapshots("overlayfs")] == [name]
