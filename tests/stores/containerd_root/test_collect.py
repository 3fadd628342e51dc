"""What containerd's garbage collector keeps, case by case."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from transship.formats import go_binary
from transship.formats.bolt.draft import Draft
from transship.stores.containerd_db import metadata
from transship.stores.containerd_db.metadata import ImageTarget, Namespace
from transship.stores.containerd_root.collect import Graph, Node

if TYPE_CHECKING:
    from collections.abc import Mapping

NOTHING: Mapping[str, str] = {}
REF, BACK, CONDITION = "containerd.io/gc.ref", "containerd.io/gc.bref", "containerd.io/gc.cond"
HOUR = 3_600_000_000_000


@pytest.fixture
def root() -> Draft:
    """Blobs A to D and snapshots a to d, b on a, c on b; nothing keeps any of it."""
    root = Draft(None)
    metadata.mark_version(root)
    namespace = Namespace(root, "moby")
    for name in "ABCD":
        namespace.add_blob(name, 1, NOTHING)
    for name, parent in (("a", None), ("b", "a"), ("c", "b"), ("d", None)):
        namespace.add_snapshot("overlayfs", name, parent, NOTHING)
    return root


@pytest.fixture
def namespace(root: Draft) -> Namespace:
    return Namespace(root, "moby")


def kept(root: Draft, namespace: str = "moby") -> set[str]:
    """Return which blobs and snapshots of overlayfs are kept, by their names."""
    kinds = {"content", "snapshots/overlayfs"}
    return {node.name for node in Graph(root).kept() if node.kind in kinds and node.namespace == namespace}


def label(bucket: Draft | None, **labels: str) -> None:
    assert bucket is not None
    for key, value in labels.items():
        bucket.made(b"labels").put(key.encode(), value.encode())


def add_image(namespace: Namespace, name: str, digest: str, labels: Mapping[str, str] = NOTHING) -> None:
    namespace.put_image(name, ImageTarget("type", digest, 1), labels)


def add_lease(namespace: Namespace, labels: Mapping[str, str], *resources: tuple[str, str]) -> None:
    lease = namespace.add_lease("lease", labels)
    for kind, name in resources:
        metadata.hold(lease, kind, name)


def test_nothing_keeps_nothing(root: Draft) -> None:
    assert kept(root) == set()
    assert Graph(Draft(None)).kept() == set()


def test_image_keeps_what_its_manifest_refers_to(root: Draft, namespace: Namespace) -> None:
    add_image(namespace, "x:1", "A")
    label(namespace.blob("A"), **{f"{REF}.content.config": "B", f"{REF}.content.l.0": "C"})
    label(namespace.blob("B"), **{f"{REF}.snapshot.overlayfs": "c"})
    assert kept(root) == {"A", "B", "C", "a", "b", "c"}


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        (f"{REF}.content", {"A", "B"}),
        (f"{REF}.content.0", {"A", "B"}),
        (f"{REF}.content/any/thing", {"A", "B"}),
        (f"{REF}.contents", {"A"}),
        (f"{REF}.other", {"A"}),
        (f"{REF}.snapshot.native", {"A"}),
        (f"{REF}.snapshot", {"A"}),
        (REF, {"A"}),
    ],
)
def test_references_to_content(root: Draft, namespace: Namespace, key: str, wanted: set[str]) -> None:
    add_image(namespace, "x:1", "A", {key: "B"})
    assert kept(root) == wanted


@pytest.mark.parametrize(
    "key", [f"{REF}.snapshot.overlayfs", f"{REF}.snapshot.overlayfs/name", f"{CONDITION}.snapshot.overlayfs"]
)
def test_references_to_snapshots(root: Draft, namespace: Namespace, key: str) -> None:
    add_image(namespace, "x:1", "A")
    label(namespace.blob("A"), **{key: "usedat<24h,usedat>1h|b" if "cond" in key else "b"})
    assert kept(root) == {"A", "a", "b"}


def test_labels_of_snapshots_count(root: Draft, namespace: Namespace) -> None:
    label(namespace.snapshot("overlayfs", "d"), **{"containerd.io/gc.root": "now"})
    label(namespace.snapshot("overlayfs", "d"), **{f"{REF}.snapshot.overlayfs": "a", f"{REF}.content.x": "D"})
    assert kept(root) == {"a", "d", "D"}


def test_roots(root: Draft, namespace: Namespace) -> None:
    label(namespace.blob("C"), **{"containerd.io/gc.root": "x"})
    label(namespace.snapshot("overlayfs", "b"), **{"containerd.io/gc.root.name": "x"})
    assert kept(root) == {"C", "a", "b"}


def test_images_refer_to_images(root: Draft, namespace: Namespace) -> None:
    add_image(namespace, "x:1", "A", {f"{REF}.image.y": "y:1"})
    add_image(namespace, "y:1", "B", {"containerd.io/gc.expire": "2001-01-01T00:00:00Z"})
    assert kept(root) == {"A", "B"}


class TestLeases:
    def test_it_keeps_what_its_things_refer_to(self, root: Draft, namespace: Namespace) -> None:
        label(namespace.blob("A"), **{f"{REF}.content.0": "B"})
        add_lease(namespace, NOTHING, ("content", "A"), ("snapshots/overlayfs", "b"), ("images", "x:1"))
        add_image(namespace, "x:1", "C")
        assert kept(root) == {"A", "B", "C", "a", "b"}

    def test_a_flat_one_does_not(self, root: Draft, namespace: Namespace) -> None:
        label(namespace.blob("A"), **{f"{REF}.content.0": "B"})
        label(namespace.snapshot("overlayfs", "b"), **{f"{REF}.content.0": "C"})
        flat = {"containerd.io/gc.flat": "2026-01-01T00:00:00Z"}
        add_lease(namespace, flat, ("content", "A"), ("snapshots/overlayfs", "b"))
        assert kept(root) == {"A", "a", "b"}

    def test_what_is_kept_otherwise_too_is_followed(self, root: Draft, namespace: Namespace) -> None:
        label(namespace.blob("A"), **{f"{REF}.content.0": "B"})
        add_lease(namespace, {"containerd.io/gc.flat": "x"}, ("content", "A"))
        add_image(namespace, "x:1", "A")
        assert kept(root) == {"A", "B"}

    @pytest.mark.parametrize(
        ("expiry", "wanted"),
        [
            ("2001-01-01T00:00:00Z", set()),
            ("2001-01-01T00:00:00+02:00", set()),
            ("2001-01-01T00:00:00.123456789Z", set()),
            ("2101-01-01T00:00:00Z", {"A"}),
            ("2001-01-01", {"A"}),
            ("never", {"A"}),
            ("", {"A"}),
        ],
    )
    def test_one_that_is_over(self, root: Draft, namespace: Namespace, expiry: str, wanted: set[str]) -> None:
        add_lease(namespace, {"containerd.io/gc.expire": expiry}, ("content", "A"))
        assert kept(root) == wanted

    def test_of_an_ingest(self, root: Draft, namespace: Namespace) -> None:
        root.made(b"v1", b"moby", b"content", b"ingests", b"ref").put(b"expected", b"D")
        assert kept(root) == set()
        add_lease(namespace, {"containerd.io/gc.flat": "x"}, ("ingests", "ref"))
        assert kept(root) == {"D"}


@pytest.mark.parametrize(("from_now", "wanted"), [(HOUR, {"D"}), (-HOUR, set())])
def test_ingests_keep_until_they_expire(root: Draft, from_now: int, wanted: set[str]) -> None:
    ingest = root.made(b"v1", b"moby", b"content", b"ingests", b"ref")
    ingest.put(b"expected", b"D")
    ingest.put(b"expireat", go_binary.time(time.time_ns() + from_now))
    assert kept(root) == wanted


def test_containers(root: Draft) -> None:
    container = root.made(b"v1", b"moby", b"containers", b"one")
    container.put(b"snapshotter", b"overlayfs")
    container.put(b"snapshotKey", b"b")
    label(container, **{f"{REF}.content.x": "D"})
    assert kept(root) == {"a", "b", "D"}


@pytest.mark.parametrize("place", [(b"v1", b"moby", b"sandboxes"), (b"moby", b"sandboxes")])
def test_sandboxes(root: Draft, place: tuple[bytes, ...]) -> None:
    label(root.made(*place, b"one"), **{f"{REF}.snapshot.overlayfs": "a", f"{REF}.content.x": "D"})
    assert kept(root) == {"a", "D"}


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        (f"{BACK}.content.x", "A", {"A", "D"}),
        (f"{BACK}.content", "B", {"A"}),
        (f"{BACK}.image", "x:1", {"A", "D"}),
        (f"{BACK}.snapshot.overlayfs", "d", {"A"}),
        (f"{BACK}.container/x", "one", {"A", "D"}),
        (f"{BACK}.containers", "one", {"A"}),
    ],
)
def test_back_references(root: Draft, namespace: Namespace, key: str, value: str, wanted: set[str]) -> None:
    add_image(namespace, "x:1", "A")
    root.made(b"v1", b"moby", b"containers", b"one")
    label(namespace.blob("D"), **{key: value})
    assert kept(root) == wanted


def test_namespaces_are_apart(root: Draft, namespace: Namespace) -> None:
    other = Namespace(root, "other")
    other.add_blob("A", 1, NOTHING)
    add_image(other, "x:1", "A")
    assert (kept(root), kept(root, "other")) == (set(), {"A"})
    add_image(namespace, "x:1", "B")
    assert (kept(root), kept(root, "other")) == ({"B"}, {"A"})


def test_cycles_end(root: Draft, namespace: Namespace) -> None:
    label(namespace.blob("A"), **{f"{REF}.content.0": "B"})
    label(namespace.blob("B"), **{f"{REF}.content.0": "A"})
    assert kept(root) == set()
    add_image(namespace, "x:1", "B")
    assert kept(root) == {"A", "B"}


def test_what_is_reached_from_something(root: Draft, namespace: Namespace) -> None:
    label(namespace.blob("A"), **{f"{REF}.content.0": "B"})
    label(namespace.blob("B"), **{f"{REF}.snapshot.overlayfs": "b"})
    reached = Graph(root).reached([Node("content", "moby", "A")])
    assert {node.name for node in reached} == {"A", "B", "a", "b"}


def test_long_chains(root: Draft, namespace: Namespace) -> None:
    for number in range(5000):
        namespace.add_blob(f"{number}", 1, {f"{REF}.content.0": f"{number + 1}"})
    add_image(namespace, "x:1", "0")
    assert len(kept(root)) == 5001
