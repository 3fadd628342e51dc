"""Upgrades of old stores whose disk loses its power, or is full: what was there is whole, and it goes on, or back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.real.conftest import need
from tests.real.disks import Disk
from tests.real.old_roots import OldRoot
from tests.real.test_power_cut import check_journalled, cut_at
from tests.real.trees import differences

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.real.trees import Tree

pytestmark = pytest.mark.real

CUT_AFTER = (1, 4, 9, 14, 19)
"""The power is cut when so many more steps are done."""


@pytest.fixture(params=["ext4", "xfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    need(request, "mkfs.ext4", "mkfs.xfs", "mount")
    with Disk(tmp_path, request.param, 512 << 20) as disk:
        yield disk


@pytest.fixture(scope="module")
def store(docker_fixture: Callable[[str], Path]) -> Path:
    return docker_fixture("aufs")


@pytest.fixture(scope="module")
def whole(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """What an upgrade that nothing happens to makes."""
    old = OldRoot.make(store, tmp_path_factory.mktemp("whole"))
    old.transship("migrate").expect()
    return old.made()


def lose_power(disk: Disk) -> None:
    """Have it come back with what was on it when the power failed."""
    disk.unmount()
    disk.mount()


def made_on(disk: Disk, store: Path) -> OldRoot:
    """Return an old root that is on the disk for good."""
    old = OldRoot.make(store, disk.path)
    lose_power(disk)
    return old


def test_power_cuts(disk: Disk, store: Path, whole: Tree) -> None:
    old = made_on(disk, store)
    done: set[str] = set()
    for count in CUT_AFTER:
        more = cut_at(disk, old.transship, count)
        assert more is not None
        lose_power(disk)
        done |= more
        check_journalled(old.transship.state_dir, done)
        old.check_old_is_whole()
    ended = old.transship("migrate").expect()
    assert not {key for key in done if key.startswith("checksum:")} & ended.done(skipped=False)
    assert differences(old.made(), whole) == {}
    disk.cut_power()
    lose_power(disk)
    assert differences(old.made(), whole) == {}
    old.transship("rollback").expect()
    disk.cut_power()
    lose_power(disk)
    old.check_restored()


def test_rollback_after_a_power_cut(disk: Disk, store: Path) -> None:
    old = made_on(disk, store)
    for count in CUT_AFTER:
        assert cut_at(disk, old.transship, count) is not None
        lose_power(disk)
        old.transship("rollback").expect()
        old.check_restored()


def test_power_cut_while_it_is_taken_back(disk: Disk, store: Path) -> None:
    old = made_on(disk, store)
    old.transship("migrate").expect()
    for _ in range(3):
        with old.transship.start("rollback") as running:
            assert running.until("step_undone", 10)
            disk.cut_power()
            running.end()
        lose_power(disk)
        old.check_old_is_whole()
    old.transship("rollback").expect()
    old.check_restored()


@pytest.mark.parametrize(("free", "with_state"), [(64 << 10, False), (256 << 10, False), (256 << 10, True), (512 << 10, True)])
def test_full_disk(tmp_path: Path, store: Path, whole: Tree, free: int, with_state: bool) -> None:
    with Disk(tmp_path, "ext4", 64 << 20, "-m", "0") as disk:
        old = OldRoot.make(store, disk.path)
        if not with_state:
            (disk.path / "state").symlink_to(tmp_path / "state")
            (tmp_path / "state").mkdir()
        disk.fill(free)
        for _ in range(2):
            ended = old.transship("migrate").expect(4)
            assert ended.last["error"] in ({"TargetFull", "JournalError"} if with_state else {"TargetFull"})
            assert "Traceback" not in ended.stderr
            assert "room" in ended.last["remedy"] or "space" in ended.last["remedy"]
            old.check_old_is_whole()
        disk.empty()
        old.transship("migrate").expect()
        assert differences(old.made(), whole) == {}
        old.transship("rollback").expect()
        old.check_restored()


def test_rollback_where_it_was_full(tmp_path: Path, store: Path) -> None:
    with Disk(tmp_path, "ext4", 64 << 20, "-m", "0") as disk:
        old = OldRoot.make(store, disk.path)
        disk.fill(256 << 10)
        old.transship("migrate").expect(4)
        disk.empty()
        old.transship("rollback").expect()
        old.check_restored()
