"""Targets that run out of room: the run stops and says so, and goes on when there is room."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.real.command import Transship
from tests.real.conftest import need
from tests.real.disks import Disk
from tests.real.facts import read_json
from tests.real.state import State, collect_garbage, state
from tests.real.trees import differences, listing, snapshot_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.real.command import Ended
    from tests.real.conftest import Containerd
    from tests.real.facts import Facts
    from tests.real.trees import Tree

pytestmark = pytest.mark.real

MIB = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def _programs(request: pytest.FixtureRequest) -> None:
    need(request, "mkfs.ext4", "e2fsck", "resize2fs", "mount")


@pytest.fixture(scope="module")
def source(docker_fixture: Callable[[str], Path]) -> Path:
    return docker_fixture("overlay2")


@pytest.fixture(scope="module")
def untouched(source: Path) -> Tree:
    return listing(source)


def check_stopped(ended: Ended, place: str) -> None:
    """Assert that the run says what is full, and what to do."""
    ended.expect(4)
    assert ended.last["type"] == "error"
    assert ended.last["error"] == "TargetFull"
    assert "no space left on device" in ended.last["message"].lower() or "no room" in ended.last["message"]
    assert "room" in ended.last["remedy"] or "space" in ended.last["remedy"]
    assert place in ended.last["message"] + ended.last["remedy"]
    assert {event["state"] for event in ended.events("run_ended")} <= {"interrupted"}


@pytest.fixture
def on_disk(
    request: pytest.FixtureRequest, tmp_path: Path, start_containerd: Callable[..., Containerd]
) -> Iterator[tuple[Disk, Containerd]]:
    """A containerd on a disk of its own: of 96 MiB, or with few inodes."""
    options = getattr(request, "param", ())
    with Disk(tmp_path, "ext4", 96 * MIB, *options) as disk:
        containerd = start_containerd(disk.path / "containerd")
        try:
            yield disk, containerd
        finally:
            containerd.stop()


def to(containerd: Containerd, source: Path, state_dir: Path) -> Transship:
    return Transship(state_dir, ("--source", source, "--target", f"containerd:{containerd.socket}"))


def check_all(containerd: Containerd, transship: Transship, facts: Facts) -> None:
    for chain_id, tree in facts["chain_trees"].items():
        assert differences(snapshot_tree(containerd, "moby", "overlayfs", chain_id), tree) == {}
    assert transship("verify").expect().last["differences"] == []
    now = state(containerd)
    assert (now.leases, now.ingests) == (set(), set())
    collect_garbage(containerd)
    assert state(containerd) == now


@pytest.mark.parametrize("free", [256 << 10, 2 * MIB, 4 * MIB])
def test_disk_of_containerd(
    *,
    on_disk: tuple[Disk, Containerd],
    source: Path,
    untouched: Tree,
    facts: Callable[[str], Facts],
    tmp_path: Path,
    free: int,
) -> None:
    disk, containerd = on_disk
    transship = to(containerd, source, tmp_path / "state")
    disk.fill(free)
    for _ in range(2):
        check_stopped(transship("migrate"), "containerd")
    disk.empty()
    transship("migrate").expect()
    check_all(containerd, transship, facts("overlay2"))
    assert listing(source) == untouched


def test_rollback_where_it_was_full(on_disk: tuple[Disk, Containerd], source: Path, tmp_path: Path) -> None:
    disk, containerd = on_disk
    transship = to(containerd, source, tmp_path / "state")
    disk.fill(4 * MIB)
    check_stopped(transship("migrate"), "containerd")
    transship("rollback").expect()
    assert state(containerd) == State({}, {}, {})
    snapshots = containerd.root / "io.containerd.snapshotter.v1.overlayfs" / "snapshots"
    assert list(snapshots.iterdir()) == []


@pytest.mark.parametrize("on_disk", [("-N", "500")], indirect=True)
def test_too_few_inodes(on_disk: tuple[Disk, Containerd], source: Path, tmp_path: Path, facts: Callable[[str], Facts]) -> None:
    disk, containerd = on_disk
    transship = to(containerd, source, tmp_path / "state")
    check_stopped(transship("migrate"), "containerd")
    containerd.stop()
    disk.grow(600 * MIB)
    containerd.start()
    transship("migrate").expect()
    check_all(containerd, transship, facts("overlay2"))


def test_state_directory_on_a_full_disk(on_disk: tuple[Disk, Containerd], source: Path, facts: Callable[[str], Facts]) -> None:
    disk, containerd = on_disk
    transship = to(containerd, source, disk.path / "state")
    disk.fill(3 * MIB)
    ended = transship("migrate").expect(4)
    assert ended.last["error"] in {"TargetFull", "JournalError"}
    assert "Traceback" not in ended.stderr
    disk.empty()
    transship("migrate").expect()
    check_all(containerd, transship, facts("overlay2"))


def test_layout(source: Path, untouched: Tree, tmp_path: Path) -> None:
    place = tmp_path / "full"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=True)
    try:
        transship = Transship(tmp_path / "state", ("--source", source, "--target", f"oci:{place}/layout"))
        for _ in range(2):
            check_stopped(transship("migrate"), str(place))
        for path in (place / "layout" / "blobs" / "sha256").iterdir():
            assert not path.name.startswith(".")
        subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
        ended = transship("migrate").expect()
        assert ended.done(skipped=True)
        assert transship("verify").expect().last["differences"] == []
        transship("rollback").expect()
        assert list((place / "layout" / "blobs" / "sha256").iterdir()) == []
        assert read_json(place / "layout" / "index.json")["manifests"] == []
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert listing(source) == untouched
