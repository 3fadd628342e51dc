"""Runs that were killed while they wrote to containerd's root: what the next run finds, and a containerd."""

from __future__ import annotations

import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.stores.containerd_root.test_target import (
    NAME,
    blob_files,
    directories,
    make_snapshot,
    names,
    put_image,
    snapshots_of,
)
from tests.stores.suites import store_blob, stored
from transship.errors import TargetFull
from transship.formats import digest as digests
from transship.formats.bolt.check import check
from transship.stores import bolt_file
from transship.stores.bolt_file import Held
from transship.stores.containerd_db.metadata import Namespace
from transship.stores.containerd_db.snapshotter import Snapshots
from transship.stores.containerd_root.target import ContainerdRootTarget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from transship.formats.bolt.writer import Content
    from transship.formats.digest import Digest
    from transship.stores.interfaces import Labels

META = "io.containerd.metadata.v1.bolt/meta.db"
OVERLAY = "io.containerd.snapshotter.v1.overlayfs/metadata.db"
PENDING = "transship.pending"

Seen = tuple[frozenset[str], tuple[str, ...], frozenset[str], bool]
"""Blobs, snapshots, images, and whether something is held."""


def seen(target: ContainerdRootTarget) -> Seen:
    with target._store.databases.read():
        held = any(target._store.namespace.leases())
    return (
        frozenset(stored(target.content)),
        tuple(names(target)),
        frozenset(image.name for image in target.images.list()),
        held,
    )


def found(directory: Path) -> Seen:
    """Return what somebody sees who looks at the root."""
    target = ContainerdRootTarget(directory)
    target.open()
    try:
        return seen(target)
    finally:
        target.close()


def known_to_containerd(directory: Path) -> Seen:
    """Return what a containerd would see, to which files of ours are nothing."""
    aside = directory.with_name("as-containerd-sees-it")
    copy(directory, aside)
    (aside / PENDING).unlink(missing_ok=True)
    return found(aside)


def copy(directory: Path, to: Path) -> Path:
    """Copy the root as it is when this process is killed now."""
    if to.exists():
        shutil.rmtree(to)
    shutil.copytree(directory, to, symlinks=True)
    return to


def check_databases(directory: Path) -> None:
    for name in (META, OVERLAY):
        with bolt_file.opened(directory / name) as database:
            assert list(check(database)) == []


def store(target: ContainerdRootTarget, data: bytes, labels: Labels) -> Digest:
    """Store a blob, which may be there."""
    with target.content.writer("ref") as writer:
        writer.write(data)
        writer.commit(digests.of(data), len(data), labels)
    return digests.of(data)


def work(target: ContainerdRootTarget) -> Iterator[None]:
    """Do a bit of everything, and stop after each."""
    target.hold("run")
    yield
    snapshots = snapshots_of(target)
    (snapshots.prepare("active", None) / "file").write_text("x")
    yield
    snapshots.commit("base", "active", {})
    yield
    snapshots.prepare("active", "base")
    yield
    snapshots.prepare("active", "base")
    yield
    snapshots.commit("top", "active", {})
    yield
    digest = store(target, b"config", {"containerd.io/gc.ref.snapshot.overlayfs": "top"})
    yield
    target.content.add_labels(digest, {"another": "label"})
    yield
    put_image(target, digest)
    yield
    put_image(target, digest, "docker.io/library/x:2")
    yield
    snapshots.prepare("left", "top")
    yield
    snapshots.remove("left")
    yield
    target.images.delete(NAME)
    yield
    store(target, b"loose", {})
    yield


@pytest.fixture
def whole(tmp_path: Path) -> Seen:
    """What is there when nobody is killed."""
    target = ContainerdRootTarget(tmp_path / "whole")
    for _ in work(target):
        pass
    target.release("run")
    target.close()
    return found(tmp_path / "whole")


def test_killed_after_any_operation(directory: Path, target: ContainerdRootTarget, tmp_path: Path, whole: Seen) -> None:
    for number, _ in enumerate(work(target)):
        now = seen(target)
        killed = copy(directory, tmp_path / f"killed-{number}")
        assert known_to_containerd(killed) == (frozenset(), (), frozenset(), False)
        assert found(killed) == now
        again = ContainerdRootTarget(killed)
        again.hold("run")
        assert seen(again) == now
        with suppress(StopIteration):
            again.collect(frozenset(), frozenset())
        assert seen(again) == now
        for _ in work(again):
            pass
        again.release("run")
        again.close()
        check_databases(killed)
        assert found(killed) == known_to_containerd(killed) == whole
        assert blob_files(killed) == whole[0]
        assert len(directories(killed)) == 2


def test_cut_anywhere(directory: Path, target: ContainerdRootTarget, tmp_path: Path) -> None:
    """As a power cut may leave it: what was written last is lost, or zeros."""
    states = [seen(target), *(seen(target) for _ in work(target))]
    killed = copy(directory, tmp_path / "killed")
    data = (directory / PENDING).read_bytes()
    ends = {number + 1 for number, byte in enumerate(data) if byte == ord("\n")}
    last = 0
    for cut in sorted({*range(0, len(data), 211), *ends, *(end - 1 for end in ends), *(end + 1 for end in ends)}):
        for rest in (b"", bytes(50), b"\0\n" + data[cut + 2 :]):
            (killed / PENDING).write_bytes(data[:cut] + rest)
            now = found(killed)
            assert now in states[last:]
            if not rest:
                last = states.index(now, last)
    assert found(killed) == states[-1]


def test_written_on_behind_what_was_cut(directory: Path, target: ContainerdRootTarget, tmp_path: Path, whole: Seen) -> None:
    for _ in work(target):
        pass
    data = (directory / PENDING).read_bytes()
    for cut in (0, 10, len(data) // 3, len(data) // 2, len(data) - 1):
        killed = copy(directory, tmp_path / f"killed-{cut}")
        (killed / PENDING).write_bytes(data[:cut])
        again = ContainerdRootTarget(killed)
        for _ in work(again):
            pass
        again.release("run")
        again.close()
        assert found(killed) == whole
        assert blob_files(killed) == whole[0]
        assert len(directories(killed)) == 2


@pytest.mark.parametrize("meta", ["before", "after"])
@pytest.mark.parametrize("overlay", ["before", "after"])
def test_killed_during_a_checkpoint(
    directory: Path, target: ContainerdRootTarget, tmp_path: Path, meta: str, overlay: str
) -> None:
    for _ in work(target):
        pass
    now = seen(target)
    before = copy(directory, tmp_path / "before")
    target.close()
    after = copy(directory, tmp_path / "after")
    killed = copy(before, tmp_path / "killed")
    shutil.copy(tmp_path / meta / META, killed / META)
    shutil.copy(tmp_path / overlay / OVERLAY, killed / OVERLAY)
    assert found(killed) == now == found(after)
    again = ContainerdRootTarget(killed)
    again.hold("run")
    again.close()
    assert found(killed) == known_to_containerd(killed) == now
    assert not (killed / PENDING).exists()
    assert directories(killed) == directories(after)
    check_databases(killed)


def test_killed_while_files_are_removed(directory: Path, target: ContainerdRootTarget, tmp_path: Path) -> None:
    target.hold("run")
    store_blob(target.content, b"loose")
    make_snapshot(target, "loose")
    before = copy(directory, tmp_path / "before")
    target.release("run")
    target.close()
    for name in (META, OVERLAY):
        shutil.copy(directory / name, before / name)
    # All that it lacks is that the records of it are gone, too.
    again = ContainerdRootTarget(before)
    again.hold("other")
    again.close()
    assert (blob_files(before), directories(before)) == (set(), [])


class TestVoid:
    """A containerd has run since a run was killed: what was pending is nothing any more."""

    @pytest.fixture
    def killed(self, directory: Path, target: ContainerdRootTarget, tmp_path: Path) -> Path:
        target.hold("first")
        make_snapshot(target, "kept")
        store_blob(target.content, b"kept")
        target.close()
        for _ in work(target):
            pass
        return copy(directory, tmp_path / "killed")

    @pytest.mark.parametrize("database", [META, OVERLAY])
    def test_it_is_let_go(self, killed: Path, database: str) -> None:
        before = known_to_containerd(killed)
        with bolt_file.changed(killed / database) as root:
            if database == META:
                Namespace(root, "moby").add_lease("theirs", {})
            else:
                Snapshots(root).sequence += 1
        there = known_to_containerd(killed)
        assert there[:3] == before[:3] == found(killed)[:3]
        assert (killed / PENDING).exists()
        target = ContainerdRootTarget(killed)
        target.hold("second")
        assert seen(target)[:3] == before[:3]
        target.close()
        assert blob_files(killed) == before[0]
        assert len(directories(killed)) == len(before[1])
        check_databases(killed)

    def test_another_root_in_its_place(self, killed: Path, tmp_path: Path) -> None:
        other = ContainerdRootTarget(tmp_path / "other")
        other.hold("run")
        other.close()
        for name in (META, OVERLAY):
            shutil.copy(tmp_path / "other" / name, killed / name)
        assert found(killed)[:3] == (frozenset(), (), frozenset())
        (killed / META).unlink()
        assert found(killed)[:3] == (frozenset(), (), frozenset())

    @pytest.mark.parametrize(
        "text", ["", "x", "{}", '{"version":2,"databases":{}}\n', '{"version":1,"databases":{}}\n', "\xff\n"]
    )
    def test_something_else_of_that_name(self, killed: Path, text: str) -> None:
        before = known_to_containerd(killed)
        (killed / PENDING).write_text(text, "latin-1")
        assert found(killed) == before
        target = ContainerdRootTarget(killed)
        target.hold("second")
        target.close()
        assert not (killed / PENDING).exists()

    def test_a_containerd_that_was_never_told_makes_no_number_twice(self, killed: Path) -> None:
        there = {int(name) for name in directories(killed)}
        assert max(there) > 3
        with bolt_file.changed(killed / OVERLAY) as root:
            assert Snapshots(root).add("moby/9/x", 2, None, {}) > max(there)


def test_numbers_are_not_set_aside_in_the_end(directory: Path, target: ContainerdRootTarget) -> None:
    target.hold("run")
    make_snapshot(target, "one")
    target.close()
    target.hold("run")
    make_snapshot(target, "two")
    target.close()
    assert directories(directory) == ["1", "2"]
    with bolt_file.opened(directory / OVERLAY) as database:
        v1 = database.root[b"v1"]
        assert not isinstance(v1, bytes)
        snapshots = v1[b"snapshots"]
        assert not isinstance(snapshots, bytes)
        assert snapshots.sequence == 2


def test_another_snapshotters_run_was_killed(directory: Path, tmp_path: Path) -> None:
    native = ContainerdRootTarget(directory, "moby", "native")
    native.hold("run")
    make_snapshot(native, "layer")
    killed = copy(directory, tmp_path / "killed")
    native.close()
    overlay = ContainerdRootTarget(killed)
    overlay.open()
    with overlay._store.databases.read():
        assert overlay._store.namespace.snapshot("native", "layer") is not None
    overlay.hold("other")
    make_snapshot(overlay, "layer")
    overlay.close()
    again = ContainerdRootTarget(killed, "moby", "native")
    again.open()
    assert (snapshots_of(again).directory("layer") / "file").read_text() == "layer"
    again.close()


def test_many_checkpoints(directory: Path, target: ContainerdRootTarget) -> None:
    target.hold("run")
    for number in range(12):
        make_snapshot(target, f"layer-{number}")
        put_image(target, store_blob(target.content, b"%d" % number), f"docker.io/library/x:{number}")
        target.collect(frozenset(), frozenset())
        check_databases_of(target)
    target.close()
    check_databases(directory)
    assert len(found(directory)[0]) == 12


def check_databases_of(target: ContainerdRootTarget) -> None:
    for held in target._store.databases._held.values():
        assert list(check(held.database)) == []


class TestNoRoom:
    """A disk that is full when a checkpoint is made: nothing is lost."""

    @pytest.fixture
    def fail(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
        def fail(database: str) -> None:
            commit = Held.commit

            def no_room(self: Held, content: Content) -> None:
                if str(self.path).endswith(database):
                    raise TargetFull(f"{self.path}: no room")
                commit(self, content)

            monkeypatch.setattr(Held, "commit", no_room)

        return fail

    @pytest.mark.parametrize("database", [META, OVERLAY])
    def test_it_stays_pending(
        self,
        directory: Path,
        target: ContainerdRootTarget,
        fail: Callable[[str], None],
        monkeypatch: pytest.MonkeyPatch,
        database: str,
    ) -> None:
        target.hold("run")
        digest = store_blob(target.content, b"blob")
        put_image(target, digest)
        make_snapshot(target, "layer")
        now = seen(target)
        with monkeypatch.context():
            fail(database)
            with pytest.raises(TargetFull):
                target.collect(frozenset(), frozenset())
            assert seen(target) == now
            with pytest.raises(TargetFull):
                put_image(target, digest, "docker.io/library/y:1")
            target.close()
            assert found(directory) == now
        monkeypatch.undo()
        put_image(target, digest, "docker.io/library/y:1")
        target.close()
        assert found(directory)[2] == now[2] | {"docker.io/library/y:1"}
        check_databases(directory)

    def test_of_a_change(self, target: ContainerdRootTarget, monkeypatch: pytest.MonkeyPatch) -> None:
        target.hold("run")
        now = seen(target)
        with monkeypatch.context() as patch:
            patch.setattr("transship.stores.containerd_root.snapshots.make_directory", _no_room)
            with pytest.raises(TargetFull):
                snapshots_of(target).prepare("active", None)
            patch.undo()
            patch.setattr("transship.stores.containerd_root.pending.os.write", _no_room)
            with pytest.raises(TargetFull):
                put_image(target, digests.of(b""))
        assert seen(target) == now
        put_image(target, digests.of(b""))
        snapshots_of(target).prepare("active", None)


def _no_room(*_: object) -> None:
    raise OSError(28, "No space left on device")
