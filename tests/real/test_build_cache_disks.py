"""Build caches whose disk is full, loses its power or cannot be written to, and commands that are killed at a system call."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.formats.bolt.databases import Made, held
from tests.real.command import Transship
from tests.real.conftest import need
from tests.real.disks import Disk
from tests.real.kills import killed_at
from tests.stores.buildkit.caches import BUILDKIT, DOCKER, apart_from_times, read, unpack
from transship.formats.bolt.check import check
from transship.stores import bolt_file

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.real

SYSTEM_CALLS = {"fsync": 40, "pwrite64": 60, "openat": 700, "rename": 12, "write": 80, "unlink": 20, "ftruncate": 3}
"""Where to kill a command: at one of the first so many calls by one of its threads."""


@pytest.fixture(params=["ext4", "xfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    need(request, "mkfs.ext4", "mkfs.xfs", "mount", "strace")
    with Disk(tmp_path, request.param, 512 << 20) as disk:
        yield disk


@pytest.fixture(params=[BUILDKIT, DOCKER])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def command(root: Path, state: Path) -> Transship:
    return Transship(state, ("--source", root, "--target", "buildkit"))


def contents(root: Path) -> dict[str, Made]:
    """Return what is in all databases, each of them sound."""
    found = {}
    for path in root.rglob("*.db"):
        with bolt_file.opened(path) as database:
            assert [str(problem) for problem in check(database)] == [], path
            found[str(path.relative_to(root))] = held(database.root)
    return found


def ensure_migrated(place: Path) -> None:
    """See that there is what BuildKit would have made."""
    [expected] = {path.parent for path in (place / "migrated").rglob("metadata_v2.db")}
    [metadata] = (place / "root").rglob("metadata_v2.db")
    for path in expected.rglob("*.db"):
        found = apart_from_times(read(path), read(metadata.parent / path.relative_to(expected)))
        assert [each for each in found if each[0] != (b"v1", b"version")] == []


@pytest.mark.parametrize("disk", ["ext4"], indirect=True)
def test_disk_full(name: str, disk: Disk, tmp_path: Path) -> None:
    place = unpack(name, disk.path / "cache")
    before, transship = contents(place / "root"), command(place / "root", tmp_path / "state")
    for free in (0, 4096, 64 << 10, 256 << 10):
        disk.fill(free)
        ended = transship("migrate")
        assert ended.code in {0, 1, 4}, ended.stderr
        assert before.keys() <= contents(place / "root").keys()
        disk.empty()
    transship("migrate").expect()
    ensure_migrated(place)
    while transship("rollback").code == 0:
        pass
    assert contents(place / "root") == before


def test_power_cuts(name: str, disk: Disk) -> None:
    """Between any two steps, with the journal on the same disk."""
    place = unpack(name, disk.path / "cache")
    before, transship = contents(place / "root"), command(place / "root", disk.path / "state")
    disk.unmount()
    disk.mount()
    for steps in (1, 2, 3):
        with transship.start("migrate") as running:
            running.until("step_done", steps)
            disk.cut_power()
            running.kill()
        disk.unmount()
        disk.mount()
        contents(place / "root")
    transship("migrate").expect()
    disk.cut_power()
    disk.unmount()
    disk.mount()
    ensure_migrated(place)
    while transship("rollback").code == 0:
        pass
    assert contents(place / "root") == before


def test_read_only(name: str, disk: Disk, tmp_path: Path) -> None:
    place = unpack(name, disk.path / "cache")
    before, transship = contents(place / "root"), command(place / "root", tmp_path / "state")
    subprocess.run(["mount", "-o", "remount,ro", disk.path], check=True)
    transship("plan").expect()
    ended = transship("migrate").expect(4)
    assert "Read-only file system" in ended.last["message"] or "read-only" in ended.last["message"]
    assert contents(place / "root") == before
    subprocess.run(["mount", "-o", "remount,rw", disk.path], check=True)
    transship("migrate").expect()
    ensure_migrated(place)


@pytest.mark.parametrize("call", SYSTEM_CALLS)
def test_killed_at_system_calls(call: str, name: str, tmp_path: Path, chance: random.Random) -> None:
    place = unpack(name, tmp_path / "cache")
    before, transship = contents(place / "root"), command(place / "root", tmp_path / "state")
    for _ in range(3):
        ended = killed_at(transship, call, chance.randint(1, SYSTEM_CALLS[call]))
        assert ended.code in {0, -9}
        contents(place / "root")
    transship("migrate").expect()
    ensure_migrated(place)
    killed_at(transship, call, chance.randint(1, SYSTEM_CALLS[call]), "rollback")
    contents(place / "root")
    while transship("rollback").code == 0:
        pass
    assert contents(place / "root") == before
