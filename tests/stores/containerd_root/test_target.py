"""containerd's root as a target: what is made where, what is kept, what is removed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from tests.files.trees import descriptors
from tests.stores.suites import some_bytes, store_blob, stored
from transship.errors import TargetNotFound, TargetRefused, TargetUnavailable
from transship.formats import digest as digests
from transship.formats import go_binary
from transship.stores import bolt_file
from transship.stores.containerd_db import metadata, objects
from transship.stores.containerd_db.metadata import Namespace
from transship.stores.containerd_root.target import ContainerdRootTarget
from transship.stores.interfaces import ImageDescriptor, ImageRecord

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transship.formats.digest import Digest
    from transship.stores.interfaces import Snapshotter

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
NAME = "docker.io/library/x:1"


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() == before


@pytest.fixture
def meta(directory: Path) -> Path:
    return directory / "io.containerd.metadata.v1.bolt" / "meta.db"


def snapshots_of(target: ContainerdRootTarget) -> Snapshotter:
    assert target.snapshots is not None
    return target.snapshots


def make_snapshot(target: ContainerdRootTarget, name: str, parent: str | None = None) -> None:
    snapshots = snapshots_of(target)
    (snapshots.prepare(f"active-{name}", parent) / "file").write_text(name)
    assert snapshots.commit(name, f"active-{name}", {}) is True


def names(target: ContainerdRootTarget) -> list[str]:
    return sorted(info.name for info in snapshots_of(target).list())


def put_image(target: ContainerdRootTarget, digest: Digest, name: str = NAME) -> None:
    target.images.put(ImageRecord(name, ImageDescriptor(MANIFEST, digest, 10)))


def store_image(target: ContainerdRootTarget) -> set[Digest]:
    """Store an image with three snapshots, and return its blobs' digests."""
    for name, parent in (("base", None), ("middle", "base"), ("top", "middle")):
        make_snapshot(target, name, parent)
    assert target.snapshots is not None
    config = store_blob(target.content, b"config", {f"containerd.io/gc.ref.snapshot.{target.snapshots.name}": "top"})
    manifest = store_blob(target.content, b"manifest", {"containerd.io/gc.ref.content.config": config})
    put_image(target, manifest)
    return {config, manifest}


def directories(directory: Path, snapshotter: str = "overlayfs") -> list[str]:
    return sorted(path.name for path in (directory / f"io.containerd.snapshotter.v1.{snapshotter}" / "snapshots").iterdir())


def blob_files(directory: Path) -> set[str]:
    return {f"sha256:{path.name}" for path in (directory / "io.containerd.content.v1.content" / "blobs" / "sha256").iterdir()}


def modes(directory: Path) -> dict[str, int]:
    return {str(path.relative_to(directory)): path.stat().st_mode & 0o7777 for path in (directory, *directory.rglob("*"))}


@pytest.mark.parametrize("depth", ["root", "a/b/root"])
def test_looking_leaves_nothing(tmp_path: Path, depth: str) -> None:
    directory = tmp_path / depth
    target = ContainerdRootTarget(directory)
    target.open()
    assert (stored(target.content), names(target), list(target.images.list())) == (set(), [], [])
    for look_up in (lambda: target.content.info(digests.of(b"")), lambda: target.images.get(NAME)):
        with pytest.raises(TargetNotFound):
            look_up()
    target.images.delete(NAME)
    snapshots_of(target).remove("layer")
    target.collect(frozenset({digests.of(b"")}), frozenset({"layer"}))
    target.release("run")
    target.durable()
    target.close()
    assert list(tmp_path.iterdir()) == []
    assert target.file_systems() == {
        "content": directory / "io.containerd.content.v1.content",
        "snapshots": directory / "io.containerd.snapshotter.v1.overlayfs",
    }


def test_looking_at_what_is_there_changes_nothing(held: ContainerdRootTarget, directory: Path) -> None:
    store_image(held)
    held.release("test")
    held.close()
    before = {path: (path.lstat(), path.is_file() and path.read_bytes()) for path in directory.rglob("*")}
    target = ContainerdRootTarget(directory)
    target.open()
    assert names(target) == ["base", "middle", "top"]
    assert len(stored(target.content)) == 2
    assert target.images.get(NAME).target.media_type == MANIFEST
    target.release("test")
    target.close()
    after = {path: (path.lstat(), path.is_file() and path.read_bytes()) for path in directory.rglob("*")}
    assert after == before


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o000])
def test_modes_are_containerds(directory: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        target = ContainerdRootTarget(directory)
        target.hold("run")
        make_snapshot(target, "layer")
        blob = store_blob(target.content, b"data")
        target.close()
    finally:
        os.umask(before)
    content, overlay = "io.containerd.content.v1.content", "io.containerd.snapshotter.v1.overlayfs"
    found = modes(directory)
    found.pop(f"{overlay}/snapshots/1/fs/file")
    assert found == {
        ".": 0o700,
        content: 0o755,
        f"{content}/blobs": 0o755,
        f"{content}/blobs/sha256": 0o755,
        f"{content}/blobs/sha256/{digests.hex_part(blob)}": 0o444,
        f"{content}/ingest": 0o755,
        "io.containerd.metadata.v1.bolt": 0o711,
        "io.containerd.metadata.v1.bolt/meta.db": 0o644,
        overlay: 0o700,
        f"{overlay}/metadata.db": 0o600,
        f"{overlay}/snapshots": 0o700,
        f"{overlay}/snapshots/1": 0o700,
        f"{overlay}/snapshots/1/fs": 0o755,
        f"{overlay}/snapshots/1/work": 0o711,
    }


def test_directory_of_a_native_snapshot(directory: Path) -> None:
    target = ContainerdRootTarget(directory, "moby", "native")
    target.hold("run")
    make_snapshot(target, "layer")
    path = snapshots_of(target).directory("layer")
    assert path == directory / "io.containerd.snapshotter.v1.native" / "snapshots" / "1"
    assert path.stat().st_mode & 0o7777 == 0o755
    target.close()


def test_native_parent_is_kept_by_a_label(directory: Path) -> None:
    target = ContainerdRootTarget(directory, "moby", "native")
    target.hold("run")
    make_snapshot(target, "base")
    make_snapshot(target, "top", "base")
    info = snapshots_of(target).stat("top")
    assert (info.parent, dict(info.labels)) == (None, {"containerd.io/gc.ref.snapshot.native": "base"})
    snapshots_of(target).prepare("active", "base")
    snapshots_of(target).prepare("active", None)
    snapshots_of(target).commit("alone", "active", {})
    assert dict(snapshots_of(target).stat("alone").labels) == {}
    target.close()


def test_something_else_is_refused(directory: Path) -> None:
    directory.mkdir()
    (directory / "holiday.jpg").touch()
    with pytest.raises(TargetRefused, match="is not empty"):
        ContainerdRootTarget(directory).open()
    directory.joinpath("holiday.jpg").rename(directory / "lost+found")
    ContainerdRootTarget(directory).open()


def test_file_is_refused(directory: Path) -> None:
    directory.touch()
    with pytest.raises(TargetRefused, match="is not a directory"):
        ContainerdRootTarget(directory).open()


def test_other_snapshotters_are_refused(directory: Path) -> None:
    with pytest.raises(TargetRefused, match="overlayfs or native"):
        ContainerdRootTarget(directory, snapshotter="zfs")


@pytest.mark.parametrize("namespace", ["", "not a namespace!", "a/b", "..", "x" * 77, "version\n"])
def test_bad_namespace_is_refused(directory: Path, namespace: str) -> None:
    with pytest.raises(TargetRefused, match="namespace"):
        ContainerdRootTarget(directory, namespace).open()


@pytest.mark.parametrize("version", [None, 0, 2, 5])
def test_unknown_version_is_refused(directory: Path, held: ContainerdRootTarget, meta: Path, version: int | None) -> None:
    held.close()
    with bolt_file.changed(meta) as root:
        place = root.made(b"v1")
        place.delete(b"version")
        if version is not None:
            place.put(b"version", go_binary.varint(version))
    before = {path: path.is_file() and path.read_bytes() for path in directory.rglob("*")}
    for snapshotter in ("overlayfs", "native"):
        target = ContainerdRootTarget(directory, "moby", snapshotter)
        for call in (target.open, lambda target=target: target.hold("run")):
            with pytest.raises(TargetRefused, match=f"version {version or 0} of meta.db"):
                call()
    assert {path: path.is_file() and path.read_bytes() for path in directory.rglob("*")} == before
    with bolt_file.changed(meta) as root:
        root.made(b"v1").put(b"version", go_binary.varint(3))


def test_other_databases_are_refused(directory: Path, held: ContainerdRootTarget, meta: Path) -> None:
    held.close()
    with bolt_file.changed(meta) as root:
        root.delete(b"v1")
        root.made(b"v2")
    with pytest.raises(TargetRefused, match="version 0"):
        ContainerdRootTarget(directory).open()
    meta.unlink()
    meta.write_bytes(bytes(10_000))
    with pytest.raises(TargetRefused, match="not a bbolt file"):
        ContainerdRootTarget(directory).open()
    meta.unlink()


def test_version_4_and_what_is_not_known_stay(directory: Path, held: ContainerdRootTarget, meta: Path) -> None:
    held.close()
    with bolt_file.changed(meta) as root:
        root.made(b"v1").put(b"version", go_binary.varint(4))
        root.made(b"v1", b"moby", b"sandboxes", b"one").put(b"spec", b"x")
        root.made(b"v1", b"moby", b"images", b"theirs", b"target").put(b"digest", b"sha512:00")
        root.made(b"v1", b"moby", b"unknown", b"deep").sequence = 7
        root.made(b"other", b"things")
    target = ContainerdRootTarget(directory)
    target.hold("run")
    store_image(target)
    target.release("run")
    target.close()
    with bolt_file.opened(meta) as database:
        v1 = database.root[b"v1"]
        assert not isinstance(v1, bytes)
        assert v1[b"version"] == go_binary.varint(4)
        moby = v1[b"moby"]
        assert not isinstance(moby, bytes)
        assert {b"sandboxes", b"unknown", b"images", b"content"} <= moby.keys()
        assert b"other" in database.root


class TestBusy:
    @pytest.fixture
    def lock(self, held: ContainerdRootTarget, meta: Path) -> Iterator[subprocess.Popen[bytes]]:
        held.release("test")
        held.close()
        code = (
            "import fcntl, sys; file = open(sys.argv[1], 'r+b'); fcntl.flock(file, fcntl.LOCK_EX); print(flush=True); input()"
        )
        command = [sys.executable, "-c", code, str(meta)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            yield process
            process.kill()

    def test_who_holds_it_is_named(self, directory: Path, lock: subprocess.Popen[bytes]) -> None:
        target = ContainerdRootTarget(directory, "moby", "native")
        for call in (target.open, lambda: target.hold("run"), lambda: put_image(target, digests.of(b""))):
            with pytest.raises(TargetUnavailable, match=f"meta.db open: process {lock.pid}") as caught:
                call()
            assert "containerd:SOCKET" in caught.value.remedy
        assert not (directory / "io.containerd.snapshotter.v1.native").exists()

    def test_those_who_look_do_not_mind_each_other(self, directory: Path, held: ContainerdRootTarget) -> None:
        held.close()
        targets = [ContainerdRootTarget(directory) for _ in range(3)]
        for target in targets:
            target.open()
        with pytest.raises(TargetUnavailable):
            targets[0].hold("run")
        targets[1].close()
        targets[2].close()
        targets[0].hold("run")
        with pytest.raises(TargetUnavailable):
            targets[1].open()
        targets[0].close()


def test_blob_shared_with_another_namespace(held: ContainerdRootTarget, directory: Path) -> None:
    shared = store_blob(held.content, b"shared", {"a": "1"})
    held.close()
    other = ContainerdRootTarget(directory, "other")
    other.hold("run")
    with pytest.raises(TargetNotFound):
        other.content.info(shared)
    assert store_blob(other.content, b"shared") == shared
    assert dict(other.content.info(shared).labels) == {}
    other.release("run")
    assert stored(other.content) == set()
    assert blob_files(directory) == {shared}
    other.close()
    held.hold("test")
    assert dict(held.content.info(shared).labels) == {"a": "1"}
    held.release("test")
    assert blob_files(directory) == set()


@pytest.mark.parametrize("left", [None, b"", b"longer than it should be"])
def test_blob_whose_file_is_lost_is_stored_again(held: ContainerdRootTarget, directory: Path, left: bytes | None) -> None:
    digest = store_blob(held.content, b"data", {"a": "1"})
    path = directory / "io.containerd.content.v1.content" / "blobs" / "sha256" / digests.hex_part(digest)
    path.unlink()
    if left is not None:
        path.write_bytes(left)
    for look_up in (held.content.info, lambda digest: held.content.add_labels(digest, {})):
        with pytest.raises(TargetNotFound):
            look_up(digest)
    assert stored(held.content) == set()
    assert store_blob(held.content, b"data", {"b": "2"}) == digest
    assert b"".join(held.content.read(digest)) == b"data"
    assert dict(held.content.info(digest).labels) == {"a": "1", "b": "2"}


def test_blob_that_is_a_link_is_none(held: ContainerdRootTarget, directory: Path, tmp_path: Path) -> None:
    digest = store_blob(held.content, b"data")
    (tmp_path / "secret").write_bytes(b"data")
    path = directory / "io.containerd.content.v1.content" / "blobs" / "sha256" / digests.hex_part(digest)
    path.unlink()
    path.symlink_to(tmp_path / "secret")
    with pytest.raises(TargetNotFound):
        held.content.info(digest)
    with pytest.raises(TargetUnavailable):
        list(held.content.read(digest))
    store_blob(held.content, b"data")
    assert not path.is_symlink()


def test_directories_may_be_links(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    directory.mkdir()
    (directory / "io.containerd.snapshotter.v1.overlayfs").symlink_to(tmp_path / "elsewhere")
    target = ContainerdRootTarget(directory)
    target.open()
    target.hold("run")
    make_snapshot(target, "layer")
    target.close()
    assert (tmp_path / "elsewhere" / "snapshots" / "1" / "fs" / "file").read_text() == "layer"


def test_ref_in_use_is_refused(held: ContainerdRootTarget) -> None:
    with held.content.writer("ref") as writer:
        writer.write(b"mine")
        with pytest.raises(TargetRefused, match="ref"):
            held.content.writer("ref").__enter__()
        assert writer.commit(digests.of(b"mine"), 4, {}) is True


def test_what_containerd_would_not_take_is_refused(held: ContainerdRootTarget) -> None:
    digest = store_blob(held.content, b"x")
    with pytest.raises(TargetRefused, match=digest):
        held.content.add_labels(digest, {"a": "x" * 4096})
    for record in (
        ImageRecord(NAME, ImageDescriptor("", digest, 1)),
        ImageRecord(NAME, ImageDescriptor(MANIFEST, digest, 0)),
        ImageRecord("", ImageDescriptor(MANIFEST, digest, 1)),
        ImageRecord(NAME, ImageDescriptor(MANIFEST, digest, 1), {"a": "x" * 4096}),
    ):
        with pytest.raises(TargetRefused, match=record.name or "without a name"):
            held.images.put(record)
    assert list(held.images.list()) == []


def test_refused_commit_of_a_snapshot_changes_nothing(held: ContainerdRootTarget) -> None:
    snapshots_of(held).prepare("active", None)
    with pytest.raises(TargetRefused, match="label"):
        snapshots_of(held).commit("layer", "active", {"a": "x" * 5000})
    assert names(held) == ["active"]
    assert snapshots_of(held).commit("layer", "active", {}) is True


def test_directory_left_by_a_killed_containerd_is_replaced(held: ContainerdRootTarget, directory: Path) -> None:
    left = directory / "io.containerd.snapshotter.v1.overlayfs" / "snapshots" / "1"
    (left / "fs" / "left").mkdir(parents=True)
    make_snapshot(held, "layer")
    assert [path.name for path in snapshots_of(held).directory("layer").iterdir()] == ["file"]


def test_owner_of_a_parents_root_is_taken_on(as_root: None, held: ContainerdRootTarget) -> None:  # noqa: ARG001
    os.chown(snapshots_of(held).prepare("active", None), 1000, 1001)
    snapshots_of(held).commit("base", "active", {})
    status = snapshots_of(held).prepare("active", "base").stat()
    assert (status.st_uid, status.st_gid) == (1000, 1001)


class TestLease:
    def expiry(self, directory: Path, lease: str) -> str:
        with bolt_file.changed(directory / "io.containerd.metadata.v1.bolt" / "meta.db") as root:
            record = Namespace(root, "moby").lease(lease)
            assert record is not None
            return objects.labels(record)["containerd.io/gc.expire"]

    def leases(self, directory: Path) -> dict[str, set[tuple[str, str]]]:
        with bolt_file.changed(directory / "io.containerd.metadata.v1.bolt" / "meta.db") as root:
            return {name: set(metadata.held_by(record)) for name, record in Namespace(root, "moby").leases()}

    def test_it_holds_what_is_made_and_found(self, held: ContainerdRootTarget, directory: Path) -> None:
        old = store_blob(held.content, b"old")
        make_snapshot(held, "old")
        put_image(held, old)
        held.release("test")
        make_snapshot(held, "old2")
        held.hold("run")
        new = store_blob(held.content, b"new")
        make_snapshot(held, "new")
        snapshots_of(held).prepare("active", None)
        held.content.info(old)
        snapshots_of(held).stat("old2")
        held.close()
        kind = "snapshots/overlayfs"
        wanted = {("content", old), ("content", new), (kind, "new"), (kind, "active"), (kind, "old2")}
        assert self.leases(directory) == {"transship-run-1": wanted}
        held.release("run")
        assert (stored(held.content), names(held)) == ({old}, [])
        held.close()
        assert self.leases(directory) == {}
        assert (blob_files(directory), directories(directory)) == ({old}, [])
        held.hold("test")

    def test_hold_again_renews_it(self, held: ContainerdRootTarget, directory: Path) -> None:
        digest = store_blob(held.content, b"blob")
        held.close()
        with bolt_file.changed(directory / "io.containerd.metadata.v1.bolt" / "meta.db") as root:
            record = Namespace(root, "moby").lease("transship-test-1")
            assert record is not None
            objects.set_labels(record, {**objects.labels(record), "containerd.io/gc.expire": "2020-01-01T00:00:00Z"})
        held.hold("test")
        held.close()
        assert self.expiry(directory, "transship-test-1") > "2026"
        assert self.leases(directory) == {"transship-test-1": {("content", digest)}}

    def test_of_a_live_containerd_goes_on(self, held: ContainerdRootTarget, directory: Path) -> None:
        held.release("test")
        held.close()
        with bolt_file.changed(directory / "io.containerd.metadata.v1.bolt" / "meta.db") as root:
            Namespace(root, "moby").add_lease("transship-run-7", {"transship.run": "run"})
            Namespace(root, "moby").add_lease("theirs", {})
        held.hold("run")
        held.close()
        assert self.leases(directory).keys() == {"transship-run-7", "theirs"}
        held.release("run")
        held.close()
        assert self.leases(directory).keys() == {"theirs"}


class TestCollect:
    def test_only_what_was_asked_for_and_nothing_keeps(self, target: ContainerdRootTarget, directory: Path) -> None:
        blobs = store_image(target)
        loose, asked = store_blob(target.content, b"loose"), store_blob(target.content, b"asked")
        make_snapshot(target, "loose")
        make_snapshot(target, "asked")
        everything = (frozenset(blobs | {asked, digests.of(b"missing")}), frozenset({"base", "top", "asked", "missing"}))
        target.collect(*everything)
        assert (stored(target.content), names(target)) == (blobs | {loose}, ["base", "loose", "middle", "top"])
        assert (blob_files(directory), directories(directory)) == (blobs | {loose}, ["1", "2", "3", "4"])
        target.images.delete(NAME)
        target.collect(*everything)
        assert (stored(target.content), names(target)) == ({loose}, ["loose"])
        assert (blob_files(directory), directories(directory)) == ({loose}, ["4"])

    def test_what_a_manifest_refers_to_goes_with_it(self, target: ContainerdRootTarget) -> None:
        blobs = store_image(target)
        manifest = target.images.get(NAME).target.digest
        target.images.delete(NAME)
        target.collect(frozenset({manifest}), frozenset())
        assert len(blobs) == 2
        assert (stored(target.content), names(target)) == (set(), [])

    def test_what_removed_names_pointed_at_goes_with_all_it_refers_to(
        self, target: ContainerdRootTarget, directory: Path
    ) -> None:
        kept = store_image(target)
        put_image(target, store_blob(target.content, b"other manifest"), "docker.io/library/y:1")
        put_image(target, target.images.get(NAME).target.digest, "docker.io/library/z:1")
        for name in (NAME, "docker.io/library/y:1"):
            target.images.delete(name)
        target.close()  # a rollback that is stopped here knows of it when it goes on
        target.collect(frozenset(), frozenset())
        assert (stored(target.content), blob_files(directory)) == (kept, kept)
        target.images.delete("docker.io/library/z:1")
        target.release("run of which there is no lease")
        target.collect(frozenset(), frozenset())
        assert (stored(target.content), names(target), directories(directory)) == (set(), [], [])
        with target._store.databases.read():
            assert list(target._store.namespace.leases()) == []

    def test_a_held_run_keeps_what_it_uses(self, held: ContainerdRootTarget) -> None:
        digest = store_blob(held.content, b"blob")
        make_snapshot(held, "layer")
        held.collect(frozenset({digest}), frozenset({"layer"}))
        assert (stored(held.content), names(held)) == ({digest}, ["layer"])

    def test_a_shared_part_stays(self, target: ContainerdRootTarget) -> None:
        blobs = store_image(target)
        make_snapshot(target, "side", "base")
        config = store_blob(target.content, b"config 2", {"containerd.io/gc.ref.snapshot.overlayfs": "side"})
        manifest = store_blob(target.content, b"manifest 2", {"containerd.io/gc.ref.content.config": config})
        put_image(target, manifest, "docker.io/library/y:1")
        target.images.delete(NAME)
        target.collect(frozenset(blobs), frozenset({"base", "middle", "top"}))
        assert (stored(target.content), names(target)) == ({config, manifest}, ["base", "side"])


def test_holds_while_others_write(target: ContainerdRootTarget, directory: Path) -> None:
    target.hold("run")
    stop = threading.Event()
    written: dict[int, list[Digest]] = {number: [] for number in range(3)}

    def write(number: int) -> None:
        while not stop.is_set():
            count = len(written[number])
            make_snapshot(target, f"layer-{number}-{count}")
            data = some_bytes(100, count * 10 + number)
            written[number].append(store_blob(target.content, data, ref=f"ref-{number}"))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        target.hold("run")
        target.durable()
        target.collect(frozenset(), frozenset())
    stop.set()
    for thread in threads:
        thread.join()
    expected = {digest for of_one in written.values() for digest in of_one}
    assert expected
    for _ in range(2):
        assert stored(target.content) == expected
        assert len(names(target)) == sum(map(len, written.values()))
        target.close()
    assert blob_files(directory) == expected
    target.release("run")
    assert (stored(target.content), blob_files(directory), directories(directory)) == (set(), set(), [])


def test_only_committed_snapshots_have_others_on_them_and_only_active_ones_are_committed(held: ContainerdRootTarget) -> None:
    make_snapshot(held, "layer")
    snapshots_of(held).prepare("active", None)
    with pytest.raises(TargetRefused, match="active is not committed"):
        snapshots_of(held).prepare("top", "active")
    with pytest.raises(TargetRefused, match="layer is not active"):
        snapshots_of(held).commit("other", "layer", {})
    assert names(held) == ["active", "layer"]
