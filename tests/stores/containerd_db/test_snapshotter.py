"""A snapshotter's metadata.db: records as containerd has them, byte for byte."""

from __future__ import annotations

import pytest

from tests.stores.containerd_db.test_metadata import NOW, held
from transship.formats.bolt.draft import Draft
from transship.stores.containerd_db.snapshotter import ACTIVE, COMMITTED, Snapshots, kind_of, number_of, parent_of


@pytest.fixture
def root() -> Draft:
    return Draft(None)


@pytest.fixture
def snapshots(root: Draft) -> Snapshots:
    return Snapshots(root)


def test_life(root: Draft, snapshots: Snapshots) -> None:
    assert snapshots.sequence == 0
    assert snapshots.add("moby/1/active", ACTIVE, None, {}) == 1
    snapshots.commit("moby/1/active", "moby/2/base", (8192, 2), {"containerd.io/snapshot/x": "y"})
    assert snapshots.add("moby/3/active", ACTIVE, "moby/2/base", {}) == 2
    base = {b"id": b"\x01", b"kind": b"\x03", b"size": b"\x80\x80\x01", b"inodes": b"\x04", **NOW}
    base[b"labels"] = {b"containerd.io/snapshot/x": b"y"}
    active = {b"id": b"\x02", b"kind": b"\x02", b"parent": b"moby/2/base", **NOW}
    assert held(root) == {
        b"v1": {b"parents": {b"\x01\x00\x02": b"moby/3/active"}, b"snapshots": {b"moby/2/base": base, b"moby/3/active": active}}
    }
    snapshots.commit("moby/3/active", "moby/4/top", (4096, 1), {})
    top = {**active, b"kind": b"\x03", b"size": b"\x80\x40", b"inodes": b"\x02"}
    assert held(root) == {
        b"v1": {b"parents": {b"\x01\x00\x02": b"moby/4/top"}, b"snapshots": {b"moby/2/base": base, b"moby/4/top": top}}
    }
    snapshots.remove("moby/4/top")
    snapshots.remove("moby/4/top")
    assert held(root) == {b"v1": {b"parents": {}, b"snapshots": {b"moby/2/base": base}}}
    assert snapshots.sequence == 2


def test_what_is_read(snapshots: Snapshots) -> None:
    snapshots.sequence = 299
    assert snapshots.add("base", ACTIVE, None, {}) == 300
    snapshots.commit("base", "base2", (0, 0), {})
    snapshots.add("top", ACTIVE, "base2", {})
    found = {key: (number_of(record), kind_of(record), parent_of(record)) for key, record in snapshots.all()}
    assert found == {"base2": (300, COMMITTED, None), "top": (301, ACTIVE, "base2")}
    assert snapshots.get("missing") is None


def test_what_is_missing(snapshots: Snapshots) -> None:
    with pytest.raises(ValueError, match="no snapshot missing"):
        snapshots.commit("missing", "name", (0, 0), {})
    with pytest.raises(ValueError, match="no snapshot missing"):
        snapshots.add("key", ACTIVE, "missing", {})
