"""BuildKit's own snapshots, blobs and leases: what changes in them, against what BuildKit changed itself."""

from __future__ import annotations

import fcntl
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.formats.bolt.databases import Made
from tests.stores.buildkit.caches import all_changes, apart_from_times, below, differences, read, upgraded
from transship.errors import SourceBusy, SourceCorrupt, SourceMissing
from transship.formats import go_binary
from transship.formats.bolt.check import check
from transship.stores import bolt_file
from transship.stores.buildkit.holder import Lease, Snapshot
from transship.stores.buildkit.holders import opened
from transship.stores.buildkit.places import find_caches

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transship.stores.buildkit.holder import Holder
    from transship.stores.buildkit.places import Cache

META, SNAPSHOTS = "containerdmeta.db", "snapshots/metadata.db"
NAMESPACE = (b"v1", b"buildkit")
ROOT = b"containerd.io/gc.root"
LAYER = "sha256:4ad05cb71814dbd9fe0548f3847893b3c0b0d7fb72ca1019ad633eba981502a5"
MOUNT = "q8j1ge5hsxh806h66augt2x5c"
WITH_BLOB, BLOB = "ujazpxc6mg18ow9mct9dz6mq5", "sha256:060c7f564e778b2b7419a80095b0a1cba995cd148231443c0daecd6f829bb766"
KEPT = (("snapshots/overlayfs", WITH_BLOB), ("content", BLOB))
"""What the lease of a record holds that has a blob."""


@pytest.fixture
def worker(buildkit: Path) -> Path:
    return buildkit / "root" / "runc-overlayfs"


@pytest.fixture
def cache(worker: Path) -> Cache:
    [cache] = find_caches(worker)
    return cache


@pytest.fixture
def holder(cache: Cache) -> Iterator[Holder]:
    with opened(cache, None, "ignored") as holder:
        yield holder


def both(worker: Path) -> Made:
    return Made({name.encode(): read(worker / name) for name in (META, SNAPSHOTS)})


def lease_of(worker: Path, name: str) -> Made:
    return below(read(worker / META), *NAMESPACE, b"leases", name.encode())


def labels_of(worker: Path, *path: str) -> Made:
    return below(read(worker / META), *NAMESPACE, *(part.encode() for part in path), b"labels")


def changed_at(one: Made, other: Made) -> set[tuple[bytes, ...]]:
    return {path for path, *_ in differences(one, other) if path[-1] == b"updatedat"}


@pytest.mark.parametrize("again", [False, True])
def test_the_same_as_buildkits_own(buildkit: Path, worker: Path, *, again: bool) -> None:
    before = both(worker)
    with upgraded(buildkit / "root") as (found, holder):
        made = all_changes(found, holder)
        for changes in made if again else []:
            holder.apply(changes)
        assert (holder.lease(found.leases), holder.unroot(found.snapshots, found.blobs)) == (b"", b"")
    expected = both(buildkit / "migrated")
    # BuildKit's migration was one of containerd 2, which notes the version of its own schema.
    assert [path for path, *_ in apart_from_times(both(worker), expected)] == [(META.encode(), b"v1", b"version")]
    assert changed_at(before, both(worker)) == changed_at(before, expected)
    assert len(changed_at(before, expected)) == 113 + 113 + 32
    for file in (META, SNAPSHOTS):
        with bolt_file.opened(worker / file) as database:
            assert not list(check(database))


def test_times_are_those_at_which_it_was_done(worker: Path, holder: Holder) -> None:
    blob = below(read(worker / META), *NAMESPACE, b"content", b"blob", BLOB.encode())
    created = go_binary.read_time(_value(blob, b"createdat"))
    holder.apply(holder.lease([Lease(WITH_BLOB, KEPT)]))
    holder.apply(holder.unroot([WITH_BLOB], [BLOB]))
    lease = lease_of(worker, WITH_BLOB)
    moment = go_binary.read_time(_value(lease, b"createdat"))
    assert moment > created
    assert b"updatedat" not in lease.held
    flat = _value(below(lease, b"labels"), b"containerd.io/gc.flat").decode()
    assert flat.endswith("Z")
    assert abs(datetime.fromisoformat(flat[:19]).replace(tzinfo=UTC).timestamp() - moment / 1e9) < 60
    snapshot = below(read(worker / META), *NAMESPACE, b"snapshots", b"overlayfs", WITH_BLOB.encode())
    held = below(read(worker / SNAPSHOTS), b"v1", b"snapshots", _value(snapshot, b"name"))
    for each in (snapshot, held):
        assert go_binary.read_time(_value(each, b"updatedat")) > created


def _value(bucket: Made, key: bytes) -> bytes:
    value = bucket.held[key]
    assert isinstance(value, bytes)
    return value


def test_what_it_holds(holder: Holder) -> None:
    assert holder.snapshotter == "overlayfs"
    assert holder.snapshot(LAYER) == Snapshot(None, committed=True)
    assert holder.snapshot(MOUNT) == Snapshot(None, committed=False)
    assert holder.snapshot(WITH_BLOB) == Snapshot("3noxduvctiabz9e5oerzuj5kz", committed=True)
    assert holder.snapshot("nothing") is None
    assert holder.has_blob(BLOB)
    assert not holder.has_blob(LAYER)


def test_the_snapshotters_name_is_in_the_database(worker: Path, buildkit: Path) -> None:
    copy = worker.rename(buildkit / "root" / "a-copy")
    [cache] = find_caches(copy)
    with opened(cache, None, "ignored") as holder:
        assert holder.snapshotter == "overlayfs"
        assert holder.snapshot(LAYER) is not None


def test_a_worker_that_never_built_anything(tmp_path: Path) -> None:
    place = tmp_path / "runc-native"
    place.mkdir()
    bolt_file.create(place / META, Made({b"v1": Made({b"version": b"\x06"})}))
    bolt_file.create(place / "metadata.db", Made())
    with upgraded(place) as (found, holder):
        assert (found.records, holder.snapshotter, all_changes(found, holder)) == (0, "native", [b"", b""])


def test_a_lease_that_is_there_gets_what_it_lacks(worker: Path, holder: Holder) -> None:
    # BuildKit's own migration leaves one alone that it has made before it was killed: then the next collection takes all.
    holder.apply(holder.lease([Lease(WITH_BLOB, ())]))
    before = lease_of(worker, WITH_BLOB)
    added = holder.lease([Lease(WITH_BLOB, KEPT)])
    holder.apply(added)
    after = lease_of(worker, WITH_BLOB)
    assert [path for path, *_ in differences(before, after)] == [(b"content",), (b"snapshots",)]
    assert set(below(after, b"snapshots", b"overlayfs").held) == {WITH_BLOB.encode()}
    assert holder.revert(added)
    assert lease_of(worker, WITH_BLOB) == before


def test_only_what_is_named_is_let_go_of_and_every_view(worker: Path, holder: Holder) -> None:
    views = [key for key, each in below(read(worker / SNAPSHOTS), b"v1", b"snapshots").held.items() if _kind(each) == 1]
    assert len(views) == 27
    before = both(worker)
    holder.apply(holder.unroot([MOUNT, MOUNT, "nothing"], ["nothing", ""]))
    changed = {path for path in changed_at(before, both(worker)) if path[0] == SNAPSHOTS.encode()}
    names = {path[-2].split(b"/", 2)[2] for path in changed}
    assert names == {MOUNT.encode()} | {view.split(b"/", 2)[2] for view in views}
    assert ROOT not in labels_of(worker, "snapshots", "overlayfs", MOUNT).held
    assert ROOT in labels_of(worker, "content", "blob", BLOB).held


def _kind(snapshot: bytes | Made) -> int:
    assert isinstance(snapshot, Made)
    return _value(snapshot, b"kind")[0]


def test_taken_back_all_is_as_it_was(buildkit: Path, worker: Path) -> None:
    before = both(worker)
    with upgraded(buildkit / "root") as (found, holder):
        leases, labels = all_changes(found, holder)
        for _ in range(2):  # of one that was killed meanwhile
            assert holder.revert(labels)
            assert holder.revert(leases)
    assert both(worker) == before


def test_killed_between_two_databases(buildkit: Path, worker: Path) -> None:
    before = both(worker)
    with upgraded(buildkit / "root") as (found, holder):
        labels = holder.unroot(found.snapshots, found.blobs)
        first, second = msgspec.json.decode(labels)
        holder.apply(msgspec.json.encode([first]))
        half = both(worker)
        assert half != before
        holder.apply(labels)
        whole = both(worker)
        assert holder.revert(msgspec.json.encode([second]))
        assert both(worker) == half
        holder.apply(labels)
        assert both(worker) == whole
        holder.revert(msgspec.json.encode([second]))
        assert holder.revert(labels)
    assert both(worker) == before


def test_what_has_changed_since_stays(worker: Path, holder: Holder) -> None:
    leases, labels = holder.lease([Lease(WITH_BLOB, KEPT), Lease(MOUNT, ())]), holder.unroot([WITH_BLOB, MOUNT], [BLOB])
    holder.apply(leases)
    holder.apply(labels)
    holder.apply(holder.lease([Lease(WITH_BLOB, (("content", "another"),))]))
    path = (*NAMESPACE, b"snapshots", b"overlayfs")
    with bolt_file.changed(worker / META) as draft:
        snapshots = draft.bucket(*path)
        assert snapshots is not None
        snapshots.delete(MOUNT.encode())  # collected
    assert not holder.revert(leases)
    assert set(below(lease_of(worker, WITH_BLOB), b"content").held) == {b"another"}
    assert MOUNT.encode() not in below(read(worker / META), *NAMESPACE, b"leases").held
    assert not holder.revert(labels)
    assert MOUNT.encode() not in below(read(worker / META), *path).held
    assert ROOT in labels_of(worker, "snapshots", "overlayfs", WITH_BLOB).held


def test_what_is_gone_is_not_made_again(worker: Path, holder: Holder) -> None:
    labels = holder.unroot([MOUNT], [])
    path = (*NAMESPACE, b"snapshots", b"overlayfs")
    holder.close()
    with bolt_file.changed(worker / META) as draft:
        snapshots = draft.bucket(*path)
        assert snapshots is not None
        snapshots.delete(MOUNT.encode())
    holder.apply(labels)
    assert MOUNT.encode() not in below(read(worker / META), *path).held
    assert holder.snapshot(MOUNT) is None


def test_sequences_stay(worker: Path, holder: Holder) -> None:
    holder.apply(holder.lease([Lease(WITH_BLOB, KEPT)]))
    holder.apply(holder.unroot([WITH_BLOB], [BLOB]))
    assert below(read(worker / META), *NAMESPACE, b"snapshots", b"overlayfs").sequence == 182
    assert below(read(worker / SNAPSHOTS), b"v1", b"snapshots").sequence == 125


def test_locked_only_while_it_is_read(worker: Path, holder: Holder) -> None:
    changes = holder.unroot([WITH_BLOB], [])
    with (worker / SNAPSHOTS).open("rb") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder.apply(changes)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for use in (lambda: holder.apply(changes), lambda: holder.revert(changes), lambda: holder.snapshot(MOUNT)):
            with pytest.raises(SourceBusy, match=SNAPSHOTS):
                use()


def test_a_database_that_is_missing(worker: Path, cache: Cache, holder: Holder) -> None:
    holder.close()
    (worker / SNAPSHOTS).unlink()
    with pytest.raises(SourceMissing, match=SNAPSHOTS):
        holder.snapshot(MOUNT)
    holder.close()
    (worker / META).unlink()
    with opened(cache, None, "ignored") as another, pytest.raises(SourceMissing, match=META):
        another.snapshot(MOUNT)


def test_a_database_with_something_else_in_it(worker: Path, holder: Holder) -> None:
    holder.close()
    with bolt_file.changed(worker / META) as draft:
        snapshots = draft.bucket(*NAMESPACE, b"snapshots", b"overlayfs")
        assert snapshots is not None
        snapshots.delete(MOUNT.encode())
        snapshots.put(MOUNT.encode(), b"value")
    with pytest.raises(SourceCorrupt, match=META):
        holder.snapshot(MOUNT)
