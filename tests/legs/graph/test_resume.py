"""Upgrades that are killed anywhere, or run out of room: gone on with they end as others do, taken back they leave no trace."""

from __future__ import annotations

import signal
import subprocess
from functools import cache
from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import Journey
from tests.cli.stopped import Run
from tests.legs.graph.upgrades import Upgrade, as_it_is, upgrade_of
from tests.real.trees import MTIME, listing
from tests.stores.graph.builder import GraphBuilder
from transship.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.real.trees import Tree

SHARES = [each / 10 for each in range(10)]
"""Where it is stopped: how much of what it changes in all has been changed."""


def build(root: Path) -> None:
    """Make a store with one of each: with tar-split data, without, with files of an earlier migration, with a container."""
    builder = GraphBuilder(root)
    low = builder.image({"bin/": None, "bin/sh": b"shell"}, names=["low:1"], extra={"checksum": f"sha256:{'a' * 64}"})
    high = builder.image({"etc/": None, "etc/x": b"x", "bin/.wh.sh": b""}, low, names=["high:1"], tar_data=False)
    builder.image({"y": b"y"}, high, extra={".migration-diffid": f"sha256:{'0' * 64}"})
    builder.container(high, {"z": b"z"})


def without_times(tree: Tree) -> Tree:
    return {name: [*entry[:MTIME], *entry[MTIME + 1 :]] for name, entry in tree.items()}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root to be copied: of one that is built anew other images come, since some directories' times are in them."""
    root = tmp_path_factory.mktemp("original") / "docker"
    build(root)
    return root


@pytest.fixture
def upgrade(original: Path, tmp_path: Path) -> Upgrade:
    return copied(original, tmp_path)


@pytest.fixture(scope="module")
def uninterrupted(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Tree, int]]:
    """Return what becomes of the root when nothing stops the upgrade, and how many changes that takes."""

    @cache
    def ran(what: str) -> tuple[Tree, int]:
        whole = copied(original, tmp_path_factory.mktemp("uninterrupted"))
        changes = in_place(whole, what).changes(what)
        return without_times(listing(whole.source)), changes

    return ran


def copied(original: Path, place: Path) -> Upgrade:
    subprocess.run(["cp", "-a", original, place / "docker"], check=True)
    return upgrade_of(place / "docker", place / "state")


def in_place(upgrade: Upgrade, what: str) -> Run:
    below = upgrade.source if what == "full" else upgrade.source.parent
    return Run(below, ["migrate", "--direct", "--json", *upgrade.ends])


@pytest.mark.parametrize(
    ("what", "share"), [*(("kill", share) for share in SHARES), *(("full", share) for share in SHARES[::3])]
)
def test_an_upgrade_that_was_stopped(
    what: str, share: float, uninterrupted: Callable[[str], tuple[Tree, int]], upgrade: Upgrade
) -> None:
    (end, changes), before = uninterrupted(what), as_it_is(upgrade.source)

    def stop() -> None:
        ended = in_place(upgrade, what).stopped(1 + int(share * changes), what)
        assert ended.returncode == (-signal.SIGKILL if what == "kill" else ExitCode.TARGET), ended.stderr

    stop()
    assert as_it_is(upgrade.source) != before or share < 0.5
    upgrade.take_back()
    assert as_it_is(upgrade.source) == before
    stop()
    ended = upgrade.migrate()
    assert ended.code == 0, ended.all
    assert without_times(listing(upgrade.source)) == end
    assert upgrade.run("verify").code == 0
    upgrade.take_back()
    assert as_it_is(upgrade.source) == before


@pytest.mark.parametrize("share", SHARES[::2])
def test_a_rollback_that_was_stopped(share: float, upgrade: Upgrade) -> None:
    before = as_it_is(upgrade.source)
    rollback = Run(upgrade.source.parent, ["rollback", "--direct", "--json", "--state-dir", upgrade.state])
    assert upgrade.migrate().code == 0
    changes = rollback.changes()
    assert upgrade.migrate().code == 0
    assert rollback.stopped(1 + int(share * changes)).returncode == -signal.SIGKILL
    upgrade.take_back()
    assert as_it_is(upgrade.source) == before


@pytest.fixture(scope="module")
def voyage(original: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Journey, int]:
    """A voyage that nothing stopped, and how many changes it took."""
    place = tmp_path_factory.mktemp("voyage")
    journey = Journey(original, place / "layout", place / "state")
    return journey, Run(place, ["migrate", "--direct", "--json", *journey.ends]).changes()


@pytest.mark.parametrize("share", SHARES[::2])
@pytest.mark.parametrize("taken_back", [False, True])
def test_a_voyage_that_was_stopped(
    taken_back: bool, share: float, original: Path, voyage: tuple[Journey, int], tmp_path: Path
) -> None:
    (whole, changes), before = voyage, as_it_is(original)
    journey = Journey(original, tmp_path / "layout", tmp_path / "state")
    run = Run(tmp_path, ["migrate", "--direct", "--json", *journey.ends])
    assert run.stopped(1 + int(share * changes)).returncode == -signal.SIGKILL
    if taken_back:
        assert journey.rollback().code in {0, ExitCode.USAGE}  # if there was no run yet
        assert not list(journey.layout.glob("blobs/*/*"))
    ended = journey.migrate()
    assert ended.code == 0, ended.all
    assert journey.names() == whole.names()
    journey.ensure_consistent()
    assert journey.run("verify").code == 0
    assert not list(journey.state.rglob(".transship-*"))
    assert as_it_is(original) == before
