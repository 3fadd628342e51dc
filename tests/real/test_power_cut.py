"""The power fails while a migration runs: what it has called done is whole, and it goes on."""

from __future__ import annotations

import hashlib
import signal
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.real.command import Transship
from tests.real.conftest import need
from tests.real.disks import Disk
from tests.real.facts import read_json
from tests.real.state import blob, state
from tests.real.trees import differences, snapshot_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.real.command import Ended
    from tests.real.conftest import Containerd
    from tests.real.state import State
    from tests.real.trees import Tree

pytestmark = pytest.mark.real

FEW = ("weird:1", "dang:1", "committed:1", "repeat:1", "foreign:1", "scr:1", "nolayers:1")
IMAGES: tuple[str, ...] = tuple(part for name in FEW for part in ("--image", name))
CUT_AFTER = (1, 2, 6, 12, 18, 24)
"""The power is cut when so many more steps are done."""


@pytest.fixture(params=["ext4", "xfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    need(request, "mkfs.ext4", "mkfs.xfs", "mount")
    with Disk(tmp_path, request.param, 512 << 20) as disk:
        yield disk


@pytest.fixture(scope="module")
def source(docker_fixture: Callable[[str], Path]) -> Path:
    return docker_fixture("overlay2")


@dataclass(frozen=True)
class Whole:
    """What a run that nothing happens to makes."""

    state: State
    trees: dict[str, Tree]


@pytest.fixture(scope="module")
def whole(containerd: Containerd, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    namespace = "no-power-cut"
    target = ("--source", source, "--target", f"containerd:{containerd.socket}", "--namespace", namespace)
    Transship(tmp_path_factory.mktemp("state"), (*target, *IMAGES))("migrate").expect()
    made = state(containerd, namespace)
    return Whole(made, {name: snapshot_tree(containerd, namespace, snapshotter, name) for snapshotter, name in made.snapshots})


def cut_at(disk: Disk, transship: Transship, count: int) -> set[str] | None:
    """Run a migration, cut the power when ``count`` more steps are done; return these. None if it ends before.

    What it says after the cut does not count: it would not have lived to say it.
    """
    done: set[str] = set()
    with transship.start("migrate") as running:
        for event in running.documents():
            if event["type"] == "step_done" and not event["skipped"]:
                done.add(event["key"])
            if len(done) == count:
                disk.cut_power()
                check_stopped(running.end())
                return done
        running.end().expect()
        return None


def check_stopped(stopped: Ended) -> None:
    """Assert that it has noticed, unless it died of it: the journal's index is mapped into memory."""
    assert stopped.code in {4, -signal.SIGBUS}, stopped
    assert "Traceback" not in stopped.stderr


def check_journalled(state_dir: Path, done: set[str]) -> None:
    with closing(sqlite3.connect(state_dir / "journal.db")) as journal:
        states = dict(journal.execute("SELECT key, state FROM steps"))
    assert {key: states.get(key) for key in done} == dict.fromkeys(done, "done")


def test_containerd(disk: Disk, start_containerd: Callable[..., Containerd], source: Path, whole: Whole) -> None:
    with stopped_at_the_end(start_containerd(disk.path / "containerd")) as containerd:
        check_power_cuts(disk, containerd, source, whole)


@contextmanager
def stopped_at_the_end(containerd: Containerd) -> Iterator[Containerd]:
    try:
        yield containerd
    finally:
        containerd.kill()


def check_power_cuts(disk: Disk, containerd: Containerd, source: Path, whole: Whole) -> None:
    target = ("--source", source, "--target", f"containerd:{containerd.socket}")
    transship = Transship(disk.path / "state", (*target, *IMAGES))
    cuts = 0
    done: set[str] = set()
    for count in CUT_AFTER:
        more = cut_at(disk, transship, count)
        if more is None:
            break
        cuts += 1
        containerd.kill()
        disk.unmount()
        disk.mount()
        containerd.start()
        done |= more
        check_journalled(transship.state_dir, done)
        check_whole(containerd, done, whole)
    assert cuts >= 5
    transship("migrate").expect()
    assert state(containerd) == whole.state
    check_whole(containerd, done, whole)
    assert transship("verify").expect().last["differences"] == []


def check_whole(containerd: Containerd, done: set[str], whole: Whole) -> None:
    """Assert that the results of the steps ``done`` are there and whole, and that every snapshot that is there is."""
    now = state(containerd)
    diff_ids = {labels.get("containerd.io/uncompressed"): digest for digest, labels in now.blobs.items()}
    committed = {name: snapshotter for (snapshotter, name), (_, kind) in now.snapshots.items() if kind == "Committed"}
    for name, snapshotter in committed.items():
        assert differences(snapshot_tree(containerd, "moby", snapshotter, name), whole.trees[name]) == {}
    for key in done:
        kind, _, name = key.partition(":")
        match kind:
            case "snapshot":
                assert name in committed
            case "blob":
                digest = diff_ids[name]
                assert f"sha256:{hashlib.sha256(blob(containerd, digest)).hexdigest()}" == digest
            case "image" if not name.startswith("sha256:"):
                assert now.images[name] == whole.state.images[name]
            case "manifest":
                assert f"sha256:{hashlib.sha256(blob(containerd, name)).hexdigest()}" == name


def test_layout(disk: Disk, source: Path, tmp_path: Path) -> None:
    layout = disk.path / "layout"
    transship = Transship(disk.path / "state", ("--source", source, "--target", f"oci:{layout}", *IMAGES))
    Transship(tmp_path / "state", ("--source", source, "--target", f"oci:{tmp_path}/whole", *IMAGES))("migrate").expect()
    cuts = 0
    done: set[str] = set()
    for count in CUT_AFTER:
        more = cut_at(disk, transship, count)
        if more is None:
            break
        cuts += 1
        disk.unmount()
        disk.mount()
        done |= more
        check_journalled(transship.state_dir, done)
        blobs = blobs_of(layout)
        names = {entry["annotations"]["io.containerd.image.name"] for entry in read_json(layout / "index.json")["manifests"]}
        for key in done:
            kind, _, name = key.partition(":")
            assert kind != "manifest" or name.partition(":")[2] in blobs
            assert kind != "image" or name.startswith("sha256:") or name in names
        assert len([key for key in done if key.startswith("blob:")]) <= len(blobs)
    assert cuts >= 3
    transship("migrate").expect()
    assert blobs_of(layout) == blobs_of(tmp_path / "whole")
    assert transship("verify").expect().last["differences"] == []


def blobs_of(layout: Path) -> set[str]:
    """Return the blobs of a layout by the digests that they are named by, and have."""
    found = set()
    for path in (layout / "blobs" / "sha256").iterdir():
        if not path.name.startswith("."):
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
            found.add(path.name)
    return found
