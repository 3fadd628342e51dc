"""A build cache whose snapshots, blobs and leases are in a real containerd: changed through it, and held by it."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.harness import command
from tests.formats.bolt.databases import Made
from tests.real.command import Transship
from tests.real.kills import killed_at
from tests.real.state import collect_garbage, state
from tests.stores.buildkit.caches import all_changes, apart_from_times, read, upgraded, written
from transship.errors import SourceUnsupported, TargetUnavailable
from transship.formats import digest
from transship.stores import bolt_file
from transship.stores.buildkit.holder import Lease, Snapshot
from transship.stores.buildkit.holders import opened
from transship.stores.buildkit.places import Kind, find_caches

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from tests.real.conftest import Containerd
    from transship.formats.digest import Digest
    from transship.stores.buildkit.holder import Holder

pytestmark = pytest.mark.real

ROOT, FLAT = "containerd.io/gc.root", "containerd.io/gc.flat"
BLOBS = {name: f"blob of {name}".encode() for name in ("base", "above", "orphan")}
SNAPSHOTTER = "overlayfs"


def blob(name: str) -> Digest:
    return digest.of(BLOBS[name])


@dataclass
class Worker:
    """A cache's directory, and the namespace of a containerd with what it needs."""

    containerd: Containerd
    place: Path
    namespace: str

    def ctr(self, *arguments: str) -> str:
        return self.containerd.ctr(*arguments, namespace=self.namespace)

    def snapshots(self, *arguments: str) -> str:
        return self.ctr("snapshots", "--snapshotter", SNAPSHOTTER, *arguments)

    def labels(self, name: str) -> dict[str, str]:
        labels: dict[str, str] = json.loads(self.snapshots("info", name)).get("Labels") or {}
        return labels

    def held(self) -> tuple[set[str], set[str]]:
        """Return the names of snapshots, and digests of blobs."""
        found = state(self.containerd, self.namespace)
        return {name for _, name in found.snapshots}, set(found.blobs)

    def everything(self) -> Any:
        found = state(self.containerd, self.namespace)
        return found, {name: self.labels(name) for _, name in found.snapshots}

    def commit(self, name: str, parent: str = "") -> None:
        key = uuid.uuid4().hex
        self.snapshots("prepare", key, *filter(None, [parent]))
        self.snapshots("commit", name, key)

    def ingest(self, content: bytes) -> None:
        ended = ["ctr", "--address", str(self.containerd.socket), "--namespace", self.namespace, "content", "ingest", "blob"]
        subprocess.run(ended, input=content, check=True, timeout=60, capture_output=True)
        self.ctr("content", "label", digest.of(content), f"{ROOT}=2020-01-01T00:00:00Z", "other=label")


def _value(content: object) -> bytes:
    return json.dumps({"value": content}, separators=(",", ":")).encode()


def fill(worker: Worker) -> None:
    """Make what BuildKit 0.6 leaves behind. ``ctr`` gives snapshots the label that BuildKit gives them, but not views."""
    worker.commit("base")
    worker.commit("above", "base")
    worker.commit("orphan")
    worker.snapshots("prepare", "mount")
    worker.snapshots("prepare", "mutable", "above")
    worker.snapshots("view", "leaked", "above")
    worker.snapshots("label", "leaked", f"{ROOT}=2020-01-01T00:00:00Z")
    for content in BLOBS.values():
        worker.ingest(content)
    mappings = {name: _value({"Blobsum": blob(name), "DiffID": digest.of(name.encode())}) for name in ("base", "above")}
    records = {name: Made({b"blobmapping.blob": raw}) for name, raw in mappings.items()}
    records["mount"] = Made({b"blobmapping.blob": _value({"Blobsum": "no digest", "DiffID": "none"})})
    records |= {"mutable": Made(), "shallow": Made({b"cache.equalMutable": _value("mutable")}), "lost": Made()}
    worker.place.mkdir(parents=True)
    main = {name.encode(): record for name, record in records.items()}
    bolt_file.create(worker.place / "metadata.db", Made({b"_main": Made(dict(main))}))


@pytest.fixture
def worker(containerd: Containerd, tmp_path: Path) -> Worker:
    made = Worker(containerd, tmp_path / f"containerd-{SNAPSHOTTER}", f"buildkit-{uuid.uuid4().hex[:8]}")
    fill(made)
    return made


@pytest.fixture
def holder(worker: Worker) -> Iterator[Holder]:
    [cache] = find_caches(worker.place)
    with opened(cache, worker.containerd.socket, worker.namespace) as holder:
        yield holder


def test_what_it_holds(holder: Holder) -> None:
    assert holder.snapshotter == SNAPSHOTTER
    assert holder.snapshot("base") == Snapshot(None, committed=True)
    assert holder.snapshot("mutable") == Snapshot("above", committed=False)
    assert holder.snapshot("nothing") is None
    assert holder.has_blob(blob("base"))
    assert not holder.has_blob(digest.of(b"nothing"))


def test_leases_keep_what_labels_kept(worker: Worker) -> None:
    before = worker.everything()
    with upgraded(worker.place, worker.containerd.socket, worker.namespace) as (found, holder):
        assert [problem.error.message for problem in found.dropped] == ["record lost has no snapshot"]
        changes = all_changes(found, holder)
        for each in changes:  # as after a kill
            holder.apply(each)
        assert (holder.lease(found.leases), holder.unroot(found.snapshots, found.blobs)) == (b"", b"")
    leases = dict(zip(*_leases(worker), strict=True))
    assert leases.keys() == {"above", "base", "mount", "mutable", "shallow"}
    assert all(line.count("=") == 1 and f"{FLAT}=20" in line for line in leases.values())
    assert {name for name in worker.held()[0] if ROOT in worker.labels(name)} == {"orphan"}
    collect_garbage(worker.containerd, worker.namespace)
    snapshots, blobs = worker.held()
    assert snapshots == {"base", "above", "orphan", "mount", "mutable"}
    assert blobs == {blob(name) for name in BLOBS}
    # Without the leases nothing would be kept of it.
    for name in leases:
        worker.ctr("leases", "delete", name)
    collect_garbage(worker.containerd, worker.namespace)
    assert worker.held() == ({"orphan"}, {blob("orphan")})
    assert before[0].snapshots.keys() > {(SNAPSHOTTER, "leaked")}


def _leases(worker: Worker) -> tuple[list[str], list[str]]:
    lines = worker.ctr("leases", "list").splitlines()[1:]
    return [line.split()[0] for line in lines], lines


def test_taken_back_all_is_as_it_was(worker: Worker) -> None:
    before = worker.everything()
    with upgraded(worker.place, worker.containerd.socket, worker.namespace) as (found, holder):
        leases, labels = all_changes(found, holder)
        assert worker.everything() != before
        for _ in range(2):
            assert holder.revert(labels)
            assert holder.revert(leases)
    assert worker.everything() == before
    collect_garbage(worker.containerd, worker.namespace)
    assert worker.everything() == before


def test_leases_that_have_changed_since_stay(worker: Worker, holder: Holder) -> None:
    held = (("content", blob("base")),)
    leases = holder.lease([Lease(name, held) for name in ("added-to", "made-again", "deleted", "ours")])
    holder.apply(leases)
    holder.apply(holder.lease([Lease("added-to", (("content", blob("above")),))]))
    for name in ("made-again", "deleted"):
        worker.ctr("leases", "delete", name)
    worker.ctr("leases", "create", "--id", "made-again", f"{FLAT}=2020-01-01T00:00:00Z")
    assert not holder.revert(leases)
    assert set(_leases(worker)[0]) == {"added-to", "made-again"}
    assert holder.lease([Lease("added-to", (("content", blob("above")),))]) == b""


def test_labels_that_have_changed_since_stay(worker: Worker, holder: Holder) -> None:
    labels = holder.unroot(["base", "mount", "above"], [])
    before = worker.labels("above")
    holder.apply(labels)
    worker.snapshots("label", "base", f"{ROOT}=another")
    worker.snapshots("rm", "mount")  # which has containerd collect; the mutable one keeps what it stands on
    assert not holder.revert(labels)
    assert (worker.labels("base")[ROOT], worker.labels("above")) == ("another", before)
    assert "mount" not in worker.held()[0]


def test_what_is_gone_is_not_missed(worker: Worker, holder: Holder) -> None:
    labels = holder.unroot(["mount"], [blob("orphan")])
    worker.snapshots("rm", "mount")
    worker.ctr("content", "rm", blob("orphan"))
    holder.apply(labels)
    assert "mount" not in worker.held()[0]


def test_a_lease_that_is_there_gets_what_it_lacks(worker: Worker, holder: Holder) -> None:
    worker.ctr("leases", "create", "--id", "base", f"{FLAT}=2020-01-01T00:00:00Z")
    wanted = [Lease("base", ((f"snapshots/{SNAPSHOTTER}", "base"), ("content", blob("base"))))]
    changes = holder.lease(wanted)
    holder.apply(changes)
    assert holder.lease(wanted) == b""
    holder.apply(holder.unroot(["base", "above", "mount", "mutable"], [blob("base")]))
    collect_garbage(worker.containerd, worker.namespace)
    snapshots, blobs = worker.held()
    assert (snapshots, blob("base") in blobs) == ({"base", "orphan"}, True)
    assert holder.revert(changes)
    assert holder.lease(wanted) != b""


def test_databases_change_as_containerd_changes_them(start_containerd: Callable[..., Containerd], tmp_path: Path) -> None:
    # The same cache twice: in a containerd that runs, and in databases of BuildKit's own.
    containerd = start_containerd(Path(tempfile.mkdtemp(prefix="transship-root-", dir=tmp_path)))
    worker = Worker(containerd, tmp_path / f"containerd-{SNAPSHOTTER}", "buildkit")
    fill(worker)
    meta = containerd.root / "io.containerd.metadata.v1.bolt" / "meta.db"
    snapshots = containerd.root / f"io.containerd.snapshotter.v1.{SNAPSHOTTER}" / "metadata.db"
    embedded = tmp_path / f"runc-{SNAPSHOTTER}"
    (embedded / "snapshots").mkdir(parents=True)
    containerd.stop()
    shutil.copy(worker.place / "metadata.db", embedded)
    shutil.copy(meta, embedded / "containerdmeta.db")
    shutil.copy(snapshots, embedded / "snapshots" / "metadata.db")
    containerd.start()
    made = []
    for place in (worker.place, embedded):
        with upgraded(place, containerd.socket) as (found, holder):
            made.append((written(found, place / "v2.db"), found.leases, found.snapshots, found.blobs))
            all_changes(found, holder)
    containerd.stop()
    assert made[0] == made[1]
    assert not apart_from_times(read(meta), read(embedded / "containerdmeta.db"))
    assert not apart_from_times(read(snapshots), read(embedded / "snapshots" / "metadata.db"))


def test_by_the_command(worker: Worker, tmp_path: Path, chance: random.Random) -> None:
    """Killed and gone on with; the root is buildkitd's, with the worker's directory in it."""
    target = ("--source", tmp_path, "--target", f"buildkit:{worker.containerd.socket}", "--namespace", worker.namespace)
    transship = Transship(tmp_path / "state", target)
    for call in ("sendto", "sendmsg", "write", "fsync"):
        assert killed_at(transship, call, chance.randint(1, 60)).code in {0, -9}
    transship("migrate").expect()
    assert (worker.place / "metadata_v2.db").exists()
    transship("verify").expect()
    collect_garbage(worker.containerd, worker.namespace)
    assert worker.held() == ({"base", "above", "mount", "mutable", "orphan"}, {blob(name) for name in BLOBS})

    worker.ctr("leases", "rm", "above")
    transship("verify").expect(5)


def test_taken_back_by_the_command(worker: Worker, tmp_path: Path) -> None:
    before = worker.everything()
    words = ["buildkit", "migrate", tmp_path, "--containerd", worker.containerd.socket, "--namespace", worker.namespace]
    transship = Transship(tmp_path / "state")
    ended = command(*words, "--state-dir", transship.state_dir, "--json")
    assert (ended.code, ended.report["records"]) == (0, 5)
    assert [left["subject"] for left in ended.report["left_out"]] == ["lost"]
    assert worker.everything() != before
    assert transship("rollback").expect().last["kept"] == []
    assert worker.everything() == before
    assert not (worker.place / "metadata_v2.db").exists()


def test_where_there_is_no_containerd(worker: Worker, tmp_path: Path) -> None:
    [cache] = find_caches(worker.place)
    assert cache.kind is Kind.CONTAINERD
    with pytest.raises(SourceUnsupported, match="is in a containerd"), opened(cache, None, "buildkit"):
        pass
    with pytest.raises(TargetUnavailable), opened(cache, tmp_path / "socket", "buildkit"):
        pass
