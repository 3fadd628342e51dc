"""The containerd store against a real containerd."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
import uuid
from typing import TYPE_CHECKING

import pytest

from tests.stores.suites import MIB, ContentStoreSuite, ImageStoreSuite, SnapshotterSuite, some_bytes, store_blob
from transship.errors import TargetFull, TargetNotFound, TargetRefused, TargetUnavailable
from transship.formats import digest as digests
from transship.stores.containerd.target import ContainerdTarget
from transship.stores.interfaces import ImageDescriptor, ImageRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.real.conftest import Containerd
    from transship.formats.digest import Digest
    from transship.stores.interfaces import ContentStore, ImageStore, Snapshotter

pytestmark = pytest.mark.real

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture
def namespace() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def target(containerd: Containerd, namespace: str) -> Iterator[ContainerdTarget]:
    """A target in a namespace of its own."""
    target = ContainerdTarget(containerd.socket, namespace)
    target.open()
    yield target
    target.close()


@pytest.fixture
def held(target: ContainerdTarget) -> Iterator[ContainerdTarget]:
    """The same, during a run; what is left after it is collected."""
    target.hold("test")
    yield target
    target.release("test")


def snapshots_of(target: ContainerdTarget) -> Snapshotter:
    assert target.snapshots is not None
    return target.snapshots


def lease_ids(containerd: Containerd, namespace: str) -> list[str]:
    return sorted(containerd.ctr("leases", "list", "-q", namespace=namespace).split())


def stored(target: ContainerdTarget) -> set[Digest]:
    return {info.digest for info in target.content.list()}


def put_image(target: ContainerdTarget, digest: Digest) -> None:
    target.images.put(ImageRecord("docker.io/library/x:1", ImageDescriptor(MANIFEST, digest, 10)))


class TestContent(ContentStoreSuite):
    @pytest.fixture(autouse=True)
    def _daemon(self, containerd: Containerd, namespace: str) -> None:
        self.containerd = containerd
        self.namespace = namespace

    @pytest.fixture
    def store(self, held: ContainerdTarget) -> ContentStore:
        return held.content

    def abandon(self, store: ContentStore, ref: str, data: bytes) -> None:
        # ctr is killed in the middle: its input never ends.
        command = ["ctr", "--address", str(self.containerd.socket), "--namespace", self.namespace, "content", "ingest", ref]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            assert process.stdin is not None
            process.stdin.write(data)
            process.stdin.flush()
            wait_for(lambda: ref in self.containerd.ctr("content", "active", namespace=self.namespace))
            process.kill()
        assert self.ingests(store) == 1

    def blob_path(self, store: ContentStore, digest: Digest) -> Path:  # noqa: ARG002
        return self.containerd.root / "io.containerd.content.v1.content/blobs/sha256" / digests.hex_part(digest)

    def ingests(self, store: ContentStore) -> int:  # noqa: ARG002
        return len(self.containerd.ctr("content", "active", namespace=self.namespace).splitlines()) - 1

    def test_blob_of_another_namespace(self, store: ContentStore) -> None:
        other = ContainerdTarget(self.containerd.socket, f"{self.namespace}-other")
        other.open()
        other.hold("test")
        digest = store_blob(other.content, b"shared")
        assert store_blob(store, b"shared", {"a": "1"}) == digest
        assert dict(store.info(digest).labels) == {"a": "1"}
        assert dict(other.content.info(digest).labels) == {}
        other.release("test")
        other.close()
        assert b"".join(store.read(digest)) == b"shared"

    def test_blob_whose_file_a_power_cut_took_is_stored_again(self, store: ContentStore) -> None:
        digest = store_blob(store, b"data")
        self.blob_path(store, digest).unlink()
        with store.writer("again") as writer:
            writer.write(b"data")
            assert writer.commit(digest, 4, {}) is False
        assert b"".join(store.read(digest)) == b"data"

    def test_ref_in_use_is_refused(self, store: ContentStore) -> None:
        with store.writer("ref") as writer:
            writer.write(b"mine")
            with pytest.raises(TargetRefused, match="locked"):
                store.writer("ref").__enter__()

    def test_label_too_long_is_refused(self, store: ContentStore) -> None:
        digest = store_blob(store, b"x")
        with pytest.raises(TargetRefused, match=digest):
            store.add_labels(digest, {"a": "x" * 5000})


class _Snapshots(SnapshotterSuite):
    snapshotter = ""

    @pytest.fixture
    def store(self, containerd: Containerd, namespace: str) -> Iterator[Snapshotter]:
        target = ContainerdTarget(containerd.socket, namespace, self.snapshotter)
        target.open()
        target.hold("test")
        yield snapshots_of(target)
        target.release("test")
        target.close()


class TestOverlayfs(_Snapshots):
    snapshotter = "overlayfs"


class TestNative(_Snapshots):
    snapshotter = "native"


class TestImages(ImageStoreSuite):
    @pytest.fixture
    def store(self, target: ContainerdTarget) -> ImageStore:
        return target.images


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "condition does not come true"


def make_snapshot(target: ContainerdTarget, name: str, parent: str | None = None) -> None:
    snapshots = snapshots_of(target)
    (snapshots.prepare(f"active-{name}", parent) / "file").write_text(name)
    assert snapshots.commit(name, f"active-{name}", {}) is True


def test_hold_keeps_and_release_collects(target: ContainerdTarget, containerd: Containerd, namespace: str) -> None:
    target.hold("run")
    digest = store_blob(target.content, b"unreferenced")
    make_snapshot(target, "layer")
    target.collect(frozenset(), frozenset())
    assert stored(target) == {digest}
    assert [info.name for info in snapshots_of(target).list()] == ["layer"]
    target.release("run")
    assert stored(target) == set()
    assert list(snapshots_of(target).list()) == []
    assert lease_ids(containerd, namespace) == []


@pytest.mark.parametrize("snapshotter", ["overlayfs", "native"])
def test_what_an_image_refers_to_survives_release(containerd: Containerd, namespace: str, snapshotter: str) -> None:
    target = ContainerdTarget(containerd.socket, namespace, snapshotter)
    target.open()
    target.hold("run")
    make_snapshot(target, "base")
    make_snapshot(target, "middle", "base")
    make_snapshot(target, "top", "middle")
    config = store_blob(target.content, b"config", {f"containerd.io/gc.ref.snapshot.{snapshotter}": "top"})
    manifest = store_blob(target.content, b"manifest", {"containerd.io/gc.ref.content.config": config})
    put_image(target, manifest)
    before = (stored(target), {info.name for info in snapshots_of(target).list()})
    target.release("run")
    assert (stored(target), {info.name for info in snapshots_of(target).list()}) == before
    assert before == ({config, manifest}, {"base", "middle", "top"})
    target.images.delete("docker.io/library/x:1")
    target.collect(frozenset({config, manifest}), frozenset({"top"}))
    assert (stored(target), list(snapshots_of(target).list())) == (set(), [])
    target.close()


def test_hold_again_takes_everything_over(target: ContainerdTarget, containerd: Containerd, namespace: str) -> None:
    target.hold("run")
    digest = store_blob(target.content, b"blob")
    make_snapshot(target, "layer")
    for _ in range(3):
        target.hold("run")
    assert lease_ids(containerd, namespace) == ["transship-run-4"]
    target.collect(frozenset(), frozenset())
    assert stored(target) == {digest}
    assert [info.name for info in snapshots_of(target).list()] == ["layer"]
    target.release("run")
    assert stored(target) == set()


def test_hold_resumes_what_a_killed_run_held(target: ContainerdTarget, containerd: Containerd, namespace: str) -> None:
    killed = ContainerdTarget(containerd.socket, namespace)
    killed.open()
    killed.hold("run")
    digest = store_blob(killed.content, b"blob")
    killed.close()
    target.hold("run")
    target.collect(frozenset(), frozenset())
    assert stored(target) == {digest}
    assert lease_ids(containerd, namespace) == ["transship-run-2"]
    target.release("run")
    assert stored(target) == set()


def test_lease_ends_after_a_day(target: ContainerdTarget, containerd: Containerd, namespace: str) -> None:
    target.hold("run")
    labels = containerd.ctr("leases", "list", namespace=namespace)
    day = time.strftime("%Y-%m-%dT", time.gmtime(time.time() + 24 * 3600))
    assert f"containerd.io/gc.expire={day}" in labels
    assert "transship.run=run" in labels
    target.release("run")


def test_hold_in_the_middle_of_a_write(target: ContainerdTarget, containerd: Containerd, namespace: str) -> None:
    target.hold("run")
    with target.content.writer("ref") as writer:
        writer.write(some_bytes(2 * MIB))
        target.hold("run")
        assert lease_ids(containerd, namespace) == ["transship-run-1", "transship-run-2"]
        assert writer.commit(digests.of(some_bytes(2 * MIB)), 2 * MIB, {}) is True
    target.collect(frozenset(), frozenset())
    assert len(stored(target)) == 1
    target.hold("run")
    assert lease_ids(containerd, namespace) == ["transship-run-3"]
    target.collect(frozenset(), frozenset())
    assert len(stored(target)) == 1
    target.release("run")


def test_holds_while_others_write(target: ContainerdTarget) -> None:
    target.hold("run")
    stop = threading.Event()
    written: dict[int, list[Digest]] = {number: [] for number in range(3)}

    def write(number: int) -> None:
        while not stop.is_set():
            count = len(written[number])
            make_snapshot(target, f"layer-{number}-{count}")
            written[number].append(store_blob(target.content, b"%d-%d" % (number, count), ref=f"ref-{number}"))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        target.hold("run")
        target.collect(frozenset(), frozenset())
    stop.set()
    for thread in threads:
        thread.join()
    target.hold("run")
    target.collect(frozenset(), frozenset())
    expected = [digest for digests_of_one in written.values() for digest in digests_of_one]
    assert len(expected) > 0
    assert stored(target) == set(expected)
    assert len(list(snapshots_of(target).list())) == len(expected)
    target.release("run")


@pytest.mark.parametrize("find", ["info", "add_labels", "commit"])
def test_blob_that_was_there_is_kept(target: ContainerdTarget, find: str) -> None:
    digest = store_blob(target.content, b"there before")
    target.hold("run")
    match find:
        case "info":
            target.content.info(digest)
        case "add_labels":
            target.content.add_labels(digest, {})
        case _:
            with target.content.writer("ref") as writer:
                writer.write(b"there before")
                assert writer.commit(digest, 12, {}) is False
    target.collect(frozenset(), frozenset())
    assert stored(target) == {digest}
    target.release("run")
    assert stored(target) == set()


@pytest.mark.parametrize("find", ["stat", "commit"])
def test_snapshot_that_was_there_is_kept(target: ContainerdTarget, find: str) -> None:
    make_snapshot(target, "layer")
    target.hold("run")
    snapshots = snapshots_of(target)
    if find == "stat":
        snapshots.stat("layer")
    else:
        snapshots.prepare("active", None)
        assert snapshots.commit("layer", "active", {}) is False
    target.collect(frozenset(), frozenset())
    assert [info.name for info in snapshots.list()] == ["layer"]
    target.release("run")
    assert list(snapshots.list()) == []


def test_release_of_nothing(target: ContainerdTarget) -> None:
    target.release("never held")


def test_file_systems_and_durable(target: ContainerdTarget, containerd: Containerd) -> None:
    root = containerd.root
    assert target.file_systems() == {
        "content": root / "io.containerd.content.v1.content",
        "snapshots": root / "io.containerd.snapshotter.v1.overlayfs",
    }
    target.durable()


def test_native_lands_in_its_own_directory(containerd: Containerd) -> None:
    target = ContainerdTarget(containerd.socket, snapshotter="native")
    target.open()
    assert target.file_systems()["snapshots"] == containerd.root / "io.containerd.snapshotter.v1.native"
    target.close()


def test_kill_in_the_middle_of_a_write(containerd: Containerd, target: ContainerdTarget) -> None:
    def write_on() -> None:
        with target.content.writer("ref") as writer:
            for number in range(10_000):
                if number == 20:
                    os.kill(containerd.pid, signal.SIGKILL)
                writer.write(chunk)

    chunk = some_bytes(MIB)
    target.hold("run")
    start = time.monotonic()
    try:
        with pytest.raises(TargetUnavailable, match=str(containerd.socket)):
            write_on()
        assert time.monotonic() - start < 10
        with pytest.raises(TargetUnavailable):
            target.content.info(digests.of(b""))
    finally:
        containerd.restart()
    target.open()
    digest = store_blob(target.content, b"after")
    assert stored(target) == {digest}
    target.release("run")


@pytest.mark.parametrize("kill_before", ["commit", "leaving"])
def test_kill_at_the_end_of_a_write(containerd: Containerd, target: ContainerdTarget, kill_before: str) -> None:
    def write() -> None:
        with target.content.writer("ref") as writer:
            writer.write(some_bytes(MIB))
            containerd.kill()
            if kill_before == "commit":
                writer.commit(digests.of(some_bytes(MIB)), MIB, {})

    try:
        with pytest.raises(TargetUnavailable):
            write()
    finally:
        containerd.start()


def test_threads_end_with_their_writers(target: ContainerdTarget) -> None:
    store_blob(target.content, b"one")
    before = threading.active_count()
    for number in range(10):
        store_blob(target.content, b"%d" % number)
    wait_for(lambda: threading.active_count() <= before)


def test_disk_full(start_containerd: Callable[..., Containerd], tmp_path: Path) -> None:
    def fill() -> None:
        with target.content.writer("ref") as writer:
            for _ in range(200):
                writer.write(chunk)

    chunk = some_bytes(MIB)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(tmp_path)], check=True)
    try:
        containerd = start_containerd(tmp_path / "root")
        target = ContainerdTarget(containerd.socket)
        target.open()
        target.hold("run")
        with pytest.raises(TargetFull):
            fill()
        target.release("run")
        target.close()
        assert containerd.ctr("content", "active").splitlines()[1:] == []
        containerd.stop()
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_no_socket(tmp_path: Path) -> None:
    with pytest.raises(TargetUnavailable, match=r"missing\.sock"):
        ContainerdTarget(tmp_path / "missing.sock").open()


def test_not_a_socket(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(TargetRefused, match="file is not a socket"):
        ContainerdTarget(tmp_path / "file").open()


def test_nobody_listens(tmp_path: Path) -> None:
    path = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    start = time.monotonic()
    with pytest.raises(TargetUnavailable, match=r"dead\.sock"):
        ContainerdTarget(path).open()
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH\r\n", b""])
def test_something_else_listens(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "with a space.sock"

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        target = ContainerdTarget(path)
        with pytest.raises((TargetUnavailable, TargetRefused), match="with a space"):
            target.open()
        target.close()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_use_before_open(tmp_path: Path) -> None:
    target = ContainerdTarget(tmp_path / "x.sock")
    with pytest.raises(TargetUnavailable, match="not connected"):
        target.content.info(digests.of(b""))
    with pytest.raises(TargetUnavailable, match="not connected"):
        target.durable()


def test_other_snapshotters_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetRefused, match="overlayfs or native"):
        ContainerdTarget(tmp_path / "x.sock", snapshotter="zfs")


def test_bad_namespace_is_refused(containerd: Containerd) -> None:
    target = ContainerdTarget(containerd.socket, "not a namespace!")
    target.open()
    with pytest.raises(TargetRefused, match="namespace"):
        target.hold("run")
    target.close()


def test_image_without_target_is_refused(target: ContainerdTarget) -> None:
    with pytest.raises(TargetRefused, match=r"docker\.io/library/x:1"):
        target.images.put(ImageRecord("docker.io/library/x:1", ImageDescriptor("", digests.of(b""), 0)))
    with pytest.raises(TargetNotFound):
        target.images.get("docker.io/library/x:1")


@pytest.mark.parametrize("snapshotter", ["overlayfs", "native"])
def test_directories_left_by_a_killed_containerd(
    start_containerd: Callable[..., Containerd], namespace: str, snapshotter: str
) -> None:
    """They have the numbers that containerd gives out next: it does not know of them."""
    containerd = start_containerd()
    target = ContainerdTarget(containerd.socket, namespace, snapshotter)
    target.open()
    target.hold("run")
    directory = containerd.root / f"io.containerd.snapshotter.v1.{snapshotter}" / "snapshots"
    for number in (1, 2, 3, 5):
        (directory / str(number) / "fs" / "left").mkdir(parents=True)
    for name in ("a", "b", "c"):
        make_snapshot(target, name)
        assert [path.name for path in snapshots_of(target).directory(name).iterdir()] == ["file"]
    target.release("run")
    target.close()


def test_native_parent_of_a_given_up_snapshot_is_forgotten(containerd: Containerd, namespace: str) -> None:
    target = ContainerdTarget(containerd.socket, namespace, "native")
    target.open()
    target.hold("run")
    make_snapshot(target, "base")
    snapshots = snapshots_of(target)
    snapshots.prepare("active", "base")
    snapshots.prepare("active", None)
    assert snapshots.commit("layer", "active", {}) is True
    assert dict(snapshots.stat("layer").labels) == {}
    target.release("run")
    target.close()
