"""What every store must pass, whatever it is made of.

A store's test module makes a class per suite, named ``Test…``, and overrides the fixture (and the methods that raise
NotImplementedError). The fixture hands out an empty store of its own to each test::

    class TestContent(ContentStoreSuite):
        @pytest.fixture
        def store(self, tmp_path: Path) -> ContentStore: ...
"""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from transship.errors import TargetExists, TargetNotFound, TargetRefused
from transship.formats import digest as digests
from transship.stores.interfaces import ImageDescriptor, ImageRecord, SnapshotKind, TreeForm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transship.formats.digest import Digest
    from transship.stores.interfaces import ContentStore, ImageStore, Labels, Snapshotter

MIB = 1 << 20


def some_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(f"{size}/{seed}").randbytes(size)


def store_blob(store: ContentStore, data: bytes, labels: Labels | None = None, ref: str = "ref") -> Digest:
    """Store ``data``, which must not be there yet."""
    digest = digests.of(data)
    with store.writer(ref) as writer:
        writer.write(data)
        assert writer.commit(digest, len(data), labels or {}) is True
    return digest


def write_as(store: ContentStore, data: bytes, digest: Digest, size: int) -> None:
    """Write ``data`` and commit it as something that it may not be."""
    with store.writer("ref") as writer:
        writer.write(data)
        writer.commit(digest, size, {})


def stored(store: ContentStore) -> set[Digest]:
    return {info.digest for info in store.list()}


class ContentStoreSuite:
    """Blobs by digest."""

    keeps_labels = True
    """False for a store that has no place for the labels of blobs; it takes them, and has none."""

    def kept(self, **labels: str) -> dict[str, str]:
        return labels if self.keeps_labels else {}

    @pytest.fixture
    def store(self) -> Iterator[ContentStore]:
        raise NotImplementedError

    def abandon(self, store: ContentStore, ref: str, data: bytes) -> None:
        """Leave behind what a process leaves that was killed after writing ``data`` to the ingest ``ref``."""
        raise NotImplementedError

    def blob_path(self, store: ContentStore, digest: Digest) -> Path:
        """Where the blob's bytes are."""
        raise NotImplementedError

    def ingests(self, store: ContentStore) -> int:
        """How many ingests there are, finished ones not counted."""
        raise NotImplementedError

    @pytest.mark.parametrize("size", [0, 1, 1000, MIB - 1, MIB, MIB + 1, 10 * MIB])
    def test_blob_reads_back(self, store: ContentStore, size: int) -> None:
        data = some_bytes(size)
        digest = store_blob(store, data)
        assert b"".join(store.read(digest)) == data
        assert store.info(digest).size == size
        assert self.ingests(store) == 0

    @pytest.mark.parametrize("piece", [1, 777, MIB - 1, MIB, 5 * MIB])
    def test_size_of_writes_does_not_matter(self, store: ContentStore, piece: int) -> None:
        data = some_bytes(2000 if piece == 1 else 6 * MIB)
        digest = digests.of(data)
        with store.writer("ref") as writer:
            for start in range(0, len(data), piece):
                writer.write(data[start : start + piece])
            assert writer.commit(digest, len(data), {}) is True
        assert b"".join(store.read(digest)) == data

    def test_read_comes_in_chunks(self, store: ContentStore) -> None:
        digest = store_blob(store, some_bytes(5 * MIB))
        assert max(len(chunk) for chunk in store.read(digest)) <= 2 * MIB

    def test_read_may_be_given_up(self, store: ContentStore) -> None:
        digest = store_blob(store, some_bytes(5 * MIB))
        chunks = store.read(digest)
        next(chunks)
        del chunks
        assert store.info(digest).size == 5 * MIB

    def test_info_has_digest_size_and_labels(self, store: ContentStore) -> None:
        digest = store_blob(store, b"hello", {"a": "1", "containerd.io/gc.ref.content.l.0": "x"})
        info = store.info(digest)
        assert (info.digest, info.size) == (digest, 5)
        assert dict(info.labels) == self.kept(**{"a": "1", "containerd.io/gc.ref.content.l.0": "x"})

    def test_list_has_every_blob(self, store: ContentStore) -> None:
        assert list(store.list()) == []
        sizes = {store_blob(store, some_bytes(10, n), {"n": str(n)}): n for n in range(150)}
        listed = list(store.list())
        assert {info.digest: dict(info.labels) for info in listed} == {d: self.kept(n=str(n)) for d, n in sizes.items()}
        assert len(listed) == 150

    def test_labels_are_added(self, store: ContentStore) -> None:
        digest = store_blob(store, b"x", {"a": "1", "b": "1"})
        store.add_labels(digest, {"b": "2", "containerd.io/gc.ref.content.config": "3"})
        added = self.kept(**{"a": "1", "b": "2", "containerd.io/gc.ref.content.config": "3"})
        assert dict(store.info(digest).labels) == added

    def test_commit_of_what_is_there_adds_its_labels(self, store: ContentStore) -> None:
        digest = store_blob(store, b"x" * 100, {"a": "1", "b": "1"})
        with store.writer("other") as writer:
            writer.write(b"x" * 100)
            assert writer.commit(digest, 100, {"b": "2", "c": "2"}) is False
        assert dict(store.info(digest).labels) == self.kept(a="1", b="2", c="2")
        assert b"".join(store.read(digest)) == b"x" * 100
        assert self.ingests(store) == 0

    def test_wrong_digest_is_refused(self, store: ContentStore) -> None:
        with pytest.raises(TargetRefused, match=digests.of(b"other")):
            write_as(store, b"data", digests.of(b"other"), 4)
        assert stored(store) == set()
        assert self.ingests(store) == 0

    def test_wrong_digest_of_what_is_there_is_refused(self, store: ContentStore) -> None:
        there = store_blob(store, b"right")
        with pytest.raises(TargetRefused):
            write_as(store, b"wrong", there, 5)
        assert b"".join(store.read(there)) == b"right"
        assert self.ingests(store) == 0

    @pytest.mark.parametrize("size", [0, 3, 5])
    def test_wrong_size_is_refused(self, store: ContentStore, size: int) -> None:
        with pytest.raises(TargetRefused):
            write_as(store, b"data", digests.of(b"data"), size)
        assert stored(store) == set()
        assert self.ingests(store) == 0

    def test_leaving_without_commit_leaves_nothing(self, store: ContentStore) -> None:
        with store.writer("ref") as writer:
            writer.write(some_bytes(3 * MIB))
        assert stored(store) == set()
        assert self.ingests(store) == 0

    def test_error_passes_through_and_leaves_nothing(self, store: ContentStore) -> None:
        def fail_halfway() -> None:
            with store.writer("ref") as writer:
                writer.write(some_bytes(3 * MIB))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail_halfway()
        assert stored(store) == set()
        assert self.ingests(store) == 0

    def test_ref_can_be_used_again(self, store: ContentStore) -> None:
        with store.writer("ref") as writer:
            writer.write(some_bytes(MIB))
        for seed in range(3):
            store_blob(store, some_bytes(MIB, seed))
        assert len(stored(store)) == 3

    @pytest.mark.parametrize("stale", [b"stale", some_bytes(3 * MIB)])
    def test_stale_ingest_is_not_appended_to(self, store: ContentStore, stale: bytes) -> None:
        self.abandon(store, "ref", stale)
        digest = store_blob(store, b"fresh")
        assert b"".join(store.read(digest)) == b"fresh"
        assert stored(store) == {digest}
        assert self.ingests(store) == 0

    def test_writers_of_one_digest_at_once(self, store: ContentStore) -> None:
        data = some_bytes(3 * MIB)

        def write(number: int) -> bool:
            with store.writer(f"ref-{number}") as writer:
                for start in range(0, len(data), MIB):
                    writer.write(data[start : start + MIB])
                return writer.commit(digests.of(data), len(data), {f"writer-{number}": "1"})

        with ThreadPoolExecutor(4) as pool:
            assert sorted(pool.map(write, range(4))) == [False, False, False, True]
        assert b"".join(store.read(digests.of(data))) == data
        assert len(store.info(digests.of(data)).labels) == (4 if self.keeps_labels else 0)
        assert self.ingests(store) == 0

    def test_writers_at_once(self, store: ContentStore) -> None:
        blobs = [some_bytes(2 * MIB + n, n) for n in range(8)]
        with ThreadPoolExecutor(4) as pool:
            written = list(pool.map(lambda n: store_blob(store, blobs[n], ref=f"ref-{n}"), range(8)))
        assert stored(store) == set(written)
        assert [b"".join(store.read(digest)) for digest in written] == blobs

    def test_what_is_missing_is_not_found(self, store: ContentStore) -> None:
        missing = digests.of(b"missing")
        with pytest.raises(TargetNotFound, match=missing):
            store.info(missing)
        with pytest.raises(TargetNotFound, match=missing):
            next(store.read(missing))
        with pytest.raises(TargetNotFound, match=missing):
            store.add_labels(missing, {"a": "1"})

    @pytest.mark.parametrize("size", [1, 3 * MIB])
    def test_read_finds_a_flipped_byte(self, store: ContentStore, size: int) -> None:
        digest = store_blob(store, some_bytes(size))
        path = self.blob_path(store, digest)
        path.chmod(0o644)
        with path.open("r+b") as file:
            file.seek(size // 2)
            byte = file.read(1)[0]
            file.seek(size // 2)
            file.write(bytes([byte ^ 1]))
        with pytest.raises(TargetRefused, match=digest):
            b"".join(store.read(digest))

    @pytest.mark.parametrize("keep", [0, 2 * MIB])
    def test_read_finds_a_truncated_blob(self, store: ContentStore, keep: int) -> None:
        digest = store_blob(store, some_bytes(3 * MIB))
        path = self.blob_path(store, digest)
        path.chmod(0o644)
        with path.open("r+b") as file:
            file.truncate(keep)
        with pytest.raises(TargetRefused, match=digest):
            b"".join(store.read(digest))


class SnapshotterSuite:
    """Directory trees, stacked."""

    @pytest.fixture
    def store(self) -> Iterator[Snapshotter]:
        raise NotImplementedError

    def fill(self, store: Snapshotter, name: str, parent: str | None, **files: str) -> None:
        """Make the committed snapshot ``name`` with these files, which must not be there yet."""
        directory = store.prepare(f"active-{name}", parent)
        for file, text in files.items():
            (directory / file).write_text(text)
        assert store.commit(name, f"active-{name}", {}) is True

    def names(self, store: Snapshotter) -> dict[str, SnapshotKind]:
        return {info.name: info.kind for info in store.list()}

    def test_committed_directory_has_the_files(self, store: Snapshotter) -> None:
        self.fill(store, "base", None, a="1", b="2")
        directory = store.directory("base")
        assert {path.name: path.read_text() for path in directory.iterdir()} == {"a": "1", "b": "2"}
        assert self.names(store) == {"base": SnapshotKind.COMMITTED}

    def test_prepared_directory_is_empty(self, store: Snapshotter) -> None:
        self.fill(store, "base", None, a="1")
        assert list(store.prepare("active", "base").iterdir()) == []
        assert list(store.prepare("other", None).iterdir()) == []

    def test_each_layer_of_a_chain_has_its_own_files(self, store: Snapshotter) -> None:
        parent = None
        for number in range(6):
            self.fill(store, f"layer-{number}", parent, **{f"file-{number}": str(number)})
            parent = f"layer-{number}"
        for number in range(6):
            assert [path.name for path in store.directory(f"layer-{number}").iterdir()] == [f"file-{number}"]
        if store.form is TreeForm.DIFF:
            assert store.stat("layer-0").parent is None
            assert [store.stat(f"layer-{n}").parent for n in range(1, 6)] == [f"layer-{n}" for n in range(5)]

    def test_stat_and_list(self, store: Snapshotter) -> None:
        assert list(store.list()) == []
        store.prepare("active", None)
        info = store.stat("active")
        assert (info.name, info.kind, info.parent) == ("active", SnapshotKind.ACTIVE, None)
        assert store.commit("done", "active", {"a": "1"}) is True
        info = store.stat("done")
        assert (info.name, info.kind, info.parent, dict(info.labels)) == ("done", SnapshotKind.COMMITTED, None, {"a": "1"})
        assert list(store.list()) == [info]

    def test_list_has_every_snapshot(self, store: Snapshotter) -> None:
        for number in range(120):
            store.prepare(f"active-{number}", None)
        assert self.names(store) == {f"active-{n}": SnapshotKind.ACTIVE for n in range(120)}

    def test_stale_active_snapshot_is_replaced(self, store: Snapshotter) -> None:
        self.fill(store, "base", None)
        (store.prepare("active", None) / "stale").write_text("x")
        directory = store.prepare("active", "base")
        assert list(directory.iterdir()) == []
        (directory / "fresh").write_text("x")
        assert store.commit("done", "active", {}) is True
        assert [path.name for path in store.directory("done").iterdir()] == ["fresh"]

    def test_prepare_does_not_replace_a_committed_snapshot(self, store: Snapshotter) -> None:
        self.fill(store, "base", None, a="1")
        with pytest.raises(TargetExists, match="base"):
            store.prepare("base", None)
        assert (store.directory("base") / "a").read_text() == "1"

    def test_commit_of_an_existing_name_keeps_what_is_there(self, store: Snapshotter) -> None:
        self.fill(store, "base", None, a="1")
        (store.prepare("active", None) / "b").write_text("2")
        assert store.commit("base", "active", {}) is False
        assert [path.name for path in store.directory("base").iterdir()] == ["a"]
        assert self.names(store) == {"base": SnapshotKind.COMMITTED}

    def test_directory_leaves_nothing_behind(self, store: Snapshotter) -> None:
        self.fill(store, "base", None)
        self.fill(store, "top", "base")
        store.directory("top")
        store.directory("base")
        assert set(self.names(store)) == {"base", "top"}

    def test_remove(self, store: Snapshotter) -> None:
        self.fill(store, "base", None)
        store.prepare("active", None)
        store.remove("active")
        store.remove("base")
        store.remove("base")
        store.remove("missing")
        assert self.names(store) == {}

    def test_remove_of_a_parent_is_refused(self, store: Snapshotter) -> None:
        if store.form is TreeForm.FULL:
            return  # a full tree stands alone
        self.fill(store, "base", None)
        self.fill(store, "top", "base")
        with pytest.raises(TargetRefused, match="base"):
            store.remove("base")
        store.remove("top")
        store.remove("base")

    def test_what_is_missing_is_not_found(self, store: Snapshotter) -> None:
        with pytest.raises(TargetNotFound, match="missing"):
            store.stat("missing")
        with pytest.raises(TargetNotFound, match="missing"):
            store.directory("missing")
        with pytest.raises(TargetNotFound, match="missing"):
            store.prepare("active", "missing")
        with pytest.raises(TargetNotFound, match="missing"):
            store.commit("name", "missing", {})
        assert self.names(store) == {}

    def test_layers_at_once(self, store: Snapshotter) -> None:
        self.fill(store, "base", None)

        def make(number: int) -> None:
            self.fill(store, f"layer-{number}", "base", file=f"layer-{number}")

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(make, range(12)))
        assert all((store.directory(f"layer-{n}") / "file").read_text() == f"layer-{n}" for n in range(12))

    def test_one_layer_made_twice_at_once(self, store: Snapshotter) -> None:
        def make(number: int) -> bool:
            store.prepare(f"active-{number}", None)
            return store.commit("layer", f"active-{number}", {})

        with ThreadPoolExecutor(4) as pool:
            assert sorted(pool.map(make, range(4))) == [False, False, False, True]
        assert self.names(store) == {"layer": SnapshotKind.COMMITTED}


class ImageStoreSuite:
    """Names of manifests."""

    @pytest.fixture
    def store(self) -> Iterator[ImageStore]:
        raise NotImplementedError

    def record(self, name: str, seed: int = 0, **labels: str) -> ImageRecord:
        target = ImageDescriptor("application/vnd.oci.image.manifest.v1+json", digests.of(b"%d" % seed), 100 + seed)
        return ImageRecord(name, target, labels)

    def test_record_comes_back(self, store: ImageStore) -> None:
        record = self.record("docker.io/library/x:1", 1, a="1")
        store.put(record)
        assert store.get("docker.io/library/x:1") == record

    def test_list_has_every_record(self, store: ImageStore) -> None:
        assert list(store.list()) == []
        names = ["docker.io/library/x:1", "docker.io/library/x:2", "host:5000/a/b:c", f"moby-dangling@{digests.of(b'1')}"]
        records = {name: self.record(name, number, n=str(number)) for number, name in enumerate(names)}
        for record in records.values():
            store.put(record)
        assert {record.name: record for record in store.list()} == records

    def test_two_names_of_one_manifest(self, store: ImageStore) -> None:
        one, two = self.record("docker.io/library/x:1", a="1"), self.record("docker.io/library/x:2", a="2")
        store.put(one)
        store.put(two)
        assert store.get(one.name) == one
        assert store.get(two.name) == two
        store.delete(one.name)
        assert list(store.list()) == [two]

    def test_put_replaces_target_and_labels(self, store: ImageStore) -> None:
        store.put(self.record("docker.io/library/x:1", 1, a="1", b="1"))
        changed = self.record("docker.io/library/x:1", 2, b="2", c="2")
        store.put(changed)
        assert store.get("docker.io/library/x:1") == changed
        assert list(store.list()) == [changed]

    def test_put_of_the_same_changes_nothing(self, store: ImageStore) -> None:
        record = self.record("docker.io/library/x:1", 1, a="1")
        store.put(record)
        store.put(record)
        assert list(store.list()) == [record]

    def test_deleted_name_is_gone(self, store: ImageStore) -> None:
        store.put(self.record("docker.io/library/x:1"))
        store.delete("docker.io/library/x:1")
        store.delete("docker.io/library/x:1")
        assert list(store.list()) == []
        with pytest.raises(TargetNotFound, match=r"docker\.io/library/x:1"):
            store.get("docker.io/library/x:1")

    def test_many_puts_at_once(self, store: ImageStore) -> None:
        records = [self.record(f"docker.io/library/x:{n}", n) for n in range(40)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(store.put, records))
        assert sorted(store.list(), key=lambda record: record.name) == sorted(records, key=lambda record: record.name)
