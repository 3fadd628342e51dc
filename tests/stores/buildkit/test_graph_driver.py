"""Docker's builder: snapshots, layers and leases, against what dockerd made of them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.stores.buildkit.caches import all_changes, apart_from_times, below, read, upgraded
from transship.stores import bolt_file
from transship.stores.buildkit.holder import Lease, Snapshot
from transship.stores.buildkit.holders import opened
from transship.stores.buildkit.places import find_caches

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transship.stores.buildkit.holder import Holder

CHAIN_ID = "sha256:09507fad03f477c68f26a4d75ef3f9d8a3891ddbe36f4538fda3c31bcd7b4a31"
"""A layer of an image, which the cache has a record of."""


@pytest.fixture
def layers(docker: Path) -> Path:
    return docker / "root" / "image" / "overlay2" / "layerdb" / "sha256"


@pytest.fixture
def open_holder(docker: Path) -> Iterator[Holder]:
    [cache] = find_caches(docker / "root")
    with opened(cache, None, "ignored") as holder:
        yield holder


def holder_in(root: Path) -> Holder:
    [cache] = find_caches(root)
    with opened(cache, None, "ignored") as holder:
        return holder


def test_the_same_as_dockers_own(docker: Path) -> None:
    place = docker / "root" / "buildkit"
    with upgraded(docker / "root") as (found, holder):
        leases, labels = all_changes(found, holder)
        holder.apply(leases)
        assert (labels, holder.lease(found.leases)) == (b"", b"")
    for file in ("containerdmeta.db", "snapshots.db"):
        assert not apart_from_times(read(place / file), read(docker / "migrated" / file))
    assert (place / "containerdmeta.db").stat().st_mode & 0o777 == 0o600


def test_taken_back_all_is_as_it_was(docker: Path) -> None:
    place = docker / "root" / "buildkit"
    before = read(place / "snapshots.db")
    with upgraded(docker / "root") as (found, holder):
        leases, _ = all_changes(found, holder)
        for _ in range(2):
            assert holder.revert(leases)
    assert read(place / "snapshots.db") == before
    assert not (place / "containerdmeta.db").exists()


def test_leases_of_others_stay(docker: Path) -> None:
    place = docker / "root" / "buildkit"
    with upgraded(docker / "root") as (found, holder):
        leases, _ = all_changes(found, holder)
        holder.apply(holder.lease([Lease("another", (("content", "blob"),))]))
        assert not holder.revert(leases)
    assert set(below(read(place / "containerdmeta.db"), b"v1", b"buildkit", b"leases").held) == {b"another"}


def test_a_database_of_leases_that_is_there_stays(docker: Path) -> None:
    place = docker / "root" / "buildkit"
    with upgraded(docker / "root") as (found, holder):
        holder.apply(holder.lease([Lease("another", ())]))
        before = read(place / "containerdmeta.db")
        assert holder.revert(all_changes(found, holder)[0])
        assert not holder.has_blob(CHAIN_ID)
    assert read(place / "containerdmeta.db") == before


def test_what_it_holds(docker: Path, open_holder: Holder) -> None:
    snapshots = read(docker / "root" / "buildkit" / "snapshots.db").held
    assert open_holder.snapshotter == "default"
    committed = next(name.decode() for name in snapshots if b"committed" in below_or_empty(docker, name))
    found = open_holder.snapshot(committed)
    assert found is not None
    assert found.committed
    base = open_holder.snapshot(CHAIN_ID)
    assert base is not None
    assert base.committed
    assert open_holder.snapshot("nothing") is None
    assert open_holder.snapshot(f"sha256:{'0' * 64}") is None
    assert not open_holder.has_blob(CHAIN_ID)


def below_or_empty(docker: Path, name: bytes) -> dict[bytes, object]:
    return dict(below(read(docker / "root" / "buildkit" / "snapshots.db"), name).held)


def test_layers_know_what_they_stand_on(layers: Path, open_holder: Holder) -> None:
    for entry in layers.iterdir():
        parent = entry / "parent"
        expected = parent.read_text() if parent.exists() else None
        assert open_holder.snapshot(f"sha256:{entry.name}") == Snapshot(expected, committed=True)


@pytest.mark.parametrize("damage", ["missing", "no size", "another parent", "in a circle"])
def test_a_layer_that_dockerd_would_not_load(docker: Path, layers: Path, damage: str) -> None:
    parents = {entry.name: (entry / "parent").read_text()[7:] for entry in layers.iterdir() if (entry / "parent").exists()}
    base = next(name for name in parents.values() if name not in parents)
    above = next(name for name, parent in parents.items() if parent == base)
    if damage == "missing":
        shutil.rmtree(layers / base)
    elif damage == "no size":
        (layers / base / "size").unlink()
    elif damage == "another parent":
        (layers / base / "parent").write_text("../..")
    else:
        (layers / base / "parent").write_text(f"sha256:{above}")
    holder = holder_in(docker / "root")
    assert holder.snapshot(f"sha256:{base}") is None
    assert holder.snapshot(f"sha256:{above}") is None
    others = [name for name in parents if parents[name] not in parents and parents[name] != base]
    assert all(holder.snapshot(f"sha256:{name}") is not None for name in others)
    holder.close()


def test_a_snapshot_whose_layer_is_missing_costs_its_record(docker: Path, layers: Path) -> None:
    with upgraded(docker / "root") as (found, _):
        whole = {lease.id for lease in found.leases}
    (layers / CHAIN_ID[7:]).rename(layers.parent / "elsewhere")
    with upgraded(docker / "root") as (found, _):
        left = {lease.id for lease in found.leases}
        lost = {problem.subject for problem in found.dropped}
    assert CHAIN_ID in lost
    assert left == whole - lost
    assert len(left) > len(whole) // 2


def test_layers_are_those_of_the_graph_driver_in_use(docker: Path, layers: Path) -> None:
    for driver in ("aufs", "vfs"):  # which Docker had before: one layer is left of it, and a damaged one
        other = docker / "root" / "image" / driver / "layerdb" / "sha256"
        shutil.copytree(layers / CHAIN_ID[7:], other / CHAIN_ID[7:])
        (other / CHAIN_ID[7:] / "size").unlink()
    (docker / "root" / "image" / "zfs").mkdir()
    with upgraded(docker / "root") as (found, _):
        assert (found.records, found.dropped) == (87, ())


def test_a_root_without_images(docker: Path) -> None:
    shutil.rmtree(docker / "root" / "image")
    with upgraded(docker / "root") as (found, _):
        assert 0 < found.records < 87
        assert CHAIN_ID in {problem.subject for problem in found.dropped}


def test_a_snapshot_by_any_state(docker: Path) -> None:
    with bolt_file.changed(docker / "root" / "buildkit" / "snapshots.db") as draft:
        draft.made(b"bare")
        draft.made(b"name").put(b"committed", b"source")
        draft.made(b"source").put(b"parent", b"bare")
        draft.made(b"dangling").put(b"committed", b"gone")
        draft.made(b"layered").put(b"chainid", CHAIN_ID.encode())
        draft.made(b"lost").put(b"chainid", f"sha256:{'0' * 64}".encode())
        draft.made(b"based").put(b"parent", b"")
    holder = holder_in(docker / "root")
    layer = holder.snapshot(CHAIN_ID)
    assert layer is not None
    found = [holder.snapshot(name) for name in ("bare", "name", "source", "dangling", "layered", "lost", "based")]
    holder.close()
    active = Snapshot(None, committed=False)
    assert found == [active, Snapshot("bare", committed=True), Snapshot("bare", committed=False), None, layer, None, active]
